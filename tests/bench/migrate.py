"""How long a new version keeps a relay from starting: a step of the schema, applied to a file of some size.

    python -m tests.bench.migrate [--megabytes 100] [--step all|column|index|rewrite]

A file of schema 1 with jobs and ten events a job is made; then a relay that knows one more step opens it. The steps are
made up: a column is added, all events get an index, all jobs are written anew. --megabytes 1000 is a big one.
"""

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from relay.core.event import of_job
from relay.store import migrate
from relay.store.driver import sqlite3
from relay.store.rows import put, to_row
from tests.core.builders import NOW_MS, job
from tests.store.serving import opened

STEPS: Final = {
    "column": "ALTER TABLE jobs ADD COLUMN note TEXT;",
    "index": "CREATE INDEX events_by_type ON events (type, seq);",
    "rewrite": "ALTER TABLE jobs ADD COLUMN note TEXT; UPDATE jobs SET note = model || ' ' || state;",
}
EVENTS_A_JOB: Final = 10
_TWICE: Final = """
    INSERT INTO jobs ({jobs}) SELECT {other_jobs} FROM jobs ORDER BY seq;
    INSERT INTO events ({events}) SELECT {other_events} FROM events ORDER BY seq;
    UPDATE meta SET value = (SELECT max(seq) FROM events) WHERE name = 'head';
"""


@contextmanager
def another_step(folder: Path, sql: str) -> Iterator[int]:
    """A relay that knows one step more than this one; gives its number."""
    package = folder / "package"
    shutil.copytree(str(files("relay.store").joinpath("migrations")), package / "migrations")
    version = len(migrate.migrations("sqlite")) + 1
    (package / "migrations" / "sqlite" / f"{version:04}_made_up.sql").write_text(sql)
    with patch.object(migrate, "files", lambda name: package):
        yield version


def filled(path: Path, size_bytes: int) -> tuple[int, int]:
    """Jobs and events, doubled until the file has that size; how many they are."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA synchronous = OFF")
        file.execute("BEGIN")
        for n in range(1, 17):
            made = job(id=f"job-1-{n}", task_id=f"task of job-1-{n}", seq=n, state="succeeded", finished_at_ms=NOW_MS)
            file.execute(put(made), to_row(made))
            for k in range(EVENTS_A_JOB):
                event = of_job(made, "job.progress", epoch="0a1b2c3d", seq=(n - 1) * EVENTS_A_JOB + k + 1, at_ms=NOW_MS)
                file.execute(put(event), to_row(event))
        file.execute("COMMIT")
        names = {table: _names(file, table) for table in ("jobs", "events")}
        anew = {"seq": "seq + (SELECT max(seq) FROM {table})", "id": "'job-' || (seq + (SELECT max(seq) FROM jobs))"}
        anew |= {"task_id": f"'task of ' || {anew['id']}"}
        while file.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0] < (
            size_bytes * 3 // 4
        ):
            values: dict[str, Any] = {}
            for table, columns in names.items():
                others = [anew[name].format(table=table) if name in anew else name for name in columns]
                values |= {table: ", ".join(columns), f"other_{table}": ", ".join(others)}
            file.executescript(f"BEGIN; {_TWICE.format(**values)} COMMIT; PRAGMA wal_checkpoint(TRUNCATE);")
        jobs, events = (file.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in names)  # noqa: S608
        return jobs, events


def _names(file: Any, table: str) -> list[str]:
    return [row[1] for row in file.execute(f"PRAGMA table_info({table})")]


async def migrated(path: Path) -> tuple[float, int]:
    """How many seconds it takes to open the file, and its schema afterwards."""
    began_s = time.perf_counter()
    async with opened(path):
        took_s = time.perf_counter() - began_s
    with closing(sqlite3.connect(path)) as file:
        return took_s, file.execute("PRAGMA user_version").fetchone()[0]


async def main(megabytes: int, steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with opened(folder / "first.db"):
            pass
        jobs, events = filled(folder / "first.db", megabytes * 1_000_000)
        size = (folder / "first.db").stat().st_size / 1e6
        print(f"{size:.0f} MB: {jobs} jobs, {events} events")
        print(f"  opened without a step: {(await migrated(folder / 'first.db'))[0]:.2f} s")
        for step in steps:
            copy = folder / step / "relay.db"
            copy.parent.mkdir()
            shutil.copyfile(folder / "first.db", copy)
            with another_step(folder / step, STEPS[step]) as version:
                took_s, schema = await migrated(copy)
            assert schema == version
            print(f"  {step}: {took_s:.2f} s")
            shutil.rmtree(copy.parent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--step", choices=("all", *STEPS), default="all")
    given = parser.parse_args()
    asyncio.run(main(given.megabytes, list(STEPS) if given.step == "all" else [given.step]))
