"""A task that turns up after its attempt was given up is adopted: what was paid for is never thrown away."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.adopting import LATE, LateTaskFound, lookalikes
from relay.core.delivery import Subscription
from relay.core.job import NO_OUTLOOK, Attempt, Job
from relay.core.outcome import Busy, Unknown
from relay.core.steering import JobCancelled
from relay.core.task import Report
from relay.core.why import explain
from tests.core.builders import (
    EMAIL,
    HOUR_MS,
    JOB_ID,
    LIMIT_MS,
    NOW_MS,
    OTHER_TASK_ID,
    TASK_ID,
    accepted,
    account,
    answered,
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
from tests.core.memory import Memory

NEW_ID = "019b76da-a800-7000-8000-00000000000f"
LATER_MS = NOW_MS + LIMIT_MS + HOUR_MS


def given_up(**more: Any) -> Memory:
    memory = Memory(account(), subscription(), subscription("own", job_id=JOB_ID, format="task"))
    memory.apply_all(submitted(reply_ref="mine", **more), started(), answered(Unknown("time-out")))
    memory.apply(looked(None, NOW_MS + LIMIT_MS))
    assert memory.job.state == "failed"
    return memory


def found(seen: Report | None = None, number: int = 1) -> LateTaskFound:
    return LateTaskFound(JOB_ID, number, seen or report("RUNNING"), NEW_ID, LATER_MS)


def adopted(memory: Memory) -> Job:
    return next(one for one in memory.all(Job) if one.id == NEW_ID)


def test_a_task_that_turns_up_is_adopted_as_a_job_that_names_the_old_one() -> None:
    memory = given_up()
    old = memory.job
    memory.apply(found())
    new = adopted(memory)
    assert memory.job == old, "final states are final"
    assert (new.state, new.origin, new.upstream_task_id, new.retry_of) == ("running", "adopted", TASK_ID, None)
    assert (new.token_id, new.reply_ref, new.request, new.account) == ("admin", "mine", old.request, EMAIL)
    assert [(problem["rule"], problem["given"]) for problem in new.problems] == [(LATE, JOB_ID)]
    told = memory.events[-1]
    assert (told.type, told.job_id, told.reply_ref) == ("job.submitted", NEW_ID, "mine")
    theirs = next(one for one in memory.all(Attempt) if one.job_id == NEW_ID)
    assert (theirs.state, theirs.ask_at_ms, theirs.reply_ref) == ("created", LATER_MS, reply_ref())
    assert theirs.sent_at_ms == NOW_MS


def test_the_clients_own_address_hears_of_the_adopted_job_too() -> None:
    memory = given_up()
    memory.apply(found())
    own = [one for one in memory.all(Subscription) if one.job_id == NEW_ID]
    assert [(one.format, one.url_sealed) for one in own] == [("task", "sealed")]


def test_it_is_adopted_once() -> None:
    memory = given_up()
    memory.apply(found())
    assert memory.apply(replace(found(), new_id="another")) is None
    assert len(memory.all(Job)) == 2


@pytest.mark.parametrize("seen", [report(replyRef=None), report(replyRef=reply_ref(2)), report(taskId=None)])
def test_a_task_that_is_not_the_attempts_own_is_not_adopted(seen: Report) -> None:
    memory = given_up()
    assert memory.apply(found(seen)) is None
    assert len(memory.all(Job)) == 1


def test_a_task_that_is_a_jobs_already_is_not_adopted() -> None:
    memory = given_up()
    memory.keep(job(2, state="running", upstream_task_id=TASK_ID))
    assert memory.apply(found()) is None


def test_an_attempt_that_was_seen_is_not_adopted_again() -> None:
    memory = Memory(account())
    memory.apply_all(submitted(), started(), answered(Unknown("time-out")), looked(failed()))
    assert (memory.job.state, memory.apply(found())) == ("failed", None)


def test_a_task_that_was_lost_and_is_seen_again_goes_to_the_new_job() -> None:
    memory = given_up()
    lost = {"code": "lost", "message": "gone", "reason": None, "retryable": False}
    memory.keep(replace(memory.job, upstream_task_id=TASK_ID, error=lost))
    memory.keep(replace(memory.attempt, upstream_task_id=TASK_ID))
    memory.apply(found())
    assert (adopted(memory).upstream_task_id, memory.job.upstream_task_id) == (TASK_ID, None)
    assert memory.apply(replace(found(), new_id="another")) is None


def test_what_the_upstream_denied_and_has_all_the_same_is_adopted() -> None:
    memory = Memory(account())
    memory.apply_all(submitted(), started(), answered(Busy("full")))
    assert memory.apply(found()) is not None
    assert memory.job.state == "queued"


def test_the_late_task_of_an_attempt_that_was_sent_again_is_adopted_beside_the_second_one() -> None:
    memory = Memory(account())
    memory.apply_all(submitted(), started(), answered(Unknown("cut")))
    memory.apply(replace(looked(None, NOW_MS + LIMIT_MS), resubmit=True))
    assert (memory.job.state, memory.types) == ("queued", ["queued", "in_doubt", "queued"])
    memory.apply_all(started(NOW_MS + LIMIT_MS, door="hash-2"), answered(accepted(replyRef=reply_ref(2)), number=2))
    memory.apply(found(report(taskId=OTHER_TASK_ID, replyRef=reply_ref())))
    assert {one.id: one.upstream_task_id for one in memory.all(Job)} == {JOB_ID: TASK_ID, NEW_ID: OTHER_TASK_ID}


def test_the_task_of_a_cancelled_job_stays_its_own() -> None:
    memory = Memory(account())
    memory.apply_all(submitted(), started(), answered(Unknown("time-out")), JobCancelled(JOB_ID, NOW_MS))
    memory.apply(looked(None, NOW_MS + LIMIT_MS))
    memory.apply(found())
    assert [(one.id, one.state, one.upstream_task_id) for one in memory.all(Job)] == [(JOB_ID, "cancelled", TASK_ID)]
    assert memory.attempt.occupying


def test_a_late_callback_makes_the_relay_ask_and_adopts_nothing() -> None:
    memory = given_up()
    memory.apply(callback(task_body("SUCCEEDED", "1"), LATER_MS))
    assert (memory.attempt.ask_at_ms, memory.attempt.hinted_task_id) == (LATER_MS, TASK_ID)
    assert len(memory.all(Job)) == 1
    memory.apply(looked(None, LATER_MS))
    assert memory.attempt.ask_at_ms is not None, "the upstream may be slow to tell"


def test_a_late_callback_of_an_attempt_that_has_ended_as_it_should_asks_nothing() -> None:
    memory = Memory(account())
    memory.apply_all(submitted(), started(), answered(Unknown("time-out")), looked(failed()))
    memory.apply(callback(task_body("SUCCEEDED", "1"), LATER_MS))
    assert memory.attempt.ask_at_ms is None


def alike(at_ms: int = NOW_MS, prompt: str = "A coast", **changes: Any) -> Report:
    created = {"createdAt": f"2026-01-01T{(at_ms - NOW_MS) // HOUR_MS:02}:00:00.000Z"}
    return report(taskId=OTHER_TASK_ID, replyRef=None, options={"text_prompt": prompt}, **created, **changes)


def test_only_what_has_the_same_prompt_near_in_time_and_is_nobodys_is_a_candidate() -> None:
    listed = [
        alike(),
        alike(prompt="Another"),
        alike(NOW_MS + HOUR_MS),
        report(replyRef=reply_ref(7), options={"text_prompt": "A coast"}, createdAt="2026-01-01T00:00:00.000Z"),
        report(replyRef=None, options=None),
    ]
    assert lookalikes(job(), attempt(), listed) == (
        {"taskId": OTHER_TASK_ID, "status": "RUNNING", "createdAt": "2026-01-01T00:00:00.000Z"},
    )
    assert lookalikes(job(request={}), attempt(), listed) == ()


def test_candidates_are_shown_to_a_person_and_change_nothing() -> None:
    memory = Memory(account())
    memory.apply_all(submitted(), started(), answered(Unknown("time-out")))
    seen = lookalikes(memory.job, memory.attempt, [alike()])
    memory.apply(replace(looked(None, NOW_MS + 1_000), candidates=seen))
    memory.apply(looked(None, NOW_MS + 2_000))
    told = explain(memory.job, [memory.attempt], [], [], {}, NO_OUTLOOK, now_ms=NOW_MS + 2_000, in_doubt_after_s=3_600)
    assert (memory.job.state, memory.attempt.state) == ("in_doubt", "unknown")
    assert told["facts"]["candidates"] == list(seen)
    assert any("same prompt" in sentence for sentence in told["sentences"])
