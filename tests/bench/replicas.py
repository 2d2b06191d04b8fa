"""Several relays on one PostgreSQL beside one on SQLite: one run, one machine.

    python -m tests.bench.replicas [--seconds 5] [--connections 64] [--replicas 1,2,3]

Durable callbacks a second over all relays, and the CPU of each in the relays and in the server; every acknowledged one
is looked for in the database. Then, one at a time, how long it takes from a callback at one relay until its frame is
read from a stream of another one; and deliveries a second while jobs end.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
import httpx2

from relay.store import postgres
from relay.vault import new_hex
from tests.bench.callbacks import Server, check, fill, free_port, prepare, requests
from tests.bench.load import Result, run
from tests.postgres import Cluster, cluster

TOKEN = "bench-admin-token-bench-admin"
KEY = "A" * 43
TIMES = 200
SUBSCRIPTIONS, ENDED = 10, 200
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@dataclass
class Subscriber:
    """Answers 200 to whatever comes, and counts by path and webhook-id."""

    port: int = 0
    got: Counter[bytes] = field(default_factory=Counter)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lower = head.lower()
                body = await reader.readexactly(int(lower.split(b"content-length:")[1].split(b"\r\n")[0]))
                path, event = head.split(b" ", 2)[1], lower.split(b"webhook-id:")[1].split(b"\r\n")[0]
                await self.take(path, event, body)
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()

    async def take(self, path: bytes, event: bytes, body: bytes) -> None:
        self.got[path + event] += 1

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.got) < count:  # noqa: ASYNC110 - it is asked every few ms, and the measure is in seconds
                await asyncio.sleep(0.005)


def relay_on(url: str, subscriber: Subscriber) -> Server:
    port = free_port()
    environment = {
        "RELAY_DATABASE_URL": url,
        "RELAY_SECRET_KEY": KEY,
        "RELAY_PORT": str(port),
        "RELAY_UPSTREAM_URL": "http://127.0.0.1:9/v1/runwayml",
        "RELAY_UPSTREAM_TOKEN": "none",
        "RELAY_ADMIN_TOKEN": TOKEN,
        "RELAY_ALLOW_TARGETS": f"127.0.0.1:{subscriber.port}",
    }
    return Server([sys.executable, "-m", "relay.cli.main", "serve"], port, environment)


def server_cpu_s(server: Cluster | None) -> float:
    """Of all its processes, and of those that have ended."""
    if server is None:
        return 0.0
    ticks, pid = 0, server.pid
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(path.parent.name) == pid:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == pid:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


async def latencies_ms(at: int, on: int, bodies: Iterator[tuple[int, bytes]]) -> list[float]:
    """From a callback at one port to its frame on a stream of another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", on)
    lines = [f"Authorization: {HEADERS['Authorization']}", "Accept: text/event-stream", "Host: relay"]
    writer.write("\r\n".join(["GET /v1/events HTTP/1.1", *lines, "", ""]).encode())
    await reader.readuntil(b"stream.open")
    found = []
    for one in islice(bodies, TIMES):
        began_s = time.monotonic()
        async with asyncio.timeout(10):
            await asyncio.gather(run(at, iter([one]), 1, 5), reader.readuntil(b"\nevent: job.progress"))
        found.append((time.monotonic() - began_s) * 1000)
    writer.close()
    return sorted(found)


