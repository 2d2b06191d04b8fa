"""Happenings from the upstream about a task: a callback, which is a hint, and an answer when asked, the result.

Reports are ordered by finality, then by `updatedAt`, then by progress. What is late or contradicts is kept and changes
nothing; the end is only what the upstream answers when it is asked.
"""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from relay.core import job as jobs
from relay.core import watch
from relay.core.accounts import task_ended
from relay.core.artifacts import wanted
from relay.core.job import Attempt, Job
from relay.core.ledger import Callback, Changes, Draft, Happening, Loaded, Needs, Quarantined, nothing
from relay.core.outcome import Found, Missing, TaskAnswer, Unanswered
from relay.core.record import changed
from relay.core.task import CANCELLED, FAILED, RUNNING, SUCCEEDED, THROTTLED, Report

CALLBACKS_MAX: Final = 1_000
CALLBACK_BYTES_MAX: Final = 8 * 1024 * 1024
TOKEN_OUTLIVES_JOB_MS: Final = 24 * 3600 * 1000

Received = Literal["stored", "duplicate", "quarantined", "unknown", "full"]


@dataclass(frozen=True, slots=True)
class Arrived:
    """A body that came to a callback door. `report` is what could be read of it, None when it is not a task.

    `body` is masked; `sha256` is that of the bytes as they came.
    """

    body: bytes
    sha256: str
    size_bytes: int
    content_type: str
    report: Report | None
    at_ms: int

    def callback(self, job_id: str, number: int, effect: str) -> Callback:
        """The row of a report on an attempt."""
        return Callback(
            job_id=job_id,
            number=number,
            at_ms=self.at_ms,
            content_type=self.content_type,
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            body=self.body,
            status=(self.report and self.report.status) or None,
            progress=self.report.progress if self.report else None,
            effect=effect,
        )

    def quarantined(self, job_id: str | None, reason: str) -> Quarantined:
        """The row of a body that is no report on the task it came for."""
        return Quarantined(
            job_id=job_id,
            at_ms=self.at_ms,
            reason=reason,
            content_type=self.content_type,
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            body=self.body,
        )

    def counted(self, attempt: Attempt, **learned: Any) -> Attempt:
        """The attempt with this body in its counts, and what else was `learned` from it."""
        size_bytes = attempt.callback_bytes + self.size_bytes
        return changed(attempt, callbacks=attempt.callbacks + 1, callback_bytes=size_bytes, **learned)


@dataclass(frozen=True, slots=True)
class CallbackReceived(Happening[Received]):
    """A body came to the callback address of an attempt."""

    token_hash: str
    arrived: Arrived

    def needs(self) -> Needs:
        return Needs(token_hash=self.token_hash, sha256=self.arrived.sha256)

    def decide(self, loaded: Loaded) -> Changes[Received]:
        job, attempt, arrived = loaded.job, loaded.attempt_of_token(self.token_hash), self.arrived
        if job is None or attempt is None:
            return nothing("unknown")
        if job.erased_at_ms is not None:
            return nothing("unknown")
        if job.finished_at_ms is not None and arrived.at_ms - job.finished_at_ms > TOKEN_OUTLIVES_JOB_MS:
            return nothing("unknown")
        if loaded.callback_seen:
            return nothing("duplicate")
        if attempt.callbacks >= CALLBACKS_MAX or attempt.callback_bytes + arrived.size_bytes > CALLBACK_BYTES_MAX:
            return nothing("full")
        draft = Draft(loaded)
        reason = _foreign(attempt, arrived.report)
        if reason is not None or arrived.report is None:
            draft.put(arrived.counted(attempt))
            draft.put(arrived.quarantined(job.id, reason or "not a task"))
            return draft.changes("quarantined")
        learned, effect = hint(draft, job, attempt, arrived.report, arrived.at_ms)
        draft.put(arrived.counted(attempt, **learned))
        draft.put(arrived.callback(job.id, attempt.number, effect))
        # Progress gives no worker anything to do, and most callbacks are progress.
        return draft.changes("stored", quiet="ask_at_ms" not in learned)


