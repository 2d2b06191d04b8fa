"""A sandbox and a receiver of callbacks on real sockets, for tests."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.clock import Clock, SystemClock
from relay.sandbox.answer import Answer, Refusal
from relay.sandbox.api import PREFIX, Sandbox
from relay.sandbox.vendor import Vendor

WAIT_S = 20.0
PAGE_EXAMPLE = {
    "model": "gen4.5",
    "text_prompt": "A cinematic aerial shot of a coastal city at golden hour",
    "duration": 5,
    "aspect_ratio": "16:9",
}


def answered(ask: Callable[[], Answer]) -> Answer:
    """What is seen of a question to the pure part, a refusal too."""
    try:
        return ask()
    except Refusal as refused:
        return refused.answer


class PromptServer(uvicorn.Server):
    """Stops when it is told to, not at its next tick."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # As uvicorn's own, without its rest of 0.1 s, which hundreds of tests would pay.
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.001)
        await self.lifespan.shutdown()


@asynccontextmanager
async def served(app: Any) -> AsyncGenerator[str]:
    """Serve `app` on a free port; yields its origin."""
    server = PromptServer(uvicorn.Config(app, port=0, log_level="warning", access_log=False, lifespan="on"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            await serving
        await asyncio.sleep(0.001)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.stop.set()
        await serving


class Receiver:
    """What the sandbox's callbacks reach; `until` waits for the ones that a test needs."""

    def __init__(self) -> None:
        self.origin = ""
        self.requests: list[tuple[str, str, bytes]] = []
        self.status = 200
        self._arrived = asyncio.Condition()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.requests]

    @property
    def seen(self) -> list[tuple[str, str]]:
        """(status, progressRatio) in the order of arrival."""
        return [(body["status"], body["progressRatio"]) for body in self.bodies]

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S), self._arrived:
            await self._arrived.wait_for(ready)

    async def until_final(self, count: int = 1) -> None:
        await self.until(lambda: sum(status in ("SUCCEEDED", "FAILED") for status, _ in self.seen) >= count)

    async def take(self, request: Request) -> Response:
        body = await request.body()
        async with self._arrived:
            self.requests.append((request.url.path, request.headers.get("content-type", ""), body))
            self._arrived.notify_all()
        return Response(status_code=self.status)


@asynccontextmanager
async def receiver() -> AsyncGenerator[Receiver]:
    made = Receiver()
    async with served(Starlette(routes=[Route("/{rest:path}", made.take, methods=["POST"])])) as origin:
        made.origin = origin
        yield made


class Bench:
    """A sandbox under uvicorn and a client that speaks to it."""

    def __init__(self, vendor: Vendor, origin: str, client: httpx2.AsyncClient) -> None:
        self.vendor = vendor
        self.origin = origin
        self.client = client

    async def create(self, **fields: Any) -> httpx2.Response:
        return await self.client.post("videos/create", json={**PAGE_EXAMPLE, **fields})

    async def created(self, **fields: Any) -> str:
        """Create a task and return its taskId, whatever the answer's shape."""
        answer = await self.create(**fields)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return str(body.get("taskId") or body["task"]["taskId"])

    async def task(self, task_id: str) -> httpx2.Response:
        return await self.client.get("tasks/" + task_id)

    async def until(self, task_id: str, ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask after a task until its body is `ready`."""
        async with asyncio.timeout(WAIT_S):
            while True:
                answer = await self.task(task_id)
                body: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
                if body and ready(body):
                    return body

    async def finished(self, task_id: str) -> dict[str, Any]:
        return await self.until(task_id, lambda body: body["status"] in ("SUCCEEDED", "FAILED", "CANCELLED"))

    async def state(self) -> dict[str, Any]:
        answer = await self.client.get(self.origin + "/sandbox/state")
        return dict(answer.json())


@asynccontextmanager
async def bench(clock: Clock | None = None, base_url: str | None = None, **options: Any) -> AsyncGenerator[Bench]:
    """A sandbox with `options` for its Vendor: two slots, five queue and ten render milliseconds where not told."""
    rng = Random(1)  # noqa: S311 - chance, not a secret
    vendor = Vendor(rng, **{"times_s": (0.005, 0.01), **options})
    app = Sandbox(vendor, clock or SystemClock(), base_url=base_url)
    headers = {"authorization": "Bearer anything"}
    async with (
        served(app) as origin,
        httpx2.AsyncClient(base_url=origin + PREFIX + "/", headers=headers, timeout=WAIT_S, trust_env=False) as client,
    ):
        try:
            yield Bench(vendor, origin, client)
        finally:
            app.release()
