"""While the disk takes nothing, callbacks are refused with a 503; when it takes something again, so does the relay.

Nobody restarts it in between. What was acknowledged before, between and after is there; reading goes on all the time.
"""

import asyncio
import resource
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest

from relay.core.job import Job
from relay.core.ledger import Happening
from relay.core.submitting import AttemptAnswered
from relay.sandbox.shapes import Task
from relay.sandbox.vendor import Vendor
from relay.store import writer
from relay.store.driver import sqlite3
from relay.web.health import WRITE_CHECK_EVERY_S
from tests.core.builders import NOW_MS, accepted, answered, callback, started, submitted, task_body
from tests.crash import audit
from tests.crash.launcher import Plan
from tests.crash.load import Bodies, Promises, missing, submit
from tests.crash.processes import Relay, quiet_port, wrapped
from tests.journeys import EXAMPLE, Surroundings, eventually, journey, surroundings
from tests.store.serving import apply_all, opened, pragma, queued

pytestmark = pytest.mark.anyio

FAULTS = {"never_ends": True, "callbacks": "final"}
TIMES_S = (0.01, 0.05)
AT_ONCE = 5
TRIES_MAX = 300


@dataclass
class Troubled:
    """A relay with a job that runs, to whose address callbacks come."""

    client: httpx2.AsyncClient
    task: Task
    promises: Promises
    bodies: Bodies

    async def post(self) -> httpx2.Response:
        body = self.bodies.of(self.task)
        answer = await self.client.post(self.task.reply_url or "", content=body)
        if answer.status_code == 200:
            self.promises.callback(self.task.reply_ref, body)
        return answer

    async def several(self) -> set[int]:
        """The statuses of several callbacks at once."""
        return {answer.status_code for answer in await asyncio.gather(*(self.post() for _ in range(AT_ONCE)))}

    async def status(self, path: str, method: str = "GET", **more: Any) -> int:
        return (await self.client.request(method, path, **more)).status_code

    async def check_that_nothing_can_be_written(self) -> None:
        refused = await self.post()
        assert refused.status_code == 503, refused.text
        assert refused.headers["retry-after"].isdecimal()
        assert refused.json()["code"] == "unavailable"
        assert await self.several() == {503}
        async with asyncio.timeout(2 * WRITE_CHECK_EVERY_S):
            while await self.status("/readyz") != 503:  # noqa: ASYNC110 - the last good answer holds for a second
                await asyncio.sleep(0.05)
        assert await self.status("/v1/jobs", "POST", json=EXAMPLE) == 503
        # What is read, is read as ever.
        assert await self.status("/healthz") == 200
        assert await self.status(f"/v1/jobs/{next(iter(self.promises.jobs))}") == 200
        assert await self.status(f"/v1/jobs/{next(iter(self.promises.jobs))}/callbacks") == 200

    async def check_that_all_is_well(self) -> None:
        assert await self.several() == {200}
        assert await self.status("/readyz") == 200


async def troubled(relay: Relay, vendor: Vendor) -> Troubled:
    promises = Promises()
    await submit(relay, promises)
    await eventually(lambda: vendor.submits == 1)
    (task,) = vendor.register.oldest_first()
    here = Troubled(relay.client, task, promises, Bodies())
    await here.check_that_all_is_well()
    return here


@asynccontextmanager
async def world(folder: Path) -> AsyncGenerator[Surroundings]:
    vendor = Vendor(Random(1), faults=FAULTS, times_s=TIMES_S)  # noqa: S311 - chance, not a secret
    async with surroundings(folder, vendor=vendor) as around:
        yield around


def check_files(database: Path, promises: Promises) -> None:
    assert audit.lost(database, promises) == set()
    assert audit.faults_of(database) == []


# A disk that is full


def log_bytes(database: Path) -> int:
    return Path(f"{database}-wal").stat().st_size


