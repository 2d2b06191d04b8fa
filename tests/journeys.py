"""A whole relay for a test: the sandbox and the relay under real uvicorn on free ports, and a subscriber that listens."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.clock import SystemClock
from relay.node import Node
from relay.sandbox.api import build
from relay.sandbox.vendor import Vendor
from relay.serve import bound, hosted
from relay.settings import Settings, given

ADMIN_TOKEN = "admin-token-for-the-tests-only"
EXAMPLE = {
    "model": "gen4.5",
    "text_prompt": "A cinematic aerial shot of a coastal city at golden hour",
    "duration": 5,
    "aspect_ratio": "16:9",
}


@dataclass
class Subscriber:
    """A subscriber's endpoint that keeps what it is sent; `answers` are the statuses to give, 200 when it is empty."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self, request: Request) -> Response:
        body = await request.body()
        async with self._more:
            self.got.append((dict(request.headers), body))
            self._more.notify_all()
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    async def wait_for(self, count: int, timeout_s: float = 30) -> list[dict[str, Any]]:
        """The first `count` bodies, once they have come."""
        async with asyncio.timeout(timeout_s), self._more:
            await self._more.wait_for(lambda: len(self.got) >= count)
        return [json.loads(body) for _, body in self.got[:count]]


@dataclass
class Journey:
    """What a test needs of a running relay; `client` carries the admin token, `sandbox` its base address."""

    client: httpx2.AsyncClient
    node: Node
    vendor: Vendor
    relay_url: str
    sandbox_url: str
    subscriber: Subscriber
    settings: Settings

    async def submit(self, **more: Any) -> dict[str, Any]:
        answer = await self.client.post("/v1/jobs", json=EXAMPLE | more)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def ended(self, job_id: str, timeout_s: float = 30) -> dict[str, Any]:
        """The job, once its stream has ended with its final event."""
        async with asyncio.timeout(timeout_s):
            async with self.client.stream(
                "GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}, timeout=timeout_s
            ) as stream:
                async for _ in stream.aiter_lines():
                    pass
            job: dict[str, Any] = (await self.client.get(f"/v1/jobs/{job_id}")).json()
        return job

    async def subscribe(self, **more: Any) -> dict[str, Any]:
        answer = await self.client.post("/v1/subscriptions", json={"url": self.subscriber.url} | more)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made


@asynccontextmanager
async def journey(
    folder: Path,
    *,
    speed: float = 600,
    faults: dict[str, Any] | None = None,
    callbacks: bool = True,
    vendor: Vendor | None = None,
    **settings: Any,
) -> AsyncGenerator[Journey]:
    """Sandbox, relay and subscriber, all with real sockets; the database lies in `folder`.

    `callbacks=False` leaves RELAY_PUBLIC_URL out, so that the relay has to ask for everything.
    """
    vendor = vendor or Vendor(Random(1), speed=speed, faults=faults)
    sandbox = build(vendor, SystemClock())
    subscriber = Subscriber()
    hook = Starlette(routes=[Route("/hook", subscriber.receive, methods=["POST"])])
    async with AsyncExitStack() as stack:
        sandbox_url = await stack.enter_async_context(hosted(sandbox, bound("127.0.0.1", 0), drain=sandbox.release))
        hook_url = await stack.enter_async_context(hosted(hook, bound("127.0.0.1", 0)))
        subscriber.url = f"{hook_url}/hook"
        listening = bound("127.0.0.1", 0)
        port = listening.getsockname()[1]
        values: dict[str, Any] = {
            "database_url": f"sqlite:///{folder / 'relay.db'}",
            "port": port,
            "upstream_url": f"{sandbox_url}/v1/runwayml",
            "upstream_token": "upstream-token",
            "admin_token": ADMIN_TOKEN,
            "public_url": f"http://127.0.0.1:{port}" if callbacks else None,
            "allow_targets": ",".join(url.removeprefix("http://") for url in (sandbox_url, hook_url)),
        }
        made = given(**(values | settings))
        node = Node(made)
        relay_url = await stack.enter_async_context(hosted(node.app, listening, drain=node.drain))
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        client = await stack.enter_async_context(
            httpx2.AsyncClient(base_url=relay_url, headers=headers, trust_env=False)
        )
        yield Journey(client, node, vendor, relay_url, sandbox_url, subscriber, made)