async def deliveries(servers: list[Server], subscriber: Subscriber) -> float:
    """A second, from the first of some jobs that are cancelled until all subscriptions know of all."""
    async with httpx2.AsyncClient(headers=HEADERS, trust_env=False, timeout=30) as client:
        base = f"http://127.0.0.1:{servers[0].port}"
        for n in range(SUBSCRIPTIONS):
            answer = await client.post(
                f"{base}/v1/subscriptions", json={"url": f"http://127.0.0.1:{subscriber.port}/{n}"}
            )
            assert answer.status_code == 201, answer.text
        jobs = [job["id"] for job in (await client.get(f"{base}/v1/jobs?limit={ENDED}")).json()["data"]]
        posts = [
            (f"POST /v1/jobs/{job}/cancel HTTP/1.1\r\nHost: relay\r\nAuthorization: {HEADERS['Authorization']}\r\n"
             "Content-Length: 0\r\n\r\n").encode()
            for job in jobs
        ]  # fmt: skip
        began_s = time.monotonic()
        each = iter(enumerate(posts))
        await asyncio.gather(*(run(server.port, each, 8, 30) for server in servers))
        await subscriber.wait_for(SUBSCRIPTIONS * len(jobs))
        return SUBSCRIPTIONS * len(jobs) / (time.monotonic() - began_s)


async def measure(replicas: int, connections: int, seconds: float, server: Cluster | None) -> str:
    """A line of the table; without a `server` on SQLite."""
    subscriber, shas = Subscriber(), list[str]()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await stack.enter_async_context(subscriber.serving())
        path = folder / "relay.db"
        if server is None:
            url, attempts = f"sqlite:///{path}", await prepare(path)
        else:
            url = await server.database(str(folder))
            store = await postgres.open_store(url, new_hex=new_hex, committed=lambda head, events: None)
            attempts = await fill(store)
            await store.close()
        relays = [relay_on(url, subscriber) for _ in range(replicas)]
        for relay in relays:
            stack.callback(relay.stop)
            await relay.ready()
        bodies = requests(attempts, shas)
        before = [sum(relay.cpu_s() for relay in relays), server_cpu_s(server)]
        results = await asyncio.gather(*(run(relay.port, bodies, connections // replicas, seconds) for relay in relays))
        after = [sum(relay.cpu_s() for relay in relays), server_cpu_s(server)]
        acknowledged = [index for result in results for index in result.acknowledged]
        took_ms = await latencies_ms(relays[0].port, relays[-1].port, bodies)
        rate = await deliveries(relays, subscriber)
        doubled = sum(count - 1 for count in subscriber.got.values())
        acknowledged_shas = [shas[index] for index in acknowledged]
        if server is None:
            check(path, acknowledged_shas)
        else:
            await check_at(url, acknowledged_shas)
    together = Result(results[0].seconds, [one for result in results for one in result.latencies_s], acknowledged)
    cpu_us = [(now - then) / max(1, len(acknowledged)) * 1e6 for then, now in zip(before, after, strict=True)]
    name = "SQLite" if server is None else f"PostgreSQL, {replicas}"
    return (
        f"{name:>14} {together.rate:>8.0f} {together.percentile_ms(0.5):>7.1f} {together.percentile_ms(0.99):>7.1f} "
        f"{cpu_us[0]:>9.0f} {cpu_us[1]:>9.0f} {took_ms[TIMES // 2]:>9.1f} "
        f"{took_ms[TIMES * 99 // 100]:>7.1f} {rate:>12.0f} {doubled:>7}"
    )


async def check_at(url: str, shas: list[str]) -> None:
    sql: Any = await asyncpg.connect(url)
    kept = {row["sha256"] for row in await sql.fetch("SELECT sha256 FROM callbacks")}
    await sql.close()
    assert kept.issuperset(shas), "acknowledged callbacks are not in the database"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--replicas", default="1,2,3")
    given = parser.parse_args()
    print(f"{'':>14} {'callbacks':>8} {'p50 ms':>6} {'p99 ms':>7} {'relay µs':>9} {'server µs':>9} "
          f"{'frame p50':>9} {'p99 ms':>7} {'deliveries/s':>12} {'doubled':>7}")  # fmt: skip
    print(await measure(1, given.connections, given.seconds, None), flush=True)
    with cluster() as server:
        for replicas in map(int, given.replicas.split(",")):
            print(await measure(replicas, given.connections, given.seconds, server), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
