"""Keeps what could grow for ever within its bounds."""

import asyncio
from typing import Final

from relay.clock import Clock
from relay.core.keeping import JobForgotten
from relay.feed import Feed
from relay.store.contract import Store
from relay.work.loop import Worker

QUARANTINE_MAX_ENTRIES: Final = 10_000
QUARANTINE_MAX_BYTES: Final = 64 * 1024 * 1024
KEYS_KEPT_MS: Final = 36 * 3600 * 1000
FORGOTTEN_AT_ONCE: Final = 200
EVERY_MS: Final = 60_000


class Janitor(Worker):
    """Trims the quarantine and forgets used keys and old jobs once a minute: the oldest go.

    Jobs are kept for `jobs_ms` after their end, None for ever; some go in one turn, so that nobody waits for them.
    """

    name = "janitor"
    _due_ms = 0

    def __init__(self, store: Store, feed: Feed, clock: Clock, *, jobs_ms: int | None = None) -> None:
        super().__init__(store, feed, clock)
        self._jobs_ms = jobs_ms

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        if now_ms < self._due_ms <= now_ms + EVERY_MS:
            return self._due_ms
        gone = await self._store.trim_quarantine(QUARANTINE_MAX_ENTRIES, QUARANTINE_MAX_BYTES)
        if gone:
            self._log.info("quarantine.trimmed", entries=gone)
        await self._store.trim_keys(now_ms - KEYS_KEPT_MS)
        if self._jobs_ms is not None:
            before_ms = now_ms - self._jobs_ms
            old = await self._store.jobs_to_go(before_ms, FORGOTTEN_AT_ONCE)
            went = await asyncio.gather(*(self._store.apply(JobForgotten(job_id, before_ms)) for job_id in old))
            if any(went):
                self._log.info("jobs.forgotten", jobs=sum(went))
        self._due_ms = now_ms + EVERY_MS
        return self._due_ms
