"""A whole relay for a test: sandbox and relay under real uvicorn on free ports, and a subscriber that listens."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from relay.clock import Clock, ManualClock, SystemClock
from relay.node import Node
from relay.sandbox.api import Sandbox
from relay.sandbox.vendor import Vendor
from relay.serve import bound, hosted
from relay.settings import Settings, given
from tests.postgres import Cluster, copied
from tests.rest import at_rest
from tests.whole.canaries import left_behind

T = TypeVar("T")

ADMIN_TOKEN = "admin-token-for-the-tests-only"
UPSTREAM_TOKEN = "upstream-token"
CALLBACKS_SOUGHT = 20
SECRET_KEY = "A" * 43
# Where a test of both engines runs on PostgreSQL, its server.
server: Cluster | None = None
WAIT_S = 30.0
TIMES_S = (0.01, 0.05)
EXAMPLE = {
    "model": "gen4.5",
    "text_prompt": "A cinematic aerial shot of a coastal city at golden hour",
    "duration": 5,
    "aspect_ratio": "16:9",
}


@dataclass
class Subscriber:
    """A subscriber's endpoint that keeps what it is sent.

    `answers` are the statuses to give, 200 when it is empty; while `open` is clear it takes what comes and answers
    nothing.
    """

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self, request: Request) -> Response:
        body = await request.body()
        async with self._more:
            self.got.append((dict(request.headers), body))
            self._more.notify_all()
        await self.open.wait()
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    async def wait_for(self, count: int, timeout_s: float = WAIT_S) -> list[dict[str, Any]]:
        """The first `count` bodies, once they have come."""
        async with asyncio.timeout(timeout_s), self._more:
            await self._more.wait_for(lambda: len(self.got) >= count)
        return [json.loads(body) for _, body in self.got[:count]]


@dataclass
class Journey:
    """What a test needs of a running relay; `client` carries the admin token, `sandbox_url` is its base address."""

    client: httpx2.AsyncClient
    node: Node
    vendor: Vendor
    relay_url: str
    sandbox_url: str
    subscriber: Subscriber
    settings: Settings
    planted: set[str]

    async def submit(self, **more: Any) -> dict[str, Any]:
        answer = await self.client.post("/v1/jobs", json=EXAMPLE | more)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    async def job(self, job_id: str) -> dict[str, Any]:
        return await self.get(f"/v1/jobs/{job_id}")

    async def get(self, path: str) -> dict[str, Any]:
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def ended(self, job_id: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The job, once its stream has ended with its final event."""
        async with asyncio.timeout(timeout_s):
            async with self.client.stream(
                "GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}, timeout=timeout_s
            ) as stream:
                async for _ in stream.aiter_lines():
                    pass
            return await self.job(job_id)

    async def until(self, look: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
        """What `look` finds, once it holds; looks again after every commit."""
        async with asyncio.timeout(WAIT_S):
            while True:
                seen = self.node.feed.generation
                if holds(found := await look()):
                    return found
                await self.node.feed.changed(seen)

    async def job_that(self, job_id: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        return await self.until(lambda: self.job(job_id), holds)

    async def job_in(self, job_id: str, state: str) -> dict[str, Any]:
        return await self.job_that(job_id, lambda job: bool(job["state"] == state))

    async def subscribe(self, **more: Any) -> dict[str, Any]:
        answer = await self.client.post("/v1/subscriptions", json={"url": self.subscriber.url} | more)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        self.planted.add(made["secret"].removeprefix("whsec_"))
        return made


@dataclass
class Surroundings:
    """The sandbox and the subscriber; relays come and go between them, on one database.

    It is a file in `folder`, or has an address in PostgreSQL.
    """

    folder: Path
    vendor: Vendor
    sandbox_url: str
    subscriber: Subscriber
    postgres_url: str | None = None
    # Secrets of its relays that have been shown.
    planted: set[str] = field(default_factory=lambda: {ADMIN_TOKEN, UPSTREAM_TOKEN})

    @property
    def database(self) -> Path:
        return self.folder / "relay.db"

    async def stored(self) -> Path:
        """The database as a file: itself, or a copy of what PostgreSQL has now."""
        if self.postgres_url is not None:
            await copied(self.postgres_url, self.database)
        return self.database

    def secrets(self) -> set[str]:
        """What may stand in no database and in no line of a log of its relays: those, and callbacks' addresses."""
        newest = islice(self.vendor.register.newest_first(), CALLBACKS_SOUGHT)
        urls = [task.reply_url or "" for task in newest]
        return self.planted | {url.rpartition("/")[2] for url in urls if "/callbacks/" in url}

    def values(self, port: int, *, callbacks: bool = True) -> dict[str, Any]:
        """The settings of a relay that listens on `port`, by their names in lower case."""
        sealed = {} if self.postgres_url is None else {"secret_key": SECRET_KEY}
        return sealed | {
            "database_url": self.postgres_url or f"sqlite:///{self.database}",
            "port": port,
            "upstream_url": f"{self.sandbox_url}/v1/runwayml",
            "upstream_token": UPSTREAM_TOKEN,
            "admin_token": ADMIN_TOKEN,
            "public_url": f"http://127.0.0.1:{port}" if callbacks else None,
            "allow_targets": self.sandbox_url.removeprefix("http://"),
        }

    @asynccontextmanager
    async def relay(
        self, *, callbacks: bool = True, clock: Clock | None = None, **settings: Any
    ) -> AsyncGenerator[Journey]:
        listening = bound("127.0.0.1", 0)
        made = given(**(self.values(listening.getsockname()[1], callbacks=callbacks) | settings))
        node = Node(made, clock=clock)
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        async with (
            hosted(node.app, listening, drain=node.drain) as url,
            httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=WAIT_S) as client,
        ):
            yield Journey(client, node, self.vendor, url, self.sandbox_url, self.subscriber, made, self.planted)


@asynccontextmanager
async def surroundings(
    folder: Path,
    *,
    times_s: tuple[float, float] = TIMES_S,
    faults: dict[str, Any] | None = None,
    vendor: Vendor | None = None,
    sandbox_clock: Clock | None = None,
    on: Cluster | None = None,
) -> AsyncGenerator[Surroundings]:
    """Sandbox and subscriber with real sockets; `times_s` are the seconds of a task in the queue and rendering.

    `on`: the relays' database is there, and not in `folder`.
    """
    on = on or server
    vendor = vendor or Vendor(Random(1), times_s=times_s, faults=faults)  # noqa: S311 - chance, not a secret
    sandbox = Sandbox(vendor, sandbox_clock or SystemClock())
    subscriber = Subscriber()
    subscriber.open.set()
    hook = Starlette(routes=[Route("/hook", subscriber.receive, methods=["POST"])])

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        # One server for the two: starting and stopping servers is most of what a journey costs.
        app = hook if scope["type"] == "http" and scope["path"] == "/hook" else sandbox
        await app(scope, receive, send)

    def drain() -> None:
        sandbox.release()
        subscriber.open.set()

    async with hosted(both, bound("127.0.0.1", 0), drain=drain) as url:
        subscriber.url = f"{url}/hook"
        around = Surroundings(folder, vendor, url, subscriber, await on.database(str(folder)) if on else None)
        yield around
    assert left_behind(folder, around.secrets()) == [], "a secret stands in the clear"


@asynccontextmanager
async def journey(
    folder: Path,
    *,
    times_s: tuple[float, float] = TIMES_S,
    faults: dict[str, Any] | None = None,
    callbacks: bool = True,
    vendor: Vendor | None = None,
    clock: Clock | None = None,
    sandbox_clock: Clock | None = None,
    **settings: Any,
) -> AsyncGenerator[Journey]:
    """Sandbox, relay and subscriber, all with real sockets; the database lies in `folder`.

    `callbacks=False` leaves RELAY_PUBLIC_URL out, so that the relay has to ask for everything.
    """
    around = surroundings(folder, times_s=times_s, faults=faults, vendor=vendor, sandbox_clock=sandbox_clock)
    async with around as found, found.relay(callbacks=callbacks, clock=clock, **settings) as running:
        yield running


async def while_time_passes(clock: ManualClock, awaitable: Awaitable[T], step_s: float = 1.0) -> T:
    """Move the clock on, step by step, until `awaitable` is done; what can be done is done in between."""
    work = asyncio.ensure_future(awaitable)
    async with asyncio.timeout(WAIT_S):
        await at_rest(work)
        while not work.done():
            clock.advance(step_s)
            await at_rest(work)
    return await work


async def eventually(holds: Callable[[], bool]) -> None:
    """Return once `holds`, for what nothing tells of: a connection that was closed, a task that ended."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)
