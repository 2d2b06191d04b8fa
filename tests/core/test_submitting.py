"""A job's way to the upstream: queued, sent, answered, in doubt, looked for."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core import watch
from relay.core.accounts import AccountsListed, SeenAccount
from relay.core.dispatch import Account, open_at_ms
from relay.core.job import Attempt
from relay.core.outcome import BadToken, Busy, NoCredits, NotSent, Outcome, Refused, RunningTask, Unknown
from relay.core.submitting import FAILED_ATTEMPTS_KEPT, CreateAnswered, JobGivenUp, JobStranded
from relay.core.task import named
from relay.errors import LimitReached
from tests.core.builders import (
    EMAIL,
    HOUR_MS,
    JOB_ID,
    LIMIT_MS,
    NOW_MS,
    TASK_ID,
    accepted,
    account,
    answered,
    callback,
    failed,
    job,
    looked,
    reply_ref,
    report,
    started,
    submitted,
    task_body,
)
from tests.core.memory import Memory

KNOWN_NOT_CREATED = [Busy("full"), NotSent("no connection"), NoCredits("no credits"), BadToken("bad token")]


def sending() -> Memory:
    """A job whose first attempt is on its way."""
    memory = Memory(account())
    memory.apply_all(submitted(), started())
    return memory


def in_doubt() -> Memory:
    memory = sending()
    memory.apply(answered(Unknown("time-out")))
    return memory


def account_of(memory: Memory, email: str = EMAIL) -> Account:
    return next(account for account in memory.all(Account) if account.email == email)


def opens_at_ms(memory: Memory) -> int:
    at_ms = open_at_ms(account_of(memory), 0)
    assert at_ms is not None
    return at_ms


def test_an_accepted_request_is_queued_and_says_so() -> None:
    memory = Memory()
    memory.apply(submitted())
    assert (memory.job.state, memory.types) == ("queued", ["queued"])


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"queue_per_token": 1}, "this token has 1 waiting job, and 1 is the limit; nothing was stored"),
        ({"queue_max": 1}, "the relay has 1 waiting job, and 1 is the limit; nothing was stored"),
    ],
)
def test_a_full_queue_refuses_and_stores_nothing(limits: dict[str, int], sentence: str) -> None:
    memory = Memory(job())
    with pytest.raises(LimitReached, match=sentence) as refused:
        memory.apply(submitted(2, **limits))
    assert refused.value.retry_after_s
    assert (len(memory.all(type(job()))), memory.events) == (1, [])


def test_only_waiting_jobs_and_those_of_the_same_token_count() -> None:
    memory = Memory(job(2, state="running"), job(3, token_id="other"))
    memory.apply(submitted(queue_per_token=1, queue_max=2))
    assert memory.job.state == "queued"


def test_submitting_a_job_a_second_time_does_not_put_it_back_into_the_queue() -> None:
    memory = sending()
    assert memory.apply(submitted()).state == "submitting"
    assert (memory.job.state, memory.types) == ("submitting", ["queued"])


def test_an_attempt_is_written_before_it_is_sent_with_a_reference_that_can_be_computed_again() -> None:
    memory = sending()
    assert (memory.job.state, memory.job.attempts, memory.job.account) == ("submitting", 1, EMAIL)
    assert (memory.attempt.state, memory.attempt.reply_ref, memory.attempt.token_hash) == (
        "sending",
        reply_ref(),
        "hash-1",
    )


@pytest.mark.parametrize("state", ["submitting", "in_doubt", "running", "succeeded", "failed", "cancelled"])
def test_a_job_that_waits_no_more_is_not_sent(state: Any) -> None:
    memory = Memory(job(state=state))
    assert memory.apply(started()) is None
    assert memory.all(Attempt) == []


def test_an_accepted_attempt_runs_and_is_asked_after_in_30_seconds() -> None:
    memory = sending()
    memory.apply(answered(accepted(), NOW_MS + 5))
    assert (memory.job.state, memory.job.upstream_task_id, memory.job.submitted_at_ms) == (
        "running",
        TASK_ID,
        NOW_MS + 5,
    )
    assert (memory.attempt.state, memory.attempt.ask_at_ms) == ("created", NOW_MS + 5 + 30_000)
    assert memory.types == ["queued", "submitted"]


def test_a_create_answer_that_says_running_is_the_start() -> None:
    memory = sending()
    memory.apply(answered(accepted("RUNNING", "0"), NOW_MS + 5))
    assert (memory.job.started_at_ms, memory.types) == (NOW_MS + 5, ["queued", "submitted"])


def test_a_create_answer_with_an_id_alone_is_asked_after_at_once() -> None:
    memory = sending()
    memory.apply(answered(accepted("")))
    assert (memory.job.state, memory.attempt.ask_at_ms) == ("running", NOW_MS)


def test_a_create_answer_that_is_already_the_end_ends_the_job() -> None:
    memory = sending()
    memory.apply(answered(accepted("SUCCEEDED", "1")))
    assert (memory.job.state, memory.types) == ("succeeded", ["queued", "submitted", "succeeded"])


def test_an_answer_that_comes_after_somebody_gave_it_up_is_the_answer_all_the_same() -> None:
    memory = in_doubt()
    memory.apply(answered(accepted()))
    assert (memory.job.state, memory.job.upstream_task_id) == ("running", TASK_ID)
    assert (memory.attempt.state, memory.types) == ("created", ["queued", "in_doubt", "submitted"])


@pytest.mark.parametrize("outcome", KNOWN_NOT_CREATED)
def test_a_refusal_that_comes_too_late_sends_nothing_again(outcome: Outcome) -> None:
    memory = in_doubt()
    memory.apply(answered(outcome))
    assert (memory.job.state, memory.attempt.state) == ("in_doubt", "unknown")


@pytest.mark.parametrize("outcome", KNOWN_NOT_CREATED, ids=lambda outcome: type(outcome).__name__)
def test_what_surely_was_not_created_goes_back_into_the_queue_without_an_event(outcome: Outcome) -> None:
    memory = sending()
    memory.apply(answered(outcome))
    assert (memory.job.state, memory.job.account, memory.attempt.state) == ("queued", None, "not_created")
    assert [event.type for event in memory.events if event.job_id] == ["job.queued"]
    assert memory.apply(started(opens_at_ms(memory), door="hash-2")) is not None


def test_an_account_that_has_closed_since_the_decision_gets_no_attempt() -> None:
    memory = sending()
    memory.apply(answered(Busy("full")))
    assert memory.apply(started(opens_at_ms(memory) - 1, door="hash-2")) is None
    assert (memory.job.state, memory.job.attempts) == ("queued", 1)


def test_a_refused_request_fails_and_says_why() -> None:
    memory = sending()
    memory.apply(answered(Refused("moderated", "the prompt was refused")))
    assert memory.job.error == {
        "code": "moderated", "message": "the prompt was refused", "reason": None, "retryable": False,
    }  # fmt: skip
    assert (memory.job.state, memory.attempt.state, memory.types) == ("failed", "not_created", ["queued", "failed"])


def test_each_429_in_a_row_makes_the_account_wait_longer_and_an_acceptance_forgets_them() -> None:
    memory = sending()
    memory.apply(answered(Busy("full")))
    assert opens_at_ms(memory) == NOW_MS + 10_000
    memory.apply(started(NOW_MS + 10_000, door="hash-2"))
    memory.apply(answered(Busy("full"), NOW_MS + 10_000, number=2))
    assert opens_at_ms(memory) == NOW_MS + 30_000
    memory.apply(started(NOW_MS + 30_000, door="hash-3"))
    memory.apply(answered(accepted(replyRef=reply_ref(3)), NOW_MS + 30_000, number=3))
    assert (account_of(memory).allowed, account_of(memory).refusals) == (1, 0)


def test_an_account_without_credits_is_parked_and_an_acceptance_unparks_it() -> None:
    memory = sending()
    memory.apply(answered(NoCredits("not enough credits")))
    parked = account_of(memory)
    assert (parked.parked, parked.reason) == ("no_credits", "not enough credits")
    assert parked.retry_at_ms == NOW_MS + 600_000
    memory.apply(started(NOW_MS + 600_000, door="hash-2"))
    memory.apply(answered(accepted(replyRef=reply_ref(2)), NOW_MS + 600_000, number=2))
    assert account_of(memory).parked is None


def test_a_bad_token_holds_up_every_account() -> None:
    memory = sending()
    memory.apply(AccountsListed((SeenAccount(EMAIL, 2), SeenAccount("b@example.com", 1)), NOW_MS))
    memory.apply(answered(BadToken("bad token")))
    assert {account.retry_at_ms for account in memory.all(Account)} == {NOW_MS + 60_000}
    assert memory.types == ["queued", "upstream.down"]


def test_a_bad_token_is_told_once_tried_once_a_minute_and_told_again_when_it_is_good() -> None:
    memory = sending()
    memory.apply(AccountsListed((SeenAccount(EMAIL, 2), SeenAccount("b@example.com", 1)), NOW_MS))
    memory.apply_all(answered(BadToken("bad token")), submitted(2))
    assert memory.apply(started(NOW_MS + 60_000, door="hash-2")) is not None
    on_another = replace(started(NOW_MS + 60_000, job_id=job(2).id, door="hash-3"), account="b@example.com")
    assert memory.apply(on_another) is None, "one try is enough"
    memory.apply(answered(BadToken("bad token"), NOW_MS + 60_001, number=2))
    memory.apply(started(NOW_MS + 200_000, door="hash-4"))
    memory.apply(answered(accepted(replyRef=reply_ref(3)), NOW_MS + 200_000, number=3))
    assert [kind for kind in memory.types if kind.startswith("upstream")] == ["upstream.down", "upstream.up"]
    assert {account.retry_at_ms for account in memory.all(Account)} == {0}


def test_a_429_teaches_who_runs_and_how_many_are_admitted() -> None:
    memory = sending()
    theirs = [RunningTask(f"user:7-runwayml:{EMAIL}-task:{n}1111111-2222-4333-8444-555555555555", None) for n in (2, 3)]
    memory.apply(answered(Busy("full", (*theirs, RunningTask(TASK_ID, reply_ref(7))))))
    assert (account_of(memory).admits, account_of(memory).others) == (0, 2)


def test_a_429_to_an_explore_job_says_nothing_of_the_others() -> None:
    memory = Memory(account())
    memory.apply_all(submitted(mode="explore"), started(), answered(Busy("full")))
    assert (account_of(memory).admits, account_of(memory).explore_at_ms) == (None, NOW_MS + 60_000)


def test_moderation_that_refuses_often_is_an_event() -> None:
    memory = Memory(account())
    for number in (1, 2, 3, 4):
        memory.apply_all(submitted(number), started(job_id=job(number).id, door=f"hash-{number}"))
        memory.apply(replace(answered(Refused("moderated", "no")), job_id=job(number).id))
    assert memory.types.count("account.moderated") == 1


def test_the_second_attempt_of_an_account_that_is_full_is_no_probe_and_the_one_beyond_is() -> None:
    memory = Memory(account(probe_at_ms=NOW_MS))
    for number in (1, 2, 3):
        memory.apply_all(submitted(number), started(job_id=job(number).id, door=f"hash-{number}"))
    assert [attempt.probe for attempt in memory.all(Attempt)] == [False, False, True]


def test_a_429_that_names_this_very_attempt_among_those_that_run_proves_that_it_exists() -> None:
    memory = sending()
    memory.apply(answered(Busy("full", (RunningTask(TASK_ID, reply_ref()),))))
    assert (memory.job.state, memory.job.upstream_task_id) == ("running", TASK_ID)


def test_an_unknown_outcome_is_in_doubt_keeps_its_slot_and_is_looked_for_in_a_second() -> None:
    memory = in_doubt()
    assert (memory.job.state, memory.types) == ("in_doubt", ["queued", "in_doubt"])
    assert (memory.attempt.occupying, memory.attempt.ask_at_ms) == (True, NOW_MS + 1_000)


def test_an_attempt_in_doubt_is_never_sent_again() -> None:
    memory = in_doubt()
    for at_ms in range(NOW_MS, NOW_MS + LIMIT_MS, HOUR_MS):
        memory.apply(looked(None, at_ms))
        assert memory.apply(started(at_ms, door="hash-2")) is None
    assert len(memory.all(Attempt)) == 1


def test_an_attempt_is_found_by_its_own_reference_alone() -> None:
    memory = in_doubt()
    memory.apply(looked(report(replyRef=reply_ref(2))))
    memory.apply(looked(report(replyRef=None)))
    memory.apply(looked(report(taskId=None)))
    assert memory.job.state == "in_doubt"
    memory.apply(looked(named(TASK_ID, reply_ref())))
    assert (memory.job.state, memory.attempt.ask_at_ms) == ("running", NOW_MS)


def test_an_attempt_that_is_found_ended_ends_its_job() -> None:
    memory = in_doubt()
    memory.apply(looked(failed()))
    assert (memory.job.state, memory.types) == ("failed", ["queued", "in_doubt", "submitted", "failed"])


def test_a_search_without_result_ends_exactly_when_its_time_is_over() -> None:
    memory, looks = in_doubt(), 0
    while memory.attempt.state == "unknown":
        memory.apply(looked(None, memory.attempt.ask_at_ms or 0))
        looks += 1
    assert memory.job.error is not None
    assert (memory.job.error["code"], memory.job.finished_at_ms) == ("submit_unknown", NOW_MS + LIMIT_MS)
    assert (memory.attempt.state, memory.types) == ("ended", ["queued", "in_doubt", "failed"])
    assert 5 < looks < 5 + LIMIT_MS // 300_000 + 2
    late = 0
    while memory.attempt.ask_at_ms is not None:
        memory.apply(looked(None, memory.attempt.ask_at_ms))
        late += 1
    assert late == watch.LATE_LOOKS_MS // watch.LOOK_EVERY_MS, "its task is still looked for, and not for ever"


def test_an_answer_that_comes_after_another_changes_nothing() -> None:
    memory = sending()
    before = memory.apply(answered(accepted()))
    assert memory.apply(answered(accepted())) == before
    assert memory.apply(answered(Refused("validation", "no"))) == before
    assert memory.apply(answered(accepted(), number=9)) == before


def test_a_hint_that_came_before_the_answer_is_followed_when_the_answer_is_lost() -> None:
    memory = sending()
    memory.apply(callback(task_body("RUNNING")))
    memory.apply(answered(Unknown("cut")))
    assert (memory.attempt.hinted_task_id, memory.attempt.ask_at_ms) == (TASK_ID, NOW_MS)


def test_an_end_that_was_reported_before_the_answer_is_asked_after_at_once() -> None:
    memory = sending()
    memory.apply(callback(task_body("SUCCEEDED")))
    memory.apply(answered(accepted(), NOW_MS + 9))
    assert (memory.job.state, memory.attempt.ask_at_ms, memory.attempt.asked) == ("running", NOW_MS + 9, 0)


def test_of_refused_attempts_the_newest_are_kept() -> None:
    memory = Memory(account())
    memory.apply(submitted())
    for number in range(1, FAILED_ATTEMPTS_KEPT + 4):
        at_ms = NOW_MS + number * 60_000
        memory.apply(started(at_ms, door=f"hash-{number}"))
        memory.apply(answered(Busy("full"), at_ms, number=number))
    memory.apply(started(at_ms + 60_000, door="hash-last"))
    numbers = [attempt.number for attempt in memory.all(Attempt)]
    assert numbers == list(range(4, FAILED_ATTEMPTS_KEPT + 5))


def test_a_job_whose_account_is_gone_fails() -> None:
    memory = Memory(job(pinned=EMAIL))
    memory.apply(JobStranded(JOB_ID, EMAIL, NOW_MS))
    assert memory.job.error is not None
    assert (memory.job.state, memory.job.error["code"], memory.types) == ("failed", "account_gone", ["failed"])


@pytest.mark.parametrize(
    "changes", [{"pinned": None}, {"pinned": "b@example.com"}, {"state": "running", "pinned": EMAIL}]
)
def test_a_job_that_can_run_elsewhere_or_runs_is_not_stranded(changes: dict[str, Any]) -> None:
    memory = Memory(job(**changes))
    memory.apply(JobStranded(JOB_ID, EMAIL, NOW_MS))
    assert memory.job == replace(job(**changes), seq=memory.job.seq)


def test_a_job_that_nobody_waits_for_any_longer_fails_while_it_is_queued_and_not_later() -> None:
    given_up = JobGivenUp(JOB_ID, "deadline", "too late", NOW_MS)
    memory = Memory(job())
    memory.apply(given_up)
    assert memory.job.error is not None
    assert (memory.job.state, memory.job.error["code"], memory.types) == ("failed", "deadline", ["failed"])
    memory = in_doubt()
    memory.apply(given_up)
    assert memory.job.state == "in_doubt"


def test_the_task_id_of_the_create_answer_is_the_upstreams_where_it_is_known() -> None:
    memory = sending()
    memory.apply(CreateAnswered(JOB_ID, NOW_MS))
    assert memory.job.task_id == job().task_id
    memory.apply_all(answered(accepted()), CreateAnswered(JOB_ID, NOW_MS))
    assert (memory.job.task_id, memory.job.state) == (TASK_ID, "running")


def test_the_list_of_accounts_gives_slots_parks_the_broken_and_takes_the_slots_of_those_gone() -> None:
    memory = Memory(account("gone@example.com", 3), account(EMAIL, 1, refusals=2))
    memory.apply(AccountsListed((SeenAccount(EMAIL, 5), SeenAccount("b@example.com", 1, "login failed")), NOW_MS))
    assert {one.email: (one.slots, one.parked) for one in memory.all(Account)} == {
        "gone@example.com": (0, None),
        EMAIL: (5, None),
        "b@example.com": (1, "broken"),
    }
    assert account_of(memory, "b@example.com").reason == "login failed"
    assert (account_of(memory).refusals, account_of(memory).admits) == (0, None), "a new number is believed at first"
    assert [(event.type, event.data["subject"]) for event in memory.events] == [("account.parked", "b@example.com")]
    memory.apply(AccountsListed((SeenAccount("b@example.com", 1),), NOW_MS))
    assert account_of(memory, "b@example.com").parked is None
    assert memory.types[-1] == "account.restored"
