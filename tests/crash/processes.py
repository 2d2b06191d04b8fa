"""Relays as processes that tests kill, trace and starve, always on the same port and the same files."""

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.crash.launcher import LOG, Plan
from tests.journeys import ADMIN_TOKEN, WAIT_S, Surroundings
from tests.whole.processes import ROOT, environment

# Below the ports that systems give to outgoing connections: one of those must not take a dead relay's place.
PORTS = range(20_000, 32_000)
LAUNCHER = "tests.crash.launcher"
SERVE = (sys.executable, "-m", "relay.cli.main", "serve")
IMPATIENT = Plan(impatient=True)


def quiet_port() -> int:
    """A port that is free, and stays free while its relay is dead."""
    while True:
        port = secrets.choice(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Away(Exception):
    """The relay said that it cannot do this now, and so has promised nothing."""


def answered(answer: httpx2.Response, status: int) -> None:
    """Raises `Away` for a 503 that says when to ask again."""
    if answer.status_code == 503 and "retry-after" in answer.headers:
        raise Away(answer.text)
    assert answer.status_code == status, answer.text


@dataclass
class Relay:
    """One life of a relay. `pid` is the relay's own; `ended` has its exit code, negative for a signal."""

    url: str
    pid: int
    client: httpx2.AsyncClient
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def stopped(self, by: signal.Signals = signal.SIGKILL) -> int:
        """Its exit code after a signal, or the one that it had already."""
        if not self.ended.done():
            assert self.pid > 0, "this relay is not a process of its own"
            with suppress(ProcessLookupError):
                os.kill(self.pid, by)
        async with asyncio.timeout(WAIT_S):
            return await asyncio.shield(self.ended)

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = await self.client.get(path, params=query)
        answered(answer, 200)
        found: dict[str, Any] = answer.json()
        return found

    async def all(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """Every row of a list with a cursor."""
        rows: list[dict[str, Any]] = []
        cursor: dict[str, Any] = {}
        while True:
            page = await self.get(path, limit=200, **query, **cursor)
            rows += page["data"]
            if page["next"] is None:
                return rows
            cursor = {"cursor": page["next"]}


async def first(*of: Awaitable[Any]) -> None:
    """Once one of these is done; what is not is left alone, and what was begun for this alone is cancelled."""
    tasks = {asyncio.ensure_future(one) for one in of}
    try:
        await asyncio.wait(tasks, timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks - set(of):
            task.cancel()


@asynccontextmanager
async def _client(url: str) -> AsyncGenerator[httpx2.AsyncClient]:
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=WAIT_S) as client:
        yield client


class Nursery:
    """Forks relays in a folder, one after another; see `tests.crash.launcher`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._relay: Relay | None = None
        self._begun: asyncio.Future[int] | None = None
        self.reading = asyncio.create_task(self._read())

    @asynccontextmanager
    async def relay(self, around: Surroundings, port: int, plan: Plan = IMPATIENT) -> AsyncGenerator[Relay]:
        """A relay that is ready, or has already ended; it is killed at the end if it still runs."""
        assert self._process.stdin is not None
        self._begun = asyncio.get_running_loop().create_future()
        env = environment(around, port)
        order = {"folder": str(around.folder), "environment": env, "plan": asdict(plan)}
        url = f"http://127.0.0.1:{port}"
        async with _client(url) as client:
            self._relay = relay = Relay(url, 0, client)
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            async with asyncio.timeout(WAIT_S):
                relay.pid = await self._begun
            try:
                await first(relay.ready.wait(), relay.ended)
                assert relay.ready.is_set() or relay.ended.done(), (around.folder / LOG).read_text()
                yield relay
            finally:
                await relay.stopped()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said = json.loads(line)
            assert self._relay is not None
            assert self._begun is not None
            if "begun" in said:
                self._begun.set_result(said["begun"])
            elif "ready" in said:
                self._relay.ready.set()
            else:
                self._relay.ended.set_result(said["code"])


@asynccontextmanager
async def nursery(launcher: Sequence[str] = (LAUNCHER,)) -> AsyncGenerator[Nursery]:
    """`launcher`: the module, and what it is told."""
    pipe = asyncio.subprocess.PIPE
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *launcher, cwd=ROOT, env=env, stdin=pipe, stdout=pipe
    )
    made = Nursery(process)
    try:
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(WAIT_S):
            await process.wait()
            await made.reading


@asynccontextmanager
async def wrapped(around: Surroundings, port: int, *command: str, plan: Plan | None = None) -> AsyncGenerator[Relay]:
    """A relay inside of another program, such as strace; what was started is waited for, too.

    Without a plan it is the command itself, with one it is the launcher.
    """
    inner = SERVE if plan is None else (sys.executable, "-m", LAUNCHER, plan.as_json())
    process = await asyncio.create_subprocess_exec(
        *command, *inner, cwd=around.folder, env=environment(around, port), stderr=asyncio.subprocess.PIPE
    )
    url = f"http://127.0.0.1:{port}"
    async with _client(url) as client:
        relay = Relay(url, 0, client)
        reading = asyncio.create_task(_follow(process, relay))
        try:
            await first(relay.ready.wait(), relay.ended)
            assert relay.ready.is_set(), "it did not start in time"
            relay.pid = innermost(process.pid)
            yield relay
        finally:
            if not relay.ended.done():
                relay.pid = innermost(process.pid)
                await relay.stopped()
            await reading


async def _follow(process: asyncio.subprocess.Process, relay: Relay) -> None:
    assert process.stderr is not None
    lines = []
    async for line in process.stderr:
        lines.append(line.decode())
        if "relay.started" in lines[-1]:
            relay.ready.set()
    relay.ended.set_result(await process.wait())
    assert relay.ready.is_set(), "".join(lines)


def innermost(pid: int) -> int:
    """The process at the end of the chain of only children that begins with `pid`."""
    while children := (Path(f"/proc/{pid}/task/{pid}/children")).read_text().split():
        pid = int(children[0])
    return pid
