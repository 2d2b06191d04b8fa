"""How long a bite of the janitor holds the database beside 200 callbacks a second, and how long those wait for it.

    python -m tests.bench.retention [--rows 500] [--old 60000] [--seconds 20]

A file is filled with old events, deliveries and callbacks of an ordinary size; then callbacks come in while the janitor
takes bite after bite. A bite is one transaction, timed in the thread that writes. The goal is 20 ms for the longest.
"""

import argparse
import asyncio
import json
import tempfile
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from relay.clock import SystemClock
from relay.core.accounts import AccountsListed, SeenAccount
from relay.core.event import of_job
from relay.core.receiving import Arrived, CallbackReceived
from relay.feed import Feed
from relay.store.driver import sqlite3
from relay.store.rows import put, to_row
from relay.store.trimming import BITES
from relay.vault import hash_token
from relay.work import janitor
from relay.work.janitor import Janitor, Retention
from tests.core.builders import job, task_body
from tests.store.test_trimming import delivery
from tests.work.bench import EMAIL, bench

GOAL_MS: Final = 20.0
CALLBACKS_PER_S: Final = 200
DAY_MS: Final = 86_400_000


def fill(path: Path, rows: int, at_ms: int) -> None:
    """So many old events, each with two deliveries that have ended, and as many callbacks of a job that is gone."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        body = zlib.compress(json.dumps(task_body("RUNNING", "0.5")).encode(), 1)
        file.execute("PRAGMA synchronous = OFF")
        file.execute("BEGIN")
        head = int(file.execute("SELECT value FROM meta WHERE name = 'head'").fetchone()[0])
        of = job()
        for seq in range(head + 1, head + rows + 1):
            event = of_job(of, "job.progress", epoch="0a1b2c3d", seq=seq, at_ms=at_ms)
            file.execute(put(event), to_row(event))
            for name in ("a", "b"):
                row = delivery(seq, "delivered", name)
                file.execute(put(row), to_row(row))
            file.execute(
                "INSERT INTO callbacks (job_id, number, at_ms, content_type, sha256, size_bytes, body, effect) "
                "VALUES (?, 1, ?, 'application/json', ?, 900, ?, 'progress')",
                (f"gone-{seq % 997}", at_ms, f"{seq:064x}", body),
            )
        file.execute("UPDATE meta SET value = ? WHERE name = 'head'", (str(head + rows),))
        file.execute("COMMIT")


async def main(rows: int, old: int, seconds: float) -> None:
    janitor.BITE_ROWS = rows  # type: ignore[misc]
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        async with bench(Path(folder)) as here:
            await asyncio.to_thread(fill, Path(folder) / "relay.db", old, here.clock.now_ms() - 40 * DAY_MS)
            store, took_ms = here.store, list[tuple[float, float, Any, int]]()
            await store.apply(AccountsListed((SeenAccount(EMAIL, 10),), here.clock.now_ms()))
            # As many callbacks as one attempt may have are soon there.
            jobs = [
                (await here.running(number)).job_id for number in range(1 + int(2 * seconds * CALLBACKS_PER_S / 900))
            ]
            delete, kind_of = store._file.delete, {sql: kind for kind, sql in BITES.items()}

            def timed(sql: str, values: dict[str, int]) -> int:
                began_s, cpu_s = time.perf_counter(), time.thread_time()
                gone = delete(sql, values)
                if gone:
                    cpu_ms = (time.thread_time() - cpu_s) * 1000
                    took_ms.append(((time.perf_counter() - began_s) * 1000, cpu_ms, kind_of.get(sql), gone))
                return gone

            store._file.delete = timed  # type: ignore[method-assign]
            retention = Retention(365 * DAY_MS, 30 * DAY_MS, 30 * DAY_MS)
            worker, waits_ms, began_s = Janitor(store, Feed(), clock, retention=retention), [], time.perf_counter()

            async def call(n: int) -> None:
                raw = json.dumps(task_body("RUNNING", f"0.{n:06d}")).encode()
                came = Arrived(raw, f"{n:064x}", len(raw), "application/json", None, here.clock.now_ms())
                called_s = time.perf_counter()
                await store.apply(CallbackReceived(hash_token(jobs[n // 900]), came))
                waits_ms.append((time.perf_counter() - called_s) * 1000)

            async def clean() -> None:
                # By the bench's clock the rows are old, and the worker is only asked to take its next bite.
                worker._clock = here.clock
                while time.perf_counter() - began_s < seconds:
                    due_ms = await worker.step()
                    assert due_ms is not None
                    await asyncio.sleep((due_ms - here.clock.now_ms()) / 1000)
                    here.clock.advance((due_ms - here.clock.now_ms()) / 1000)

            async def calls(first: int) -> int:
                nonlocal began_s
                began_s, n = time.perf_counter(), first
                async with asyncio.TaskGroup() as group:
                    while time.perf_counter() - began_s < seconds:
                        n += 1
                        group.create_task(call(n))
                        due_s = (n - first) / CALLBACKS_PER_S - (time.perf_counter() - began_s)
                        await asyncio.sleep(max(0.0, due_s))
                return n

            n = await calls(0)
            alone_ms = sorted(waits_ms)
            waits_ms.clear()
            cleaning = asyncio.create_task(clean())
            n = await calls(n) - n
            await cleaning
    print(f"{rows} rows a bite, {n / seconds:.0f} callbacks/s, {old} old events and callbacks, {2 * old} deliveries")
    for kind in ("callbacks", "deliveries", "events"):
        of_kind = sorted(ms for ms, _, name, _ in took_ms if name == kind)
        gone = sum(count for _, _, name, count in took_ms if name == kind)
        cpu_ms = max((cpu for _, cpu, name, _ in took_ms if name == kind), default=0.0)
        if of_kind:
            p50, p95, last = of_kind[len(of_kind) // 2], of_kind[-1 - len(of_kind) // 20], of_kind[-1]
            print(
                f"  {kind:<10} {gone:>6} rows in {len(of_kind)} bites: p50 {p50:.1f} ms, p95 {p95:.1f} ms, "
                f"longest {last:.1f} ms (of CPU {cpu_ms:.1f} ms)"
            )
    waits_ms.sort()
    for what, ms in (("beside it", waits_ms), ("alone", alone_ms)):
        p50, p99 = ms[len(ms) // 2], ms[-len(ms) // 100]
        print(f"  a callback's commit {what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {ms[-1]:.1f} ms")
    longest = max(cpu for _, cpu, _, _ in took_ms)
    print(
        f"  goal {GOAL_MS:.0f} ms, where nobody else uses disk and cores: {'met' if longest <= GOAL_MS else 'missed'}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=janitor.BITE_ROWS)
    parser.add_argument("--old", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    asyncio.run(main(given.rows, given.old, given.seconds))
