"""What a person may do with a job, decided by the ledger: cancel, try again, settle a doubt, erase, set a deadline."""

import json
from dataclasses import replace

import pytest

from relay.core import job as jobs
from relay.core.job import STATES, Job, State
from relay.core.ledger import Callback, UsedKey
from relay.core.outcome import Busy, NotSent, Outcome, Refused, Unknown
from relay.core.steering import JobCancelled, JobErased, JobResolved, Verdict
from relay.core.submitting import CreateAnswered, JobGivenUp, JobSubmitted
from relay.core.task import Report
from relay.errors import Conflict, KeyReused, LimitReached
from tests.core.builders import (
    INSTANCE,
    JOB_ID,
    NOW_MS,
    OTHER_TASK_ID,
    TASK_ID,
    accepted,
    account,
    answered,
    asked,
    attempt,
    callback,
    failed,
    job,
    looked,
    reply_ref,
    report,
    started,
    submitted,
    subscription,
    task_body,
)
from tests.core.memory import Memory, begun

CANCEL = JobCancelled(JOB_ID, NOW_MS + 1)
ERASE = JobErased(JOB_ID, NOW_MS + 9)


def in_doubt() -> Memory:
    memory = Memory(account(), subscription())
    memory.apply_all(submitted(), started(), answered(Unknown("time-out")))
    return memory


def resolved(verdict: Verdict, seen: Report | None = None) -> JobResolved:
    return JobResolved(JOB_ID, verdict, seen, "admin", NOW_MS + 5)


def test_a_queued_job_that_is_cancelled_is_never_sent() -> None:
    memory = Memory(account())
    memory.apply_all(submitted(), CANCEL)
    assert memory.apply(started()) is None
    assert (memory.job.state, memory.job.finished_at_ms, memory.types) == (
        "cancelled",
        NOW_MS + 1,
        ["queued", "cancelled"],
    )


def test_a_cancel_that_comes_after_the_attempt_lets_it_go_on_and_tells_no_more() -> None:
    memory = Memory(account(), subscription())
    memory.apply_all(submitted(), started(), CANCEL, answered(accepted(), NOW_MS + 2))
    assert (memory.job.state, memory.attempt.state, memory.attempt.occupying) == ("cancelled", "created", True)
    assert memory.job.upstream_task_id == TASK_ID
    memory.apply(asked(report("RUNNING", "0.5"), NOW_MS + 3))
    memory.apply(asked(report("SUCCEEDED", "1"), NOW_MS + 4))
    assert (memory.attempt.state, len(memory.job.artifacts)) == ("ended", 1)
    assert (memory.job.state, memory.job.finished_at_ms) == ("cancelled", NOW_MS + 1)
    assert memory.types == ["queued", "cancelled"]
    assert [delivery.event_type for delivery in memory.deliveries] == ["job.queued", "job.cancelled"]


@pytest.mark.parametrize("outcome", [Busy("full"), NotSent("no name"), Refused("validation", "no")])
def test_a_cancelled_job_whose_create_was_not_taken_stays_cancelled(outcome: Outcome) -> None:
    memory = Memory(account())
    memory.apply_all(submitted(), started(), CANCEL, answered(outcome, NOW_MS + 2))
    assert (memory.job.state, memory.attempt.state, memory.job.error) == ("cancelled", "not_created", None)


def test_the_attempt_of_a_cancelled_job_in_doubt_is_looked_for_and_its_task_kept() -> None:
    memory = in_doubt()
    memory.apply_all(CANCEL, looked(report("RUNNING"), NOW_MS + 2), asked(failed(), NOW_MS + 3))
    assert (memory.job.state, memory.attempt.state, memory.job.upstream_task_id) == ("cancelled", "ended", TASK_ID)
    assert memory.job.task is not None


@pytest.mark.parametrize("state", STATES)
def test_a_cancel_ends_what_has_not_ended_and_refuses_the_rest(state: State) -> None:
    memory = Memory(job(state=state))
    before = memory.job
    if state in ("succeeded", "failed"):
        with pytest.raises(Conflict):
            memory.apply(CANCEL)
        assert (memory.job, memory.events) == (before, [])
    elif state == "cancelled":
        assert memory.apply(CANCEL) == before
        assert memory.events == []
    else:
        memory.apply_all(CANCEL, JobCancelled(JOB_ID, NOW_MS + 2))
        assert memory.types == ["cancelled"]


