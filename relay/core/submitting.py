"""Happenings on a job's way to the upstream: accepted, sent, answered, in doubt, looked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.core import job as jobs
from relay.core.accounts import create_answered
from relay.core.delivery import Subscription
from relay.core.dispatch import PARKED_MS, UPSTREAM_DOWN_MS, Account, may_try, sent
from relay.core.job import UNKNOWN_MS, Attempt, ErrorCode, Job
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs, UsedKey, nothing
from relay.core.outcome import (
    Accepted,
    BadToken,
    Busy,
    NoCredits,
    NotSent,
    Outcome,
    Refused,
    RunningTask,
    Unknown,
)
from relay.core.receiving import absorb
from relay.core.task import RUNNING, Report, named
from relay.core.tokens import DAY_MS, check_quota
from relay.core.watch import in_doubt_too_long, next_ask_ms, next_late_look_ms, next_look_ms
from relay.core.wording import counted
from relay.errors import KeyReused, LimitReached

FAILED_ATTEMPTS_KEPT: Final = 10
QUEUE_RETRY_AFTER_S: Final = 60
TOO_LATE: Final = "it had not started when its deadline came"


@dataclass(frozen=True, slots=True)
class JobSubmitted(Happening[Job]):
    """A valid request came in: it is queued, unless the queue is full or the token has used up its own limits
    (`LimitReached`, `QuotaReached`, and nothing is stored).

    `subscription` is that of the job's own replyUrl. A second time it changes nothing: a job that has gone on must not
    be put back into the queue and paid for again. With a key that was used before, or as a retry of a job that has an
    open one, the result is that earlier job; `KeyReused` when the key made a job of another request.
    """

    job: Job
    queue_per_token: int
    queue_max: int
    subscription: Subscription | None = None
    used_key: UsedKey | None = None

    def needs(self) -> Needs:
        since_ms = self.job.created_at_ms - DAY_MS
        return Needs(
            job_id=self.job.id,
            queue_of_token=self.job.token_id,
            jobs_since_ms=since_ms,
            used_key=self.used_key.id if self.used_key else None,
            retry_of=self.job.retry_of,
        )

    def decide(self, loaded: Loaded) -> Changes[Job]:
        if (earlier := loaded.job or loaded.earlier) is not None:
            if self.used_key and loaded.used_key and self.used_key.request_hash != loaded.used_key.request_hash:
                raise KeyReused("this Idempotency-Key made a job of another request: send a new key with a new request")
            return nothing(earlier)
        for waiting, limit, whose in (
            (loaded.queued_of_token, self.queue_per_token, "this token has"),
            (loaded.queued, self.queue_max, "the relay has"),
        ):
            if waiting >= limit:
                raise LimitReached(
                    f"{whose} {counted(waiting, 'waiting job')}, and {limit} is the limit; nothing was stored",
                    retry_after_s=QUEUE_RETRY_AFTER_S,
                )
        for token in loaded.tokens:
            of_day = (loaded.jobs_since, loaded.oldest_since_ms)
            check_quota(token, loaded.queued_of_token, *of_day, self.job.created_at_ms)
        draft = Draft(loaded)
        draft.put(self.job)
        if self.subscription is not None:
            draft.put(self.subscription)
        if self.used_key is not None:
            draft.put(self.used_key)
        draft.tell(self.job, "job.queued", self.job.created_at_ms)
        return draft.changes(self.job)


@dataclass(frozen=True, slots=True)
class JobStranded(Happening[Job | None]):
    """A queued job is pinned to an account that the upstream no longer has: nobody can ever run it."""

    job_id: str
    account: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job = loaded.job
        if job is None or job.state != "queued" or job.pinned != self.account:
            return nothing(job)
        draft = Draft(loaded)
        message = f"the upstream has no account {self.account}, and this job can run on no other"
        return draft.changes(draft.move(job, "failed", self.at_ms, error=jobs.error("account_gone", message)))


@dataclass(frozen=True, slots=True)
class JobGivenUp(Happening[Job | None]):
    """Whoever waits for a job will not wait longer: it fails if it is still queued. The result is the job now."""

    job_id: str
    code: ErrorCode
    message: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job = loaded.job
        if job is None or job.state != "queued":
            return nothing(job)
        draft = Draft(loaded)
        return draft.changes(draft.move(job, "failed", self.at_ms, error=jobs.error(self.code, self.message)))


@dataclass(frozen=True, slots=True)
class CreateAnswered(Happening[Job | None]):
    """The drop-in door answers a create now. The upstream's taskId, if it is known by now, is the job's for ever.

    An answer to the same `key` again is that of the first time.
    """

    job_id: str
    at_ms: int
    key: str | None = None

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, used_key=self.key)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job, used_key = loaded.job, loaded.used_key
        if job is None or (used_key is not None and used_key.answered_at_ms is not None):
            return nothing(job)
        draft = Draft(loaded)
        if used_key is not None:
            draft.put(replace(used_key, answered_at_ms=self.at_ms))
        if job.upstream_task_id is not None:
            job = replace(job, task_id=job.upstream_task_id, updated_at_ms=self.at_ms)
            draft.put(job)
        return draft.changes(job)


@dataclass(frozen=True, slots=True)
class AttemptStarted(Happening[Attempt | None]):
    """The submitter is about to send. The result is the attempt; None when the job waits no more, or when submitting is
    held: nothing is sent."""

    job_id: str
    instance: str
    account: str
    token_hash: str
    at_ms: int
    expected_ms: int = UNKNOWN_MS

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, accounts=True, busy=True, hold=True)

    def decide(self, loaded: Loaded) -> Changes[Attempt | None]:
        job = loaded.job
        if job is None or job.state != "queued" or loaded.hold is not None:
            return nothing(None)
        draft = Draft(loaded)
        if job.deadline_ms is not None and self.at_ms > job.deadline_ms:
            draft.move(job, "failed", self.at_ms, error=jobs.error("deadline", TOO_LATE))
            return draft.changes(None)
        account, busy, probe = loaded.account(self.account), loaded.busy.get(self.account, 0), False
        if account is not None:
            if not may_try(self.at_ms, [account], loaded.busy):
                # It has closed since the decision was made, with the 429 that put this very job back, say.
                return nothing(None)
            probe = busy >= account.allowed
            self._claim(draft, loaded, account, busy, job)
        number = job.attempts + 1
        attempt = Attempt(
            job_id=job.id,
            number=number,
            account=self.account,
            token_hash=self.token_hash,
            reply_ref=jobs.reply_ref_of(self.instance, job.id, number),
            sent_at_ms=self.at_ms,
            expected_ms=self.expected_ms,
            probe=probe,
            heralded=account is not None and account.heard,
        )
        draft.put(attempt)
        draft.move(job, "submitting", self.at_ms, told=False, attempts=number, account=self.account)
        never_created = [old for old in loaded.attempts if old.state == "not_created"]
        for old in never_created[: -FAILED_ATTEMPTS_KEPT or None]:
            draft.drop(old)
        return draft.changes(attempt)

    def _claim(self, draft: Draft, loaded: Loaded, account: Account, busy: int, job: Job) -> None:
        """The token has had its turn; and of what is only tried, one thing is tried at a time."""
        account = replace(account, turn=job.token_id, updated_at_ms=self.at_ms)
        if account.parked == "unauthorized":
            for known in loaded.accounts:
                if known.parked == "unauthorized":
                    draft.put(replace(known, retry_at_ms=self.at_ms + UPSTREAM_DOWN_MS))
            account = replace(account, retry_at_ms=self.at_ms + UPSTREAM_DOWN_MS)
        elif account.parked:
            account = replace(account, retry_at_ms=self.at_ms + PARKED_MS)
        draft.put(sent(account, busy, self.at_ms))


@dataclass(frozen=True, slots=True)
class AttemptAnswered(Happening[Job | None]):
    """The upstream's answer to a create, or that there was none. The result is the job as it is now."""

    job_id: str
    number: int
    outcome: Outcome
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, accounts=True, busy=True)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job, attempt = loaded.job, loaded.attempt(self.number)
        # Another relay may have given up on an answer that came all the same.
        late = attempt is not None and attempt.state == "unknown" and isinstance(self.outcome, Accepted)
        if job is None or attempt is None or not (attempt.state == "sending" or late):
            return nothing(job)
        draft = Draft(loaded)
        attempt = replace(attempt, answered_at_ms=self.at_ms)
        create_answered(draft, loaded, job, attempt, self.outcome, self.at_ms)
        match self.outcome:
            case Accepted(report):
                job = bind(draft, job, attempt, report, self.at_ms)
            case Unknown(message):
                job = self._in_doubt(draft, job, attempt, message)
            case Refused(code, message):
                job = self._refused(draft, job, attempt, jobs.error(code, message))
            case Busy(running=running) if own := _own(attempt, running):
                # The list of who runs names this very attempt: whatever was refused, its task exists.
                job = bind(draft, job, attempt, named(own.task_id, own.reply_ref), self.at_ms)
            case Busy(message) | NotSent(message) | NoCredits(message) | BadToken(message):
                job = self._back_to_queue(draft, job, attempt, message)
        return draft.changes(job)

    def _in_doubt(self, draft: Draft, job: Job, attempt: Attempt, message: str) -> Job:
        attempt = replace(attempt, state="unknown", detail=message)
        ask_at_ms = self.at_ms if attempt.hinted_task_id else next_look_ms(attempt, self.at_ms)
        draft.put(replace(attempt, ask_at_ms=ask_at_ms))
        if job.state != "submitting":
            return job
        return draft.move(job, "in_doubt", self.at_ms)

    def _refused(self, draft: Draft, job: Job, attempt: Attempt, error: dict[str, Any]) -> Job:
        draft.put(replace(attempt, state="not_created", ended_at_ms=self.at_ms, detail=str(error["message"])))
        if job.state != "submitting":
            return job
        return draft.move(job, "failed", self.at_ms, error=error)

    def _back_to_queue(self, draft: Draft, job: Job, attempt: Attempt, message: str) -> Job:
        draft.put(replace(attempt, state="not_created", ended_at_ms=self.at_ms, detail=message))
        if job.state != "submitting":
            return job
        return draft.move(job, "queued", self.at_ms, told=False, account=None)