def _foreign(attempt: Attempt, report: Report | None) -> str | None:
    """Why this body cannot be about the attempt whose address it came to."""
    if report is None:
        return "not a task"
    if report.reply_ref is not None and report.reply_ref != attempt.reply_ref:
        return "another replyRef"
    if report.task_id and attempt.upstream_task_id and report.task_id != attempt.upstream_task_id:
        return "another taskId"
    return None


Learned = dict[str, Any]


def hint(draft: Draft, job: Job, attempt: Attempt, report: Report, at_ms: int) -> tuple[Learned, str]:
    """What a callback may do: show progress, and make the relay ask.

    Returns the fields of the attempt that change, and that in words.
    """
    if not attempt.occupying:
        if report.task_id is None or not may_turn_up(job, attempt):
            return {}, "late: the attempt had already ended"
        found: Learned = {"hinted_task_id": report.task_id, "hinted_at_ms": at_ms, "ask_at_ms": at_ms}
        return found, "late: the upstream is asked whether the task exists after all"
    if attempt.state != "created":
        return _hint_before_named(attempt, report, at_ms)
    if report.final:
        if attempt.hinted_at_ms is not None and attempt.asked < len(watch.HINT_STEPS_MS):
            return {}, "hint: the upstream is already being asked"
        return {"hinted_at_ms": at_ms, "asked": 0, "ask_at_ms": at_ms}, "hint: the upstream is asked for the end"
    if job.state != "running" or _stale(job, attempt, report):
        return {}, "late: something newer is known"
    effect = "nothing new" if _show_progress(draft, job, report, at_ms) is job else "progress"
    if report.updated_at_ms is None:
        return {}, effect
    # Nothing can have been updated after now: a forged time must not make all that follow look late.
    return {"reported_at_ms": min(report.updated_at_ms, at_ms)}, effect


def may_turn_up(job: Job, attempt: Attempt) -> bool:
    """Whether a task of an attempt that has ended may still be found: nobody has seen it yet, or it was lost."""
    was_lost = job.error is not None and job.error["code"] == "lost"
    never_seen = attempt.upstream_task_id is None
    return not attempt.occupying and (never_seen or (was_lost and attempt.upstream_task_id == job.upstream_task_id))


def _hint_before_named(attempt: Attempt, report: Report, at_ms: int) -> tuple[Learned, str]:
    """An id known from a callback alone binds nothing, but it says where to look, and that it is time to look."""
    learned: Learned = {"hinted_task_id": report.task_id} if report.task_id else {}
    if report.final:
        learned["hinted_at_ms"] = at_ms
    if attempt.state == "unknown":
        return {**learned, "ask_at_ms": at_ms}, "hint: the attempt is looked for"
    return learned, "early: the upstream has not named the task yet"


@dataclass(frozen=True, slots=True)
class CallbacksMissed(Happening[None]):
    """The relay was not there for a while, and nobody calls back twice: the task is asked about now."""

    job_id: str
    number: int
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[None]:
        attempt = loaded.attempt(self.number)
        if attempt is None or attempt.state != "created" or (attempt.ask_at_ms or 0) <= self.at_ms:
            return nothing(None)
        draft = Draft(loaded)
        draft.put(replace(attempt, ask_at_ms=self.at_ms))
        return draft.changes(None)


