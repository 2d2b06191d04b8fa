"""Tells the operator of what changes around the relay: the upstream falls silent or is back, the disk runs full.

Each change is told once, however often it is looked at. A relay that starts knows of nothing that was told before.
"""

from collections.abc import Callable
from typing import Final

from relay.clock import Clock
from relay.core.notice import Noticed
from relay.feed import Feed
from relay.store.contract import Store
from relay.work.loop import Worker

LOOK_EVERY_MS: Final = 10_000
SILENT_S: Final = 30.0
DISK_LOW_BYTES: Final = 1024**3
# So much more than that must be free before the next time is told: around the limit it would be told again and again.
DISK_BACK_BYTES: Final = DISK_LOW_BYTES // 2


class Lookout(Worker):
    """`silent_s`: for how long nothing that the upstream was asked had an answer. `free_bytes`: what the disk has."""

    name = "lookout"

    def __init__(
        self, store: Store, feed: Feed, clock: Clock, silent_s: Callable[[], float], free_bytes: Callable[[], int]
    ) -> None:
        super().__init__(store, feed, clock)
        self._silent_s = silent_s
        self._free_bytes = free_bytes
        self._down = False
        self._low = False

    async def step(self) -> int | None:
        silent_s = self._silent_s()
        if not self._down and silent_s >= SILENT_S:
            await self._tell(
                "upstream.down", "upstream", f"nothing that it was asked for {silent_s:.0f} s was answered"
            )
            self._down = True
        elif self._down and not silent_s:
            await self._tell("upstream.up", "upstream", "it answers again")
            self._down = False
        free_bytes = self._free_bytes()
        if not self._low and free_bytes < DISK_LOW_BYTES:
            reason = f"{free_bytes / 1024**3:.1f} GiB are free where the database lies; without any nothing is taken in"
            await self._tell("disk.low", "the database's disk", reason)
            self._low = True
        elif free_bytes >= DISK_LOW_BYTES + DISK_BACK_BYTES:
            self._low = False
        return self._clock.now_ms() + LOOK_EVERY_MS

    async def _tell(self, kind: str, subject: str, reason: str) -> None:
        await self._store.apply(Noticed(kind, subject, reason, self._clock.now_ms()))
