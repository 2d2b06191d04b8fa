"""Finds the end of every job: asks after running tasks, after hints at once, and looks for attempts in doubt."""

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Final

from relay.clock import Clock
from relay.core import task as tasks
from relay.core.adopting import AdoptionAnswered, lookalikes
from relay.core.job import Attempt
from relay.core.ledger import Adoption
from relay.core.outcome import Found, Missing, TaskAnswer, Unanswered
from relay.core.receiving import CallbacksMissed, TaskAnswered
from relay.core.submitting import AttemptLooked
from relay.core.task import Report
from relay.feed import Feed
from relay.store.contract import Store
from relay.work.loop import AFTER_FAILURE_S, Worker
from relay.work.ports import Upstream
from relay.work.recognise import recognise

AT_ONCE: Final = 8
SLOW_MS: Final = 5_000
SLOW_MAX_MS: Final = 60_000
FAR_MS: Final = 2**62
RECOVERED_MAX: Final = 1_000


class Reconciler(Worker):
    """Everything with a time to be asked about that has come is asked about; the ledger says when next."""

    name = "reconciler"

    def __init__(
        self,
        store: Store,
        feed: Feed,
        clock: Clock,
        upstream: Upstream,
        *,
        in_doubt_after_s: float,
        bad_output_retries: int = 0,
        resubmit: bool = False,
    ) -> None:
        super().__init__(store, feed, clock)
        self._upstream = upstream
        self._in_doubt_after_ms = int(in_doubt_after_s * 1000)
        self._bad_output_retries = bad_output_retries
        self._resubmit = resubmit
        # While the upstream asks for fewer questions, only what a callback spoke of is asked.
        self._slow_until_ms = 0
        self._slow_ms = 0
        self._busy: set[tuple[str, int]] = set()

    async def recover(self) -> None:
        """At start: what was reported while nobody listened is found out by asking."""
        now_ms = self._clock.now_ms()
        for attempt in await self._store.attempts_due(FAR_MS, RECOVERED_MAX):
            await self._store.apply(CallbacksMissed(attempt.job_id, attempt.number, now_ms))

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        due = await self._store.attempts_due(now_ms, AT_ONCE * 4)
        fresh = [attempt for attempt in due if _key(attempt) not in self._busy]
        kept_back = 0
        if now_ms < self._slow_until_ms <= now_ms + SLOW_MAX_MS:
            urgent = [attempt for attempt in fresh if attempt.hinted_at_ms is not None or attempt.state != "created"]
            kept_back, fresh = len(fresh) - len(urgent), urgent
        in_doubt: dict[str, list[Attempt]] = {}
        for attempt in fresh:
            if attempt.state != "created":
                in_doubt.setdefault(attempt.account, []).append(attempt)
            elif len(self._busy) < AT_ONCE:
                self._begin({_key(attempt)}, self._ask(attempt))
        for account, attempts in in_doubt.items():
            self._begin({_key(attempt) for attempt in attempts}, self._look(account, attempts))
        for adoption in await self._store.adoptions_due(now_ms, AT_ONCE):
            key = (adoption.job_id, 0)
            if key not in self._busy and len(self._busy) < AT_ONCE:
                self._begin({key}, self._adopt(adoption))
        # What is due and could not begin yet begins when something that is under way ends, which wakes the loop.
        later = (
            self._slow_until_ms if kept_back else None,
            await self._store.next_ask_ms(now_ms),
            await self._store.next_adoption_ms(now_ms),
        )
        return min((at_ms for at_ms in later if at_ms is not None), default=None)

    def _begin(self, keys: set[tuple[str, int]], work: Coroutine[Any, Any, None]) -> None:
        self._busy |= keys
        self.spawn(self._then_free(keys, work))

    async def _then_free(self, keys: set[tuple[str, int]], work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            # Nothing was written, so these are still due: without a pause they would be asked about in a hot loop.
            self._log.exception("asking.failed")
            await self._clock.sleep(AFTER_FAILURE_S)
        finally:
            self._busy -= keys

    async def _ask(self, attempt: Attempt) -> None:
        answer = await self._upstream.task(attempt.upstream_task_id or "")
        if isinstance(answer, Missing):
            answer = await self._doubted(attempt)
        self._pace(answer)
        retries, now_ms = self._bad_output_retries, self._clock.now_ms()
        await self.surely(TaskAnswered(attempt.job_id, attempt.number, answer, now_ms, retries))

    async def _doubted(self, attempt: Attempt) -> TaskAnswer:
        """A task that is not known may be one of an account that cannot be seen now: another question tells."""
        listed = await self._upstream.tasks(attempt.account)
        if isinstance(listed, Unanswered):
            return listed
        named = (report for report in listed if report.task_id == attempt.upstream_task_id)
        return next((Found(report) for report in named if report.status), Missing(vouched=True))

    def _pace(self, answer: TaskAnswer) -> None:
        if isinstance(answer, Unanswered) and answer.throttled:
            self._slow_ms = min(SLOW_MAX_MS, max(SLOW_MS, self._slow_ms * 2))
            self._slow_until_ms = self._clock.now_ms() + self._slow_ms
        elif isinstance(answer, Found):
            self._slow_ms = 0

    async def _adopt(self, adoption: Adoption) -> None:
        """Ask for a task that the inbox named; one of an attempt of our own that was in doubt is found that way."""
        answer = await self._upstream.task(adoption.task_id)
        if isinstance(answer, Found):
            await recognise(self._store, answer.report, self._in_doubt_after_ms, self._clock.now_ms())
        now = await self.surely(AdoptionAnswered(adoption.task_id, answer, self._clock.now_ms()))
        self._log.info("task.asked_for_adoption", job=now.id if now else None, answer=type(answer).__name__.lower())

    async def _look(self, account: str, attempts: list[Attempt]) -> None:
        """One look at the scheduler and at the account's newest tasks serves all attempts in doubt on it."""
        named, listed = await self._named(account, attempts)
        for report in named.values():
            await recognise(self._store, report, self._in_doubt_after_ms, self._clock.now_ms())
        for attempt in attempts:
            found, job = named.get(attempt.reply_ref), await self._store.job(attempt.job_id)
            alike = lookalikes(job, attempt, listed) if job is not None and attempt.state == "unknown" else ()
            limit_ms, now_ms = self._in_doubt_after_ms, self._clock.now_ms()
            looked = AttemptLooked(attempt.job_id, attempt.number, found, limit_ms, now_ms, alike, self._resubmit)
            try:
                await self.surely(looked)
            except Exception:  # what was found is another job's already: the search goes on, and ends
                self._log.exception("finding.refused", job=attempt.job_id, attempt=attempt.number)
                await self.surely(replace(looked, found=None))
            self._log.info("attempt.looked", job=attempt.job_id, attempt=attempt.number, found=found is not None)

    async def _named(self, account: str, attempts: list[Attempt]) -> tuple[dict[str, Report], list[Report]]:
        """The upstream's own reports by the replyRef that they name, and the account's newest tasks."""
        named: dict[str, Report] = {}
        running = await self._upstream.scheduler()
        for row in running if isinstance(running, list) else []:
            if row.reply_ref:
                named[row.reply_ref] = tasks.named(row.task_id, row.reply_ref)
        answer = await self._upstream.tasks(account)
        listed = answer if isinstance(answer, list) else []
        named |= {row.reply_ref: row for row in listed if row.reply_ref}
        for attempt in attempts:
            if attempt.hinted_task_id and attempt.reply_ref not in named:
                asked = await self._upstream.task(attempt.hinted_task_id)
                if isinstance(asked, Found) and asked.report.reply_ref == attempt.reply_ref:
                    named[attempt.reply_ref] = asked.report
        return named, listed


def _key(attempt: Attempt) -> tuple[str, int]:
    return attempt.job_id, attempt.number
