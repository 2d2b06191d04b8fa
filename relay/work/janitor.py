"""Keeps what could grow for ever within its bounds."""

from typing import Final

from relay.work.loop import Worker

QUARANTINE_MAX_ENTRIES: Final = 10_000
QUARANTINE_MAX_BYTES: Final = 64 * 1024 * 1024
KEYS_KEPT_MS: Final = 36 * 3600 * 1000
EVERY_MS: Final = 60_000


class Janitor(Worker):
    """Trims the quarantine and forgets used keys once a minute: the oldest go."""

    name = "janitor"
    _due_ms = 0

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        if now_ms < self._due_ms <= now_ms + EVERY_MS:
            return self._due_ms
        gone = await self._store.trim_quarantine(QUARANTINE_MAX_ENTRIES, QUARANTINE_MAX_BYTES)
        if gone:
            self._log.info("quarantine.trimmed", entries=gone)
        await self._store.trim_keys(now_ms - KEYS_KEPT_MS)
        self._due_ms = now_ms + EVERY_MS
        return self._due_ms
