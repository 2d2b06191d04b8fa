"""Happenings that a person asks for: a job is cancelled, is settled when it is in doubt, is erased."""

from dataclasses import dataclass, replace
from typing import Final, Literal

from relay.core import job as jobs
from relay.core.event import Event
from relay.core.job import Attempt, Job
from relay.core.keeping import doom
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs, nothing
from relay.core.submitting import bind
from relay.core.task import Report
from relay.errors import Conflict

Verdict = Literal["created", "not_created", "failed"]
ERASED: Final = "erased"


@dataclass(frozen=True, slots=True)
class JobCancelled(Happening[Job | None]):
    """Somebody does not want the job any more: it ends now. Queued it is never sent; later its task goes on unreported.

    The attempt keeps its slot until its task has ended, and what the task renders is kept on the job. A second time
    changes nothing; `Conflict` when the job has ended in another way.
    """

    job_id: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job = loaded.job
        if job is None or job.state == "cancelled":
            return nothing(job)
        if job.final:
            raise Conflict(f"the job has {job.state} already, and what is final stays as it is")
        draft = Draft(loaded)
        return draft.changes(draft.move(job, "cancelled", self.at_ms))


@dataclass(frozen=True, slots=True)
class JobResolved(Happening[Job | None]):
    """A person knows what became of an attempt in doubt. `report` is the upstream's word on the task of `created`.

    `Conflict` when nothing is in doubt, or when the upstream's word says that the task is another attempt's or job's.
    """

    job_id: str
    verdict: Verdict
    report: Report | None
    by: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, accounts=True, owner_of=self.report.task_id if self.report else None)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job = loaded.job
        if job is None:
            return nothing(job)
        attempt = next((one for one in loaded.attempts if one.state == "unknown"), None)
        if attempt is None:
            raise Conflict(f"the job is {job.state}, and none of its attempts is in doubt")
        draft = Draft(loaded)
        if self.verdict == "created" and self.report is not None:
            _check_whose(job, attempt, self.report, loaded.owner)
            return draft.changes(bind(draft, job, attempt, self.report, self.at_ms))
        state: Literal["not_created", "ended"] = "not_created" if self.verdict == "not_created" else "ended"
        detail = f"resolved as {self.verdict} by {self.by}"
        draft.put(replace(attempt, state=state, ask_at_ms=None, ended_at_ms=self.at_ms, detail=detail))
        if job.state != "in_doubt":
            return draft.changes(job)
        if self.verdict == "not_created":
            return draft.changes(draft.move(job, "queued", self.at_ms, account=None))
        error = jobs.error("submit_unknown", f"attempt {attempt.number} was {detail}")
        return draft.changes(draft.move(job, "failed", self.at_ms, error=error))


def _check_whose(job: Job, attempt: Attempt, report: Report, owner: str | None) -> None:
    if owner not in (None, job.id):
        raise Conflict(f"that task is job {owner}'s already")
    ours = attempt.reply_ref.removesuffix(f"{job.id}:{attempt.number}")
    if report.reply_ref is not None and report.reply_ref != attempt.reply_ref and report.reply_ref.startswith(ours):
        raise Conflict(f"the upstream says that this task is another attempt's: {report.reply_ref}")


@dataclass(frozen=True, slots=True)
class JobErased(Happening[Job | None]):
    """What a person asked for and got goes, in the job, its attempts and its events; id, state, counts and times stay.

    The engine empties the bodies of its callbacks. `Conflict` for a job that has not ended.
    """

    job_id: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, events_of=self.job_id, files_of=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job = loaded.job
        if job is None or job.erased_at_ms is not None:
            return nothing(job)
        if not job.final:
            raise Conflict(f"the job is {job.state}: only what has ended can be erased; cancel it first")
        draft = Draft(loaded)
        after = replace(
            job,
            request={},
            task=None,
            artifacts=[],
            problems=[],
            error=job.error and {**job.error, "message": ERASED},
            reply_url_sealed=None,
            erased_at_ms=self.at_ms,
            updated_at_ms=self.at_ms,
        )
        draft.put(after)
        for attempt in loaded.attempts:
            draft.put(replace(attempt, detail=None, candidates=None))
        for event in loaded.events:
            draft.put(_without_words(event))
        doom(draft, loaded.files)
        return draft.changes(after, quiet=not loaded.files)


def _without_words(event: Event) -> Event:
    """The event without what may repeat a prompt: the problems that were let through, and the failure's sentence."""
    job = event.data.get("job")
    if not isinstance(job, dict):
        return event
    error = job["error"] and {**job["error"], "message": ERASED}
    return replace(event, data={**event.data, "job": {**job, "problems": [], "artifacts": [], "error": error}})
