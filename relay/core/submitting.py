"""Happenings on a job's way to the upstream: accepted, sent, answered, in doubt, looked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.core import job as jobs
from relay.core.delivery import Subscription
from relay.core.dispatch import PARKED_MS, UPSTREAM_DOWN_MS, Account, busy_until_ms
from relay.core.job import Attempt, ErrorCode, Job
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs, nothing
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
from relay.core.watch import ASK_EVERY_MS, in_doubt_too_long, next_look_ms
from relay.errors import LimitReached

FAILED_ATTEMPTS_KEPT: Final = 10
QUEUE_RETRY_AFTER_S: Final = 60


@dataclass(frozen=True, slots=True)
class JobSubmitted(Happening[Job]):
    """A valid request came in: it is queued, unless the queue is full (`LimitReached`, and nothing is stored).

    `subscription` is that of the job's own replyUrl. A second time it changes nothing: a job that has gone on must not
    be put back into the queue and paid for again.
    """

    job: Job
    queue_per_token: int
    queue_max: int
    subscription: Subscription | None = None

    def needs(self) -> Needs:
        return Needs(job_id=self.job.id, queue_of_token=self.job.token_id)

    def decide(self, loaded: Loaded) -> Changes[Job]:
        if loaded.job is not None:
            return nothing(loaded.job)
        for waiting, limit, whose in (
            (loaded.queued_of_token, self.queue_per_token, "this token has"),
            (loaded.queued, self.queue_max, "the relay has"),
        ):
            if waiting >= limit:
                raise LimitReached(
                    f"{whose} {waiting} waiting jobs, and {limit} is the limit; nothing was stored",
                    retry_after_s=QUEUE_RETRY_AFTER_S,
                )
        draft = Draft(loaded)
        draft.put(self.job)
        if self.subscription is not None:
            draft.put(self.subscription)
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
        return draft.changes(_fail(draft, job, jobs.error("account_gone", message), self.at_ms))


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
        return draft.changes(_fail(draft, job, jobs.error(self.code, self.message), self.at_ms))


@dataclass(frozen=True, slots=True)
class CreateAnswered(Happening[Job | None]):
    """The drop-in door answers a create now. The upstream's taskId, if it is known by now, is the job's for ever."""

    job_id: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job = loaded.job
        if job is None or job.upstream_task_id is None:
            return nothing(job)
        draft = Draft(loaded)
        after = replace(job, task_id=job.upstream_task_id, updated_at_ms=self.at_ms)
        draft.put(after)
        return draft.changes(after)


@dataclass(frozen=True, slots=True)
class AttemptStarted(Happening[Attempt | None]):
    """The submitter is about to send. The result is the attempt; None when the job waits no more: nothing is sent."""

    job_id: str
    instance: str
    account: str
    token_hash: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, accounts=True)

    def decide(self, loaded: Loaded) -> Changes[Attempt | None]:
        job = loaded.job
        if job is None or job.state != "queued":
            return nothing(None)
        account = next((known for known in loaded.accounts if known.email == self.account), None)
        if account is not None and account.retry_at_ms > self.at_ms:
            # The account has closed since the decision was made, with the 429 that put this very job back, say.
            return nothing(None)
        draft = Draft(loaded)
        number = job.attempts + 1
        attempt = Attempt(
            job_id=job.id,
            number=number,
            account=self.account,
            token_hash=self.token_hash,
            reply_ref=jobs.reply_ref_of(self.instance, job.id, number),
            sent_at_ms=self.at_ms,
        )
        draft.put(attempt)
        draft.step(
            job,
            replace(job, state="submitting", attempts=number, account=self.account, updated_at_ms=self.at_ms),
        )
        never_created = [old for old in loaded.attempts if old.state == "not_created"]
        for old in never_created[: -FAILED_ATTEMPTS_KEPT or None]:
            draft.drop(old)
        return draft.changes(attempt)


@dataclass(frozen=True, slots=True)
class AttemptAnswered(Happening[Job | None]):
    """The upstream's answer to a create, or that there was none. The result is the job as it is now."""

    job_id: str
    number: int
    outcome: Outcome
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, accounts=True)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job, attempt = loaded.job, loaded.attempt(self.number)
        if job is None or attempt is None or attempt.state != "sending":
            return nothing(job)
        draft = Draft(loaded)
        attempt = replace(attempt, answered_at_ms=self.at_ms)
        account = next((a for a in loaded.accounts if a.email == attempt.account), None)
        match self.outcome:
            case Accepted(report):
                if account:
                    draft.put(_admitted(account, self.at_ms))
                job = bind(draft, job, attempt, report, self.at_ms)
            case Unknown(message):
                job = self._in_doubt(draft, job, attempt, message)
            case Refused(code, message):
                job = self._refused(draft, job, attempt, jobs.error(code, message))
            case Busy(running=running) if own := _own(attempt, running):
                # The list of who runs names this very attempt: whatever was refused, its task exists.
                job = bind(draft, job, attempt, named(own.task_id, own.reply_ref), self.at_ms)
            case Busy(message) | NotSent(message):
                if account:
                    draft.put(_later(account, busy_until_ms(account, self.at_ms), self.at_ms))
                job = self._back_to_queue(draft, job, attempt, message)
            case NoCredits(message):
                if account:
                    later = _later(account, self.at_ms + PARKED_MS, self.at_ms)
                    draft.put(replace(later, parked="no_credits", reason=message))
                job = self._back_to_queue(draft, job, attempt, message)
            case BadToken(message):
                for known in loaded.accounts:
                    draft.put(_later(known, self.at_ms + UPSTREAM_DOWN_MS, self.at_ms))
                job = self._back_to_queue(draft, job, attempt, message)
        return draft.changes(job)

    def _in_doubt(self, draft: Draft, job: Job, attempt: Attempt, message: str) -> Job:
        attempt = replace(attempt, state="unknown", detail=message)
        ask_at_ms = self.at_ms if attempt.hinted_task_id else next_look_ms(attempt, self.at_ms)
        draft.put(replace(attempt, ask_at_ms=ask_at_ms))
        if job.state != "submitting":
            return job
        after = replace(job, state="in_doubt", updated_at_ms=self.at_ms)
        draft.step(job, after)
        draft.tell(after, "job.in_doubt", self.at_ms)
        return after

    def _refused(self, draft: Draft, job: Job, attempt: Attempt, error: dict[str, Any]) -> Job:
        draft.put(replace(attempt, state="not_created", ended_at_ms=self.at_ms, detail=str(error["message"])))
        if job.state != "submitting":
            return job
        return _fail(draft, job, error, self.at_ms)

    def _back_to_queue(self, draft: Draft, job: Job, attempt: Attempt, message: str) -> Job:
        draft.put(replace(attempt, state="not_created", ended_at_ms=self.at_ms, detail=message))
        if job.state != "submitting":
            return job
        after = replace(job, state="queued", account=None, updated_at_ms=self.at_ms)
        draft.step(job, after)
        return after


