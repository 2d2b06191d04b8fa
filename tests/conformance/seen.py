"""A relay with the sandbox behind, whose time can be put forward, seen directly or through a proxy."""

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.conformance.fronts import front
from tests.conformance.target import Target
from tests.journeys import ADMIN_TOKEN, WAIT_S, Journey, journey

ORIGIN = "https://shop.example"


class HurriedClock:
    """The real clock, which a test may put forward: jobs at the sandbox end by themselves, heartbeats when wanted."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        self._moved = asyncio.Event()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + round(self._ahead_s * 1000)

    def monotonic_s(self) -> float:
        return time.monotonic() + self._ahead_s

    async def sleep(self, seconds: float) -> None:
        until_s = self.monotonic_s() + seconds
        while (left_s := until_s - self.monotonic_s()) > 0:
            moved = self._moved
            try:
                async with asyncio.timeout(left_s):
                    await moved.wait()
            except TimeoutError:
                return

    async def pass_time(self, seconds: float, until: "asyncio.Future[Any]") -> None:
        """Put it forward, and let everybody who noticed do something about it."""
        self._ahead_s += seconds
        self._moved.set()
        self._moved = asyncio.Event()
        await asyncio.wait({until}, timeout=0.001)


@asynccontextmanager
async def relay(folder: Path, clock: HurriedClock) -> AsyncGenerator[Journey]:
    async with journey(folder, clock=clock, sandbox_clock=clock, cors_origins=ORIGIN) as running:
        yield running


def forgets(running: Journey) -> Callable[[int], Awaitable[None]]:
    """Has so many events go, as the janitor does when they were kept for long enough."""

    async def forget(events: int) -> None:
        await running.node.app.state.store.trim("events", 2**62, events)

    return forget


@asynccontextmanager
async def seen_through(
    name: str, folder: Path, spoil: Callable[[str], str] = lambda text: text
) -> AsyncGenerator[Target]:
    """A relay of its own as it is seen through a front, or directly; `spoil` changes the front's configuration."""
    clock = HurriedClock()
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(relay(folder, clock))
        url = running.relay_url
        trusted: ssl.SSLContext | bool = True
        if name != "directly":
            proxy = await stack.enter_async_context(front(name, folder / "front", url, spoil))
            url, trusted = proxy.url, proxy.trusted
        client = httpx2.AsyncClient(base_url=url, trust_env=False, timeout=WAIT_S, verify=trusted)
        await stack.enter_async_context(client)
        hands: dict[str, Any] = {"pass_time": clock.pass_time, "drain": running.node.drain, "forget": forgets(running)}
        yield Target(client, ADMIN_TOKEN, ORIGIN, **hands)
