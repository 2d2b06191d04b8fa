"""Happenings on the way to a subscriber: subscribed, changed, claimed, attempted, released."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.core import breaker as breakers
from relay.core.delivery import ANSWERS_KEPT, Delivery, Subscription, SubscriptionState, gives_way, in_turn
from relay.core.job import iso
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs, lane_of, nothing
from relay.core.retry import Answer, Dead, Decision, Delivered, Disable, RetryAt, arrived, decide, shown
from relay.errors import Conflict, NotFound

SECRETS_MAX: Final = 5
CLAIMS_MAX: Final = 64


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
class SubscriptionChanged(Happening[Subscription]):
    """A person changes some fields; `afresh`: whatever is due is tried at once, as if nothing had ever failed."""

    subscription_id: str
    changes: Mapping[str, Any]
    at_ms: int
    afresh: bool = False

    def needs(self) -> Needs:
        return Needs(subscription_id=self.subscription_id)

    def decide(self, loaded: Loaded) -> Changes[Subscription]:
        before = _standing(loaded)
        secrets = [secret for secret in before.secrets if (secret["expiresAtMs"] or self.at_ms + 1) > self.at_ms]
        changed = replace(before, secrets=secrets, **self.changes, updated_at_ms=self.at_ms)
        draft = Draft(loaded)
        draft.put(changed)
        if self.afresh and loaded.breaker is not None:
            draft.drop(loaded.breaker)
        return draft.changes(changed)


@dataclass(frozen=True, slots=True)
class SecretRotated(Happening[Subscription]):
    """A new secret signs from now on; those before it go on signing until `old_until_ms` at most."""

    subscription_id: str
    sealed: str
    old_until_ms: int
    at_ms: int

    def needs(self) -> Needs:
        return Needs(subscription_id=self.subscription_id)

    def decide(self, loaded: Loaded) -> Changes[Subscription]:
        before = _standing(loaded)
        until_ms = self.old_until_ms
        old = [{**secret, "expiresAtMs": min(secret["expiresAtMs"] or until_ms, until_ms)} for secret in before.secrets]
        living = [secret for secret in old if secret["expiresAtMs"] > self.at_ms]
        if len(living) >= SECRETS_MAX:
            raise Conflict(f"{SECRETS_MAX} secrets sign already; wait for one to end, or let all end: keepOldFor 0s")
        secrets = [{"sealed": self.sealed, "expiresAtMs": None}, *living]
        changed = replace(before, secrets=secrets, updated_at_ms=self.at_ms)
        draft = Draft(loaded)
        draft.put(changed)
        return draft.changes(changed)


def _standing(loaded: Loaded) -> Subscription:
    if loaded.subscription is None:
        raise NotFound("there is no such subscription")
    if loaded.subscription.job_id is not None:
        raise Conflict("this is the replyUrl of one job, which is as its client has given it")
    return loaded.subscription


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
        if loaded.breaker is not None:
            draft.drop(loaded.breaker)
        return draft.changes(True)


@dataclass(frozen=True, slots=True)
class DeliveriesClaimed(Happening[list[tuple[Delivery, Subscription]]]):
    """A deliverer takes due deliveries for itself until `lease_until_ms`: those of them that may go now.

    At most `CLAIMS_MAX`. Decided where all claims are, so the limits of a place hold for all relays together.
    """

    delivery_ids: tuple[str, ...]
    lease_until_ms: int
    at_ms: int

    def needs(self) -> Needs:
        return Needs(delivery_ids=self.delivery_ids)

    def decide(self, loaded: Loaded) -> Changes[list[tuple[Delivery, Subscription]]]:
        draft, claimed = Draft(loaded), list[tuple[Delivery, Subscription]]()
        to = {subscription.id: subscription for subscription in loaded.subscriptions}
        failing = {breaker.place: breaker for breaker in loaded.breakers}
        under_way = Counter(loaded.under_way)
        for delivery in sorted(loaded.batch, key=lambda delivery: (delivery.due_at_ms, delivery.seq)):
            subscription = to.get(delivery.subscription_id)
            if delivery.state != "due" or delivery.due_at_ms > self.at_ms:
                continue
            if subscription is None or subscription.state != "active":
                continue
            place = subscription.place
            breaker = failing.get(place)
            if under_way[place] >= breakers.room(breaker) or not breakers.lets_through(breaker, self.at_ms):
                continue
            if breaker is not None:
                failing[place] = breakers.tried(breaker, delivery, self.lease_until_ms)
                draft.put(failing[place])
            under_way[place] += 1
            claimed.append((replace(delivery, state="sending", lease_until_ms=self.lease_until_ms), subscription))
            draft.put(claimed[-1][0])
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
        if (breaker := breakers.given_up(loaded.breaker, delivery, self.at_ms)) is not None:
            draft.put(breaker)
        return draft.changes(True)


@dataclass(frozen=True, slots=True)
class DeliveryAttempted(Happening[Delivery | None]):
    """One attempt is over; the schedule decides what follows, and the lane moves on when the delivery has ended."""

    delivery_id: str
    answer: Answer
    jitter: float
    at_ms: int
    # That of the claim: what comes when somebody else has claimed it since says nothing of that one's attempt.
    lease_until_ms: int = 2**62

    def needs(self) -> Needs:
        # A failure may be the one after which the subscription is paused, and then somebody has to be told.
        return Needs(delivery_id=self.delivery_id, subscriptions=not arrived(self.answer))

    def decide(self, loaded: Loaded) -> Changes[Delivery | None]:
        delivery = loaded.delivery
        if delivery is None or delivery.state != "sending" or (delivery.lease_until_ms or 0) > self.lease_until_ms:
            return nothing(delivery)
        draft = Draft(loaded)
        attempts = delivery.attempts + 1
        answers = [*delivery.answers, {"at": iso(self.at_ms), **shown(self.answer)}][-ANSWERS_KEPT:]
        delivery = replace(delivery, attempts=attempts, lease_until_ms=None, answers=answers)
        outcome = decide(self.answer, attempts, self.at_ms, self.jitter)
        match outcome:
            case Delivered():
                delivery = replace(delivery, state="delivered", finished_at_ms=self.at_ms, reason=None)
            case Dead(why):
                delivery = replace(delivery, state="dead", finished_at_ms=self.at_ms, reason=why)
            case RetryAt(due_at_ms, why):
                delivery = self._again(replace(delivery, state="due", due_at_ms=due_at_ms, reason=why), loaded)
            case Disable(why):
                delivery = replace(delivery, state="due", due_at_ms=self.at_ms, reason=why)
        draft.put(delivery)
        if delivery.finished_at_ms is not None:
            for other in in_turn(lane_of(delivery, loaded.open_deliveries), self.at_ms):
                draft.put(other)
        self._judge(draft, loaded, delivery, outcome)
        return draft.changes(delivery)

    def _again(self, delivery: Delivery, loaded: Loaded) -> Delivery:
        """What is not final is not tried again while something newer waits behind it."""
        behind = lane_of(delivery, loaded.open_deliveries)
        if behind and gives_way(delivery):
            return replace(
                delivery,
                state="superseded",
                finished_at_ms=self.at_ms,
                reason=f"{delivery.reason}; superseded by {behind[0].event_id}",
            )
        return delivery

    def _judge(self, draft: Draft, loaded: Loaded, delivery: Delivery, outcome: Decision) -> None:
        """What the outcome says of the subscription: well, failing, given up, or gone."""
        subscription, breaker = loaded.subscription, loaded.breaker
        if subscription is None:
            return
        if isinstance(outcome, Delivered):
            if breaker is not None:
                draft.drop(breaker)
            return
        breaker = breakers.failed(breaker, subscription.place, delivery, self.at_ms, self.jitter)
        draft.put(breaker)
        standing = subscription.job_id is None
        state: SubscriptionState
        if isinstance(outcome, Disable):
            state, why = "disabled", outcome.why
        elif standing and subscription.state == "active" and breakers.pauses(breaker, self.at_ms):
            state, why = "paused", f"nothing but failures since {iso(breaker.since_ms)}; the last one: {outcome.why}"
        else:
            return
        draft.put(replace(subscription, state=state, reason=why, updated_at_ms=self.at_ms))
        if standing and subscription.state == "active":
            draft.warn("subscription.paused", subscription.id, f"{state}: {why}", self.at_ms)
