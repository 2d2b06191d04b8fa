"""Killed at any step of keeping files, the relay keeps each of them whole in the end, and nothing else lies there.

    python -m tests.crash.killed_mirror [N]    kills real relays on the same files, at each N-th step, and sums up

A step is whatever can be cut between two others: a file of the storage is opened, grows, is synced, named, removed; a
happening of a file is committed. In each life jobs come and one is erased; in some the ends wait for the files.
"""

import asyncio
import hashlib
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from relay.cli import main
from relay.core import artifacts, keeping, watch
from relay.sandbox.film import preview
from relay.store import files as store_files
from relay.store.driver import sqlite3
from relay.store.sqlite import SqliteStore
from tests.crash.load import job_of
from tests.journeys import ADMIN_TOKEN, EXAMPLE, WAIT_S, Surroundings, surroundings
from tests.web.test_kept import OURS
from tests.whole.processes import environment, free_port

FILM_BYTES = 5 * store_files.WRITE_BYTES // 2
JOBS_A_LIFE = 2
# A life that nobody kills takes somewhat fewer.
STEPS = 110
SHORT = (3, 14, 26, 37, 50, 68)
# A machine that does much else besides starts a relay slowly.
LIFE_S = 4 * WAIT_S
# After so many lives one comes to its end.
ENDS = 20
KEPT = "SELECT id, path, sha256 FROM artifacts WHERE state = 'kept'"
ENDED = "SELECT id FROM jobs WHERE state = 'succeeded' AND erased_at_ms IS NULL"
TOLD_EARLY = (
    "SELECT DISTINCT job_id FROM events WHERE type = 'job.succeeded' AND seq > ? AND job_id IN "
    "(SELECT job_id FROM artifacts WHERE state = 'wanted')"
)


# The relay that dies


def live(kill_at: int, root: str) -> None:
    """`relay serve`, killed before so many steps."""
    lock, count = threading.Lock(), 0

    def step() -> None:
        nonlocal count
        with lock:
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def seen(event: str, values: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(values[0]).startswith(root):
            step()

    def stepping(work: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*values: Any) -> Any:
            step()
            return work(*values)

        return stepped

    apply = SqliteStore.apply

    async def applied(store: SqliteStore, happening: Any) -> Any:
        of_file = isinstance(happening, keeping.OfFile)
        step() if of_file else None
        result = await apply(store, happening)
        step() if of_file else None
        return result

    sys.addaudithook(seen)
    for where, name in ((os, "fsync"), (store_files.Part, "_flush"), (store_files.Part, "close")):
        setattr(where, name, stepping(getattr(where, name)))
    setattr(SqliteStore, "apply", applied)  # noqa: B010 - mypy knows it as a method
    vars(artifacts)["WAITS_S"] = (0.2,)
    vars(watch).update(ASK_EVERY_MS=300, LATE_MS=300, LOOK_STEPS_MS=(50, 100, 200, 200, 200), LOOK_EVERY_MS=300)
    sys.argv = ["relay", "serve"]
    main.main()


# What kills it


@dataclass
class Tally:
    kills: int = 0
    before_final: int = 0
    kept: int = 0
    jobs: int = 0
    erased: int = 0
    half: set[str] = field(default_factory=set)
    early: set[str] = field(default_factory=set)
    orphans: set[str] = field(default_factory=set)
    lacking: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.before_final} while ends waited for their files), {self.jobs} jobs, "
            f"{self.erased} of them erased, {self.kept} files kept; lacking {len(self.lacking)}, "
            f"half files {len(self.half)}, orphans {len(self.orphans)}, ends told too early {len(self.early)}"
        )