@dataclass(frozen=True, slots=True)
class TaskAnswered(Happening[Job | None]):
    """The upstream was asked about the task of an attempt. The result is the job as it is now."""

    job_id: str
    number: int
    answer: TaskAnswer
    at_ms: int
    bad_output_retries: int = 0

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, accounts=True)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job, attempt = loaded.job, loaded.attempt(self.number)
        if job is None or attempt is None or attempt.state != "created":
            return nothing(job)
        draft = Draft(loaded)
        attempt = replace(attempt, asked=attempt.asked + 1)
        match self.answer:
            case Found(report) if report.task_id in (None, attempt.upstream_task_id):
                if self._tries_again(job, report, loaded):
                    job = self._again(draft, job, attempt, loaded)
                else:
                    job = absorb(draft, job, attempt, report, self.at_ms, loaded)
            case Missing(vouched=True):
                job = self._missing(draft, job, attempt, loaded)
            case Unanswered(throttled=True):
                draft.put(replace(attempt, ask_at_ms=self.at_ms + watch.THROTTLED_MS))
            case _:
                attempt = self._perhaps_told(draft, job, attempt)
                draft.put(replace(attempt, ask_at_ms=watch.next_ask_ms(attempt, self.at_ms)))
        return draft.changes(job)

    def _tries_again(self, job: Job, report: Report, loaded: Loaded) -> bool:
        """Bad output may be followed by a new attempt; every attempt that has ended was paid for, and known to fail."""
        tried = sum(attempt.state == "ended" for attempt in loaded.attempts)
        bad = report.status == FAILED and _failure(report)["code"] == "bad_output"
        return bad and job.state == "running" and tried < self.bad_output_retries

    def _again(self, draft: Draft, job: Job, attempt: Attempt, loaded: Loaded) -> Job:
        draft.put(replace(attempt, state="ended", ended_at_ms=self.at_ms, ask_at_ms=None, detail="bad output"))
        task_ended(draft, loaded, attempt, self.at_ms, by_moderation=False)
        nothing_yet: dict[str, Any] = {"account": None, "upstream_task_id": None, "upstream_status": None, "task": None}
        return draft.move(job, "queued", self.at_ms, progress=0.0, started_at_ms=None, **nothing_yet)

    def _perhaps_told(self, draft: Draft, job: Job, attempt: Attempt) -> Attempt:
        """A job that was reported as finished long ago, and that nobody can confirm, is told to the operator once."""
        hinted_at_ms = attempt.hinted_at_ms
        if hinted_at_ms is None or attempt.unconfirmed_at_ms or self.at_ms - hinted_at_ms < watch.UNCONFIRMED_AFTER_MS:
            return attempt
        reason = f"reported as finished at {jobs.iso(hinted_at_ms)}, waiting for the upstream to confirm"
        draft.warn("job.unconfirmed", job.id, reason, self.at_ms)
        return replace(attempt, unconfirmed_at_ms=self.at_ms)

    def _missing(self, draft: Draft, job: Job, attempt: Attempt, loaded: Loaded) -> Job:
        since_ms = attempt.missing_since_ms if attempt.missing_since_ms is not None else self.at_ms
        attempt = replace(attempt, missing=attempt.missing + 1, missing_since_ms=since_ms)
        if watch.lost(attempt, self.at_ms):
            error = jobs.error("lost", "the upstream no longer knows the task")
            return _end(draft, job, attempt, "failed", error, self.at_ms, loaded)
        draft.put(replace(attempt, ask_at_ms=watch.next_ask_ms(attempt, self.at_ms)))
        return job


def absorb(draft: Draft, job: Job, attempt: Attempt, report: Report, at_ms: int, loaded: Loaded | None = None) -> Job:
    """Take the upstream's own word about a task: its progress, or its end."""
    attempt = replace(
        attempt,
        missing=0,
        missing_since_ms=None,
        reported_at_ms=max(report.updated_at_ms or 0, attempt.reported_at_ms or 0) or None,
    )
    if job.state == "running" and report.status:
        job = replace(job, task=report.raw)
    elif job.state == "cancelled" and job.erased_at_ms is None and report.status:
        # What it has paid for is kept, and nobody is told.
        made, status = list(report.artifacts) or job.artifacts, report.status
        job = replace(job, task=report.raw, artifacts=made, upstream_status=status, updated_at_ms=at_ms)
        draft.put(job)
    if report.status == SUCCEEDED:
        return _succeed(draft, job, attempt, report, at_ms, loaded)
    if report.status == FAILED or report.status in CANCELLED:
        return _end(draft, job, attempt, "failed", _failure(report), at_ms, loaded)
    if attempt.asked:
        ask_at_ms = watch.next_ask_ms(attempt, at_ms, throttled=report.status == THROTTLED)
        attempt = replace(attempt, ask_at_ms=ask_at_ms)
    draft.put(attempt)
    if job.state == "running":
        told = _show_progress(draft, job, report, at_ms)
        draft.put(told)
        return told
    return job


