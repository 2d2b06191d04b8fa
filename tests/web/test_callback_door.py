"""Whatever is thrown at the callback door, it answers in words of HTTP, keeps what it answered 200, and forges nothing.

The short version runs with all other tests; `pytest -m long tests/web/test_callback_door.py` throws 20,000.
"""

import asyncio
import hashlib
import json
import re
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings

from relay.clock import ManualClock
from relay.core.ledger import Callback, Quarantined
from relay.sandbox.shapes import Account
from relay.sandbox.vendor import Vendor
from tests.journeys import WAIT_S, Journey, journey
from tests.web.strange import REF, TASK, TOKEN, URL, Shot, shots

pytestmark = pytest.mark.anyio

T = TypeVar("T")

INBOX = "inbox-token-of-the-tests-0123456789"
MUST_NOT_CHANGE = ("state", "artifacts", "error", "taskId", "upstreamTaskId", "account", "attempts", "finishedAt")
WIDTHS = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
STARS = re.compile(rb"\*\x00*\*\x00*\*")
ANY_TOKEN = rb"[A-Za-z0-9_\-*\x00]+"


def is_masked(kept: bytes, sent: bytes, secret: str) -> bool:
    """Whether `kept` is `sent` with nothing but tokens hidden, and the secret is in it no more."""
    if any(secret.encode(width) in kept for width in WIDTHS):
        return False
    pieces = [re.escape(piece) for piece in STARS.split(kept)]
    return kept == sent or re.fullmatch(ANY_TOKEN.join(pieces), sent, re.DOTALL) is not None


@dataclass
class Target:
    """A relay with running jobs, as the thread that shoots at it sees it."""

    here: Journey
    loop: asyncio.AbstractEventLoop
    client: httpx2.Client
    jobs: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    shot: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    def wait(self, asked: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(asked, self.loop).result(WAIT_S)

    def job(self, place: int) -> dict[str, Any]:
        """By an ordinary request, which must be answered after each strange one."""
        answer = self.client.get(f"/v1/jobs/{self.jobs[place]['id']}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return {name: job[name] for name in MUST_NOT_CHANGE}

    def take(self, shot: Shot) -> None:
        """Shoot, and look at what that did."""
        self.shot += 1
        place = self.shot % len(self.jobs)
        task, before = self.tasks[place], self.jobs[place]
        token = task["replyUrl"].rpartition("/")[2]
        secret = INBOX if shot.door == "inbox" else token
        own = {TASK: task["taskId"], REF: task["replyRef"], TOKEN: secret, URL: task["replyUrl"].replace(token, secret)}
        body = shot.body.encoded(own)
        carried = shot.carried(body)

        path = shot.path.replace("{token}", token).replace("{inbox}", INBOX)
        status, answer = self.send(shot.raw(path, body), hang_up=shot.hangs_up)

        self.answers[str(status)] += 1
        assert status in shot.expected(carried), (status, answer)
        assert self.job(place) == {name: before[name] for name in MUST_NOT_CHANGE}
        if status == 200:
            assert carried is not None
            self.check_that_it_was_kept(json.loads(answer)["result"], carried, secret)

    def check_that_it_was_kept(self, result: str, sent: bytes, secret: str) -> None:
        self.answers[result] += 1
        kinds: dict[str, list[Any]] = {"stored": [Callback], "quarantined": [Quarantined]}
        where = "WHERE sha256 = :sha256 ORDER BY seq DESC LIMIT 1"
        values = {"sha256": hashlib.sha256(sent).hexdigest()}
        list_of, found = self.here.node.app.state.store._list, []
        for kind in kinds.get(result, [Callback, Quarantined]):
            found += self.wait(list_of(kind, where, values))
        assert found, result
        row = found[0]
        assert row.size_bytes == len(sent)
        assert is_masked(row.body, sent, secret), (row.body, sent)

    def send(self, raw: bytes, *, hang_up: bool) -> tuple[int | None, bytes]:
        """Status and body of the answer, None when there is none."""
        parts, got = urlsplit(self.here.relay_url), b""
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=WAIT_S) as connection:
            try:
                connection.sendall(raw)
                if hang_up:
                    connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65_536):
                    got += piece
            except TimeoutError:
                raise
            except OSError:
                pass  # the relay may be done with a request before all of it was sent
        while got.startswith(b"HTTP/1.1 1"):
            got = got.partition(b"\r\n\r\n")[2]
        head, _, content = got.partition(b"\r\n\r\n")
        return (int(head.split(b" ")[1]), content) if head else (None, b"")


