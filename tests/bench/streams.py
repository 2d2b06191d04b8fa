"""What an open stream costs and how soon it tells, beside Nchan and sse-starlette: one run, one machine, one core each.

    python -m tests.bench.streams [--streams 1000,5000] [--seconds 5] [--events 1000000] [--only memory,frames,…]

Servers have core 0 (taskset), whoever reads and measures has the other one. All send the same event of some 700 bytes.
The relay makes each from a callback, which it has committed to disk before; the peers are posted it and store nothing.
"""

import argparse
import asyncio
import os
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

from relay.core.event import Event
from relay.feed import KEPT_EVENTS
from relay.store.rows import columns, from_row, to_row
from tests.bench import hubs
from tests.bench.hubs import MARK, Hub, prepare, subscription
from tests.bench.readers import Crowd, Load, percentile

PARTS = ("memory", "frames", "last", "idle", "history", "callbacks")
IDLE_S = 32.0
SETTLE_S = 1.5
QUIET_S = 0.1
PACE_S = 0.002
ROUNDS = 60
RESUMES = 400
REPLAYED = 200_000
ROW = "{:<58} {:>12} {:>12} {:>7}"


class Table:
    """Lines of figure, goal and the ratio of the two; at most 1.00 is as it should be."""

    def __init__(self) -> None:
        print(ROW.format("", "figure", "goal", "ratio"))

    def line(self, name: str, figure: float, unit: str, goal: float | None = None, *, least: bool = False) -> None:
        """`least`: the goal is a least value, and the ratio is turned round."""
        ratio = "" if goal is None else f"{(goal / figure if least else figure / goal):.2f}"
        print(ROW.format(name, shown(figure, unit), shown(goal, unit) if goal is not None else "", ratio), flush=True)