@pytest.mark.parametrize("ref", [reply_ref(), None, "somebody's own"])
def test_a_persons_word_binds_a_task_that_no_other_attempt_is_named_by(ref: str | None) -> None:
    memory = in_doubt()
    now = memory.apply(resolved("created", report("RUNNING", replyRef=ref)))
    assert now is not None
    assert (now.state, now.upstream_task_id, memory.attempt.state) == ("running", TASK_ID, "created")
    assert memory.types == ["queued", "in_doubt", "submitted", "progress"]


def test_a_task_that_is_anothers_is_bound_by_nobodys_word() -> None:
    memory = in_doubt()
    memory.keep(job(2, state="running", upstream_task_id=OTHER_TASK_ID))
    for seen in (
        report(replyRef=reply_ref(2)),
        report(replyRef=jobs.reply_ref_of(INSTANCE, "another", 1)),
        report(taskId=OTHER_TASK_ID, replyRef=None),
    ):
        with pytest.raises(Conflict):
            memory.apply(resolved("created", seen))
    assert (memory.job.state, memory.attempt.state) == ("in_doubt", "unknown")


def test_what_was_resolved_as_not_created_is_sent_again_and_only_then() -> None:
    memory = in_doubt()
    assert memory.apply(started(door="hash-2")) is None
    memory.apply(resolved("not_created"))
    assert (memory.job.state, memory.attempt.state, memory.attempt.occupying) == ("queued", "not_created", False)
    assert memory.apply(started(door="hash-2")) is not None
    assert memory.job.attempts == 2


def test_what_was_resolved_as_failed_frees_its_slot() -> None:
    memory = in_doubt()
    memory.apply(resolved("failed"))
    assert memory.job.error is not None
    assert (memory.job.state, memory.job.error["code"], memory.attempt.state) == ("failed", "submit_unknown", "ended")
    assert "admin" in memory.job.error["message"]
    assert memory.types[-1] == "failed"


@pytest.mark.parametrize("verdict", ["created", "not_created", "failed"])
def test_nothing_is_resolved_where_nothing_is_in_doubt(verdict: Verdict) -> None:
    memory = begun()
    with pytest.raises(Conflict):
        memory.apply(resolved(verdict, report(replyRef=None)))
    assert memory.apply(JobResolved("nobody", verdict, None, "admin", NOW_MS)) is None


def test_the_slot_of_a_cancelled_job_can_be_freed_by_a_persons_word() -> None:
    memory = in_doubt()
    memory.apply_all(CANCEL, resolved("not_created"))
    assert (memory.job.state, memory.attempt.occupying, memory.types[-1]) == ("cancelled", False, "cancelled")


def test_an_open_retry_is_returned_and_an_ended_one_makes_room() -> None:
    memory = Memory(job(state="failed"))
    memory.apply(submitted(2, retry_of=JOB_ID))
    again = memory.apply(submitted(3, retry_of=JOB_ID))
    assert again.id == job(2).id
    memory.apply(JobCancelled(job(2).id, NOW_MS))
    assert memory.apply(submitted(3, retry_of=JOB_ID)).id == job(3).id


def keyed(number: int, request_hash: str = "same", queue_max: int = 10) -> JobSubmitted:
    made = job(number)
    return JobSubmitted(made, 10, queue_max, None, UsedKey(id="k", request_hash=request_hash, job_id=made.id, at_ms=1))


def test_a_key_makes_one_job_and_only_of_one_request() -> None:
    memory = Memory(account())
    first = memory.apply(keyed(1, queue_max=1)).id
    assert memory.apply(keyed(2, queue_max=1)).id == first, "also while the queue is full"
    with pytest.raises(KeyReused):
        memory.apply(keyed(3, "different"))
    assert (len(memory.all(Job)), len(memory.events)) == (1, 1)


