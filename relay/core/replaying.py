"""Happenings on what has ended or waits, when a person steps in: one delivery again, many again, a backlog dropped.

A replay goes through its deliveries in their order, a bounded batch in each transaction together with how far it has
come: a relay that is killed meanwhile goes on behind the last batch, so that each of them is owed anew exactly once.
Each keeps its id and its place in its lane; its schedule begins from the start. Progress is never replayed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.core.delivery import OPEN, Delivery, Replay, Selection, in_turn
from relay.core.event import FINAL_TYPES, PROGRESS, TYPES
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs, lane_of, nothing
from relay.errors import Conflict

REPLAYABLE: Final = ("delivered", "superseded", "dead")
REPLAYED_TYPES: Final = tuple(name for name in TYPES if name != PROGRESS)
BATCH: Final = 250
RUNNING_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class DeliveryRetried(Happening[Delivery | None]):
    """One delivery is wanted now, whether it has ended or waits for its next attempt; None when there is none."""

    delivery_id: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(delivery_id=self.delivery_id)

    def decide(self, loaded: Loaded) -> Changes[Delivery | None]:
        delivery = loaded.delivery
        if delivery is None:
            return nothing(None)
        if loaded.subscription is None:
            raise Conflict("the subscription was removed: nobody knows any more where this should go")
        if delivery.state in ("sending", "waiting"):
            state = "is on its way" if delivery.state == "sending" else "waits for an earlier one of its job"
            raise Conflict(f"the delivery {state}")
        if delivery.event_type == PROGRESS:
            raise Conflict("progress is never sent again: what is newer says more")
        draft = Draft(loaded)
        if delivery.state == "due":
            delivery = replace(delivery, due_at_ms=self.at_ms)
            draft.put(delivery)
        else:
            again = _again(delivery, loaded.open_deliveries, self.at_ms)
            if again is None:
                raise Conflict("a later one of the same job is on its way, and nothing starts after it")
            _owe_anew(draft, [again], loaded.open_deliveries, self.at_ms)
        if loaded.breaker is not None and loaded.breaker.trial is None:
            # Whoever asks for it knows more than the breaker does.
            draft.put(replace(loaded.breaker, open_until_ms=self.at_ms))
        return draft.changes(delivery)


@dataclass(frozen=True, slots=True)
class ReplayStarted(Happening[Replay]):
    """A person wants many deliveries again."""

    replay: Replay

    def needs(self) -> Needs:
        return Needs(replay_id=self.replay.id)

    def decide(self, loaded: Loaded) -> Changes[Replay]:
        draft = Draft(loaded)
        draft.put(self.replay)
        return draft.changes(self.replay)


@dataclass(frozen=True, slots=True)
class ReplayContinued(Happening[Replay]):
    """The next batch of a replay is owed anew; `replay` is how it was last seen."""

    replay: Replay
    at_ms: int

    def needs(self) -> Needs:
        return Needs(replay_id=self.replay.id, batch=left_of(self.replay))

    def decide(self, loaded: Loaded) -> Changes[Replay]:
        replay = loaded.replay
        if replay is None or replay.state == "done" or replay.cursor_seq != self.replay.cursor_seq:
            return nothing(replay or self.replay)
        made = [_again(delivery, loaded.open_deliveries, self.at_ms) for delivery in loaded.batch]
        again = [delivery for delivery in made if delivery is not None]
        replay = replace(
            replay,
            cursor_seq=loaded.batch[-1].seq if loaded.batch else replay.until_seq,
            requeued=replay.requeued + len(again),
            skipped=replay.skipped + len(made) - len(again),
        )
        if len(loaded.batch) < BATCH:
            replay = replace(replay, state="done", finished_at_ms=self.at_ms)
        draft = Draft(loaded)
        _owe_anew(draft, again, loaded.open_deliveries, self.at_ms)
        draft.put(replay)
        return draft.changes(replay)


@dataclass(frozen=True, slots=True)
class BacklogDropped(Happening[int]):
    """Some of what a subscription is owed ends without being sent; how many they were, 0 when none are left."""

    subscription_id: str
    but_finals: bool
    at_ms: int

    def needs(self) -> Needs:
        types = tuple(name for name in TYPES if name not in FINAL_TYPES) if self.but_finals else ()
        waiting = Selection(state=("waiting", "due"), subscription_id=(self.subscription_id,), event_type=types)
        return Needs(batch=waiting)

    def decide(self, loaded: Loaded) -> Changes[int]:
        draft = Draft(loaded)
        why = (
            "dropped: the subscription was enabled with final events only"
            if self.but_finals
            else ("dropped: the subscription was enabled without its backlog")
        )
        for delivery in loaded.batch:
            draft.put(replace(delivery, state="superseded", reason=why, finished_at_ms=self.at_ms))
        gone = {delivery.id for delivery in loaded.batch}
        left = [delivery for delivery in loaded.open_deliveries if delivery.id not in gone]
        for lane in _lanes(left):
            for delivery in in_turn(lane, self.at_ms):
                draft.put(delivery)
        return draft.changes(len(loaded.batch))


def left_of(replay: Replay) -> Selection:
    """What a replay has not looked at yet."""
    return replace(wanted(replay), after_seq=replay.cursor_seq, until_seq=replay.until_seq)


def wanted(replay: Replay) -> Selection:
    """What a replay was asked for."""
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in replay.selection.items()
    }
    return Selection(**given)


def _again(delivery: Delivery, open_deliveries: tuple[Delivery, ...], at_ms: int) -> Delivery | None:
    """The delivery as it is owed anew; None when it is open, or when a later one of its lane is on its way."""
    lane = lane_of(delivery, open_deliveries)
    if delivery.state in OPEN or any(o.state == "sending" and o.event_seq > delivery.event_seq for o in lane):
        return None
    return replace(
        delivery,
        state="waiting" if delivery.job_id else "due",
        attempts=0,
        due_at_ms=at_ms,
        reason=None,
        finished_at_ms=None,
    )


def _owe_anew(draft: Draft, again: list[Delivery], open_deliveries: tuple[Delivery, ...], at_ms: int) -> None:
    for delivery in again:
        draft.put(delivery)
    for lane in _lanes([*again, *open_deliveries]):
        for delivery in in_turn(lane, at_ms):
            draft.put(delivery)


def _lanes(deliveries: Iterable[Delivery]) -> Iterable[list[Delivery]]:
    lanes: dict[tuple[str, str], list[Delivery]] = {}
    for delivery in deliveries:
        if delivery.job_id:
            lanes.setdefault((delivery.subscription_id, delivery.job_id), []).append(delivery)
    return lanes.values()