def shown(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


@contextmanager
def relay(folder: Path) -> Iterator[tuple[Hub, list[str]]]:
    """A relay with running jobs; the ids of these."""
    path = folder / f"{time.monotonic_ns()}.db"
    attempts = asyncio.run(prepare(path))
    with hubs.relay(path, attempts) as hub:
        with Crowd(hub) as nobody:  # what it keeps of the newest events is full, as it is after an hour
            send(nobody, hub, KEPT_EVENTS, 1000)
        yield hub, [job_id for _, _, job_id in attempts]


def body_of_event() -> bytes:
    """What the relay sends as the data of an event, for the peers."""
    with tempfile.TemporaryDirectory() as folder, relay(Path(folder)) as (hub, _), Crowd(hub) as crowd:
        load = Load(hub.publish, 100, 1)
        crowd.pump(lambda: load.done, load)
        with socket.create_connection(("127.0.0.1", hub.port)) as reader:
            reader.sendall(hubs.subscription("/v1/events?since=5s&type=job.progress"))
            received = b""
            while MARK.encode() not in received or not received.endswith(b"\n\n\r\n"):
                received += reader.recv(65_536)
    data = received.rpartition(b"data: ")[2].partition(b"\n")[0]
    assert data.count(MARK.encode()) == 1
    return data


def kinds() -> list[str]:
    return ["relay", *(["Nchan"] if hubs.has_nchan() else []), "sse-starlette"]


@contextmanager
def started(kind: str, folder: Path, body: bytes) -> Iterator[Hub]:
    """A fresh hub of a kind."""
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        if kind == "relay":
            with relay(Path(inner)) as (hub, _):
                yield hub
        elif kind == "Nchan":
            with hubs.nchan(Path(inner), body) as hub:
                yield hub
        else:
            with hubs.sse_starlette(body) as hub:
                yield hub


def memory(table: Table, folder: Path, body: bytes, streams: list[int]) -> None:
    """The growth of the resident set, all readers having got some events."""
    for kind in kinds():
        for count in streams:
            with started(kind, folder, body) as hub, Crowd(hub) as crowd:
                send(crowd, hub, 20, 20)
                time.sleep(SETTLE_S)
                before = hub.rss_bytes()
                crowd.open([hub.subscribe] * count)
                send(crowd, hub, 20, 5)
                time.sleep(SETTLE_S)
                kib = (hub.rss_bytes() - before) / count / 1024
                table.line(f"memory a stream, {count:,} streams, {kind}", kib, "KiB", 14 if kind == "relay" else None)


def send(crowd: Crowd, hub: Hub, count: int, rate: float) -> Load:
    """Publish so many at that rate, and wait until every reader has got all of them."""
    goal = crowd.frames + count * crowd.readers
    load = Load(hub.publish, rate, count)
    crowd.pump(lambda: load.done and crowd.frames >= goal, load)
    return load


def frames(table: Table, folder: Path, body: bytes, seconds: float) -> None:
    """CPU of the whole server, publishing included, over the frames that were delivered."""
    for rate, factor in ((100, 1.2), (20, 2.0)):
        costs: dict[str, float] = {}
        for kind in ("Nchan", "relay", "sse-starlette"):
            if kind not in kinds():
                continue
            lasting_s = seconds if kind != "sse-starlette" else min(seconds, 2.0)
            with started(kind, folder, body) as hub, Crowd(hub) as crowd:
                crowd.open([hub.subscribe] * 1000)
                send(crowd, hub, 5, 20)
                crowd.pace_s = PACE_S
                server_s, own_s, began_s = hub.cpu_s(), time.process_time(), time.monotonic()
                count = int(rate * lasting_s)
                send(crowd, hub, count, rate)
                took_s, own_s = time.monotonic() - began_s, time.process_time() - own_s
                costs[kind] = (hub.cpu_s() - server_s) / count / 1000 * 1e6
            goal = factor * costs["Nchan"] if kind == "relay" and "Nchan" in costs else None
            table.line(f"CPU a frame, 1,000 streams x {rate} events/s, {kind}", costs[kind], "µs", goal)
            late_s = took_s - lasting_s
            print(f"    all delivered {late_s:+.2f} s after the last was due; the readers' CPU {own_s / took_s:.0%}")


def last(table: Table, folder: Path, body: bytes) -> None:
    """From the first byte of the post until the last of 1,000 readers has the event, each after a quiet moment.

    Without that the relay holds an event back until the time of `web.streams.PAUSE_A_STREAM_S` is over.
    """
    found: dict[str, list[float]] = {}
    for kind in ("Nchan", "relay", "sse-starlette"):
        if kind not in kinds():
            continue
        with started(kind, folder, body) as hub, Crowd(hub) as crowd:
            crowd.open([hub.subscribe] * 1000)
            send(crowd, hub, 5, 20)
            took, crowd.pace_s = [], 0.0
            for _ in range(ROUNDS):
                began_s = time.monotonic()
                send(crowd, hub, 1, 1)
                took.append((crowd.last_s - began_s) * 1000)
                time.sleep(QUIET_S)
            found[kind] = took
        for share, name in ((0.5, "median"), (0.9, "p90")):
            goal = 1.5 * percentile(found["Nchan"], share) if kind == "relay" and "Nchan" in found else None
            table.line(f"the last of 1,000 has it, {name}, {kind}", percentile(took, share), "ms", goal)


def idle(table: Table, folder: Path, body: bytes, streams: list[int]) -> None:
    """CPU while nothing happens but heartbeats; two of them in the time that is measured."""
    for count in (0, max(streams)):
        with started("relay", folder, body) as hub, Crowd(hub) as crowd:
            crowd.open([hub.subscribe] * count)
            time.sleep(SETTLE_S)
            cpu_s, began_s = hub.cpu_s(), time.monotonic()
            crowd.pump(lambda began_s=began_s: time.monotonic() - began_s >= IDLE_S)  # type: ignore[misc]
            share = (hub.cpu_s() - cpu_s) / (time.monotonic() - began_s) * 100
            table.line(f"idle, {count:,} streams", share, "% core", 2 if count else None)


def history(table: Table, folder: Path, events: int) -> None:
    """Readers that come back anywhere in a long log, and one that reads on to its end."""
    path = folder / "history.db"
    attempts = asyncio.run(prepare(path))
    epoch = filled(path, events)
    chance = Random(1)  # noqa: S311 - chance, not a secret
    with hubs.relay(path, attempts) as hub:
        for name, low, query in (
            ("anywhere", 0, ""),
            ("within the last 1,000", events - 1000, ""),
            ("anywhere, one type in 20", 0, "?type=job.submitted"),
        ):
            took = []
            for _ in range(RESUMES):
                seq = chance.randrange(low, events - 100)
                took.append(resumed(hub, subscription(f"/v1/events{query}", f"{epoch}-{seq}")))
            p50, p99 = percentile(took, 0.5) * 1000, percentile(took, 0.99) * 1000
            table.line(f"resume among {events:,}, {name}, p50", p50, "ms")
            table.line(f"resume among {events:,}, {name}, p99", p99, "ms", 5)
        count = min(REPLAYED, events)
        with Crowd(hub) as crowd:
            cpu_s, began_s = hub.cpu_s(), time.monotonic()
            crowd.open([subscription("/v1/events", f"{epoch}-{events - count}")])
            crowd.pump(lambda: crowd.frames >= count)
            rate, cpu_us = count / (time.monotonic() - began_s), (hub.cpu_s() - cpu_s) / count * 1e6
        table.line(f"replay of {count:,} events to one reader", rate, "/s", 50_000, least=True)
        table.line("CPU a replayed event", cpu_us, "µs")


def resumed(hub: Hub, request: bytes) -> float:
    """Seconds from the connection to the first event."""
    began_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", hub.port)) as reader:
        reader.sendall(request)
        received = b""
        while MARK.encode() not in received:
            received = reader.recv(65_536)
            assert received, "the stream has ended"
        took_s = time.monotonic() - began_s
    time.sleep(0.005)  # what it had begun for this reader is not the next one's wait
    return took_s


def filled(path: Path, events: int) -> str:
    """Put so many events into a database; their epoch."""
    sql = sqlite3.connect(path)
    sql.row_factory = sqlite3.Row
    epoch = str(sql.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()[0])
    first = int(sql.execute("SELECT value FROM meta WHERE name = 'head'").fetchone()[0])
    row = sql.execute(f"SELECT {columns(Event)} FROM events ORDER BY seq DESC LIMIT 1").fetchone()  # noqa: S608
    like = from_row(Event, row)
    places = ", ".join("?" * len(columns(Event).split(",")))

    def rows() -> Iterator[tuple[object, ...]]:
        for seq in range(first + 1, events + 1):
            kind = "job.progress" if seq % 20 else "job.submitted"
            yield to_row(replace(like, seq=seq, type=kind, job_id=f"{like.job_id}"[:-6] + f"{seq % 10_000:06d}"))

    sql.execute("PRAGMA synchronous = OFF")
    sql.executemany(f"INSERT INTO events ({columns(Event)}) VALUES ({places})", rows())  # noqa: S608
    sql.execute("UPDATE meta SET value = ? WHERE name = 'head'", (str(events),))
    sql.commit()
    sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    sql.close()
    return epoch


def callbacks(table: Table, folder: Path, seconds: float) -> None:
    """200 a second, while 1,000 streams each follow a job, as browsers' progress bars do."""
    with relay(folder) as (hub, jobs), Crowd(hub) as crowd:
        requests = [subscription(f"/v1/jobs/{jobs[n % len(jobs)]}/events?since=now") for n in range(1000)]
        crowd.open(requests)
        send_load = Load(hub.publish, 200, int(200 * max(seconds, 10)))
        crowd.pump(lambda: send_load.done, send_load)
        took = [one * 1000 for one in send_load.latencies_s]
        table.line("callbacks at 200/s, 1,000 streams of one job each, p50", percentile(took, 0.5), "ms")
        table.line("callbacks at 200/s, 1,000 streams of one job each, p99", percentile(took, 0.99), "ms", 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="1000,5000")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--only", default=",".join(PARTS))
    given = parser.parse_args()
    os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - {hubs.CORE} or {hubs.CORE})
    streams, chosen = [int(count) for count in given.streams.split(",")], given.only.split(",")
    if not hubs.has_nchan():
        print("nginx with Nchan is not installed: its lines and the goals that follow it are left out", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder, body, table = Path(name), body_of_event(), Table()
        parts = {
            "memory": lambda: memory(table, folder, body, streams),
            "frames": lambda: frames(table, folder, body, given.seconds),
            "last": lambda: last(table, folder, body),
            "idle": lambda: idle(table, folder, body, streams),
            "history": lambda: history(table, folder, given.events),
            "callbacks": lambda: callbacks(table, folder, given.seconds),
        }
        for part in chosen:
            parts[part]()


if __name__ == "__main__":
    main()