@dataclass
class World:
    around: Surroundings
    root: Path
    port: int
    tally: Tally = field(default_factory=Tally)
    known: list[str] = field(default_factory=list)
    erased: set[str] = field(default_factory=set)

    @asynccontextmanager
    async def life(self, kill_at: int, before_final: bool) -> AsyncGenerator[tuple[Any, httpx2.AsyncClient]]:
        settings = {"artifacts": f"file://{self.root}", "artifacts_before_final": before_final}
        env = environment(self.around, self.port, **settings)
        command = (sys.executable, "-m", "tests.crash.killed_mirror", "--live", str(kill_at), str(self.root))
        with (self.around.folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, cwd=self.around.folder, env=env, stderr=log)
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        url = f"http://127.0.0.1:{self.port}"
        async with httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=WAIT_S) as client:
            try:
                yield process, client
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def lives(self, process: Any, client: httpx2.AsyncClient) -> None:
        """Jobs come, one goes, and all of their files are kept, unless it dies before."""
        async with asyncio.timeout(LIFE_S):
            while True:
                with suppress(httpx2.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        break
                if process.returncode is not None:
                    return
                await asyncio.sleep(0.02)
        with suppress(httpx2.TransportError):
            for job_id in self.known[-1:]:
                if (await client.delete(f"/v1/jobs/{job_id}")).status_code == 204:
                    self.erased.add(job_id)
            for _ in range(JOBS_A_LIFE):
                self.known.append((await client.post("/v1/jobs", json=EXAMPLE)).json()["id"])
            async with asyncio.timeout(LIFE_S):
                while not await self.is_done(client):  # noqa: ASYNC110 - another process, whose files nothing tells of
                    await asyncio.sleep(0.02)

    async def is_done(self, client: httpx2.AsyncClient) -> bool:
        jobs = (await client.get("/v1/jobs?limit=200")).json()["data"]
        rows = (await client.get("/v1/artifacts?limit=200")).json()["data"]
        # Killed before its create was sent, a job would be in doubt for hours, and keep its slot.
        tasks = {job_of(task.reply_ref) for task in self.around.vendor.register.oldest_first()}
        for job in jobs:
            if job["state"] == "in_doubt" and job["id"] not in tasks:
                await client.post(f"/v1/jobs/{job['id']}/resolve", json={"outcome": "failed"})
        return {job["state"] for job in jobs} <= {"succeeded", "failed"} and {row["state"] for row in rows} <= {"kept"}

    def there(self) -> dict[str, str]:
        """The SHA-256 of all that lies in the storage, by names within it."""
        found = {}
        for path in self.root.rglob("*"):
            if path.is_file() and path.name not in OURS:
                found[str(path.relative_to(self.root))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def right(self) -> dict[str, str]:
        """The SHA-256 of every file as the sandbox has it, by its id."""
        found = {}
        for task in self.around.vendor.register.oldest_first():
            job_id, film = job_of(task.reply_ref), hashlib.sha256()
            for piece in self.around.vendor.asking.film(task).read():
                film.update(piece)
            found[f"{job_id}-0"] = film.hexdigest()
            found[f"{job_id}-0-preview-0"] = hashlib.sha256(preview(task.task_id)).hexdigest()
        return found

    def asked(self, sql: str, *values: Any) -> list[Any]:
        if not self.around.database.exists():
            return []
        with closing(sqlite3.connect(self.around.database, isolation_level=None)) as connection:
            return connection.execute(sql, values).fetchall()

    def head(self) -> int:
        return int((self.asked("SELECT coalesce(max(seq), 0) FROM events") or [(0,)])[0][0])

    def look(self) -> None:
        """What must hold in a dead relay's files: what has a name is whole, and what a row calls kept has its name."""
        there, right = self.there(), self.right()
        named = {path: sha256 for path, sha256 in there.items() if not path.startswith("incoming/")}
        self.tally.half |= {path for path, sha256 in named.items() if sha256 != right[path[3:].partition(".")[0]]}
        for file_id, path, sha256 in self.asked(KEPT):
            if named.get(path) != sha256 or sha256 != right[file_id]:
                self.tally.lacking.add(path)


async def killed(folder: Path, steps: Iterable[int]) -> Tally:
    """Kill one life after another at these steps, then let one live."""
    async with surroundings(folder, faults={"artifact_bytes": FILM_BYTES}) as around:
        world = World(around, folder / "files", free_port())
        for number, kill_at in enumerate(steps):
            before_final, head = number % 2 == 0, world.head()
            async with world.life(kill_at, before_final) as (process, client):
                await world.lives(process, client)
                died = process.returncode is not None or await _dies(process)
            world.tally.kills += died
            world.tally.before_final += died and before_final
            world.look()
            if before_final:
                world.tally.early |= {row[0] for row in world.asked(TOLD_EARLY, head)}
            if number % ENDS == ENDS - 1:
                await _end(world)
        await _end(world)
    return world.tally


async def _dies(process: Any) -> bool:
    """Whether it is about to: its connections end a moment before it is gone. One that is at peace takes no steps."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await process.wait()
    return process.returncode is not None


async def _end(world: World) -> None:
    """One life to its end, and then nothing is there but what is kept."""
    async with world.life(0, before_final=False) as (process, client):
        await world.lives(process, client)
        process.terminate()
        await process.wait()
    world.look()
    kept = {path for _, path, _ in world.asked(KEPT)}
    jobs = {row[0] for row in world.asked(ENDED)}
    world.tally.orphans |= world.there().keys() - kept
    world.tally.lacking |= {f"{job_id}-0" for job_id in jobs} - {path[3:].partition(".")[0] for path in kept}
    world.tally.kept, world.tally.jobs = len(kept), len(world.asked("SELECT 1 FROM jobs"))
    world.tally.erased = len(world.asked("SELECT 1 FROM jobs WHERE erased_at_ms IS NOT NULL"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--live"]:
        live(int(sys.argv[2]), sys.argv[3])
    else:
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # the sandbox writes to relays that are dead
        with TemporaryDirectory() as place:
            at = range(1, STEPS, int(sys.argv[1])) if sys.argv[1:] else SHORT
            print(asyncio.run(killed(Path(place), at)))
