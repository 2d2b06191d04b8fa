"""Why a subscriber has, or has not, been told: of a delivery, of a subscription, and of the two with a job."""

from collections.abc import Iterator, Sequence
from typing import Any

from relay.core.breaker import Breaker
from relay.core.delivery import OPEN, Delivery, Subscription
from relay.core.event import FINAL_TYPES
from relay.core.job import Job, iso
from relay.core.wording import counted, either


def delivery_sentence(
    delivery: Delivery,
    subscription: Subscription | None,
    breaker: Breaker | None,
    lane: Sequence[Delivery],
    now_ms: int,
) -> str:
    """Where it stands and what it waits for. `lane` are the deliveries of the same job, `breaker` is of its place."""
    whom = f"{delivery.event_type} to subscription {delivery.subscription_id}"
    tries = counted(delivery.attempts, "attempt")
    match delivery.state:
        case "delivered":
            return f"{whom}: delivered at {iso(delivery.finished_at_ms)} after {tries}."
        case "superseded":
            return f"{whom}: not needed any more ({delivery.reason})."
        case "dead":
            return f"{whom}: given up at {iso(delivery.finished_at_ms)} ({delivery.reason}); it can be sent again."
        case "held":
            why = f" ({subscription.state}: {subscription.reason or 'by request'})" if subscription else ""
            return f"{whom}: held until the subscription is enabled again{why}; nothing is sent to it now."
        case "sending":
            return f"{whom}: being sent now, as attempt {delivery.attempts + 1}."
        case "waiting":
            first = _ahead(delivery, lane)
            why = _goes_first(first, breaker, now_ms) if first else "its turn comes"
            return f"{whom}: waits for the delivery before it: {why}."
        case _:
            due = "next try at" if delivery.due_at_ms > now_ms else "due since"
            last = f"; the last answer: {delivery.reason}" if delivery.reason and delivery.attempts else ""
            return f"{whom}: {due} {iso(delivery.due_at_ms)}, {tries} so far{last}{_stands(delivery, breaker, now_ms)}."


def subscription_sentences(
    subscription: Subscription, breaker: Breaker | None, owed: int, newest: Sequence[Delivery], now_ms: int
) -> list[str]:
    """What it takes, whether it may be sent anything, and how it went of late; `newest` come newest first."""
    told = [f"It is told of {_taken(subscription)} at {subscription.url_shown}."]
    if subscription.state != "active":
        since = f"since {iso(subscription.updated_at_ms)}: {subscription.reason or 'by request'}"
        told.append(
            f"It is {subscription.state} {since}; it goes on being owed, and gets nothing until it is enabled again."
        )
    if breaker is not None:
        told.append(f"{_failing(breaker)}{_opens(breaker, now_ms)}.")
    told.append(f"{counted(owed, 'delivery') if owed == 1 else f'{owed} deliveries'} to it wait or are being sent.")
    for state, said in (("delivered", "The last one that arrived"), ("dead", "The last one that was given up")):
        last = next((delivery for delivery in newest if delivery.state == state), None)
        if last is not None:
            of_job = f" of job {last.job_id}" if last.job_id else ""
            told.append(f"{said}: {last.event_type}{of_job}, at {iso(last.finished_at_ms)}.")
    if not newest:
        told.append(f"Nothing that it takes has happened since it was made at {iso(subscription.created_at_ms)}.")
    return told


def of_job(
    job: Job, subscription: Subscription, deliveries: Sequence[Delivery], breaker: Breaker | None, now_ms: int
) -> list[str]:
    """Why this subscription has, or has not, been told of this job; `deliveries` are the job's to it, newest first."""
    if deliveries:
        return [
            delivery_sentence(delivery, subscription, breaker, deliveries, now_ms) for delivery in reversed(deliveries)
        ]
    about = f"It was told nothing of job {job.id}"
    reasons = list(_other_wishes(job, subscription))
    if reasons:
        return [f"{about}: {reason}." for reason in reasons]
    if job.finished_at_ms is not None and job.finished_at_ms < subscription.created_at_ms:
        return [f"{about}: it was made at {iso(subscription.created_at_ms)}, after the job had ended."]
    takes = either(subscription.types or sorted(FINAL_TYPES))
    return [f"{about}: it takes {takes}, and no such event of the job was written since it was made."]