@asynccontextmanager
async def target(folder: Path, jobs: int) -> AsyncGenerator[Target]:
    """So many jobs that run, and that would never end: time stands still."""
    clock, accounts = ManualClock(), [Account(f"{n}@example.com", slots=10) for n in range(-(-jobs // 10))]
    vendor = Vendor(Random(1), accounts=accounts, times_s=(10, 50), faults={"callbacks": "none"})  # noqa: S311
    around = journey(folder, vendor=vendor, clock=clock, sandbox_clock=clock, callback_inbox_token=INBOX)
    async with around as here:
        made = [await here.submit() for _ in range(jobs)]
        running = [await here.job_in(job["id"], "running") for job in made]
        tasks = {task["taskId"]: task for task in vendor.state(clock.now_ms())["tasks"]}
        with httpx2.Client(base_url=here.relay_url, headers=here.client.headers, trust_env=False) as client:
            own = [tasks[job["upstreamTaskId"]] for job in running]
            yield Target(here, asyncio.get_running_loop(), client, running, own)


async def bombard(folder: Path, count: int, jobs: int) -> Target:
    async with target(folder, jobs) as aim:

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(shots)
        def shoot(shot: Shot) -> None:
            aim.take(shot)

        # hypothesis is not asynchronous, and a thread of its own lets it send while the relay answers.
        await asyncio.to_thread(shoot)
        told = {event["type"] for job in aim.jobs for event in await events(aim.here, job["id"])}
        assert told <= {"job.queued", "job.submitted", "job.progress"}
    return aim


async def events(here: Journey, job_id: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await here.get(f"/v1/jobs/{job_id}/events?limit=200"))["data"]
    return listed


async def test_no_strange_request_is_a_5xx_and_what_was_answered_200_is_kept_and_changes_no_job(tmp_path: Path) -> None:
    aim = await bombard(tmp_path, count=300, jobs=2)

    # It has hit every kind of answer, and is not all refusals.
    assert {"stored", "quarantined", "404"} <= aim.answers.keys(), aim.answers
    assert aim.answers["200"] > 60, aim.answers


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_twenty_thousand_strange_requests_do_no_harm(tmp_path: Path) -> None:
    aim = await bombard(tmp_path, count=20_000, jobs=60)

    print(dict(aim.answers))
    assert {"stored", "quarantined", "duplicate", "400", "404", "405", "413", "None"} <= aim.answers.keys()


async def test_an_unknown_token_costs_the_work_of_a_real_one_however_near_it_comes(tmp_path: Path) -> None:
    async with target(tmp_path, jobs=1) as aim:
        store, statements = aim.here.node.app.state.store, list[str]()
        token = aim.tasks[0]["replyUrl"].rpartition("/")[2]

        async def work_for(guess: str) -> tuple[int, list[str]]:
            statements.clear()
            answer = await aim.here.client.post(f"/callbacks/{guess}", content=b'{"status": "RUNNING"}')
            return answer.status_code, [re.sub(r"'[0-9a-f]{64}'", "?", statement) for statement in statements]

        await store._in_thread(lambda: store._file._sql.set_trace_callback(statements.append))
        far, *near = [await work_for(guess) for guess in ("x" * len(token), token[:-1], token + "x", token.swapcase())]
        known = await work_for(token)
        await store._in_thread(lambda: store._file._sql.set_trace_callback(None))

    assert near == [far] * 3
    status, work = far
    lookups = [statement for statement in work if statement.startswith("SELECT")]
    assert (status, known[0]) == (404, 200)
    assert [statement for statement in known[1] if statement.startswith("SELECT")][: len(lookups)] == lookups
    assert sum("token_hash = ?" in statement for statement in lookups) >= 4, lookups
    assert not any(token[:8] in statement for statement in (*work, *known[1]))
