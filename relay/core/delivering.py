"""Happenings on the way to a subscriber: subscribed, claimed, attempted, released."""

from dataclasses import dataclass, replace

from relay.core.delivery import ANSWERS_KEPT, Delivery, Subscription
from relay.core.job import iso
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs, lane_of, nothing
from relay.core.retry import Answer, Dead, Delivered, Disable, RetryAt, decide


@dataclass(frozen=True, slots=True)
class SubscriptionSaved(Happening[Subscription]):
    """A subscription is made or changed."""

    subscription: Subscription

    def needs(self) -> Needs:
        return Needs(subscription_id=self.subscription.id)

    def decide(self, loaded: Loaded) -> Changes[Subscription]:
        draft = Draft(loaded)
        draft.put(self.subscription)
        return draft.changes(self.subscription)


@dataclass(frozen=True, slots=True)
class SubscriptionRemoved(Happening[bool]):
    """A subscription is taken away; what it was still owed is owed no more, and ends as dead letters."""

    subscription_id: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(subscription_id=self.subscription_id)

    def decide(self, loaded: Loaded) -> Changes[bool]:
        if loaded.subscription is None:
            return nothing(False)
        draft = Draft(loaded)
        draft.drop(replace(loaded.subscription, updated_at_ms=self.at_ms))
        return draft.changes(True)


@dataclass(frozen=True, slots=True)
class DeliveryClaimed(Happening[Delivery | None]):
    """The deliverer takes a due delivery for itself until `lease_until_ms`; None when it is no longer due."""

    delivery_id: str
    lease_until_ms: int
    at_ms: int

    def needs(self) -> Needs:
        return Needs(delivery_id=self.delivery_id)

    def decide(self, loaded: Loaded) -> Changes[Delivery | None]:
        delivery, subscription = loaded.delivery, loaded.subscription
        if delivery is None or delivery.state != "due" or delivery.due_at_ms > self.at_ms:
            return nothing(None)
        if subscription is None or subscription.state != "active":
            return nothing(None)
        draft = Draft(loaded)
        claimed = replace(delivery, state="sending", lease_until_ms=self.lease_until_ms)
        draft.put(claimed)
        return draft.changes(claimed)


@dataclass(frozen=True, slots=True)
class DeliveryReleased(Happening[bool]):
    """Whoever was sending is gone (the relay was killed): the delivery is due again, and may arrive twice.

    `lease_ended`: that is known by its lease alone.
    """

    delivery_id: str
    at_ms: int
    lease_ended: bool = False

    def needs(self) -> Needs:
        return Needs(delivery_id=self.delivery_id)

    def decide(self, loaded: Loaded) -> Changes[bool]:
        delivery = loaded.delivery
        if delivery is None or delivery.state != "sending":
            return nothing(False)
        if self.lease_ended and (delivery.lease_until_ms or 0) > self.at_ms:
            return nothing(False)  # the clock jumped, and the lease with it
        draft = Draft(loaded)
        draft.put(replace(delivery, state="due", lease_until_ms=None, due_at_ms=self.at_ms))
        return draft.changes(True)


@dataclass(frozen=True, slots=True)
class DeliveryAttempted(Happening[Delivery | None]):
    """One attempt is over; the schedule decides what follows, and the lane moves on when the delivery has ended."""

    delivery_id: str
    answer: Answer
    jitter: float
    at_ms: int

    def needs(self) -> Needs:
        return Needs(delivery_id=self.delivery_id)

    def decide(self, loaded: Loaded) -> Changes[Delivery | None]:
        delivery = loaded.delivery
        if delivery is None or delivery.state != "sending":
            return nothing(delivery)
        draft = Draft(loaded)
        attempts = delivery.attempts + 1
        delivery = replace(delivery, attempts=attempts, lease_until_ms=None, answers=self._answers(delivery))
        match decide(self.answer, attempts, self.at_ms, self.jitter):
            case Delivered():
                delivery = replace(delivery, state="delivered", finished_at_ms=self.at_ms, reason=None)
            case Dead(why):
                delivery = replace(delivery, state="dead", finished_at_ms=self.at_ms, reason=why)
            case RetryAt(due_at_ms, why):
                delivery = self._again(replace(delivery, state="due", due_at_ms=due_at_ms, reason=why), loaded)
            case Disable(why):
                delivery = replace(delivery, state="due", due_at_ms=self.at_ms, reason=why)
                if loaded.subscription is not None:
                    draft.put(replace(loaded.subscription, state="disabled", reason=why, updated_at_ms=self.at_ms))
        draft.put(delivery)
        behind = lane_of(delivery, loaded.open_deliveries)
        if delivery.finished_at_ms is not None and behind:
            draft.put(replace(behind[0], state="due", due_at_ms=self.at_ms))
        return draft.changes(delivery)

    def _again(self, delivery: Delivery, loaded: Loaded) -> Delivery:
        """Progress that failed while something newer waited behind it is not tried again."""
        behind = lane_of(delivery, loaded.open_deliveries)
        if delivery.event_type == "job.progress" and behind:
            return replace(
                delivery,
                state="superseded",
                finished_at_ms=self.at_ms,
                reason=f"{delivery.reason}; superseded by {behind[0].event_id}",
            )
        return delivery

    def _answers(self, delivery: Delivery) -> list[dict[str, object]]:
        answer = {
            "at": iso(self.at_ms),
            "kind": self.answer.kind,
            "status": self.answer.status,
            "detail": self.answer.detail,
            "excerpt": self.answer.excerpt,
            "tookMs": self.answer.took_ms,
        }
        return [*delivery.answers, answer][-ANSWERS_KEPT:]
