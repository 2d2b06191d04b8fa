"""Subscriptions and deliveries: who is told what, in which order.

A delivery is one event owed to one subscription. Those of one job to one subscription form a lane: one at a time, in
order of the events. The head of a lane is `due` (or `sending`), the rest are `waiting`; progress that has not been sent
when something newer comes is `superseded`, and nothing of a job is owed after its final event.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from relay.core.event import FINAL_TYPES, PROGRESS, Event
from relay.core.job import JSON

SubscriptionState = Literal["active", "paused", "disabled"]
DeliveryState = Literal["waiting", "due", "sending", "delivered", "superseded", "dead"]
OPEN: Final = frozenset({"waiting", "due", "sending"})
ANSWERS_KEPT: Final = 12


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


def wants(subscription: Subscription, event: Event) -> bool:
    """Whether this event is owed to this subscription. A paused or disabled one goes on being owed."""
    if subscription.job_id is not None and subscription.job_id != event.job_id:
        return False
    return (
        event.type in (subscription.types or FINAL_TYPES)
        and (not subscription.models or event.model in subscription.models)
        and (subscription.reply_ref is None or event.reply_ref == subscription.reply_ref)
    )


def owe(subscription: Subscription, event: Event, lane: list[Delivery]) -> tuple[Delivery, list[Delivery]]:
    """The new delivery of `event`, and those of its lane that change because of it.

    `lane` holds the open deliveries of the same job to the same subscription, oldest first.
    """
    superseded = [
        _superseded(delivery, event)
        for delivery in lane
        if delivery.event_type == PROGRESS and delivery.state in ("waiting", "due")
    ]
    gone = {delivery.id for delivery in superseded}
    ahead = [delivery for delivery in lane if delivery.id not in gone]
    state: DeliveryState = "waiting" if ahead else "due"
    made = Delivery(
        id=f"{event.id}.{subscription.id}",
        subscription_id=subscription.id,
        event_seq=event.seq,
        event_id=event.id,
        event_type=event.type,
        job_id=event.job_id,
        state=state,
        due_at_ms=event.at_ms,
        created_at_ms=event.at_ms,
    )
    return made, superseded


def _superseded(delivery: Delivery, event: Event) -> Delivery:
    return replace(delivery, state="superseded", reason=f"superseded by {event.id}", finished_at_ms=event.at_ms)
