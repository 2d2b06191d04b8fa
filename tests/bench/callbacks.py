"""Durable callbacks a second, and the CPU of each, beside peers that store nothing: one run, one machine.

    python -m tests.bench.callbacks [--seconds 5] [--connections 1,16,64,256]

The relay runs as a process of its own with the real ledger: a job and an attempt for each address, a subscription that
wants the final events, an event for each rise of progress. Every acknowledged callback is looked for in the database.
`parse` and `bare` have uvicorn's fast parser and loop, which the relay brings along; `plain` is `parse` as
`pip install starlette uvicorn` serves it. `door` is the relay with a store that writes no callback.
"""

import argparse
import asyncio
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from relay.core.accounts import AccountsListed, SeenAccount
from relay.core.job import Job, task_id_of
from relay.core.outcome import Accepted
from relay.core.submitting import AttemptAnswered, AttemptStarted, JobSubmitted
from relay.core.task import named
from relay.store.contract import Store
from relay.store.sqlite import open_store
from relay.vault import hash_token, new_hex, new_uuid7
from tests.bench.load import Result, run

ATTEMPTS = 400
PER_ATTEMPT = 900
BODY_BYTES = 2_000
# A server that takes no more CPU than this for so long is at rest.
REST_CPU_S, REST_S = 0.02, 1.0
EMAIL = "bench@example.com"


def task_id(n: int) -> str:
    return f"user:7-runwayml:{EMAIL}-task:00000000-0000-4000-8000-{n:012d}"


async def prepare(path: Path) -> list[tuple[str, str]]:
    """Running jobs in a new database; `(token, reply ref)` of each."""
    store = await open_store(path, new_hex=new_hex, committed=lambda head, events: None)
    made = await fill(store)
    await store.close()
    return made


async def fill(store: Store) -> list[tuple[str, str]]:
    """The same in this one."""
    now_ms = int(time.time() * 1000)
    await store.apply(AccountsListed((SeenAccount(EMAIL, ATTEMPTS),), now_ms))

    async def one(n: int) -> tuple[str, str]:
        job_id, token = new_uuid7(now_ms), f"bench-token-{n:06d}-{new_hex(16)}"
        job = Job(
            id=job_id, model="gen4.5", token_id="admin", submitted_by="admin", task_id=task_id_of(job_id),
            request={"model": "gen4.5"}, created_at_ms=now_ms, updated_at_ms=now_ms,
        )  # fmt: skip
        await store.apply(JobSubmitted(job, 10_000, 10_000))
        attempt = await store.apply(AttemptStarted(job_id, store.instance, EMAIL, hash_token(token), now_ms))
        assert attempt is not None
        # Far in the future: nothing is asked about while the load runs.
        await store.apply(AttemptAnswered(job_id, 1, Accepted(named(task_id(n), attempt.reply_ref)), now_ms + 10**9))
        return token, attempt.reply_ref

    return await asyncio.gather(*(one(n) for n in range(ATTEMPTS)))


