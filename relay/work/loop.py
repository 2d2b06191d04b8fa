"""A worker: one step after another, asleep in between until a commit, its next time, or the end."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from relay.clock import Clock, wait_at_most
from relay.core.ledger import Happening
from relay.errors import Unavailable
from relay.feed import Feed
from relay.observe import logger
from relay.store.contract import Store

R = TypeVar("R")

IDLE_MAX_S: Final = 60.0
AFTER_FAILURE_S: Final = 1.0
STOP_S: Final = 20.0


class Worker(ABC):
    """A loop around `step`, and the tasks that it has under way. `stop` lets those end that must not be cut."""

    name: str

    def __init__(self, store: Store, feed: Feed, clock: Clock) -> None:
        self._store = store
        self._feed = feed
        self._clock = clock
        self._log = logger(self.name)
        self._under_way: set[asyncio.Task[None]] = set()
        self._poked = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def step(self) -> int | None:
        """Do what can be done now; the wall-clock time (ms) of what comes next, None for nothing known."""

    def start(self) -> None:
        self._stopping = False
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Begin no new step, and let what is under way end; what takes too long is cancelled."""
        self._stopping = True
        self._poked.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                # The last step may begin something more: what was written before it is sent must be sent.
                while going := self._going():
                    await asyncio.wait(going)
        for task in (going := self._going()):
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    def _going(self) -> set[asyncio.Task[None]]:
        loop = {self._task} if self._task is not None and not self._task.done() else set()
        return loop | self._under_way

    @property
    def under_way(self) -> int:
        """How many pieces of work run beside the loop."""
        return len(self._under_way)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the loop; when it ends, the loop takes another step."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    async def surely(self, happening: Happening[R]) -> R:
        """Apply a happening that has taken place and must not be forgotten: again and again while the store cannot."""
        while True:
            try:
                return await self._store.apply(happening)
            except Unavailable as error:
                self._log.warning("store.unavailable", reason=error.message)
                await self._clock.sleep(AFTER_FAILURE_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._poked.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("work.failed", exc_info=error)

    async def _run(self) -> None:
        while not self._stopping:
            seen = self._feed.generation
            self._poked.clear()
            try:
                due_ms = await self.step()
            except Unavailable as error:
                self._log.warning("store.unavailable", reason=error.message)
                due_ms = self._clock.now_ms() + int(AFTER_FAILURE_S * 1000)
            except Exception:  # a defect of ours must not end the worker for ever
                self._log.exception("step.failed")
                await self._clock.sleep(AFTER_FAILURE_S)
                continue
            await self._idle(seen, due_ms)

    async def _idle(self, seen: int, due_ms: int | None) -> None:
        """Waits are bounded by monotonic time, so a wall clock that jumps delays nothing by more than a minute."""
        wait_s = IDLE_MAX_S if due_ms is None else min(IDLE_MAX_S, (due_ms - self._clock.now_ms()) / 1000)
        if wait_s <= 0:
            await asyncio.sleep(0)
            return
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._poked.wait())]
        if not self._feed.closing:  # a closing feed wakes at once, and would again and again until `stop`
            waits.append(asyncio.ensure_future(self._feed.changed(seen)))
        try:
            await wait_at_most(self._clock, asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED), wait_s)
        finally:
            for wait in waits:
                wait.cancel()
