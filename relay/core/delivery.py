"""Subscriptions and deliveries: who is told what, in which order.

A delivery is one event owed to one subscription. Those of one job to one subscription form a lane: one at a time, in
order of the events. The head of a lane is `due` (or `sending`), the rest are `waiting`; progress that has not been sent
when something newer comes is `superseded`, and nothing of a job is owed after its final event.

A final event never waits behind the schedule of another one: what is not final is superseded as soon as an attempt at
it has failed and something newer is there. To wait for it would keep the end of a job back for hours, and to overtake
it would start it after the end.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from relay.core.event import FINAL_TYPES, PROGRESS, Event
from relay.core.job import JSON

SubscriptionState = Literal["active", "paused", "disabled"]
# `held` is never stored: so the doors show what is waiting or due for a subscription that is paused or disabled.
DeliveryState = Literal["waiting", "due", "sending", "delivered", "superseded", "dead", "held"]
OPEN: Final = frozenset({"waiting", "due", "sending"})
# What the vault seals them for.
URL_SEAL: Final = "subscription-url"
SECRET_SEAL: Final = "webhook-secret"  # noqa: S105 # a purpose, no secret
ANSWERS_KEPT: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A URL that is told of events. URL and secrets are sealed; `url_shown` is what lists may show."""

    seq: int = 0
    id: str
    url_sealed: str
    url_shown: str
    secrets: list[dict[str, Any]] = field(metadata=JSON)
    types: list[str] = field(metadata=JSON)
    models: list[str] = field(default_factory=list, metadata=JSON)
    reply_ref: str | None = None
    format: Literal["event", "task"] = "event"
    description: str = ""
    job_id: str | None = None
    state: SubscriptionState = "active"
    reason: str | None = None
    created_at_ms: int
    updated_at_ms: int

    @property
    def place(self) -> str:
        """Where it goes, for limits and breakers: jobs whose own replyUrls are alike share one."""
        return self.id if self.job_id is None else self.url_shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event owed to one subscription, and what came of each attempt (the last `ANSWERS_KEPT` are kept)."""

    seq: int = 0
    id: str
    subscription_id: str
    event_seq: int
    event_id: str
    event_type: str
    job_id: str | None
    state: DeliveryState
    attempts: int = 0
    due_at_ms: int
    lease_until_ms: int | None = None
    answers: list[dict[str, Any]] = field(default_factory=list, metadata=JSON)
    reason: str | None = None
    created_at_ms: int
    finished_at_ms: int | None = None

    def in_lane_of(self, subscription_id: str, job_id: str | None) -> bool:
        return self.subscription_id == subscription_id and self.job_id == job_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which deliveries are meant; an empty tuple is no condition. Times are the events', `until_ms` is excluded."""

    state: tuple[str, ...] = ()
    subscription_id: tuple[str, ...] = ()
    job_id: tuple[str, ...] = ()
    event_type: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    after_seq: int | None = None
    until_seq: int | None = None
    # Only those that could be sent: their subscription and their event are still there.
    sendable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Many deliveries that a person wants once more; `cursor_seq` is the last one that was looked at."""

    seq: int = 0
    id: str
    state: Literal["running", "done"] = "running"
    selection: dict[str, Any] = field(metadata=JSON)
    total: int
    until_seq: int
    cursor_seq: int = 0
    requeued: int = 0
    skipped: int = 0
    created_at_ms: int
    finished_at_ms: int | None = None


def wants(subscription: Subscription, event: Event) -> bool:
    """Whether this event is owed to this subscription. A paused or disabled one goes on being owed."""
    if subscription.job_id is not None and subscription.job_id != event.job_id:
        return False
    return (
        event.type in (subscription.types or FINAL_TYPES)
        and (not subscription.models or event.model in subscription.models)
        and (subscription.reply_ref is None or event.reply_ref == subscription.reply_ref)
    )


def owe(subscription: Subscription, event: Event, lane: list[Delivery]) -> list[Delivery]:
    """The new delivery of `event`, and those of its lane that change because of it.

    `lane` holds the open deliveries of the same job to the same subscription.
    """
    superseded = [
        replace(delivery, state="superseded", reason=f"superseded by {event.id}", finished_at_ms=event.at_ms)
        for delivery in lane
        if gives_way(delivery)
    ]
    made = Delivery(
        id=f"{event.id}.{subscription.id}",
        subscription_id=subscription.id,
        event_seq=event.seq,
        event_id=event.id,
        event_type=event.type,
        job_id=event.job_id,
        state="waiting",
        due_at_ms=event.at_ms,
        created_at_ms=event.at_ms,
    )
    gone = {delivery.id for delivery in superseded}
    ahead = [delivery for delivery in lane if delivery.id not in gone]
    moved = {delivery.id: delivery for delivery in in_turn([*ahead, made], event.at_ms)}
    return [*superseded, *({made.id: made} | moved).values()]


def gives_way(delivery: Delivery) -> bool:
    """Whether it is not sent (again) when something newer of its job is owed: progress, and what has failed already."""
    if delivery.state not in ("waiting", "due") or delivery.event_type in FINAL_TYPES:
        return False
    return delivery.event_type == PROGRESS or delivery.attempts > 0


def in_turn(lane: Iterable[Delivery], at_ms: int) -> list[Delivery]:
    """Those of a lane that change, so that the oldest one is due and the others wait; all wait for one that is sent."""
    ordered = sorted(lane, key=lambda delivery: delivery.event_seq)
    free = all(delivery.state != "sending" for delivery in ordered)
    changed = []
    for place, delivery in enumerate(ordered):
        if place == 0 and free and delivery.state != "due":
            changed.append(replace(delivery, state="due", due_at_ms=at_ms))
        elif (place > 0 or not free) and delivery.state == "due":
            changed.append(replace(delivery, state="waiting"))
    return changed
