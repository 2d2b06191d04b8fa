"""Keeps what could grow for ever within its bounds."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from relay.clock import Clock
from relay.core.keeping import JobForgotten
from relay.feed import Feed
from relay.store.contract import Store
from relay.store.trimming import Kind
from relay.work.loop import Worker

QUARANTINE_MAX_ENTRIES: Final = 10_000
QUARANTINE_MAX_BYTES: Final = 64 * 1024 * 1024
KEYS_KEPT_MS: Final = 36 * 3600 * 1000
# Rows, and jobs with all that is stored of each, that go by one transaction: whoever waits for it waits so long.
BITE_ROWS: Final = 200
BITE_JOBS: Final = 20
BITE_BODIES: Final = 50
EVERY_MS: Final = 60_000
# In between, while there is more: others have the store for most of the time.
BREATH_MS: Final = 100


@dataclass(frozen=True, slots=True)
class Retention:
    """How long things are kept, in ms: jobs from their end on, as what was counted of them, and who did what."""

    jobs_ms: int
    events_ms: int
    callbacks_ms: int

    def kinds(self) -> Iterator[tuple[Kind, int]]:
        """What goes, with how long it is kept. Deliveries go before their events, which stay while one is left."""
        yield "callbacks", self.callbacks_ms
        yield "deliveries", self.events_ms
        yield "events", self.events_ms
        yield "breakers", self.events_ms
        yield "replays", self.events_ms
        yield "tallies", self.jobs_ms
        yield "deeds", self.jobs_ms


class Janitor(Worker):
    """Once a minute the oldest go: of the quarantine, of used keys, and of what `retention` says; None keeps all.

    A bite of each at a time, and on with the next one soon for as long as one of them was full.
    """

    name = "janitor"
    _due_ms = 0

    def __init__(self, store: Store, feed: Feed, clock: Clock, *, retention: Retention | None = None) -> None:
        super().__init__(store, feed, clock)
        self._retention = retention
        self._gone: Counter[str] = Counter()

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        if now_ms < self._due_ms <= now_ms + EVERY_MS:
            return self._due_ms
        store = self._store
        bodies = await store.trim_quarantine(QUARANTINE_MAX_ENTRIES, QUARANTINE_MAX_BYTES, BITE_BODIES)
        is_full = self._went("quarantine", bodies, BITE_BODIES)
        is_full |= self._went("keys", await store.trim("keys", now_ms - KEYS_KEPT_MS, BITE_ROWS), BITE_ROWS)
        if self._retention is not None:
            is_full |= self._went("jobs", await self._forget_jobs(now_ms - self._retention.jobs_ms), BITE_JOBS)
            # What a replay has still to look at is as good as owed.
            is_replaying = bool(await store.replays_running(1))
            for kind, kept_ms in self._retention.kinds():
                if not (is_replaying and kind == "deliveries"):
                    is_full |= self._went(kind, await store.trim(kind, now_ms - kept_ms, BITE_ROWS), BITE_ROWS)
        if self._gone and not is_full:
            self._log.info("trimmed", **self._gone)
            self._gone.clear()
        self._due_ms = now_ms + (BREATH_MS if is_full else EVERY_MS)
        return self._due_ms

    def _went(self, what: str, rows: int, bite: int) -> bool:
        """Whether it was a whole bite, so that there may be more."""
        if rows:
            self._gone[what] += rows
        return rows == bite

    async def _forget_jobs(self, before_ms: int) -> int:
        old = await self._store.jobs_to_go(before_ms, BITE_JOBS)
        return sum(await asyncio.gather(*(self._store.apply(JobForgotten(job_id, before_ms)) for job_id in old)))
