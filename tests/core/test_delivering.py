"""What is owed to a subscription, in which order, and what becomes of it."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.delivering import DeliveryReleased, SubscriptionRemoved, SubscriptionSaved
from relay.core.delivery import ANSWERS_KEPT, Delivery, Subscription, wants
from relay.core.event import Event
from relay.core.retry import SCHEDULE_S
from tests.core.builders import (
    JOB_ID,
    NOW_MS,
    asked,
    callback,
    claimed,
    report,
    sent,
    submitted,
    subscription,
    task_body,
)
from tests.core.memory import Memory, begun

LEASE_MS = NOW_MS + 60_000


def progress(memory: Memory, ratio: float) -> Delivery:
    memory.apply(callback(task_body("RUNNING", ratio)))
    return memory.deliveries[-1]


def end(memory: Memory) -> Delivery:
    memory.apply(asked(report("SUCCEEDED", "1")))
    return memory.deliveries[-1]


def claim(memory: Memory, delivery: Delivery, at_ms: int = NOW_MS) -> Delivery | None:
    return next((one for one, _ in memory.apply(claimed(delivery.id, at_ms))), None)


def states(memory: Memory) -> dict[str, list[str]]:
    """The states of all deliveries, by the type of their events."""
    found: dict[str, list[str]] = {}
    for delivery in memory.deliveries:
        found.setdefault(delivery.event_type.removeprefix("job."), []).append(delivery.state)
    return found


def event(**changes: Any) -> Event:
    values = {"type": "job.succeeded", "job_id": JOB_ID, "model": "gen4.5", "reply_ref": "mine"} | changes
    return Event(seq=1, epoch="0a0a0a0a", at_ms=NOW_MS, data={}, **values)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"types": []}, True),
        ({"types": ["job.failed"]}, False),
        ({"models": ["gen4.5", "sora-2"]}, True),
        ({"models": ["sora-2"]}, False),
        ({"reply_ref": "mine"}, True),
        ({"reply_ref": "yours"}, False),
        ({"job_id": JOB_ID}, True),
        ({"job_id": "another"}, False),
        ({"state": "paused"}, True),
        ({"state": "disabled"}, True),
    ],
)
def test_a_subscription_wants_what_it_names_and_goes_on_being_owed(changes: dict[str, Any], wanted: bool) -> None:
    assert wants(subscription(**changes), event()) is wanted


def test_a_subscription_without_types_wants_the_three_ends_alone() -> None:
    kinds = ["job.queued", "job.progress", "job.succeeded", "job.failed", "job.cancelled"]
    assert [wants(subscription(types=[]), event(type=kind)) for kind in kinds] == [False, False, True, True, True]


def test_an_event_is_owed_in_the_transaction_that_writes_it_with_its_own_id() -> None:
    memory = Memory(subscription("a"), subscription("b", types=["job.failed"]))
    memory.apply(submitted())
    (delivery,) = memory.deliveries
    assert (delivery.subscription_id, delivery.event_id, delivery.state) == ("a", memory.events[0].id, "due")


def test_the_deliveries_of_a_job_wait_for_each_other() -> None:
    memory = begun(subscription())
    assert states(memory) == {"queued": ["due"], "submitted": ["waiting"]}
    claim(memory, memory.deliveries[0])
    memory.apply(sent(memory.deliveries[0].id, 200))
    assert states(memory) == {"queued": ["delivered"], "submitted": ["due"]}


def test_subscriptions_do_not_wait_for_each_other() -> None:
    memory = begun(subscription("a", types=["job.progress"]), subscription("b", types=["job.progress"]))
    progress(memory, 0.1)
    assert states(memory) == {"progress": ["due", "due"]}


def test_unsent_progress_gives_way_to_newer_progress_and_says_to_which() -> None:
    memory = begun(subscription(types=["job.progress"]))
    older, newer = progress(memory, 0.1), progress(memory, 0.2)
    gone = memory.deliveries[0]
    assert (gone.id, gone.state, gone.finished_at_ms) == (older.id, "superseded", NOW_MS)
    assert (gone.reason, newer.state) == (f"superseded by {newer.event_id}", "due")


def test_progress_that_is_being_sent_is_not_called_back_and_the_end_waits_for_it() -> None:
    memory = begun(subscription(types=["job.progress", "job.succeeded"]))
    claim(memory, progress(memory, 0.1))
    progress(memory, 0.2)
    end(memory)
    assert states(memory) == {"progress": ["sending", "superseded"], "succeeded": ["waiting"]}


@pytest.mark.parametrize(("status", "state"), [(200, "delivered"), (500, "superseded"), (None, "superseded")])
def test_progress_is_not_tried_again_when_something_newer_waits(status: int | None, state: str) -> None:
    memory = begun(subscription(types=["job.progress", "job.succeeded"]))
    first = progress(memory, 0.1)
    claim(memory, first)
    end(memory)
    memory.apply(sent(first.id, status))
    assert states(memory) == {"progress": [state], "succeeded": ["due"]}


@pytest.mark.parametrize("status", [500, None])
def test_a_failed_beginning_does_not_hold_back_what_comes_after_it(status: int | None) -> None:
    memory = begun(subscription())
    claim(memory, memory.deliveries[0])
    memory.apply(sent(memory.deliveries[0].id, status))
    assert states(memory) == {"queued": ["superseded"], "submitted": ["due"]}
    assert f"superseded by {memory.deliveries[1].event_id}" in (memory.deliveries[0].reason or "")


def test_a_beginning_that_waits_for_its_next_attempt_gives_way_to_the_end() -> None:
    memory = begun(subscription(types=["job.submitted", "job.succeeded"]))
    first = memory.deliveries[0]
    claim(memory, first)
    memory.apply(sent(first.id, 500))
    assert states(memory) == {"submitted": ["due"]}
    end(memory)
    assert states(memory) == {"submitted": ["superseded"], "succeeded": ["due"]}


def test_a_beginning_that_was_never_tried_is_told_before_the_end() -> None:
    memory = begun(subscription(types=["job.submitted", "job.succeeded"]))
    end(memory)
    assert states(memory) == {"submitted": ["due"], "succeeded": ["waiting"]}


def test_an_end_that_failed_gives_way_to_nothing() -> None:
    memory = begun(subscription(types=["job.succeeded"]))
    last = end(memory)
    claim(memory, last)
    memory.apply(sent(last.id, 500))
    assert states(memory) == {"succeeded": ["due"]}


def test_what_gave_way_after_a_kill_leaves_nobody_waiting_for_it() -> None:
    memory = begun(subscription())
    first = memory.deliveries[0]
    memory.keep(Delivery(**fields_of(first) | {"attempts": 1}))
    claim(memory, first)
    memory.apply(DeliveryReleased(first.id, NOW_MS))
    end(memory)
    assert states(memory) == {"queued": ["superseded"], "submitted": ["due"], "succeeded": ["waiting"]}


def test_a_failed_attempt_is_tried_again_on_the_schedule() -> None:
    memory = begun(subscription(types=[]))
    last = end(memory)
    claim(memory, last)
    after = memory.apply(sent(last.id, 503))
    assert after is not None
    assert (after.state, after.due_at_ms, after.attempts) == ("due", NOW_MS + 5_000, 1)
    assert claim(memory, last, NOW_MS + 4_999) is None
    assert claim(memory, last, NOW_MS + 5_000) is not None


def test_a_delivery_that_has_used_up_its_schedule_is_a_dead_letter_and_keeps_its_last_answers() -> None:
    memory = begun(subscription(types=[]))
    last, at_ms = end(memory), NOW_MS
    for _ in SCHEDULE_S:
        assert claim(memory, last, at_ms) is not None
        memory.apply(sent(last.id, 500, at_ms))
        at_ms = memory.deliveries[-1].due_at_ms
    dead = memory.deliveries[-1]
    assert (dead.state, dead.attempts, dead.finished_at_ms is not None) == ("dead", len(SCHEDULE_S), True)
    assert len(dead.answers) == min(len(SCHEDULE_S), ANSWERS_KEPT)
    assert dead.answers[-1]["status"] == 500


def test_a_dead_letter_does_not_hold_up_what_waits_behind_it() -> None:
    memory = begun(subscription())
    memory.keep(Delivery(**fields_of(memory.deliveries[0]) | {"attempts": len(SCHEDULE_S) - 1}))
    claim(memory, memory.deliveries[0])
    memory.apply(sent(memory.deliveries[0].id, 500))
    assert states(memory) == {"queued": ["dead"], "submitted": ["due"]}


def fields_of(delivery: Delivery) -> dict[str, Any]:
    return {name: getattr(delivery, name) for name in Delivery.__dataclass_fields__}


def test_gone_disables_the_subscription_and_keeps_what_is_owed() -> None:
    memory = begun(subscription(types=[]))
    last = end(memory)
    claim(memory, last)
    memory.apply(sent(last.id, 410))
    (disabled,) = memory.all(Subscription)
    assert (disabled.state, disabled.reason is not None, states(memory)) == ("disabled", True, {"succeeded": ["due"]})
    assert claim(memory, last) is None


@pytest.mark.parametrize("state", ["paused", "disabled"])
def test_nothing_is_sent_to_a_subscription_that_is_not_active(state: Any) -> None:
    memory = begun(subscription(state=state))
    assert claim(memory, memory.deliveries[0]) is None


def test_a_delivery_is_claimed_once_and_in_turn() -> None:
    memory = begun(subscription())
    first, second = memory.deliveries
    assert claim(memory, first) is not None
    assert claim(memory, first) is None
    assert claim(memory, second) is None
    assert memory.apply(claimed("unknown")) == []


@pytest.mark.parametrize("status", [200, 500])
def test_an_outcome_that_comes_when_another_relay_sends_already_says_nothing_of_that(status: int) -> None:
    memory = begun(subscription())
    first = claim(memory, memory.deliveries[0])
    assert first is not None
    memory.apply(DeliveryReleased(first.id, NOW_MS + 70_000, lease_ended=True))
    second = claim(memory, memory.deliveries[0], NOW_MS + 70_000)
    late = replace(sent(first.id, status), lease_until_ms=first.lease_until_ms or 0)
    assert (memory.apply(late), memory.deliveries[0]) == (second, second)
    own = replace(sent(first.id, status), lease_until_ms=NOW_MS + 130_000)
    memory.apply(own)
    assert (memory.deliveries[0].state, memory.deliveries[0].attempts) != ("sending", 0)


def test_what_a_killed_relay_was_sending_is_due_again_and_burns_no_attempt() -> None:
    memory = begun(subscription())
    claim(memory, memory.deliveries[0])
    assert memory.apply(DeliveryReleased(memory.deliveries[0].id, NOW_MS + 1))
    assert not memory.apply(DeliveryReleased(memory.deliveries[0].id, NOW_MS + 2))
    released = memory.deliveries[0]
    assert (released.state, released.due_at_ms, released.attempts) == ("due", NOW_MS + 1, 0)


def test_a_lease_that_was_moved_with_the_clock_meanwhile_has_not_ended() -> None:
    memory = begun(subscription())
    claim(memory, memory.deliveries[0])
    before = memory.deliveries
    assert not memory.apply(DeliveryReleased(before[0].id, LEASE_MS - 1, lease_ended=True))
    assert memory.deliveries == before
    assert memory.apply(DeliveryReleased(before[0].id, LEASE_MS, lease_ended=True))
    assert memory.deliveries[0].state == "due"


def test_an_outcome_for_what_nobody_is_sending_changes_nothing() -> None:
    memory = begun(subscription())
    before = memory.deliveries
    memory.apply(sent(before[0].id, 200))
    memory.apply(sent("unknown", 200))
    assert memory.deliveries == before


def test_a_removed_subscription_is_owed_no_more_and_its_dead_letters_say_when() -> None:
    memory = begun(subscription())
    claim(memory, memory.deliveries[0])
    assert memory.apply(SubscriptionRemoved("sub-1", NOW_MS + 9))
    assert not memory.apply(SubscriptionRemoved("sub-1", NOW_MS + 9))
    memory.apply(sent(memory.deliveries[0].id, 500))
    assert {(one.state, one.finished_at_ms) for one in memory.deliveries} == {("dead", NOW_MS + 9)}
    progress(memory, 0.3)
    assert len(memory.deliveries) == 2


def test_a_saved_subscription_is_kept_as_it_is() -> None:
    memory = Memory()
    assert memory.apply(SubscriptionSaved(subscription())).id == "sub-1"
    assert [one.id for one in memory.all(Subscription)] == ["sub-1"]
