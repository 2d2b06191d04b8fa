"""What a callback waits for while streams are open and history is read: at a steady rate, one run, one machine.

    python -m tests.bench.crowd [--streams 1000] [--rate 200] [--pages 20] [--seconds 10]

Each stream follows one running job, as a browser's progress bar does; a reader asks for pages of jobs and events so
many times a second. Every frame that should have come to a stream is counted.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.callbacks import ATTEMPTS, prepare, relay_server, requests
from tests.bench.load import Result

TOKEN = b"Authorization: Bearer bench-admin-token-bench-admin\r\n"
PAGES = ("/v1/jobs?limit=50", "/v1/jobs?state=running&limit=200", "/v1/events?since=earliest&limit=100")
IN_FLIGHT = 16


async def follow(port: int, job_id: str, opened: asyncio.Event, counted: list[int]) -> None:
    """One open stream; counts the progress that it is told of."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"GET /v1/jobs/{job_id}/events?since=now HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n".encode()
        writer.write(head + TOKEN + b"\r\n")
        await reader.readuntil(b"stream.open")
        opened.set()
        while line := await reader.readline():
            counted[0] += line == b"event: job.progress\n"
    finally:
        writer.close()


async def read_history(port: int, rate: float, seconds: float, pages: list[int]) -> None:
    """Pages of history, one after the other, for as long as the load runs."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began_s = time.monotonic()
    try:
        for n in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began_s + n / rate - time.monotonic()))
            path = PAGES[pages[0] % len(PAGES)]
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode() + TOKEN + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
            pages[0] += 1
    finally:
        writer.close()


async def steadily(port: int, load: Iterator[tuple[int, bytes]], rate: float, seconds: float) -> Result:
    """Callbacks at a steady rate, whatever the answers take: the time is counted from when each was due."""
    result, due_s = Result(), asyncio.Queue[float]()
    began_s = time.monotonic()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while (at_s := await due_s.get()) >= 0:
                index, request = next(load)
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
                result.latencies_s.append(time.monotonic() - at_s)
                result.acknowledged += [index] if head.startswith(b"HTTP/1.1 200") else []
        finally:
            writer.close()

    connections = [asyncio.create_task(connection()) for _ in range(IN_FLIGHT)]
    for n in range(int(rate * seconds)):
        at_s = began_s + n / rate
        await asyncio.sleep(max(0.0, at_s - time.monotonic()))
        due_s.put_nowait(at_s)
    for _ in connections:
        due_s.put_nowait(-1)
    await asyncio.gather(*connections)
    result.seconds = time.monotonic() - began_s
    return result


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--pages", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relay.db"
        attempts = await prepare(path)
        jobs = [reply_ref.split(":")[2] for _, reply_ref in attempts]
        server = relay_server(path)
        try:
            await server.ready()
            counted, pages = [0], [0]
            streams = []
            for n in range(given.streams):
                opened = asyncio.Event()
                streams.append(asyncio.create_task(follow(server.port, jobs[n % ATTEMPTS], opened, counted)))
                await opened.wait()
            load = requests(attempts, [])
            for _ in range(ATTEMPTS):  # the first report of each job carries progress 0, which is no news
                next(load)
            before_s = server.cpu_s()
            history = asyncio.create_task(read_history(server.port, given.pages, given.seconds, pages))
            result = await steadily(server.port, load, given.rate, given.seconds)
            await history
            cpu_s = server.cpu_s() - before_s
            followers = [len(range(job, given.streams, ATTEMPTS)) for job in range(ATTEMPTS)]
            expected = sum(followers[index % ATTEMPTS] for index in result.acknowledged)
            for _ in range(200):
                if counted[0] >= expected:
                    break
                await asyncio.sleep(0.05)
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
        finally:
            server.stop()
    p50, p99 = result.percentile_ms(0.5), result.percentile_ms(0.99)
    print(f"{given.streams} streams, {len(result.acknowledged)} callbacks, {pages[0]} pages in {result.seconds:.1f} s")
    print(f"p50 {p50:.2f} ms, p99 {p99:.2f} ms; CPU of the relay {cpu_s / result.seconds:.0%} of one core")
    print(f"frames {counted[0]} of {expected}")


if __name__ == "__main__":
    asyncio.run(main())