@dataclass(frozen=True, slots=True)
class AttemptLooked(Happening[Job | None]):
    """An attempt of unknown outcome was looked for. `found` is a report of the upstream's that names its replyRef.

    Not finding it proves nothing; only time ends the search, and then the job fails with `submit_unknown`.
    """

    job_id: str
    number: int
    found: Report | None
    limit_ms: int
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, accounts=True)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job, attempt = loaded.job, loaded.attempt(self.number)
        if job is None or attempt is None or attempt.state != "unknown":
            return nothing(job)
        draft = Draft(loaded)
        if self.found is not None and self.found.task_id and self.found.reply_ref == attempt.reply_ref:
            return draft.changes(bind(draft, job, attempt, self.found, self.at_ms))
        attempt = replace(attempt, asked=attempt.asked + 1)
        if not in_doubt_too_long(attempt, self.at_ms, self.limit_ms):
            ask_at_ms = min(next_look_ms(attempt, self.at_ms), attempt.sent_at_ms + self.limit_ms)
            draft.put(replace(attempt, ask_at_ms=ask_at_ms))
            return draft.changes(job)
        draft.put(replace(attempt, state="ended", ask_at_ms=None, ended_at_ms=self.at_ms))
        if job.state == "in_doubt":
            job = _fail(draft, job, jobs.error("submit_unknown", _unknown(attempt)), self.at_ms)
        return draft.changes(job)


def _fail(draft: Draft, job: Job, error: dict[str, Any], at_ms: int) -> Job:
    """A job that will have no task, or whose task nobody can find, ends here."""
    after = replace(job, state="failed", error=error, finished_at_ms=at_ms, updated_at_ms=at_ms)
    draft.step(job, after)
    draft.tell(after, "job.failed", at_ms)
    return after


def bind(draft: Draft, job: Job, attempt: Attempt, report: Report, at_ms: int) -> Job:
    """The upstream has named the attempt's task: from now on it is the job's."""
    attempt = replace(
        attempt,
        state="created",
        upstream_task_id=report.task_id,
        answered_at_ms=attempt.answered_at_ms or at_ms,
        asked=0,
        ask_at_ms=at_ms if attempt.hinted_at_ms is not None or not report.status else at_ms + ASK_EVERY_MS,
    )
    draft.put(attempt)
    if job.state not in ("submitting", "in_doubt"):
        return job
    after = replace(
        job,
        state="running",
        upstream_task_id=report.task_id,
        upstream_status=report.status or None,
        submitted_at_ms=at_ms,
        started_at_ms=at_ms if report.status == RUNNING else None,
        updated_at_ms=at_ms,
    )
    draft.step(job, after)
    draft.tell(after, "job.submitted", at_ms)
    return absorb(draft, after, attempt, report, at_ms)


def _own(attempt: Attempt, running: Sequence[RunningTask]) -> RunningTask | None:
    return next((task for task in running if task.reply_ref == attempt.reply_ref), None)


def _admitted(account: Account, at_ms: int) -> Account:
    return replace(account, refusals=0, retry_at_ms=0, parked=None, reason=None, updated_at_ms=at_ms)


def _later(account: Account, retry_at_ms: int, at_ms: int) -> Account:
    return replace(account, retry_at_ms=retry_at_ms, refusals=account.refusals + 1, updated_at_ms=at_ms)


def _unknown(attempt: Attempt) -> str:
    return (
        f"nobody could find out whether the upstream took attempt {attempt.number} ({attempt.detail}); "
        "it may have been paid for, so it was not sent again"
    )
