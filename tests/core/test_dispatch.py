"""The dispatcher, driven without a clock: who may run what, and how long to wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.dispatch import (
    PROBE_STEPS_MS,
    Account,
    Submit,
    Wait,
    Waiting,
    admitted,
    choose,
    closed,
    freed,
    in_turn,
    open_at_ms,
    refused,
    sent,
)
from tests.core.builders import NOW_MS, account

A, B = "a@example.com", "b@example.com"
names = st.sampled_from([A, B, "c@example.com"])
accounts_strategy = st.lists(
    st.builds(
        account,
        names,
        st.integers(0, 3),
        retry_at_ms=st.integers(NOW_MS - 2, NOW_MS + 2),
        probe_at_ms=st.integers(NOW_MS - 2, NOW_MS + 2),
        admits=st.none() | st.integers(0, 3),
    ),
    unique_by=lambda one: one.email,
    max_size=3,
)
waiting_strategy = st.lists(
    st.builds(Waiting, st.uuids().map(str), st.none() | names, st.sampled_from(["t1", "t2"])), max_size=6
)
LATER_MS = NOW_MS + 600_000


def free(*ids: str) -> list[Waiting]:
    return [Waiting(job_id) for job_id in ids]


def test_the_first_waiting_job_goes_to_the_account_with_most_room() -> None:
    accounts = [account(A, 2), account(B, 4)]
    assert choose(NOW_MS, accounts, {B: 1}, free("1", "2")) == Submit("1", B)
    assert choose(NOW_MS, accounts, {B: 3}, free("1", "2")) == Submit("1", A)


def test_equal_room_is_given_in_the_order_of_names() -> None:
    assert choose(NOW_MS, [account(B), account(A)], {}, free("1")) == Submit("1", A)


def test_full_accounts_wait_for_a_change_and_a_freed_slot_is_used_at_once() -> None:
    full, known = {A: 2}, account(A, probe_at_ms=LATER_MS)
    assert choose(NOW_MS, [known], full, free("1")) == Wait(LATER_MS)
    full[A] -= 1
    assert choose(NOW_MS, [known], full, free("1")) == Submit("1", A)


def test_more_tasks_than_slots_are_no_room() -> None:
    assert choose(NOW_MS, [account(A, 1, probe_at_ms=LATER_MS)], {A: 5}, free("1")) == Wait(LATER_MS)


def test_a_closed_account_waits_until_its_time_and_no_longer() -> None:
    busy = account(A, retry_at_ms=NOW_MS + 10_000)
    assert choose(NOW_MS, [busy], {}, free("1")) == Wait(NOW_MS + 10_000)
    assert choose(NOW_MS + 10_000, [busy], {}, free("1")) == Submit("1", A)


def test_another_account_takes_over_while_one_waits() -> None:
    assert choose(NOW_MS, [account(A, retry_at_ms=NOW_MS + 1), account(B)], {}, free("1")) == Submit("1", B)


def test_a_parked_account_gets_nothing_before_its_time_and_a_try_after_it() -> None:
    parked = account(A, parked="no credits", retry_at_ms=NOW_MS + 600_000)
    assert choose(NOW_MS, [parked], {}, free("1")) == Wait(NOW_MS + 600_000)
    assert choose(NOW_MS + 600_000, [parked], {}, free("1")) == Submit("1", A)


def test_a_pinned_job_waits_for_its_account_and_holds_up_nobody() -> None:
    waiting = [Waiting("pinned", A), Waiting("free")]
    both = [account(A, 1, probe_at_ms=LATER_MS), account(B, 1, probe_at_ms=LATER_MS)]
    assert choose(NOW_MS, both, {A: 1}, waiting) == Submit("free", B)
    assert choose(NOW_MS, both, {B: 1}, waiting) == Submit("pinned", A)


def test_a_job_that_is_pinned_to_an_account_that_is_gone_is_not_sent_elsewhere() -> None:
    assert choose(NOW_MS, [account(A, 0), account(B)], {}, [Waiting("pinned", A)]) == Wait(None)


def test_nothing_waiting_or_no_account_is_a_wait_for_a_change() -> None:
    assert choose(NOW_MS, [account(A)], {}, []) == Wait(None)
    assert choose(NOW_MS, [], {}, free("1")) == Wait(None)


@pytest.mark.parametrize(("refusals", "wait_s"), [(0, 10), (1, 20), (2, 40), (3, 60), (50, 60)])
def test_each_time_without_a_connection_waits_longer_up_to_a_minute(refusals: int, wait_s: int) -> None:
    assert closed(account(refusals=refusals), NOW_MS).retry_at_ms == NOW_MS + wait_s * 1000


@pytest.mark.parametrize(("refusals", "step"), [(0, 0), (1, 1), (4, 4), (50, 4)])
def test_probes_beyond_what_is_admitted_grow_from_one_to_ten_minutes(refusals: int, step: int) -> None:
    full = refused(account(A, refusals=refusals), 2, None, NOW_MS, NOW_MS)
    assert (full.admits, full.probe_at_ms) == (2, NOW_MS + PROBE_STEPS_MS[step])
    assert choose(NOW_MS, [full], {A: 2}, free("1")) == Wait(full.probe_at_ms)
    assert choose(full.probe_at_ms, [full], {A: 2}, free("1")) == Submit("1", A)


def test_a_refusal_tightens_an_account_to_what_runs_and_counts_anew() -> None:
    tightened = refused(account(A, 3, refusals=4), 1, 2, NOW_MS, NOW_MS)
    assert (tightened.allowed, tightened.others, tightened.refusals) == (1, 2, 1)
    assert tightened.probe_at_ms == NOW_MS + PROBE_STEPS_MS[0]


@pytest.mark.parametrize(("refusals", "wait_s"), [(0, 10), (3, 60), (9, 60)])
def test_an_account_that_others_fill_is_tried_again_within_a_minute(refusals: int, wait_s: int) -> None:
    taken = refused(account(A, admits=0, refusals=refusals), 0, 2, NOW_MS, NOW_MS)
    assert taken.probe_at_ms == NOW_MS + wait_s * 1000


def test_a_probe_that_is_admitted_widens_the_account_and_the_next_goes_at_once() -> None:
    widened = admitted(account(A, 2, admits=2, refusals=3), 3, NOW_MS, probe=True)
    assert (widened.allowed, widened.probe_at_ms, widened.refusals) == (3, NOW_MS, 0)


def test_what_is_admitted_within_the_room_teaches_nothing() -> None:
    before = account(A, 2, admits=1, probe_at_ms=LATER_MS)
    assert admitted(before, 2, NOW_MS, probe=False).allowed == 1


def test_an_account_that_is_filled_for_the_first_time_is_believed_for_a_minute() -> None:
    assert sent(account(A), 0, NOW_MS).probe_at_ms == 0
    assert sent(account(A), 1, NOW_MS).probe_at_ms == NOW_MS + PROBE_STEPS_MS[0]


def test_one_probe_is_under_way_at_a_time() -> None:
    due = account(A, probe_at_ms=NOW_MS)
    assert open_at_ms(due, 2) == NOW_MS
    assert open_at_ms(sent(due, 2, NOW_MS), 3) == NOW_MS + PROBE_STEPS_MS[0]


def test_the_end_of_a_task_opens_its_place_and_is_the_time_for_a_probe() -> None:
    over = freed(account(A, refusals=4, retry_at_ms=LATER_MS, probe_at_ms=LATER_MS), NOW_MS)
    assert (over.retry_at_ms, over.probe_at_ms, over.refusals, over.freed_at_ms) == (0, NOW_MS, 1, NOW_MS)
    assert freed(account(A, retry_at_ms=LATER_MS, parked="no_credits"), NOW_MS).retry_at_ms == LATER_MS


def test_a_refusal_of_before_an_end_tightens_nothing() -> None:
    over = freed(account(A), NOW_MS)
    assert refused(over, 1, None, NOW_MS - 1, NOW_MS + 1).allowed == 2
    assert refused(over, 1, None, NOW_MS, NOW_MS + 1).allowed == 1


def test_explore_jobs_go_one_after_another_and_hold_up_nobody_else() -> None:
    explore = Waiting("explore", mode="explore")
    assert choose(NOW_MS, [account(A)], {A: 1}, [explore], {A}) == Wait(None)
    assert choose(NOW_MS, [account(A)], {A: 1}, [explore, Waiting("2", token_id="t2")], {A}) == Submit("2", A)
    assert choose(NOW_MS, [account(A)], {A: 1}, [explore]) == Submit("explore", A)
    later = account(A, explore_at_ms=LATER_MS)
    assert choose(NOW_MS, [later], {}, [explore]) == Wait(LATER_MS)


def test_tokens_take_turns_and_each_keeps_its_own_order() -> None:
    jobs = [Waiting(f"{token}{n}", token_id=token) for token in ("a", "b", "c") for n in range(1 + (token == "b"))]
    assert [job.job_id for job in in_turn(jobs, "")] == ["a0", "b0", "c0", "b1"]
    assert [job.job_id for job in in_turn(jobs, "a")] == ["b0", "c0", "a0", "b1"]
    assert choose(NOW_MS, [account(A, turn="b")], {}, jobs) == Submit("c0", A)


@given(accounts_strategy, st.dictionaries(names, st.integers(0, 3)), waiting_strategy)
def test_no_decision_breaks_a_rule_and_no_possible_one_is_missed(
    accounts: list[Account], busy: dict[str, int], waiting: list[Waiting]
) -> None:
    times = {a.email: open_at_ms(a, busy.get(a.email, 0)) for a in accounts}
    open_accounts = {email for email, at_ms in times.items() if at_ms is not None and at_ms <= NOW_MS}
    runnable = [job for job in waiting if (open_accounts if job.pinned is None else {job.pinned} & open_accounts)]
    decision = choose(NOW_MS, accounts, busy, waiting)
    if isinstance(decision, Wait):
        assert runnable == []
        assert decision.until_ms is None or decision.until_ms > NOW_MS
    else:
        job = next(job for job in runnable if job.job_id == decision.job_id)
        assert job == next(one for one in waiting if one.token_id == job.token_id and one in _fit(runnable, decision))
        assert job.pinned in (None, decision.email)
        assert decision.email in open_accounts


def _fit(runnable: list[Waiting], decision: Submit) -> list[Waiting]:
    return [job for job in runnable if job.pinned in (None, decision.email)]


@given(accounts_strategy, waiting_strategy)
def test_taking_every_decision_fills_each_account_to_its_slots_and_never_over(
    accounts: list[Account], waiting: list[Waiting]
) -> None:
    busy: dict[str, int] = {}
    left = list(waiting)
    while isinstance(decision := choose(NOW_MS, accounts, busy, left), Submit):
        busy[decision.email] = busy.get(decision.email, 0) + 1
        left = [job for job in left if job.job_id != decision.job_id]
        accounts = [sent(a, busy[a.email] - 1, NOW_MS) if a.email == decision.email else a for a in accounts]
    for one in accounts:
        assert busy.get(one.email, 0) <= one.allowed + (one.slots > 0)
