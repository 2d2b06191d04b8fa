"""The dispatcher, driven without a clock: who may run what, and how long to wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.dispatch import Account, Submit, Wait, Waiting, busy_until_ms, choose
from tests.core.builders import NOW_MS, account

A, B = "a@example.com", "b@example.com"
names = st.sampled_from([A, B, "c@example.com"])
accounts_strategy = st.lists(
    st.builds(account, names, st.integers(0, 3), retry_at_ms=st.integers(NOW_MS - 2, NOW_MS + 2)),
    unique_by=lambda one: one.email,
    max_size=3,
)
waiting_strategy = st.lists(st.builds(Waiting, st.uuids().map(str), st.none() | names), max_size=6)


def free(*ids: str) -> list[Waiting]:
    return [Waiting(job_id) for job_id in ids]


def test_the_first_waiting_job_goes_to_the_account_with_most_room() -> None:
    accounts = [account(A, 2), account(B, 4)]
    assert choose(NOW_MS, accounts, {B: 1}, free("1", "2")) == Submit("1", B)
    assert choose(NOW_MS, accounts, {B: 3}, free("1", "2")) == Submit("1", A)


def test_equal_room_is_given_in_the_order_of_names() -> None:
    assert choose(NOW_MS, [account(B), account(A)], {}, free("1")) == Submit("1", A)


def test_full_accounts_wait_for_a_change_and_a_freed_slot_is_used_at_once() -> None:
    full = {A: 2}
    assert choose(NOW_MS, [account(A)], full, free("1")) == Wait(None)
    full[A] -= 1
    assert choose(NOW_MS, [account(A)], full, free("1")) == Submit("1", A)


def test_more_tasks_than_slots_are_no_room() -> None:
    assert choose(NOW_MS, [account(A, 1)], {A: 5}, free("1")) == Wait(None)


def test_after_a_429_an_account_waits_until_its_time_and_no_longer() -> None:
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
    assert choose(NOW_MS, [account(A, 1), account(B, 1)], {A: 1}, waiting) == Submit("free", B)
    assert choose(NOW_MS, [account(A, 1), account(B, 1)], {B: 1}, waiting) == Submit("pinned", A)


def test_a_job_that_is_pinned_to_an_account_that_is_gone_is_not_sent_elsewhere() -> None:
    assert choose(NOW_MS, [account(A, 0), account(B)], {}, [Waiting("pinned", A)]) == Wait(None)


def test_nothing_waiting_or_no_account_is_a_wait_for_a_change() -> None:
    assert choose(NOW_MS, [account(A)], {}, []) == Wait(None)
    assert choose(NOW_MS, [], {}, free("1")) == Wait(None)


@pytest.mark.parametrize(("refusals", "wait_s"), [(0, 10), (1, 20), (2, 40), (3, 60), (50, 60)])
def test_each_refusal_in_a_row_waits_longer_up_to_a_minute(refusals: int, wait_s: int) -> None:
    assert busy_until_ms(account(refusals=refusals), NOW_MS) == NOW_MS + wait_s * 1000


@given(accounts_strategy, st.dictionaries(names, st.integers(0, 3)), waiting_strategy)
def test_no_decision_breaks_a_rule_and_no_possible_one_is_missed(
    accounts: list[Account], busy: dict[str, int], waiting: list[Waiting]
) -> None:
    open_accounts = {a.email for a in accounts if a.retry_at_ms <= NOW_MS and a.slots > busy.get(a.email, 0)}
    runnable = [job for job in waiting if (open_accounts if job.pinned is None else {job.pinned} & open_accounts)]
    decision = choose(NOW_MS, accounts, busy, waiting)
    if isinstance(decision, Wait):
        assert runnable == []
        assert decision.until_ms is None or decision.until_ms > NOW_MS
    else:
        assert decision.job_id == runnable[0].job_id
        assert decision.email in open_accounts
        assert runnable[0].pinned in (None, decision.email)


@given(accounts_strategy, waiting_strategy)
def test_taking_every_decision_fills_each_account_to_its_slots_and_never_over(
    accounts: list[Account], waiting: list[Waiting]
) -> None:
    busy: dict[str, int] = {}
    left = list(waiting)
    while isinstance(decision := choose(NOW_MS, accounts, busy, left), Submit):
        busy[decision.email] = busy.get(decision.email, 0) + 1
        left = [job for job in left if job.job_id != decision.job_id]
    for one in accounts:
        assert busy.get(one.email, 0) <= one.slots
