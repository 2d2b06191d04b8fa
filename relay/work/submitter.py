"""Takes waiting jobs to the upstream: each attempt is on disk before its request, and none is ever sent twice."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from relay.clock import Clock
from relay.core import task as tasks
from relay.core.catalogue import Catalogue
from relay.core.dispatch import Account, Submit, Waiting, choose, explores, may_try
from relay.core.estimate import LEARNED_FROM, typical_ms
from relay.core.job import Attempt, Job
from relay.core.outcome import Busy, NotSent, Outcome, Unknown
from relay.core.submitting import AttemptAnswered, AttemptStarted
from relay.feed import Feed
from relay.store.contract import Store
from relay.vault import hash_token, new_token
from relay.work.loop import Worker
from relay.work.ports import Upstream
from relay.work.recognise import recognise

TOKENS_LOOKED_AT: Final = 1_000
STOPPED: Final = "the relay was stopped while the request was under way"
# Where several relays share the database, an attempt that is sent later than this could be given up in the midst.
BEGUN_MS: Final = 20_000
LOOK_AGAIN_MS: Final = 10_000
LATE: Final = "the relay stood still before the request, and another one may have given it up: nothing was sent"
BROKEN: Final = "the relay made a mistake while the request was under way; its log says which"


Mark = Callable[[Attempt, str, int], Awaitable[None]]


class Submitter(Worker):
    """Asks the dispatcher's decision, writes the attempt, sends, and writes the answer."""

    name = "submitter"

    def __init__(
        self,
        store: Store,
        feed: Feed,
        clock: Clock,
        upstream: Upstream,
        *,
        catalogue: Catalogue,
        callback_url: str | None,
        in_doubt_after_s: float,
        lease_s: float = 0.0,
        mark: Mark | None = None,
    ) -> None:
        """`lease_s`: for how long another relay on the same database may be sending an attempt. `mark` writes down
        beside the store that one is about to be sent."""
        super().__init__(store, feed, clock)
        self._upstream = upstream
        self._lease_ms = int(lease_s * 1000)
        self._mark = mark
        self._catalogue = catalogue
        self._callback_url = callback_url
        self._in_doubt_after_ms = int(in_doubt_after_s * 1000)

    async def recover(self) -> int:
        """Before anything is sent: an attempt whose answer never came is in doubt. How many there were."""
        found = 0
        # Where nobody else sends, all of them: those from the future too, since the clock was set back.
        before_ms = self._clock.now_ms() - self._lease_ms if self._lease_ms else 2**62
        while attempts := await self._store.attempts_sending(before_ms):
            for attempt in attempts:
                await self._store.apply(self._answered(attempt, Unknown(STOPPED)))
            found += len(attempts)
        return found

    async def step(self) -> int | None:
        if not self._lease_ms:
            return await self._submit()
        await self.recover()
        # A lease of a relay that is gone may end before anything else happens.
        return min(await self._submit() or 2**62, self._clock.now_ms() + LOOK_AGAIN_MS)

    async def _submit(self) -> int | None:
        """Start what may be started; when there may be something next."""
        while not self._stopping:
            if await self._store.hold() is not None:
                return None
            now_ms = self._clock.now_ms()
            accounts, busy = await self._store.accounts(), await self._store.busy()
            waiting, exploring = await self._waiting(may_try(now_ms, accounts, busy), now_ms)
            decision = choose(now_ms, accounts, busy, waiting, exploring)
            if not isinstance(decision, Submit):
                return decision.until_ms
            chosen = next(job for job in waiting if job.job_id == decision.job_id)
            token, instance = new_token(), self._store.instance
            took_ms = await self._store.took_ms(chosen.model, chosen.mode, LEARNED_FROM)
            expected_ms = typical_ms(self._catalogue, chosen.model, took_ms)
            started = AttemptStarted(
                chosen.job_id, instance, decision.email, hash_token(token), self._clock.now_ms(), expected_ms
            )
            attempt = await self._store.apply(started)
            if attempt is not None:
                self.spawn(self._send(attempt, token))
        return None

    async def _waiting(self, open_accounts: list[Account], now_ms: int) -> tuple[list[Waiting], set[str]]:
        """What one of these accounts may run, and those that run an explore job already."""
        if not open_accounts:
            return [], set()
        exploring = await self._store.exploring()
        emails = [account.email for account in open_accounts]
        explorable = [account.email for account in open_accounts if explores(account, exploring, now_ms)]
        return await self._store.waiting(emails, explorable, TOKENS_LOOKED_AT), exploring

    async def _send(self, attempt: Attempt, token: str) -> None:
        job = await self._store.job(attempt.job_id)
        if job is None:
            return
        if self._mark is not None:
            await self._mark(attempt, self._store.epoch, self._feed.head)
        try:
            outcome: Outcome = NotSent(LATE)
            if not self._lease_ms or self._clock.now_ms() < attempt.sent_at_ms + BEGUN_MS:
                outcome = await self._upstream.create(self._fields(job.request, attempt, token))
        except Exception:
            self._log.exception("create.failed", job=attempt.job_id, attempt=attempt.number)
            outcome = Unknown(BROKEN)
        now = await self._kept(attempt, outcome)
        self._log.info(
            "attempt.answered",
            job=attempt.job_id,
            attempt=attempt.number,
            outcome=type(outcome).__name__.lower(),
            state=now.state if now else None,
        )
        if isinstance(outcome, Busy):
            for running in outcome.running:
                report = tasks.named(running.task_id, running.reply_ref)
                await recognise(self._store, report, self._in_doubt_after_ms, self._clock.now_ms())

    async def _kept(self, attempt: Attempt, outcome: Outcome) -> Job | None:
        """Write the answer. One that cannot be (a taskId that another job has) leaves the attempt in doubt."""
        try:
            return await self.surely(self._answered(attempt, outcome))
        except Exception:
            self._log.exception("answer.refused", job=attempt.job_id, attempt=attempt.number)
            return await self.surely(self._answered(attempt, Unknown(BROKEN)))

    def _answered(self, attempt: Attempt, outcome: Outcome) -> AttemptAnswered:
        return AttemptAnswered(attempt.job_id, attempt.number, outcome, self._clock.now_ms())

    def _fields(self, request: dict[str, Any], attempt: Attempt, token: str) -> dict[str, Any]:
        """The client's request with the relay's own address and reference; `maxJobs` is ours to keep."""
        fields = {key: value for key, value in request.items() if key not in ("replyUrl", "replyRef", "maxJobs")}
        fields["email"] = attempt.account
        fields["replyRef"] = attempt.reply_ref
        if self._callback_url is not None:
            fields["replyUrl"] = f"{self._callback_url}/{token}"
        return fields