@dataclass(frozen=True, slots=True)
class AttemptLooked(Happening[Job | None]):
    """An attempt of unknown outcome was looked for. `found` is a report of the upstream's that names its replyRef.

    Not finding it proves nothing; only time ends the search, and then the job fails with `submit_unknown`, or with
    `resubmit` (the operator's choice to risk a second bill) waits for another attempt. The task is looked for a while
    longer: `LateTaskFound` is for that. `candidates` are shown to a person, and never acted on.
    """

    job_id: str
    number: int
    found: Report | None
    limit_ms: int
    at_ms: int
    candidates: tuple[dict[str, Any], ...] = ()
    resubmit: bool = False

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, accounts=True)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job, attempt = loaded.job, loaded.attempt(self.number)
        if job is None or attempt is None or attempt.state in ("sending", "created"):
            return nothing(job)
        draft = Draft(loaded)
        if attempt.state != "unknown":
            if self.found is None and attempt.ask_at_ms is not None:
                draft.put(replace(attempt, ask_at_ms=next_late_look_ms(attempt, self.at_ms)))
            return draft.changes(job)
        if self.found is not None and self.found.task_id and self.found.reply_ref == attempt.reply_ref:
            return draft.changes(bind(draft, job, attempt, self.found, self.at_ms))
        seen = list(self.candidates) or attempt.candidates
        attempt = replace(attempt, asked=attempt.asked + 1, candidates=seen)
        if not in_doubt_too_long(attempt, self.at_ms, self.limit_ms):
            ask_at_ms = min(next_look_ms(attempt, self.at_ms), attempt.sent_at_ms + self.limit_ms)
            draft.put(replace(attempt, ask_at_ms=ask_at_ms))
            return draft.changes(job)
        attempt = replace(attempt, state="ended", ended_at_ms=self.at_ms)
        draft.put(replace(attempt, ask_at_ms=next_late_look_ms(attempt, self.at_ms)))
        if job.state == "in_doubt" and self.resubmit:
            job = draft.move(job, "queued", self.at_ms, account=None)
        elif job.state == "in_doubt":
            job = draft.move(job, "failed", self.at_ms, error=jobs.error("submit_unknown", _unknown(attempt)))
        return draft.changes(job)


