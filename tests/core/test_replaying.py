"""What a person may have sent again or dropped: under the same id, in its turn, and each exactly once."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core import replaying
from relay.core.breaker import Breaker
from relay.core.delivering import SubscriptionRemoved
from relay.core.delivery import Delivery, Replay
from relay.core.replaying import BacklogDropped, DeliveryRetried, ReplayContinued, ReplayStarted
from relay.errors import Conflict
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

LATER_MS = NOW_MS + 9_000


def ended(memory: Memory, state: Any = "dead") -> Memory:
    """All deliveries have ended like this."""
    for delivery in memory.deliveries:
        memory.keep(replace(delivery, state=state, attempts=10, finished_at_ms=NOW_MS, reason="as told"))
    return memory


def states(memory: Memory) -> list[str]:
    return [delivery.state for delivery in sorted(memory.deliveries, key=lambda one: one.event_seq)]


def started(memory: Memory, **selection: Any) -> Replay:
    chosen = {"state": ["dead"], "event_type": list(replaying.REPLAYED_TYPES)} | selection
    until_seq = max(delivery.seq for delivery in memory.deliveries)
    made = Replay(id="replay", selection=chosen, total=9, until_seq=until_seq, created_at_ms=NOW_MS)
    memory.apply(ReplayStarted(made))
    return memory.all(Replay)[0]


def replayed(memory: Memory, **selection: Any) -> Replay:
    replay = started(memory, **selection)
    while replay.state != "done":
        replay = memory.apply(ReplayContinued(replay, LATER_MS))
    return replay


def test_a_dead_letter_is_due_again_under_its_own_id_from_the_start_of_its_schedule() -> None:
    memory = ended(begun(subscription(types=["job.queued"])))
    before = memory.deliveries[0]
    memory.apply(DeliveryRetried(before.id, LATER_MS))
    after = memory.deliveries[0]
    assert (after.id, after.event_id, after.seq) == (before.id, before.event_id, before.seq)
    assert (after.state, after.attempts, after.due_at_ms, after.finished_at_ms) == ("due", 0, LATER_MS, None)


def test_one_that_waits_for_its_schedule_is_due_now_and_the_breaker_lets_it_through() -> None:
    memory = begun(subscription(types=["job.queued"]))
    memory.keep(replace(memory.deliveries[0], due_at_ms=NOW_MS + 10**9, attempts=7))
    memory.keep(Breaker(place="sub-1", since_ms=NOW_MS, failures=7, opened=2, open_until_ms=NOW_MS + 10**9))
    memory.apply(DeliveryRetried(memory.deliveries[0].id, LATER_MS))
    assert (memory.deliveries[0].due_at_ms, memory.deliveries[0].attempts) == (LATER_MS, 7)
    assert memory.apply(claimed(memory.deliveries[0].id, LATER_MS))


def test_what_cannot_be_sent_again_is_refused_in_words() -> None:
    memory = begun(subscription())
    first, second = memory.deliveries
    memory.apply(claimed(first.id))
    with pytest.raises(Conflict, match="on its way"):
        memory.apply(DeliveryRetried(first.id, LATER_MS))
    with pytest.raises(Conflict, match="waits for an earlier"):
        memory.apply(DeliveryRetried(second.id, LATER_MS))
    assert memory.apply(DeliveryRetried("unknown", LATER_MS)) is None
    ended(memory)
    memory.keep(replace(memory.deliveries[0], event_type="job.progress"))
    with pytest.raises(Conflict, match="progress"):
        memory.apply(DeliveryRetried(first.id, LATER_MS))
    memory.apply(SubscriptionRemoved("sub-1", NOW_MS))
    with pytest.raises(Conflict, match="removed"):
        memory.apply(DeliveryRetried(second.id, LATER_MS))


def test_nothing_is_started_behind_a_later_one_that_is_on_its_way() -> None:
    memory = begun(subscription())
    first, second = memory.deliveries
    memory.keep(replace(first, state="dead", finished_at_ms=NOW_MS))
    memory.keep(replace(second, state="sending", lease_until_ms=NOW_MS + 60_000))
    with pytest.raises(Conflict, match="later one"):
        memory.apply(DeliveryRetried(first.id, LATER_MS))
    assert (replayed(memory).requeued, memory.all(Replay)[0].skipped) == (0, 1)


def test_a_replayed_one_goes_before_a_later_one_that_has_not_gone() -> None:
    memory = begun(subscription())
    first, second = memory.deliveries
    memory.keep(replace(first, state="dead", finished_at_ms=NOW_MS))
    memory.keep(replace(second, state="due"))
    memory.apply(DeliveryRetried(first.id, LATER_MS))
    assert states(memory) == ["due", "waiting"]
    memory.apply(claimed(first.id, LATER_MS))
    memory.apply(sent(first.id, 200, LATER_MS))
    assert states(memory) == ["delivered", "due"]


def test_a_lane_is_replayed_in_its_order() -> None:
    memory = ended(begun(subscription()))
    memory.apply(asked(report("SUCCEEDED", "1")))
    ended(memory)
    assert replayed(memory).requeued == 3
    assert states(memory) == ["due", "waiting", "waiting"]


def test_a_replay_takes_each_once_however_often_it_fails_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.core.memory.BATCH", 2)
    monkeypatch.setattr(replaying, "BATCH", 2)
    memory = Memory(subscription(types=["job.queued"]))
    memory.apply_all(*(submitted(number) for number in range(1, 6)))
    replay = started(ended(memory))
    owed_anew: list[str] = []
    while replay.state != "done":
        replay = memory.apply(ReplayContinued(replay, LATER_MS))
        owed_anew += [delivery.id for delivery in memory.deliveries if delivery.state == "due"]
        ended(memory)
    assert sorted(owed_anew) == sorted(delivery.id for delivery in memory.deliveries)
    assert (replay.requeued, replay.skipped, replay.finished_at_ms) == (5, 0, LATER_MS)


def test_a_step_that_somebody_else_has_taken_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.core.memory.BATCH", 1)
    monkeypatch.setattr(replaying, "BATCH", 1)
    memory = ended(begun(subscription()))
    replay = started(memory)
    memory.apply(ReplayContinued(replay, LATER_MS))
    ended(memory)
    before = memory.deliveries, memory.all(Replay)
    memory.apply(ReplayContinued(replay, LATER_MS + 1))
    assert (memory.deliveries, memory.all(Replay)) == before


def test_what_came_behind_its_beginning_does_not_belong_to_a_replay() -> None:
    memory = ended(begun(subscription()))
    replay = started(memory)
    memory.apply(submitted(7))
    newest = memory.deliveries[-1]
    memory.keep(replace(newest, state="dead", finished_at_ms=NOW_MS))
    while replay.state != "done":
        replay = memory.apply(ReplayContinued(replay, LATER_MS))
    assert (replay.requeued, memory.deliveries[-1].state) == (2, "dead")


def backlog() -> Memory:
    """A paused subscription, owed two jobs' beginnings, and the end of one of them."""
    memory = begun(subscription(state="paused"))
    memory.apply(callback(task_body("RUNNING", 0.2)))
    memory.apply(asked(report("SUCCEEDED", "1")))
    memory.apply(submitted(2))
    return memory