def requests(attempts: list[tuple[str, str]], shas: list[str]) -> Iterator[tuple[int, bytes]]:
    """Whole requests, each callback different from all others, progress rising slowly in each attempt."""
    for index in range(ATTEMPTS * PER_ATTEMPT):
        n, step = index % ATTEMPTS, index // ATTEMPTS
        token, reply_ref = attempts[n]
        body = json.dumps(
            {
                "taskId": task_id(n),
                "status": "RUNNING",
                "progressRatio": str(step / PER_ATTEMPT),
                "updatedAt": f"2026-11-25T12:{step // 60 % 60:02d}:{step % 60:02d}.{index % 1000:03d}Z",
                "replyRef": reply_ref,
                "artifacts": [],
                "options": {"text_prompt": "x" * (BODY_BYTES - 400), "n": index},
            }
        ).encode()
        shas.append(hashlib.sha256(body).hexdigest())
        head = (
            f"POST /callbacks/{token} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        yield index, head.encode() + body


class Server:
    """A server process on a port of its own, its CPU seconds read from the kernel."""

    def __init__(self, command: list[str], port: int, environment: dict[str, str]) -> None:
        self.port = port
        self._process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL)

    async def ready(self) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            break
        await self.at_rest()

    async def at_rest(self) -> None:
        """What a server does at its start, as to ask about all tasks that run, is none of what is measured."""
        before_s = -1.0
        while self.cpu_s() - before_s > REST_CPU_S:
            before_s = self.cpu_s()
            await asyncio.sleep(REST_S)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def relay_server(path: Path, module: str = "relay.cli.main") -> Server:
    port = free_port()
    environment = {
        "RELAY_DATABASE_URL": f"sqlite:///{path}",
        "RELAY_PORT": str(port),
        "RELAY_UPSTREAM_URL": "http://127.0.0.1:9/v1/runwayml",
        "RELAY_UPSTREAM_TOKEN": "none",
        "RELAY_ADMIN_TOKEN": "bench-admin-token-bench-admin",
    }
    return Server([sys.executable, "-m", module, "serve"], port, environment)


RELAYS = {"door": "tests.bench.door", "relay": "relay.cli.main"}
# The app of a peer, and how it is served.
PEERS = {
    "parse": ("parse", "--http", "httptools", "--loop", "uvloop"),
    "bare": ("bare", "--http", "httptools", "--loop", "uvloop"),
    "plain": ("parse", "--http", "h11", "--loop", "asyncio"),
}


def peer_server(name: str) -> Server:
    port, (app, *how) = free_port(), PEERS[name]
    command = [sys.executable, "-m", "uvicorn", f"tests.bench.peers:{app}", "--port", str(port), "--no-access-log"]
    return Server([*command, "--log-level", "warning", *how], port, {})


async def measure(kind: str, connections: int, seconds: float) -> tuple[Result, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relay.db"
        shas: list[str] = []
        attempts = await prepare(path)
        server = relay_server(path, RELAYS[kind]) if kind in RELAYS else peer_server(kind)
        try:
            await server.ready()
            before_s = server.cpu_s()
            result = await run(server.port, requests(attempts, shas), connections, seconds)
            cpu_s = server.cpu_s() - before_s
        finally:
            server.stop()
        if kind == "relay":
            check(path, [shas[index] for index in result.acknowledged])
    return result, cpu_s / max(1, len(result.acknowledged))


def check(path: Path, acknowledged: list[str]) -> None:
    """Every callback that was answered 200 is in the database."""
    connection = sqlite3.connect(path)
    kept = {row[0] for row in connection.execute("SELECT sha256 FROM callbacks")}
    connection.close()
    lost = [sha for sha in acknowledged if sha not in kept]
    if lost:
        raise SystemExit(f"{len(lost)} of {len(acknowledged)} acknowledged callbacks are not in the database")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", default="1,16,64,256")
    given = parser.parse_args()
    print(
        f"{'connections':>11} {'server':>7} {'per s':>8} {'p50 ms':>7} {'p99 ms':>7} {'CPU µs':>7}  of parse  of plain"
    )
    for connections in map(int, given.connections.split(",")):
        rates: dict[str, float] = {}
        for kind in (*PEERS, *RELAYS):
            result, cpu_s = await measure(kind, connections, given.seconds)
            rates[kind] = result.rate
            shares = [f"{result.rate / rates[name]:.2f}" if name in rates else "" for name in ("parse", "plain")]
            p50, p99 = result.percentile_ms(0.5), result.percentile_ms(0.99)
            figures = f"{result.rate:>8.0f} {p50:>7.2f} {p99:>7.2f} {cpu_s * 1e6:>7.0f}"
            print(f"{connections:>11} {kind:>7} {figures}  {shares[0]:>8}  {shares[1]:>8}")


if __name__ == "__main__":
    asyncio.run(main())
