"""`relay serve` as a process of its own, between a sandbox and a subscriber that live in the test."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.journeys import ADMIN_TOKEN, EXAMPLE, WAIT_S, Surroundings
from tests.wire import Frame, stream

ROOT = Path(__file__).parent.parent.parent
SERVE = (sys.executable, "-m", "relay.cli.main", "serve")


@dataclass
class Serving:
    """A running relay; `lines` is what it has logged."""

    url: str
    process: asyncio.subprocess.Process
    client: httpx2.AsyncClient
    lines: list[str] = field(default_factory=list)
    _reading: asyncio.Task[None] | None = None

    async def started(self) -> None:
        """Once it has said so; it takes connections from then on."""
        async with asyncio.timeout(WAIT_S):
            assert self.process.stderr is not None
            async for line in self.process.stderr:
                self.lines.append(line.decode())
                if "relay.started" in self.lines[-1]:
                    break
            else:
                raise AssertionError("".join(self.lines))
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())

    async def stopped(self, by: signal.Signals) -> int:
        """Its exit code after a signal."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(by)
        async with asyncio.timeout(WAIT_S):
            code = await self.process.wait()
            if self._reading is not None:
                await self._reading
        return code

    async def submit(self, **more: Any) -> str:
        """The id of a new job."""
        answer = await self.client.post("/v1/jobs", json=EXAMPLE | more)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = (await self.client.get(f"/v1/jobs/{job_id}")).json()
        return job

    async def told(self, job_id: str, *types: str) -> list[Frame]:
        """The job's events, up to the first of one of these types (or to its end)."""
        async with stream(self.url, f"/v1/jobs/{job_id}/events") as connection:
            frames = await connection.events(until=lambda frame: frame.event in types)
        return [frame for frame in frames if frame.id is not None]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def environment(around: Surroundings, port: int, **settings: Any) -> dict[str, str]:
    """The environment of a relay on `port`; settings by their names in lower case, None leaves one out."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "DATABASE_URL"))}
    values = around.values(port) | settings
    given = {f"RELAY_{name.upper()}": str(value) for name, value in values.items() if value is not None}
    return own | given | {"PYTHONPATH": str(ROOT)}


async def started(
    around: Surroundings, env: dict[str, str], command: Sequence[str] = SERVE
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*command, cwd=around.folder, env=env, stderr=asyncio.subprocess.PIPE)


@asynccontextmanager
async def serving(
    around: Surroundings, port: int, *, command: Sequence[str] = SERVE, **settings: Any
) -> AsyncGenerator[Serving]:
    """A relay that has started; killed at the end if it still runs."""
    url = f"http://127.0.0.1:{port}"
    process = await started(around, environment(around, port, **settings), command)
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=WAIT_S) as client:
        relay = Serving(url, process, client)
        try:
            await relay.started()
            yield relay
        finally:
            await relay.stopped(signal.SIGKILL)
    said = "".join(relay.lines)
    assert [secret for secret in around.secrets() if secret in said] == [], "a secret stands in the log"