def owed(memory: Memory) -> list[tuple[str, str]]:
    return [(d.event_type, d.state) for d in memory.deliveries if d.finished_at_ms is None]


def test_a_backlog_is_dropped_but_for_ends_and_these_are_due() -> None:
    memory = backlog()
    assert memory.apply(BacklogDropped("sub-1", True, LATER_MS)) == 3
    assert owed(memory) == [("job.succeeded", "due")]
    assert memory.apply(BacklogDropped("sub-1", True, LATER_MS)) == 0
    dropped = [delivery for delivery in memory.deliveries if delivery.finished_at_ms == LATER_MS]
    assert {delivery.state for delivery in dropped} == {"superseded"}
    assert all("final events only" in (delivery.reason or "") for delivery in dropped)


def test_a_whole_backlog_is_dropped_but_for_what_is_on_its_way() -> None:
    memory = backlog()
    first = next(delivery for delivery in memory.deliveries if delivery.job_id == JOB_ID)
    memory.keep(replace(first, state="sending", lease_until_ms=LATER_MS))
    assert memory.apply(BacklogDropped("sub-1", False, LATER_MS)) == 3
    assert owed(memory) == [(first.event_type, "sending")]


def test_other_subscriptions_keep_their_backlog() -> None:
    memory = Memory(subscription("a", types=["job.queued"]), subscription("b", types=["job.queued"]))
    memory.apply(submitted())
    memory.apply(BacklogDropped("a", False, LATER_MS))
    assert [(one.subscription_id, one.state) for one in memory.deliveries] == [("a", "superseded"), ("b", "due")]


def test_lanes_of_unequal_deliveries_are_told_apart() -> None:
    memory = ended(begun(subscription("a"), subscription("b")))
    assert replayed(memory, subscription_id=["a"]).requeued == 2
    of = {name: [d.state for d in memory.deliveries if d.subscription_id == name] for name in ("a", "b")}
    assert of == {"a": ["due", "waiting"], "b": ["dead", "dead"]}


def test_a_delivery_that_belongs_to_no_job_waits_for_nothing() -> None:
    memory = Memory(subscription(types=["account.parked"]))
    for n in (1, 2):
        memory.keep(
            Delivery(
                id=f"{n}.sub-1", subscription_id="sub-1", event_seq=n, event_id=f"0-{n}", event_type="account.parked",
                job_id=None, state="dead", due_at_ms=NOW_MS, created_at_ms=NOW_MS, finished_at_ms=NOW_MS,
            )
        )  # fmt: skip
    assert replayed(memory).requeued == 2
    assert states(memory) == ["due", "due"]