def test_a_key_is_kept_only_with_its_job() -> None:
    memory = Memory(job(9))
    with pytest.raises(LimitReached):
        memory.apply(keyed(1, queue_max=1))
    assert memory.all(UsedKey) == []


def test_a_create_that_was_answered_once_is_answered_so_for_ever() -> None:
    memory = Memory(account())
    memory.apply_all(keyed(1), started(), CreateAnswered(JOB_ID, NOW_MS, "k"))
    before = memory.job.task_id
    memory.apply_all(answered(accepted()), CreateAnswered(JOB_ID, NOW_MS, "k"))
    assert (memory.job.task_id, memory.job.upstream_task_id) == (before, TASK_ID)


@pytest.mark.parametrize("late_ms", [0, 1])
def test_nothing_is_sent_behind_its_deadline(late_ms: int) -> None:
    memory = Memory(account())
    memory.apply(submitted(deadline_ms=NOW_MS + 1_000))
    sent = memory.apply(started(NOW_MS + 1_000 + late_ms))
    if late_ms:
        assert sent is None
        assert memory.job.error is not None
        assert (memory.job.state, memory.job.error["code"]) == ("failed", "deadline")
        assert memory.types == ["queued", "failed"]
    else:
        assert sent is not None
        memory.apply(JobGivenUp(JOB_ID, "deadline", "too late", NOW_MS + 2_000))
        assert memory.job.state == "submitting", "a deadline is the latest start, not the latest end"


def test_what_is_erased_leaves_no_word_of_it_and_keeps_its_counts_and_times() -> None:
    said = "a secret coast"
    memory = Memory(account(), subscription())
    memory.apply(
        submitted(
            request={"model": "gen4.5", "text_prompt": said},
            problems=[{"field": "text_prompt", "rule": "max_length", "message": said}],
            reply_url_sealed="sealed",
        )
    )
    memory.apply_all(
        started(),
        answered(accepted(name=said)),
        callback(task_body("RUNNING", "0.2", name=said)),
        callback({"odd": said, "replyRef": "another"}),
        asked(report("FAILED", error={"errorMessage": f"{said} is not allowed", "reason": "SAFETY.TEXT"}, name=said)),
    )
    memory.keep(replace(memory.attempt, detail=f"the upstream said: {said}"))
    before = memory.job
    memory.apply(ERASE)
    now = memory.job
    everything = [repr(record) for table in memory._tables.values() for record in table.values()]
    assert [row for row in everything if said in row] == []
    assert (now.request, now.task, now.artifacts, now.problems, now.reply_url_sealed) == ({}, None, [], [], None)
    kept = ("id", "state", "attempts", "created_at_ms", "finished_at_ms", "account", "model", "seq")
    assert [getattr(now, name) for name in kept] == [getattr(before, name) for name in kept]
    assert now.error == {"code": "moderated", "message": "erased", "reason": "SAFETY.TEXT", "retryable": False}
    assert [row.size_bytes > 0 for row in memory.all(Callback)] == [True]
    assert json.dumps(memory.events[-1].data["job"]["state"]) == '"failed"'


def test_only_what_has_ended_is_erased_and_once() -> None:
    memory = begun()
    with pytest.raises(Conflict):
        memory.apply(ERASE)
    memory.apply_all(CANCEL, ERASE)
    erased = memory.job
    assert memory.apply(JobErased(JOB_ID, NOW_MS + 99)) == erased


def test_nothing_comes_back_to_an_erased_job() -> None:
    memory = begun()
    memory.apply_all(CANCEL, ERASE)
    assert memory.apply(callback(task_body("SUCCEEDED", "1"))) == "unknown"
    memory.apply(asked(report("SUCCEEDED", "1"), NOW_MS + 10))
    assert (memory.job.task, memory.job.artifacts, memory.attempt.state) == (None, [], "ended")


def test_other_jobs_keep_their_words() -> None:
    memory = begun()
    memory.apply(submitted(2))
    memory.keep(replace(attempt(), job_id=job(2).id, detail="its own"))
    memory.apply_all(CANCEL, ERASE)
    other = next(found for found in memory.all(Job) if found.id == job(2).id)
    assert other.request == job(2).request
