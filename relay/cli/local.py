"""Sandbox, relay and a small subscriber together on loopback, for `relay demo` and `relay dev`.

They take nothing from the environment and keep their database in a folder that goes with them, so they can reach
neither the real upstream nor a real queue.
"""

import asyncio
import random
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.client import RelayClient
from relay.clock import SystemClock
from relay.node import Node
from relay.sandbox.api import Sandbox
from relay.sandbox.vendor import Vendor
from relay.serve import bound, hosted
from relay.settings import given
from relay.vault import new_token

HOST: Final = "127.0.0.1"
KEPT_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Webhook:
    """What came to the subscriber: headers in lower case, and the bytes."""

    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Subscriber:
    """An endpoint that answers 200 and hands on what it was sent."""

    url: str = ""
    got: asyncio.Queue[Webhook] = field(default_factory=lambda: asyncio.Queue(KEPT_MAX))

    def app(self) -> Starlette:
        async def receive(request: Request) -> Response:
            webhook = Webhook(dict(request.headers), await request.body())
            if self.got.full():
                self.got.get_nowait()
            self.got.put_nowait(webhook)
            return Response(status_code=200)

        return Starlette(routes=[Route("/webhooks", receive, methods=["POST"])])


@dataclass(frozen=True, slots=True)
class Local:
    """Where everything listens, and a client with the admin token."""

    relay_url: str
    sandbox_url: str
    token: str
    subscriber: Subscriber
    client: RelayClient
    folder: Path


@asynccontextmanager
async def local(
    *, speed: float, relay_port: int = 0, sandbox_port: int = 0, subscriber_port: int = 0
) -> AsyncGenerator[Local]:
    """Start all three, and stop them again; port 0 takes a free one. Raises `OSError` when a port is taken."""
    token, subscriber = new_token("relay_"), Subscriber()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-")))
        sockets = [bound(HOST, port) for port in (sandbox_port, subscriber_port, relay_port)]
        for listening in sockets:
            stack.callback(listening.close)
        port = sockets[2].getsockname()[1]
        sandbox = Sandbox(Vendor(random.SystemRandom(), speed=speed), SystemClock())
        sandbox_url = await stack.enter_async_context(hosted(sandbox, sockets[0], drain=sandbox.release))
        subscriber_url = await stack.enter_async_context(hosted(subscriber.app(), sockets[1]))
        subscriber.url = f"{subscriber_url}/webhooks"
        node = Node(
            given(
                database_url=f"sqlite:///{folder / 'relay.db'}",
                port=port,
                public_url=f"http://{HOST}:{port}",
                upstream_url=f"{sandbox_url}/v1/runwayml",
                upstream_token="any-token-will-do",  # noqa: S106 # the sandbox takes any
                admin_token=token,
                # Exactly these two, for the relay calls no loopback address otherwise.
                allow_targets=",".join(url.removeprefix("http://") for url in (sandbox_url, subscriber_url)),
            )
        )
        relay_url = await stack.enter_async_context(hosted(node.app, sockets[2], drain=node.drain))
        client = await stack.enter_async_context(RelayClient(relay_url, token))
        yield Local(relay_url, sandbox_url, token, subscriber, client, folder)
