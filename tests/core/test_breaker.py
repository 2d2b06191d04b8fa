"""A subscriber that fails is tried less and less, comes back by itself, and after days is paused before witnesses."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.breaker import AT_ONCE_EACH, FIRST_WAIT_MS, LONGEST_WAIT_MS, OPENS_AFTER, PAUSES_AFTER_MS, Breaker
from relay.core.delivering import DeliveriesClaimed, DeliveryReleased, SubscriptionChanged, SubscriptionRemoved
from relay.core.delivery import Delivery, Subscription
from relay.core.retry import SPREAD
from tests.core.builders import NOW_MS, claimed, sent, submitted, subscription
from tests.core.memory import Memory

LEASE_MS = 60_000
# Tests throw 0.5.
SHORTER = 1 - SPREAD / 2


def owing(count: int, *, types: tuple[str, ...] = ("job.queued",), **changes: Any) -> Memory:
    """A subscription that is owed the first event of so many jobs."""
    memory = Memory(subscription(types=list(types), **changes))
    memory.apply_all(*(submitted(number) for number in range(1, count + 1)))
    return memory


def claim(memory: Memory, delivery: Delivery, at_ms: int) -> Delivery | None:
    return next((one for one, _ in memory.apply(claimed(delivery.id, at_ms, LEASE_MS))), None)


def attempt(memory: Memory, number: int, status: int | None, at_ms: int = NOW_MS) -> None:
    delivery = memory.deliveries[number]
    memory.keep(replace(delivery, due_at_ms=at_ms))
    assert claim(memory, delivery, at_ms) is not None
    memory.apply(sent(delivery.id, status, at_ms))


def breaker(memory: Memory) -> Breaker:
    (found,) = memory.all(Breaker)
    return found


def opened(memory: Memory) -> Breaker:
    for number in range(OPENS_AFTER):
        attempt(memory, number, 500)
    return breaker(memory)


def test_failures_of_different_jobs_in_a_row_open_it_and_fewer_do_not() -> None:
    memory = owing(OPENS_AFTER + 1)
    for number in range(OPENS_AFTER - 1):
        attempt(memory, number, 500)
    assert (breaker(memory).opened, breaker(memory).open_until_ms) == (0, 0)
    attempt(memory, OPENS_AFTER - 1, None)
    assert (breaker(memory).opened, breaker(memory).open_until_ms) == (1, NOW_MS + FIRST_WAIT_MS * SHORTER)


def test_a_success_in_between_begins_the_count_anew() -> None:
    memory = owing(OPENS_AFTER + 1)
    for number in range(OPENS_AFTER - 1):
        attempt(memory, number, 500)
    attempt(memory, OPENS_AFTER - 1, 200)
    assert memory.all(Breaker) == []
    attempt(memory, OPENS_AFTER, 500)
    assert breaker(memory).failures == 1


def test_an_open_one_lets_nothing_through_and_burns_no_attempt() -> None:
    memory = owing(OPENS_AFTER + 1)
    until_ms = opened(memory).open_until_ms
    waits = memory.deliveries[OPENS_AFTER]
    assert claim(memory, waits, until_ms - 1) is None
    assert (memory.deliveries[OPENS_AFTER].state, memory.deliveries[OPENS_AFTER].attempts) == ("due", 0)
    assert claim(memory, waits, until_ms) is not None


def test_so_many_are_under_way_to_a_place_however_many_claim_them() -> None:
    memory = owing(AT_ONCE_EACH + 3)
    ids = tuple(delivery.id for delivery in memory.deliveries)
    first = memory.apply(DeliveriesClaimed(ids[:5], NOW_MS + LEASE_MS, NOW_MS))
    others = memory.apply(DeliveriesClaimed(ids, NOW_MS + LEASE_MS, NOW_MS))
    assert [one.id for one, _ in (*first, *others)] == list(ids[:AT_ONCE_EACH])
    memory.apply(sent(ids[2], 200))
    assert [one.id for one, _ in memory.apply(DeliveriesClaimed(ids, NOW_MS + LEASE_MS, NOW_MS))] == [ids[AT_ONCE_EACH]]


def test_to_a_place_that_fails_one_is_under_way_at_a_time_and_of_an_open_one_it_is_the_trial() -> None:
    memory = owing(OPENS_AFTER + 3)
    attempt(memory, 0, 500)
    ids = tuple(delivery.id for delivery in memory.deliveries[1:])
    assert [one.id for one, _ in memory.apply(DeliveriesClaimed(ids, NOW_MS + LEASE_MS, NOW_MS))] == [ids[0]]
    assert memory.apply(DeliveriesClaimed(ids, NOW_MS + LEASE_MS, NOW_MS)) == []
    memory.apply(sent(ids[0], 500))
    for number in range(2, OPENS_AFTER):
        attempt(memory, number, 500)
    until_ms = breaker(memory).open_until_ms
    trial = [one.id for one, _ in memory.apply(DeliveriesClaimed(ids, until_ms + LEASE_MS, until_ms))]
    assert (trial, breaker(memory).trial) == ([ids[OPENS_AFTER - 1]], ids[OPENS_AFTER - 1])


def test_of_many_that_are_due_one_goes_as_a_trial() -> None:
    memory = owing(OPENS_AFTER + 2)
    until_ms = opened(memory).open_until_ms
    assert claim(memory, memory.deliveries[OPENS_AFTER], until_ms) is not None
    assert claim(memory, memory.deliveries[OPENS_AFTER + 1], until_ms) is None


def test_a_trial_that_arrives_closes_it_for_all() -> None:
    memory = owing(OPENS_AFTER + 2)
    attempt(memory, OPENS_AFTER, 200, opened(memory).open_until_ms)
    assert memory.all(Breaker) == []
    assert claim(memory, memory.deliveries[OPENS_AFTER + 1], NOW_MS + FIRST_WAIT_MS) is not None


def test_trials_that_fail_come_more_and_more_rarely_up_to_a_bound() -> None:
    memory = owing(1)
    waits, at_ms = [], NOW_MS
    for _ in range(OPENS_AFTER + 12):
        memory.keep(replace(memory.deliveries[0], state="due", attempts=0))
        attempt(memory, 0, 500, at_ms)
        if breaker(memory).opened:
            waits.append((breaker(memory).open_until_ms - at_ms) / SHORTER)
            at_ms = breaker(memory).open_until_ms
    assert waits[:4] == [FIRST_WAIT_MS, FIRST_WAIT_MS * 2, FIRST_WAIT_MS * 4, FIRST_WAIT_MS * 8]
    assert waits[-1] == LONGEST_WAIT_MS


def test_what_was_under_way_when_it_opened_moves_nothing() -> None:
    memory = owing(OPENS_AFTER + 1)
    for delivery in memory.deliveries:
        claim(memory, delivery, NOW_MS)
    *first, late = memory.deliveries
    memory.apply_all(*(sent(delivery.id, 500) for delivery in first))
    before = breaker(memory)
    assert before.opened == 1
    memory.apply(sent(late.id, 500, NOW_MS + 1_000))
    assert breaker(memory) == replace(before, failures=before.failures + 1)


def test_a_trial_of_a_relay_that_was_killed_gives_way_to_another() -> None:
    memory = owing(OPENS_AFTER + 2)
    at_ms = opened(memory).open_until_ms
    claim(memory, memory.deliveries[OPENS_AFTER], at_ms)
    memory.apply(DeliveryReleased(memory.deliveries[OPENS_AFTER].id, at_ms + 1))
    assert breaker(memory).trial is None
    assert claim(memory, memory.deliveries[OPENS_AFTER + 1], at_ms + 1) is not None


def test_each_subscription_has_its_own() -> None:
    memory = Memory(subscription("a", types=["job.queued"]), subscription("b", types=["job.queued"]))
    memory.apply_all(*(submitted(number) for number in range(1, OPENS_AFTER + 2)))
    for number in range(OPENS_AFTER):
        attempt(memory, number * 2, 500)
    assert claim(memory, memory.deliveries[-2], NOW_MS) is None
    assert claim(memory, memory.deliveries[-1], NOW_MS) is not None


def test_jobs_with_the_same_reply_url_share_one() -> None:
    first, second = (subscription(f"sub-{job}", job_id=job) for job in ("job-1", "job-2"))
    assert first.place == second.place == first.url_shown
    assert subscription("a").place == "a"


@pytest.mark.parametrize(("short_ms", "state"), [(0, "paused"), (1, "active")])
def test_days_of_nothing_but_failures_pause_and_tell(short_ms: int, state: str) -> None:
    memory = Memory(subscription(types=["job.queued"]), subscription("operator", types=["subscription.paused"]))
    memory.apply_all(*(submitted(number) for number in range(1, OPENS_AFTER + 2)))
    opened(memory)
    attempt(memory, OPENS_AFTER, 503, NOW_MS + PAUSES_AFTER_MS - short_ms)

    paused = memory.all(Subscription)[0]
    told = [event for event in memory.events if event.type == "subscription.paused"]
    assert paused.state == state
    assert len(told) == (state == "paused")
    if told:
        assert "503" in (paused.reason or "")
        assert told[0].data["subject"] == paused.id
        assert memory.deliveries[-1].subscription_id == "operator"
    memory.apply(submitted(99))
    assert memory.deliveries[-1].state == "due", "goes on being owed"


def test_a_few_failures_far_apart_do_not_pause() -> None:
    memory = owing(2)
    attempt(memory, 0, 500)
    attempt(memory, 1, 500, NOW_MS + 2 * PAUSES_AFTER_MS)
    assert memory.all(Subscription)[0].state == "active"


def test_gone_is_told_to_the_operator_once() -> None:
    memory = owing(2)
    claim(memory, memory.deliveries[0], NOW_MS)
    claim(memory, memory.deliveries[1], NOW_MS)
    for delivery in memory.deliveries:
        memory.apply(sent(delivery.id, 410))
    assert [event.type for event in memory.events if event.job_id is None] == ["subscription.paused"]
    assert memory.all(Subscription)[0].state == "disabled"


def test_enabling_and_removing_begin_afresh() -> None:
    memory = owing(OPENS_AFTER + 1)
    opened(memory)
    memory.apply(SubscriptionChanged("sub-1", {"state": "active", "reason": None}, NOW_MS, afresh=True))
    assert memory.all(Breaker) == []
    attempt(memory, OPENS_AFTER, 500)
    memory.apply(SubscriptionRemoved("sub-1", NOW_MS))
    assert memory.all(Breaker) == []
