"""Happenings around a hold on submitting: after a restore the relay may have forgotten what it has sent and paid for.

While it is held nothing is sent. The upstream's lists are searched for this relay's own replyRefs, and what they name
is the job's again; then a person lets the queue move.
"""

from dataclasses import dataclass, replace
from typing import Final

from relay.core.job import Attempt, Job, task_id_of
from relay.core.ledger import Changes, Draft, Happening, Hold, Loaded, Needs, nothing
from relay.core.submitting import bind
from relay.core.task import Report, account_of, created_at_ms, model_of
from relay.errors import Conflict, Problem

RESTORED: Final = "restored"


@dataclass(frozen=True, slots=True)
class SubmittingHeld(Happening[Hold]):
    """The store may be older than what was sent: nothing is sent from now on, and all lists are searched (again)."""

    reason: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(hold=True, subscriptions=True)

    def decide(self, loaded: Loaded) -> Changes[Hold]:
        draft = Draft(loaded)
        if loaded.hold is not None:
            hold = replace(loaded.hold, reason=self.reason, searched_at_ms=None)
        else:
            hold = Hold(reason=self.reason, since_ms=self.at_ms)
        draft.put(hold)
        draft.warn("restore.held", "submitting", self.reason, self.at_ms)
        return draft.changes(hold)


@dataclass(frozen=True, slots=True)
class HoldSearched(Happening[Hold | None]):
    """All lists of the upstream have been searched to their end; `found` attempts were unknown until then."""

    found: int
    at_ms: int

    def needs(self) -> Needs:
        return Needs(hold=True)

    def decide(self, loaded: Loaded) -> Changes[Hold | None]:
        if loaded.hold is None:
            return nothing(None)
        draft = Draft(loaded)
        hold = replace(loaded.hold, searched_at_ms=self.at_ms, found=loaded.hold.found + self.found)
        draft.put(hold)
        return draft.changes(hold, quiet=True)


@dataclass(frozen=True, slots=True)
class SubmittingResumed(Happening[Hold | None]):
    """A person lets the queue move. The result is the hold that was; `Conflict` before the search has come to its end.

    `force` does not wait for the search: what it has not found yet may be sent, and paid for, again.
    """

    force: bool

    def needs(self) -> Needs:
        return Needs(hold=True)

    def decide(self, loaded: Loaded) -> Changes[Hold | None]:
        hold = loaded.hold
        if hold is None:
            return nothing(None)
        if hold.searched_at_ms is None and not self.force:
            raise Conflict(
                "the upstream's lists have not been searched to their end yet: wait for it, or send force with true "
                "and risk that jobs are paid for twice"
            )
        draft = Draft(loaded)
        draft.drop(hold)
        return draft.changes(hold)


@dataclass(frozen=True, slots=True)
class LostTaskFound(Happening[Job | None]):
    """The upstream has named the task of an attempt that this store knows nothing of; None when nothing is made of it.

    A job that still waits has its task again. One that is not there any more is adopted under the id that it had, and
    what has no place beside an end that is known becomes a job of its own, `new_id`.
    """

    job_id: str
    number: int
    report: Report
    new_id: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, owner_of=self.report.task_id)

    def decide(self, loaded: Loaded) -> Changes[Job | None]:
        job, task_id = loaded.job, self.report.task_id
        if task_id is None or loaded.owner is not None or loaded.attempt(self.number) is not None:
            return nothing(None)
        draft = Draft(loaded)
        account = account_of(task_id) or ""
        if job is not None and job.state == "queued" and self.number > job.attempts:
            sending = draft.move(job, "submitting", self.at_ms, told=False, attempts=self.number, account=account)
            attempt = self._attempt(job.id, self.number, account)
            return draft.changes(bind(draft, sending, attempt, self.report, self.at_ms))
        adopted = self._job(job, account, task_id)
        draft.put(adopted)
        attempt = self._attempt(adopted.id, adopted.attempts, account)
        draft.put(
            replace(attempt, state="created", upstream_task_id=task_id, answered_at_ms=self.at_ms, ask_at_ms=self.at_ms)
        )
        draft.tell(adopted, "job.submitted", self.at_ms)
        return draft.changes(adopted)

    def _job(self, old: Job | None, account: str, task_id: str) -> Job:
        job_id = self.job_id if old is None else self.new_id
        lost = f"attempt {self.number} of job {self.job_id}"
        message = f"the task of {lost} was found at the upstream after a restore that had lost it"
        return Job(
            id=job_id,
            state="running",
            model=model_of(self.report),
            reply_ref=None if old is None else old.reply_ref,
            origin="adopted",
            token_id=RESTORED if old is None else old.token_id,
            submitted_by=RESTORED if old is None else old.submitted_by,
            account=account,
            task_id=task_id_of(job_id),
            upstream_task_id=task_id,
            upstream_status=self.report.status or None,
            attempts=self.number if old is None else 1,
            request={} if old is None else old.request,
            problems=[Problem("", RESTORED, message, self.job_id).as_json()],
            created_at_ms=self.at_ms,
            submitted_at_ms=self.at_ms,
            updated_at_ms=self.at_ms,
        )

    def _attempt(self, job_id: str, number: int, account: str) -> Attempt:
        return Attempt(
            job_id=job_id,
            number=number,
            account=account,
            # The address that its callbacks go to was lost with it.
            token_hash=f"{RESTORED}:{self.report.task_id}",
            reply_ref=self.report.reply_ref or "",
            sent_at_ms=created_at_ms(self.report) or self.at_ms,
        )