def grow_to(pid: int, size: int) -> None:
    """No file of this process may grow beyond so many bytes."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def test_files_that_cannot_grow_are_a_503_until_they_can(tmp_path: Path) -> None:
    async with world(tmp_path) as around, wrapped(around, quiet_port()) as relay:
        here = await troubled(relay, around.vendor)
        for _ in range(2):
            grow_to(relay.pid, log_bytes(around.database))
            await here.check_that_nothing_can_be_written()
            grow_to(relay.pid, resource.RLIM_INFINITY)
            await here.check_that_all_is_well()
        assert await missing(relay, here.promises) == set()
        await relay.stopped(signal.SIGKILL)
        check_files(around.database, here.promises)


MOUNT = 'mount -t tmpfs -o size=3m none "$0" && exec "$@"'


async def can_mount(folder: Path) -> bool:
    command = ("unshare", "-rm", "sh", "-c", MOUNT, str(folder), "true")
    with suppress(FileNotFoundError):
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        return await process.wait() == 0
    return False


def fill(file: Path) -> None:
    """Write until nothing more fits."""
    with suppress(OSError), file.open("wb", buffering=0) as ballast:
        for size in (65_536, 4_096, 1):
            with suppress(OSError):
                while ballast.write(bytes(size)):
                    pass


async def test_a_disk_without_room_is_a_503_until_there_is_room(tmp_path: Path) -> None:
    if not await can_mount(tmp_path):
        pytest.skip("no file system of its own can be mounted here")
    own = ("unshare", "-rm", "sh", "-c", MOUNT, str(tmp_path))
    async with world(tmp_path) as around, wrapped(around, quiet_port(), *own) as relay:
        here = await troubled(relay, around.vendor)
        # The way in from outside: the files are in a file system that only the relay sees.
        inside = Path(f"/proc/{relay.pid}/root{tmp_path}")
        for _ in range(2):
            fill(inside / "ballast")
            await here.check_that_nothing_can_be_written()
            (inside / "ballast").unlink()
            await here.check_that_all_is_well()
        assert await missing(relay, here.promises) == set()
        saved = stopped_and_copied(relay, inside, tmp_path / "saved")
    check_files(saved, here.promises)


def stopped_and_copied(relay: Relay, inside: Path, to: Path) -> Path:
    """The files as a kill would leave them; its file system goes with the relay."""
    shutil.copytree(inside, to, ignore=shutil.ignore_patterns("*-shm"))
    return to / "relay.db"


# System calls that fail


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed here")
@pytest.mark.parametrize(
    "failing",
    ["fdatasync:error=EIO", "pwrite64:error=ENOSPC", "pwrite64:error=EROFS", "pwrite64:error=EIO"],
    ids=["the sync fails", "full", "read-only", "a broken disk"],
)
async def test_a_log_that_cannot_be_written_is_a_503_until_it_can(tmp_path: Path, failing: str) -> None:
    log = tmp_path / "relay.db-wal"
    first = 30 if failing.startswith("fdatasync") else 900  # by then it has started, and the job runs
    spoilt = f"inject={failing}:when={first}..{first + 20}"
    strace = ("strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-P", str(log))
    command = (*strace, "-e", "trace=pwrite64,fdatasync", "-e", spoilt, "--")
    async with world(tmp_path) as around, wrapped(around, quiet_port(), *command) as relay:
        here = await troubled(relay, around.vendor)
        statuses = [200]
        while len(statuses) < TRIES_MAX and not (503 in statuses and statuses[-1] == 200):
            answer = await here.post()
            statuses.append(answer.status_code)
        assert set(statuses) == {200, 503}
        await here.check_that_all_is_well()
        assert await missing(relay, here.promises) == set()
        await relay.stopped(signal.SIGKILL)
        check_files(around.database, here.promises)


# What SQLite says no to


@pytest.mark.parametrize(
    ("spoil", "heal"),
    [("query_only = ON", "query_only = OFF"), ("max_page_count = 1", "max_page_count = 1000000")],
    ids=["read-only", "full"],
)
async def test_a_file_that_sqlite_will_not_write_is_a_503_until_it_will(tmp_path: Path, spoil: str, heal: str) -> None:
    async with journey(tmp_path, faults=FAULTS, times_s=TIMES_S) as running:
        relay = Relay(running.relay_url, 0, running.client)
        here = await troubled(relay, running.vendor)
        store = running.node.app.state.store
        await pragma(store, spoil)
        tries, refused = 1, await here.post()
        while refused.status_code == 200 and tries < TRIES_MAX:  # a full file has some room left in its pages
            tries, refused = tries + 1, await here.post()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, str(writer.RETRY_AFTER_S))
        assert await here.status(f"/v1/jobs/{next(iter(here.promises.jobs))}/callbacks") == 200
        await pragma(store, heal)
        await here.check_that_all_is_well()
        assert await missing(relay, here.promises) == set()
    check_files(tmp_path / "relay.db", here.promises)


async def test_more_than_may_wait_is_a_503_and_what_waits_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "QUEUE_MAX", 8)
    async with journey(tmp_path, faults=FAULTS, times_s=TIMES_S) as running:
        relay = Relay(running.relay_url, 0, running.client)
        here = await troubled(relay, running.vendor)
        with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            posts = [asyncio.ensure_future(here.post()) for _ in range(20)]
            await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
            other.execute("ROLLBACK")
            answers = await asyncio.gather(*posts)
        refused = [answer for answer in answers if answer.status_code != 200]
        assert 0 < len(refused) <= 20 - writer.QUEUE_MAX
        for answer in refused:
            assert (answer.status_code, answer.headers["retry-after"]) == (503, str(writer.RETRY_AFTER_S))
            assert "too much waits" in answer.json()["detail"]
        await here.check_that_all_is_well()
        assert await missing(relay, here.promises) == set()
    check_files(tmp_path / "relay.db", here.promises)


async def test_what_fails_half_way_leaves_nothing_behind_and_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    """The second job's create is answered with the first one's task: its attempt can be written, its job cannot."""
    other = queued("other", created_at_ms=NOW_MS + 1)
    begun: list[Happening[Any]] = [submitted(), other, started(), started(job_id="other", door="hash-2")]
    twice = AttemptAnswered("other", 1, accepted(), NOW_MS)
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, *begun)
        group: list[Happening[Any]] = [answered(accepted()), twice, callback(task_body("RUNNING"))]
        results = await asyncio.gather(*map(store.apply, group), return_exceptions=True)
        assert [type(result) for result in results] == [Job, sqlite3.IntegrityError, str]
        assert [attempt.state for attempt in await store.attempts("other")] == ["sending"]
    assert audit.faults_of(tmp_path / "relay.db") == []


# These tests can fail


async def test_a_build_that_does_not_hear_of_a_failed_commit_is_found_out(tmp_path: Path) -> None:
    async with world(tmp_path) as around, wrapped(around, quiet_port(), plan=Plan(broken="deaf")) as relay:
        here = await troubled(relay, around.vendor)
        grow_to(relay.pid, log_bytes(around.database))
        assert await here.several() == {200}
        grow_to(relay.pid, resource.RLIM_INFINITY)
        await here.check_that_all_is_well()
        assert await missing(relay, here.promises) != set()
        await relay.stopped(signal.SIGKILL)
        assert audit.lost(around.database, here.promises) != set()


# Two relays, one file


async def test_while_one_relay_has_the_file_a_second_one_is_refused_and_takes_over_once_it_is_dead(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as around:
        async with wrapped(around, quiet_port()) as relay:
            here = await troubled(relay, around.vendor)
            for _ in range(2):
                with pytest.raises(AssertionError, match="another relay already uses"):
                    async with wrapped(around, quiet_port()):
                        pass
                await here.check_that_all_is_well()
            await relay.stopped(signal.SIGKILL)
        async with wrapped(around, quiet_port()) as second:
            assert await missing(second, here.promises) == set()
        check_files(around.database, here.promises)
