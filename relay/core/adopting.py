"""Happenings on tasks that somebody else submitted: reported at the inbox, asked about, and adopted as jobs.

A report alone makes no job: it says which task to ask about. The job exists once the upstream has answered for it.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from relay.core import watch
from relay.core.job import Attempt, Job
from relay.core.ledger import Adoption, Changes, Draft, Happening, Loaded, Needs, nothing
from relay.core.outcome import Found, Missing, TaskAnswer
from relay.core.receiving import CALLBACK_BYTES_MAX, CALLBACKS_MAX, Arrived, absorb, hint
from relay.core.task import account_of, model_of

ADOPTIONS_MAX: Final = 1_000
GIVE_UP_AFTER_MS: Final = 24 * 3600 * 1000
INBOX: Final = "inbox"

Received = Literal["stored", "duplicate", "quarantined", "full"]


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
        draft = Draft(loaded)
        if report is None or task_id is None:
            draft.put(self.arrived.quarantined(None, "not a task with a taskId"))
            return draft.changes("quarantined")
        if loaded.callback_seen:
            return nothing("duplicate")
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
        attempt = next((a for a in loaded.attempts if a.upstream_task_id == self._task_id), None)
        if attempt is None or self.arrived.report is None:
            return nothing("quarantined")
        if _is_full(attempt.callbacks, attempt.callback_bytes + self.arrived.size_bytes):
            return nothing("full")
        attempt = self.arrived.counted(attempt)
        attempt, effect = hint(draft, job, attempt, self.arrived.report, self.arrived.at_ms)
        draft.put(attempt)
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
