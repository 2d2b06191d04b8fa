"""Keeps the relay's time: follows the wall clock, and when that has jumped moves every open wait by as much.

Everybody else goes by a steady clock, which jumps only here. The waits follow in the writer's own order: what was
decided by the old time is written before they are moved, what is decided by the new time behind it. A relay that dies
in between finds its waits as they were, at its next start: a clock that went back is seen there by the newest event,
which cannot have been written in the future; one that went ahead cannot be told from a relay that did not run.
"""

from collections.abc import Callable
from typing import Final

from relay.clock import SteadyClock
from relay.core.skew import JUMP_MS, jumped, upstream_off
from relay.feed import Feed
from relay.store.contract import Store
from relay.work.loop import Worker

LOOK_EVERY_MS: Final = 10_000
TOLD_AGAIN_S: Final = 24 * 3_600.0


class Timekeeper(Worker):
    """Looks every ten seconds, and whenever the others have something to do; `off_ms` asks for the upstream's clock."""

    name = "timekeeper"

    def __init__(self, store: Store, feed: Feed, clock: SteadyClock, off_ms: Callable[[], int | None]) -> None:
        super().__init__(store, feed, clock)
        self._steady = clock
        self._off_ms = off_ms
        self._told_at_s: float | None = None
        # Where several relays share the waits, one of them moves these; the others only follow their clocks.
        self.leads = True

    async def recover(self) -> None:
        """At start: when the newest event lies in the future, the clock was set back while nobody looked."""
        newest = await self._store.event(await self._store.head())
        now_ms = self._clock.now_ms()
        if newest is not None and newest.at_ms - now_ms > JUMP_MS:
            await self._store.apply(jumped(now_ms - newest.at_ms, now_ms))

    async def step(self) -> int | None:
        await self._follow()
        if self.leads:
            await self._compare()
        return self._clock.now_ms() + LOOK_EVERY_MS

    async def _follow(self) -> None:
        by_ms = self._steady.behind_ms()
        self._steady.move(by_ms)
        if abs(by_ms) <= JUMP_MS or not self.leads:
            return
        try:
            await self._store.apply(jumped(by_ms, self._clock.now_ms()))
        except Exception:  # nothing was moved, so time stays what it was until it can be
            self._steady.move(-by_ms)
            raise
        self._log.warning("clock.moved", by_ms=by_ms)

    async def _compare(self) -> None:
        """Once, and again only when it was right in between, or a day later."""
        off_ms, now_s = self._off_ms(), self._clock.monotonic_s()
        if off_ms is None:
            self._told_at_s = None
        elif self._told_at_s is None or now_s - self._told_at_s >= TOLD_AGAIN_S:
            await self._store.apply(upstream_off(off_ms, self._clock.now_ms()))
            self._told_at_s = now_s
            self._log.warning("clock.skewed", upstream_by_ms=off_ms)