def bind(draft: Draft, job: Job, attempt: Attempt, report: Report, at_ms: int) -> Job:
    """The upstream has named the attempt's task: from now on it is the job's."""
    attempt = replace(
        attempt,
        state="created",
        upstream_task_id=report.task_id,
        answered_at_ms=attempt.answered_at_ms or at_ms,
        asked=0,
        ask_at_ms=at_ms if attempt.hinted_at_ms is not None or not report.status else next_ask_ms(attempt, at_ms),
    )
    draft.put(attempt)
    if job.state == "cancelled":
        job = replace(job, upstream_task_id=report.task_id, submitted_at_ms=at_ms, updated_at_ms=at_ms)
        draft.put(job)
    if job.state not in ("submitting", "in_doubt"):
        return job
    after = draft.move(
        job,
        "running",
        at_ms,
        upstream_task_id=report.task_id,
        upstream_status=report.status or None,
        submitted_at_ms=at_ms,
        started_at_ms=at_ms if report.status == RUNNING else None,
    )
    return absorb(draft, after, attempt, report, at_ms)


def _own(attempt: Attempt, running: Sequence[RunningTask]) -> RunningTask | None:
    return next((task for task in running if task.reply_ref == attempt.reply_ref), None)


def _unknown(attempt: Attempt) -> str:
    return (
        f"nobody could find out whether the upstream took attempt {attempt.number} ({attempt.detail}); "
        "it may have been paid for, so it was not sent again"
    )
