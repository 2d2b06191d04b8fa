"""While submitting is held: searches the upstream's lists for tasks of this relay that the store has lost."""

from collections.abc import Sequence
from typing import Final

from relay.clock import Clock
from relay.core import task as tasks
from relay.core.accounts import SeenAccount
from relay.core.holding import HoldSearched, LostTaskFound
from relay.core.outcome import Found, Unanswered
from relay.core.task import Report, created_at_ms
from relay.feed import Feed
from relay.store.contract import Store
from relay.vault import new_uuid7
from relay.work.loop import Worker
from relay.work.ports import Upstream
from relay.work.recognise import named_attempt, recognise

# What was on its way when the store was lost may appear in the lists a little later.
AGAIN_MS: Final = 60_000
RETRY_MS: Final = 10_000
OFFSET_MAX: Final = 1_000


class Searcher(Worker):
    """Searches until a person lets the queue move; what it finds is bound to its job, or adopted."""

    name = "searcher"

    def __init__(
        self,
        store: Store,
        feed: Feed,
        clock: Clock,
        upstream: Upstream,
        *,
        given: Sequence[SeenAccount],
        in_doubt_after_s: float,
        retention_s: int,
    ) -> None:
        """`retention_s`: what is older was not lost, and is known no more because it was let go."""
        super().__init__(store, feed, clock)
        self._retention_ms = retention_s * 1000
        self._upstream = upstream
        self._given = given
        self._in_doubt_after_ms = int(in_doubt_after_s * 1000)
        self._due_ms = 0

    async def step(self) -> int | None:
        if await self._store.hold() is None:
            return None
        now_ms = self._clock.now_ms()
        if now_ms < self._due_ms <= now_ms + AGAIN_MS:
            return self._due_ms
        reports = await self._listed()
        if isinstance(reports, Unanswered):
            self._log.warning("search.unanswered", reason=reports.message)
            self._due_ms = now_ms + RETRY_MS
            return self._due_ms
        found = 0
        # The last attempt of a job first: it is the one that the job waits for.
        for report in sorted(reports.values(), key=self._number, reverse=True):
            found += await self._found(report)
        await self._store.apply(HoldSearched(found, self._clock.now_ms()))
        self._log.info("search.done", tasks=len(reports), found=found)
        self._due_ms = self._clock.now_ms() + AGAIN_MS
        return self._due_ms

    async def _listed(self) -> dict[str, Report] | Unanswered:
        """Every task, by its id, that the scheduler or an account's list shows with a reference of this relay."""
        accounts, running = self._given or await self._upstream.accounts(), await self._upstream.scheduler()
        if isinstance(accounts, Unanswered):
            return accounts
        if isinstance(running, Unanswered):
            return running
        reports = [tasks.named(row.task_id, row.reply_ref) for row in running]
        for account in accounts:
            listed = await self._list(account.email)
            if isinstance(listed, Unanswered):
                return listed
            reports += listed
        # A row of a list says more than one of the scheduler, and takes its place.
        return {report.task_id: report for report in reports if report.task_id and self._number(report)}

    async def _list(self, email: str) -> list[Report] | Unanswered:
        """All of an account's tasks, as far back as the upstream lists them."""
        found: list[Report] = []
        while len(found) <= OFFSET_MAX:
            page = await self._upstream.tasks(email, len(found))
            if isinstance(page, Unanswered):
                return page
            if not page:
                break
            found += page
        return found

    async def _found(self, report: Report) -> bool:
        """Whether the store did not know of the task's attempt until now."""
        now_ms = self._clock.now_ms()
        await recognise(self._store, report, self._in_doubt_after_ms, now_ms)
        known = named_attempt(report, self._store.instance)
        if (created_at_ms(report) or now_ms) < now_ms - self._retention_ms:
            return False
        if known is None or (report.task_id and await self._store.job(report.task_id) is not None):
            return False
        if not report.raw.get("taskType"):
            answer = await self._upstream.task(report.task_id or "")
            report = answer.report if isinstance(answer, Found) and answer.report.task_id else report
        lost = LostTaskFound(*known, report, new_uuid7(now_ms), now_ms)
        return await self._store.apply(lost) is not None

    def _number(self, report: Report) -> int:
        known = named_attempt(report, self._store.instance)
        return known[1] if known else 0
