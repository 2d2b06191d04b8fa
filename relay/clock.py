"""Time as a thing that is handed in: the system's clock, or one that a test moves by hand.

Wall-clock time is an `int` of Unix milliseconds (`_ms`), waits are `float` seconds (`_s`). Nothing else in the package
asks the operating system for the time or sleeps.
"""

import asyncio
import heapq
import time
from collections.abc import Awaitable
from typing import Final, Protocol, TypeVar

# Sums of seconds as floats are off by less than this, differences of two wall-clock times too; a sleeper whose time has
# come by the sum is not left asleep.
ROUNDING_S: Final = 1e-6

T = TypeVar("T")


class Clock(Protocol):
    """What a part of the relay may know of time."""

    def now_ms(self) -> int:
        """Wall-clock time, Unix milliseconds; may jump."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some moment; never jumps, never falls."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of monotonic time."""
        ...


class SystemClock:
    """The real one."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class SteadyClock:
    """Wall-clock time that never jumps by itself: as it was once, carried on by monotonic time, until it is moved.

    With it nobody sees a jump of the clock beneath before the waits in the store have been moved by as much.
    """

    def __init__(self, beneath: Clock) -> None:
        self._beneath = beneath
        self._zero_ms = beneath.now_ms() - beneath.monotonic_s() * 1000

    def now_ms(self) -> int:
        return round(self._zero_ms + self._beneath.monotonic_s() * 1000)

    def monotonic_s(self) -> float:
        return self._beneath.monotonic_s()

    async def sleep(self, seconds: float) -> None:
        await self._beneath.sleep(seconds)

    def behind_ms(self) -> int:
        """By how much the wall clock beneath has gone ahead of this one; negative when it was set back."""
        # Looked at from both sides: a process that was stopped between two looks takes its pause for no jump.
        earliest_ms, wall_ms, latest_ms = self.now_ms(), self._beneath.now_ms(), self.now_ms()
        return max(0, wall_ms - latest_ms) + min(0, wall_ms - earliest_ms)

    def move(self, by_ms: int) -> None:
        self._zero_ms += by_ms


class ManualClock:
    """A clock that stands still until `advance` moves it; sleepers wake in the order of their times."""

    def __init__(self, now_ms: int = 1_767_225_600_000) -> None:
        self._now_ms = float(now_ms)
        self._monotonic_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now_ms(self) -> int:
        return round(self._now_ms)

    def monotonic_s(self) -> float:
        return self._monotonic_s

    async def sleep(self, seconds: float) -> None:
        at_s = self._monotonic_s + seconds
        if at_s <= self._monotonic_s:  # its time has come already: no `advance` may be needed for that
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (at_s, self._count, future))
        await future

    def until_next_s(self) -> float | None:
        """How far away the next sleeper's time is; None when nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return max(0.0, self._sleepers[0][0] - self._monotonic_s) if self._sleepers else None

    def advance(self, seconds: float) -> None:
        """Move both clocks forward and wake every sleeper whose time has come."""
        self._monotonic_s += seconds
        self._now_ms += seconds * 1000
        while self._sleepers and self._sleepers[0][0] <= self._monotonic_s + ROUNDING_S:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    def jump_wall(self, seconds: float) -> None:
        """Move the wall clock alone, as NTP or an operator would."""
        self._now_ms += seconds * 1000


async def _until(clock: Clock, at_s: float) -> None:
    """Sleep until a monotonic time: a task begins later than it was made, and a clock may have moved in between."""
    await clock.sleep(at_s - clock.monotonic_s())


async def within(clock: Clock, seconds: float, work: Awaitable[T]) -> T:
    """The result of `work`; raises `TimeoutError`, and cancels it, when it takes longer than `seconds` by `clock`."""
    task = asyncio.ensure_future(work)
    if not await wait_at_most(clock, task, seconds):
        await asyncio.gather(task, return_exceptions=True)
        raise TimeoutError
    return task.result()


async def wait_at_most(clock: Clock, awaitable: Awaitable[object], seconds: float) -> bool:
    """Wait for `awaitable`, but no longer than `seconds` by `clock`; True when it was done in time.

    What was not done is cancelled. An exception of the awaitable is raised here.
    """
    work = asyncio.ensure_future(awaitable)
    timer = asyncio.ensure_future(_until(clock, clock.monotonic_s() + seconds))
    try:
        await asyncio.wait({work, timer}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return False
        work.result()
        return True
    finally:
        work.cancel()
        timer.cancel()
