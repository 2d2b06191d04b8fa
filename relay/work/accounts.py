"""Keeps the list of upstream accounts and their slots: from the settings, or asked for and asked for again."""

from collections.abc import Sequence
from typing import Final

from relay.clock import Clock
from relay.core.accounts import AccountsListed, AccountsRefused, SeenAccount
from relay.core.outcome import Unanswered
from relay.core.submitting import JobStranded
from relay.feed import Feed
from relay.store.contract import Store
from relay.work.loop import Worker
from relay.work.ports import Upstream

REFRESH_MS: Final = 300_000
RETRY_MS: Final = 10_000
STRANDED_AT_ONCE: Final = 100


class AccountKeeper(Worker):
    """While the upstream cannot say which accounts there are, its last answer holds."""

    name = "accounts"

    def __init__(
        self, store: Store, feed: Feed, clock: Clock, upstream: Upstream, *, given: Sequence[SeenAccount]
    ) -> None:
        super().__init__(store, feed, clock)
        self._upstream = upstream
        self._given = given
        self._due_ms = 0
        self._refused = False

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        # A wall clock that was set back must not put the next look off by as much.
        if now_ms < self._due_ms <= now_ms + REFRESH_MS:
            return self._due_ms
        seen = self._given or await self._upstream.accounts()
        if isinstance(seen, Unanswered):
            self._log.warning("accounts.unknown", reason=seen.message)
            if seen.unauthorized:
                await self._store.apply(AccountsRefused(seen.message, now_ms, self._refused))
                self._refused = True
            self._due_ms = now_ms + RETRY_MS
            return self._due_ms
        await self._store.apply(AccountsListed(tuple(seen), now_ms, given=bool(self._given), refused=self._refused))
        self._refused = False
        if seen:
            await self._strand([account.email for account in seen])
        self._due_ms = now_ms + REFRESH_MS
        return self._due_ms

    async def _strand(self, emails: list[str]) -> None:
        """Jobs that only a vanished account could run will never run."""
        while jobs := await self._store.stranded(emails, STRANDED_AT_ONCE):
            for job in jobs:
                await self._store.apply(JobStranded(job.job_id, job.pinned or "", self._clock.now_ms()))
