"""A callback that was answered 200 survives the power: its bytes were synced before its answer left.

A kill does not test this, for the page cache survives it. Here strace writes down what the relay asks of the operating
system; from that the order of bytes, sync and answer can be read, and the disk as it is after the power has gone can be
made again.
"""

import hashlib
import json
import shutil
import signal
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from relay.sandbox.shapes import Task
from relay.sandbox.vendor import Vendor
from relay.store.driver import sqlite3
from tests.crash import audit, trace
from tests.crash.disk import Disk
from tests.crash.launcher import Plan
from tests.crash.load import Promises, submit, together
from tests.crash.processes import Relay, quiet_port, wrapped
from tests.crash.trace import Answer, Call
from tests.journeys import eventually, surroundings

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed here"),
]

CONNECTIONS = 4
EACH = 8
# Every few commits, so that the short run sees the log copied into the file and begun anew.
OFTEN = "wal_autocheckpoint = 40"


@dataclass
class Recorded:
    """What a relay did, what it answered 2xx, and by which bytes each of those can be known on disk."""

    calls: list[Call]
    answered: dict[bytes, bytes]

    def promises(self) -> list[tuple[Answer, bytes]]:
        """Each answer that made a promise, and what has to be on disk because of it."""
        found = []
        for answer in trace.answers(self.calls):
            for mark, needle in self.answered.items():
                if mark in answer.request:
                    found.append((answer, needle))
        # Whoever cannot see the answers would find all of them safe.
        assert len(found) == len(self.answered)
        return found

    def too_early(self) -> list[str]:
        reasons = (trace.told_too_early(self.calls, *promise) for promise in self.promises())
        return [reason for reason in reasons if reason is not None]


async def recorded(folder: Path, plan: Plan | None = None) -> Recorded:
    """A relay under strace, while clients submit and call back on several connections at once."""
    log, answered, promises = folder / "strace.log", {}, Promises()
    faults = {"never_ends": True, "callbacks": "final"}  # so that it sends none itself
    vendor = Vendor(Random(1), faults=faults, times_s=(0.01, 0.05))  # noqa: S311 - chance, not a secret
    (home := folder / "home").mkdir()
    async with (
        surroundings(home, vendor=vendor) as around,
        wrapped(around, quiet_port(), *trace.command(log), plan=plan) as relay,
    ):
        for number in range(2):
            reference = f"the job's own reference {number}"
            await submit(relay, promises, replyRef=reference)
            answered[reference.encode()] = reference.encode()
        await eventually(lambda: vendor.submits == 2)
        tasks = list(vendor.register.oldest_first())
        await together(*(_call_back(relay, tasks, number, answered) for number in range(CONNECTIONS)))
        assert await relay.stopped(signal.SIGTERM) == 0
    return Recorded(trace.calls(log, home), answered)


async def _call_back(relay: Relay, tasks: list[Task], number: int, answered: dict[bytes, bytes]) -> None:
    for turn in range(EACH):
        mark = f"callback {number}-{turn}."
        body = json.dumps({"status": "RUNNING", "progressRatio": turn / 10, "mark": mark}).encode()
        answer = await relay.client.post(tasks[turn % 2].reply_url or "", content=body)
        assert answer.status_code == 200, answer.text
        # The body is packed on disk; its digest stands beside it as text.
        answered[mark.encode()] = hashlib.sha256(body).hexdigest().encode()


async def test_every_2xx_leaves_after_the_sync_of_its_bytes(tmp_path: Path) -> None:
    run = await recorded(tmp_path)
    assert run.too_early() == []
    assert len(run.promises()) == CONNECTIONS * EACH + 2


@pytest.mark.parametrize(
    "broken",
    [Plan(pragmas=("synchronous = OFF",)), Plan(pragmas=("synchronous = NORMAL",)), Plan(broken="late_commit")],
)
async def test_a_build_that_does_not_sync_before_it_answers_is_found_out(tmp_path: Path, broken: Plan) -> None:
    run = await recorded(tmp_path, broken)
    assert run.too_early()
    assert lost_by_power(run, tmp_path)


@pytest.mark.parametrize("often", [None, Plan(pragmas=(OFTEN,))], ids=["as it is", "checkpoints often"])
async def test_when_the_power_goes_after_any_answer_everything_answered_is_there(
    tmp_path: Path, often: Plan | None
) -> None:
    run = await recorded(tmp_path, often)
    assert lost_by_power(run, tmp_path) == []
    if often is not None:
        log_begun_anew = [call for call in run.calls if call.path.endswith("-wal") and call.numbers[-1:] == (0,)]
        assert len(log_begun_anew) > 2


def lost_by_power(run: Recorded, folder: Path) -> list[str]:
    """Let the power go at each promise, just before its answer leaves: what is missing or wrong in the files then."""
    disk, answered, wrong = Disk(), set(), []
    promises = {answer.call.begin: needle for answer, needle in run.promises()}
    for call in sorted(run.calls, key=lambda one: one.begin if one.begin in promises else one.end):
        if call.begin in promises:
            answered.add(promises[call.begin].decode())
            for chance in (None, Random(call.begin)):  # noqa: S311 - chance, not a secret
                left = folder / f"power-{call.begin}-{chance is None}"
                left.mkdir()
                disk.after_power_loss(left, chance)
                wrong += _missing_in(left / "relay.db", answered)
                shutil.rmtree(left)
        elif not call.path.startswith("socket:"):
            disk.take(call)
    return wrong


def _missing_in(database: Path, answered: set[str]) -> list[str]:
    try:
        with closing(sqlite3.connect(database)) as sql:
            kept = {row[0] for row in sql.execute("SELECT sha256 FROM callbacks UNION SELECT reply_ref FROM jobs")}
    except sqlite3.Error as error:
        return [f"the file cannot be read: {error}"]
    return [*(f"{needle} is gone" for needle in answered - kept), *audit.faults_of(database)]
