"""Signed deliveries a second, and the CPU of each, beside peers that guard against nothing: one run, one machine.

    python -m tests.bench.deliveries [--seconds 2] [--at-once 1,32,128] [--hosts 1,150]

Every sender signs a body of 2 KB anew for each delivery and posts it to one process that answers 200 under as many
loopback addresses as there are hosts. `relay` is the sender that the deliverer uses, `aiohttp` that client (where it
is installed), `bare` writes to a socket and reads as many bytes as it knows will come. Each is a process of its own.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec

import uvloop

from relay.core.signature import sign
from relay.core.target import parse_allow
from relay.net.webhook import WebhookSender

SECRET = "whsec_" + "A" * 32
BODY = b'{"type":"job.succeeded","data":"' + b"x" * 2_000 + b'"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
PATH = "/hooks/subscriber-0001"
KINDS = ("relay", "aiohttp", "bare")

Send = Callable[[str, dict[str, str]], Awaitable[int]]
"""Posts the body to a host with these headers; the status."""


def headers_now() -> dict[str, str]:
    """What the deliverer sends with each webhook."""
    now_s = int(time.time())
    return {
        "content-type": "application/json",
        "webhook-id": "1-42",
        "webhook-timestamp": str(now_s),
        "webhook-signature": sign([SECRET], "1-42", now_s, BODY),
    }


@asynccontextmanager
async def relay(hosts: list[str], port: int) -> AsyncIterator[Send]:
    sender = WebhookSender(parse_allow([f"{host}:{port}" for host in hosts]))

    async def send(host: str, headers: dict[str, str]) -> int:
        answer = await sender.send(f"http://{host}:{port}{PATH}", headers, BODY)
        return answer.status or 0

    yield send
    await sender.aclose()


@asynccontextmanager
async def aiohttp(hosts: list[str], port: int) -> AsyncIterator[Send]:
    import aiohttp as library  # type: ignore[import-not-found, unused-ignore]

    timeout = library.ClientTimeout(total=15)
    connector = library.TCPConnector(limit=1024)
    async with library.ClientSession(
        connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=library.DummyCookieJar()
    ) as session:

        async def send(host: str, headers: dict[str, str]) -> int:
            url = f"http://{host}:{port}{PATH}"
            async with session.post(url, data=BODY, headers=headers, allow_redirects=False) as response:
                await response.content.read(16 * 1024)
                status: int = response.status
                return status

        yield send


@asynccontextmanager
async def bare(hosts: list[str], port: int) -> AsyncIterator[Send]:
    idle: dict[str, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {host: [] for host in hosts}

    async def send(host: str, headers: dict[str, str]) -> int:
        reader, writer = idle[host].pop() if idle[host] else await asyncio.open_connection(host, port)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\n{lines}Content-Length: {len(BODY)}\r\n\r\n"
        writer.write(head.encode() + BODY)
        answer = await reader.readexactly(len(ANSWER))
        idle[host].append((reader, writer))
        return int(answer[9:12])

    yield send
    for kept in idle.values():
        for _, writer in kept:
            writer.close()


SENDERS: dict[str, Callable[[list[str], int], AbstractAsyncContextManager[Send]]] = {
    "relay": relay,
    "aiohttp": aiohttp,
    "bare": bare,
}


class Subscriber(asyncio.Protocol):
    """Answers every request of the one known length with 200."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head >= 0 and len(self._received) >= head + 4 + len(BODY):
            self._received = b""
            self._transport.write(ANSWER)


async def subscribers() -> None:
    """Serve on every loopback address until the process is ended; the port is printed."""
    server = await asyncio.get_running_loop().create_server(Subscriber, "0.0.0.0", 0, backlog=1024)  # noqa: S104 # 127.0.0.x
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def deliver(kind: str, port: int, host_count: int, at_once: int, seconds: float) -> None:
    """Deliver for so long and print what came of it as JSON."""
    hosts = [f"127.0.0.{n + 1}" for n in range(host_count)]
    async with SENDERS[kind](hosts, port) as send:
        await asyncio.gather(*(send(host, headers_now()) for host in hosts))
        sent, turn = 0, 0
        began_s, cpu_began_s = time.monotonic(), time.process_time()
        ends_s = began_s + seconds

        async def line() -> None:
            nonlocal sent, turn
            while time.monotonic() < ends_s:
                turn += 1
                if await send(hosts[turn % host_count], headers_now()) != 200:
                    raise SystemExit(f"{kind}: a delivery was not answered 200")
                sent += 1

        await asyncio.gather(*(line() for _ in range(at_once)))
        cpu_s, took_s = time.process_time() - cpu_began_s, time.monotonic() - began_s
    print(json.dumps({"rate": sent / took_s, "cpu_us": cpu_s / max(1, sent) * 1e6}))


def measure(kind: str, port: int, hosts: int, at_once: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.deliveries", "--only", kind, "--port", str(port)]
    command += ["--hosts", str(hosts), "--at-once", str(at_once), "--seconds", str(seconds)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


def table(hosts: list[int], at_once: list[int], seconds: float) -> None:
    kinds = [kind for kind in KINDS if kind != "aiohttp" or find_spec("aiohttp")]
    if "aiohttp" not in kinds:
        print("aiohttp is not installed: its lines are left out")
    server = subprocess.Popen([sys.executable, "-m", "tests.bench.deliveries", "--serve"], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        peers = [f"of {peer}: rate, CPU" for peer in ("aiohttp", "bare") if peer in kinds]
        print(f"{'hosts':>5} {'at once':>7} {'sender':>8} {'per s':>7} {'CPU µs':>7}  {'  '.join(peers)}")
        for host_count in hosts:
            for places in at_once:
                found = {kind: measure(kind, port, host_count, places, seconds) for kind in kinds}
                for kind, one in found.items():
                    shares = [
                        f"{one['rate'] / found[peer]['rate']:.2f} {one['cpu_us'] / found[peer]['cpu_us']:.2f}"
                        for peer in ("aiohttp", "bare")
                        if peer in found
                    ]
                    figures = f"{one['rate']:>7.0f} {one['cpu_us']:>7.0f}"
                    print(f"{host_count:>5} {places:>7} {kind:>8} {figures}  {'            '.join(shares)}", flush=True)
    finally:
        server.terminate()
        server.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--at-once", default="1,32,128")
    parser.add_argument("--hosts", default="1,150")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        uvloop.run(subscribers())
    elif given.only:
        uvloop.run(deliver(given.only, given.port, int(given.hosts), int(given.at_once), given.seconds))
    else:
        hosts, at_once = ([int(n) for n in text.split(",")] for text in (given.hosts, given.at_once))
        table(hosts, at_once, given.seconds)


if __name__ == "__main__":
    main()