def delivery_facts(delivery: Delivery, breaker: Breaker | None, lane: Sequence[Delivery]) -> dict[str, Any]:
    first = _ahead(delivery, lane)
    return {
        "state": delivery.state,
        "attempts": delivery.attempts,
        "dueAt": iso(delivery.due_at_ms) if delivery.state == "due" else None,
        "waitsFor": first.id if first and delivery.state == "waiting" else None,
        "lastAnswer": delivery.answers[-1] if delivery.answers else None,
        **breaker_facts(breaker),
    }


def breaker_facts(breaker: Breaker | None) -> dict[str, Any]:
    return {
        "failures": breaker.failures if breaker else 0,
        "failingSince": iso(breaker.since_ms) if breaker else None,
        "breakerOpenUntil": iso(breaker.open_until_ms) if breaker and breaker.opened else None,
    }


def _other_wishes(job: Job, subscription: Subscription) -> Iterator[str]:
    if subscription.job_id is not None and subscription.job_id != job.id:
        yield f"it is that of job {subscription.job_id} alone"
    if subscription.models and job.model not in subscription.models:
        yield f"it takes only models {either(subscription.models)}, and this is {job.model}"
    if subscription.reply_ref is not None and subscription.reply_ref != job.reply_ref:
        has = f"this has {job.reply_ref}" if job.reply_ref is not None else "this has none"
        yield f"it takes only the replyRef {subscription.reply_ref}, and {has}"


def _taken(subscription: Subscription) -> str:
    said = either(subscription.types or sorted(FINAL_TYPES))
    if subscription.models:
        said += f", of the models {either(subscription.models)}"
    if subscription.reply_ref is not None:
        said += f", of the replyRef {subscription.reply_ref}"
    return said + (f", of job {subscription.job_id}" if subscription.job_id else "")


def _ahead(delivery: Delivery, lane: Sequence[Delivery]) -> Delivery | None:
    """The one of its lane that goes first, where that is another one."""
    waiting = [
        other for other in lane if other.state in OPEN and other.in_lane_of(delivery.subscription_id, delivery.job_id)
    ]
    first = min(waiting, key=lambda other: other.event_seq, default=delivery)
    return None if first.id == delivery.id else first


def _goes_first(first: Delivery, breaker: Breaker | None, now_ms: int) -> str:
    if first.state == "sending":
        return f"{first.event_type} of the same job goes first, and is being sent now"
    at = f", next at {iso(first.due_at_ms)}" if first.due_at_ms > now_ms else ""
    return f"{first.event_type} of the same job goes first{at}{_stands(first, breaker, now_ms)}"


def _stands(delivery: Delivery, breaker: Breaker | None, now_ms: int) -> str:
    """What stands in the way of one whose time has come, or comes."""
    if breaker is None or breaker.open_until_ms <= max(now_ms, delivery.due_at_ms):
        return ""
    return f"; {_failing(breaker, 'nothing has arrived there')}{_opens(breaker, now_ms)}"


def _failing(breaker: Breaker, said: str = "Nothing has arrived there") -> str:
    return f"{said} since {iso(breaker.since_ms)} ({counted(breaker.failures, 'failure')} in a row)"


def _opens(breaker: Breaker, now_ms: int) -> str:
    if not breaker.opened:
        return ""
    if breaker.trial is not None:
        return ", and one delivery is being tried"
    if breaker.open_until_ms > now_ms:
        return f", so that its breaker is open until {iso(breaker.open_until_ms)}: then one delivery is tried"
    return ", and one delivery is tried next"
