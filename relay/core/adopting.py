"""Happenings on tasks that somebody else submitted: reported at the inbox, asked about, and adopted as jobs.

A report alone makes no job: it says which task to ask about. The job exists once the upstream has answered for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from relay.core import watch
from relay.core.job import Attempt, Job, iso, task_id_of
from relay.core.ledger import Adoption, Changes, Draft, Happening, Loaded, Needs, nothing
from relay.core.outcome import Found, Missing, TaskAnswer
from relay.core.receiving import CALLBACK_BYTES_MAX, CALLBACKS_MAX, Arrived, absorb, hint, may_turn_up
from relay.core.submitting import bind
from relay.core.task import Report, account_of, created_at_ms, model_of
from relay.errors import Problem

ADOPTIONS_MAX: Final = 1_000
GIVE_UP_AFTER_MS: Final = 24 * 3600 * 1000
INBOX: Final = "inbox"
LATE: Final = "late_task"
NEAR_MS: Final = 60_000
LOOKALIKES_MAX: Final = 10

Received = Literal["stored", "duplicate", "quarantined", "full"]


@dataclass(frozen=True, slots=True)
class LateTaskFound(Happening[Job | None]):
    """The upstream has named the task of an attempt that was given up: it is adopted as a job that names the old one.

    The new job is its client's as the old one was. A cancelled job keeps its task itself. None when nothing is adopted.
    """

    job_id: str
    number: int
    report: Report
    new_id: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, owner_of=self.report.task_id)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        old, attempt, task_id = loaded.job, loaded.attempt(self.number), self.report.task_id
        if old is None or attempt is None or task_id is None or not may_turn_up(old, attempt):
            return nothing(None)
        if self.report.reply_ref != attempt.reply_ref or loaded.owner not in (None, old.id):
            return nothing(None)
        draft = Draft(loaded)
        if old.state == "cancelled":
            return draft.changes(bind(draft, old, replace(attempt, ended_at_ms=None), self.report, self.at_ms))
        if loaded.owner == old.id:
            # It was lost, and has been seen again; two jobs cannot have one task.
            draft.put(replace(old, upstream_task_id=None))
        found = f"its task turned up at {iso(self.at_ms)}, and is job {self.new_id}"
        draft.put(replace(attempt, upstream_task_id=task_id, ask_at_ms=None, detail=found))
        job = self._job(old, attempt, task_id)
        draft.put(job)
        draft.put(self._attempt(attempt, task_id))
        own = next((one for one in loaded.subscriptions if one.job_id == old.id), None)
        if own is not None:
            draft.put(replace(own, seq=0, id=self.new_id, job_id=self.new_id, created_at_ms=self.at_ms))
        draft.tell(job, "job.submitted", self.at_ms)
        return draft.changes(job)

    def _job(self, old: Job, attempt: Attempt, task_id: str) -> Job:
        message = f"the task of attempt {attempt.number} of job {old.id}, which is {old.state}, turned up"
        return replace(
            old,
            seq=0,
            id=self.new_id,
            state="running",
            origin="adopted",
            account=attempt.account,
            task_id=task_id_of(self.new_id),
            upstream_task_id=task_id,
            upstream_status=self.report.status or None,
            progress=0.0,
            attempts=1,
            task=None,
            artifacts=[],
            error=None,
            problems=[Problem("", LATE, message, old.id).as_json()],
            retry_of=None,
            created_at_ms=self.at_ms,
            submitted_at_ms=attempt.sent_at_ms,
            started_at_ms=None,
            finished_at_ms=None,
            erased_at_ms=None,
            updated_at_ms=self.at_ms,
        )

    def _attempt(self, attempt: Attempt, task_id: str) -> Attempt:
        return Attempt(
            job_id=self.new_id,
            number=1,
            state="created",
            account=attempt.account,
            # Its callbacks go on coming to the old address.
            token_hash=f"{LATE}:{self.new_id}",
            reply_ref=attempt.reply_ref,
            upstream_task_id=task_id,
            sent_at_ms=attempt.sent_at_ms,
            expected_ms=attempt.expected_ms,
            answered_at_ms=self.at_ms,
            ask_at_ms=self.at_ms,
        )


def lookalikes(job: Job, attempt: Attempt, listed: Sequence[Report]) -> tuple[dict[str, Any], ...]:
    """Tasks with the prompt of an attempt in doubt that were created near it and are no other attempt's of ours."""
    prompt = job.request.get("text_prompt")
    ours = attempt.reply_ref.removesuffix(f"{job.id}:{attempt.number}")
    found: list[dict[str, Any]] = []
    for report in listed:
        options, created_ms = report.raw.get("options"), created_at_ms(report)
        same = isinstance(options, dict) and prompt and options.get("text_prompt") == prompt
        near = created_ms is not None and -NEAR_MS <= created_ms - attempt.sent_at_ms <= 15 * NEAR_MS
        if same and near and report.task_id and not (report.reply_ref or "").startswith(ours):
            found.append({"taskId": report.task_id, "status": report.status, "createdAt": iso(created_ms)})
    return tuple(found[:LOOKALIKES_MAX])