def _succeed(draft: Draft, job: Job, attempt: Attempt, report: Report, at_ms: int, loaded: Loaded | None) -> Job:
    if report.artifacts:
        job = replace(job, artifacts=list(report.artifacts), progress=1.0, upstream_status=report.status)
        files = wanted(job, draft.keeping, at_ms) if draft.keeping and job.erased_at_ms is None else []
        for file in files:
            draft.put(file)
        if any(file.held_until_ms for file in files):
            _over(draft, attempt, at_ms, loaded)
            draft.put(job)
            draft.tell(job, "job.progress", at_ms)
            return job
        return _end(draft, job, attempt, "succeeded", None, at_ms, loaded)
    # SUCCEEDED without any file happens, and the file comes a little later.
    since_ms = attempt.empty_since_ms if attempt.empty_since_ms is not None else at_ms
    attempt = replace(attempt, empty_since_ms=since_ms)
    if watch.without_artifact_too_long(attempt, at_ms):
        error = jobs.error("no_artifact", "the upstream says that it succeeded, but has no file of it", retryable=True)
        return _end(draft, job, attempt, "failed", error, at_ms, loaded)
    draft.put(replace(attempt, ask_at_ms=watch.next_ask_ms(attempt, at_ms)))
    draft.put(job)
    return job


def _end(
    draft: Draft,
    job: Job,
    attempt: Attempt,
    state: Literal["succeeded", "failed"],
    error: dict[str, Any] | None,
    at_ms: int,
    loaded: Loaded | None,
) -> Job:
    """The task has ended: its slot is free, and a job that still ran ends with it."""
    _over(draft, attempt, at_ms, loaded, by_moderation=error is not None and error["code"] == "moderated")
    return draft.move(job, state, at_ms, error=error) if job.state == "running" else job


def _over(draft: Draft, attempt: Attempt, at_ms: int, loaded: Loaded | None, *, by_moderation: bool = False) -> None:
    draft.put(replace(attempt, state="ended", ended_at_ms=at_ms, ask_at_ms=None))
    if loaded is not None:
        task_ended(draft, loaded, attempt, at_ms, by_moderation=by_moderation)


def _stale(job: Job, attempt: Attempt, report: Report) -> bool:
    """Whether what is known is newer than a report: by its time, and where that says nothing by its progress."""
    told_ms, known_ms = report.updated_at_ms, attempt.reported_at_ms
    if told_ms is None or known_ms is None or told_ms == known_ms:
        return report.progress is not None and report.progress < job.progress
    return told_ms < known_ms


def _show_progress(draft: Draft, job: Job, report: Report, at_ms: int) -> Job:
    """Progress never falls within an attempt; an event is written when something that is shown has changed."""
    progress = max(job.progress, report.progress or 0.0)
    status = report.status or job.upstream_status
    if progress == job.progress and status == job.upstream_status:
        return job
    started_at_ms = job.started_at_ms or (at_ms if status == RUNNING else None)
    after = changed(job, progress=progress, upstream_status=status, started_at_ms=started_at_ms, updated_at_ms=at_ms)
    draft.put(after)
    draft.tell(after, "job.progress", at_ms)
    return after


def _failure(report: Report) -> dict[str, Any]:
    """The upstream's failure in our words: moderation is never retryable, bad output and no reason at all are."""
    given = report.error or {}
    reason = given.get("reason") or None
    message = given.get("message") or f"the upstream ended the task as {report.status}"
    if reason is not None and reason.startswith("SAFETY"):
        return jobs.error("moderated", message, reason=reason)
    if reason is not None and reason.startswith("INTERNAL.BAD_OUTPUT"):
        return jobs.error("bad_output", message, reason=reason, retryable=True)
    return jobs.error("upstream_failed", message, reason=reason, retryable=reason is None)