@dataclass(frozen=True, slots=True)
class StrayReported(Happening[Received]):
    """A body came to the inbox. `job_id` is the id that the job will have if the task is adopted."""

    arrived: Arrived
    job_id: str

    @property
    def _task_id(self) -> str | None:
        return self.arrived.report.task_id if self.arrived.report else None

    def needs(self) -> Needs:
        return Needs(upstream_task_id=self._task_id, sha256=self.arrived.sha256)

    def decide(self, loaded: Loaded) -> Changes[Received]:
        report, task_id = self.arrived.report, self._task_id
        if loaded.callback_seen:
            return nothing("duplicate")
        draft = Draft(loaded)
        if report is None or task_id is None:
            draft.put(self.arrived.quarantined(None, "not a task with a taskId"))
            return draft.changes("quarantined")
        if loaded.job is not None:
            return self._known(draft, loaded, loaded.job)
        adoption = loaded.adoption
        if adoption is None and loaded.adoptions >= ADOPTIONS_MAX:
            draft.put(self.arrived.quarantined(None, f"{ADOPTIONS_MAX} tasks already wait to be asked about"))
            return draft.changes("quarantined")
        if adoption is None:
            adoption = Adoption(task_id=task_id, job_id=self.job_id, first_at_ms=self.arrived.at_ms, ask_at_ms=0)
        if _is_full(adoption.callbacks, adoption.callback_bytes + self.arrived.size_bytes):
            return nothing("full")
        draft.put(
            replace(
                adoption,
                ask_at_ms=self.arrived.at_ms,
                callbacks=adoption.callbacks + 1,
                callback_bytes=adoption.callback_bytes + self.arrived.size_bytes,
            )
        )
        draft.put(self.arrived.callback(adoption.job_id, 1, "hint: the upstream is asked for the task"))
        return draft.changes("stored")

    def _known(self, draft: Draft, loaded: Loaded, job: Job) -> Changes[Received]:
        """The task already is a job's: its attempt takes the report as one of its own callbacks."""
        if job.erased_at_ms is not None:
            return nothing("duplicate")
        attempt = next((a for a in loaded.attempts if a.upstream_task_id == self._task_id), None)
        if attempt is None or self.arrived.report is None:
            draft.put(self.arrived.quarantined(job.id, "the job has no attempt of this task"))
            return draft.changes("quarantined")
        if _is_full(attempt.callbacks, attempt.callback_bytes + self.arrived.size_bytes):
            return nothing("full")
        learned, effect = hint(draft, job, attempt, self.arrived.report, self.arrived.at_ms)
        draft.put(self.arrived.counted(attempt, **learned))
        draft.put(self.arrived.callback(job.id, attempt.number, effect))
        return draft.changes("stored")


@dataclass(frozen=True, slots=True)
class AdoptionAnswered(Happening[Job | None]):
    """The upstream was asked about a task that the inbox named. The result is the adopted job, if there is one now."""

    task_id: str
    answer: TaskAnswer
    at_ms: int

    def needs(self) -> Needs:
        return Needs(upstream_task_id=self.task_id, accounts=True)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        adoption = loaded.adoption
        if adoption is None:
            return nothing(loaded.job)
        draft = Draft(loaded)
        if loaded.job is not None:
            draft.drop(adoption)
            return draft.changes(loaded.job)
        match self.answer:
            case Found(report) if report.task_id in (None, self.task_id):
                draft.drop(adoption)
                return draft.changes(self._adopt(draft, loaded, adoption, self.answer))
            case Missing():
                adoption = replace(adoption, missing=adoption.missing + 1)
        asked = replace(adoption, asked=adoption.asked + 1, ask_at_ms=self.at_ms + watch.ASK_EVERY_MS)
        age_ms = self.at_ms - adoption.first_at_ms
        denied = adoption.missing >= watch.LOST_AFTER_ASKS and age_ms >= watch.LOST_AFTER_MS
        if denied or age_ms >= GIVE_UP_AFTER_MS:
            # Its callbacks stay under the id that the job would have had; nobody will ask again.
            draft.drop(adoption)
        else:
            draft.put(asked)
        return draft.changes(None)

    def _adopt(self, draft: Draft, loaded: Loaded, adoption: Adoption, found: Found) -> Job:
        report, account = found.report, account_of(self.task_id) or ""
        job = Job(
            id=adoption.job_id,
            state="running",
            model=model_of(report),
            reply_ref=report.reply_ref,
            origin="adopted",
            token_id=INBOX,
            submitted_by=INBOX,
            account=account,
            task_id=self.task_id,
            upstream_task_id=self.task_id,
            upstream_status=report.status,
            attempts=1,
            request={},
            created_at_ms=adoption.first_at_ms,
            submitted_at_ms=adoption.first_at_ms,
            updated_at_ms=self.at_ms,
        )
        attempt = Attempt(
            job_id=job.id,
            number=1,
            state="created",
            account=account,
            token_hash=f"adopted:{self.task_id}",
            reply_ref=report.reply_ref or "",
            upstream_task_id=self.task_id,
            sent_at_ms=adoption.first_at_ms,
            answered_at_ms=self.at_ms,
            ask_at_ms=self.at_ms + watch.ASK_EVERY_MS,
            callbacks=adoption.callbacks,
            callback_bytes=adoption.callback_bytes,
        )
        draft.put(job)
        draft.put(attempt)
        draft.tell(job, "job.submitted", self.at_ms)
        return absorb(draft, job, attempt, report, self.at_ms, loaded)


def _is_full(callbacks: int, size_bytes: int) -> bool:
    return callbacks >= CALLBACKS_MAX or size_bytes > CALLBACK_BYTES_MAX
