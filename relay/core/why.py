"""Why a job is where it is: what it has done, what it waits for and what comes next, in sentences with their facts."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from relay.core.breaker import Breaker
from relay.core.delivery import Delivery, Subscription
from relay.core.dispatch import Account
from relay.core.job import Attempt, Job, Outlook, iso
from relay.core.ledger import Hold
from relay.core.why_delivery import delivery_sentence
from relay.core.wording import counted


def explain(
    job: Job,
    attempts: Sequence[Attempt],
    deliveries: Sequence[Delivery],
    accounts: Sequence[Account],
    busy: Mapping[str, int],
    outlook: Outlook,
    *,
    now_ms: int,
    in_doubt_after_s: float,
    hold: Hold | None = None,
    subscriptions: Mapping[str, Subscription] = MappingProxyType({}),
    breakers: Mapping[str, Breaker] = MappingProxyType({}),
) -> dict[str, Any]:
    """`{"sentences", "facts"}`; `busy` counts the taken slots of each account, deliveries come newest first.

    `subscriptions` are those of open deliveries, `breakers` all there are, by their places.
    """
    told = [_accepted(job), *(_attempt(attempt) for attempt in attempts)]
    match job.state:
        case "queued":
            if hold is not None:
                told.append(_held(hold))
            told += _waits(job, accounts, busy, outlook, now_ms)
        case "submitting":
            told.append("The request to create its task is on its way, and nobody has answered yet.")
        case "in_doubt":
            told += _in_doubt(attempts, in_doubt_after_s)
        case "running":
            told += _runs(job, attempts, outlook, now_ms)
        case "succeeded":
            told.append(f"It succeeded at {iso(job.finished_at_ms)} with {counted(len(job.artifacts), 'artifact')}.")
        case _:
            told.append(_failed(job))
    if notice := still_renders(job, attempts):
        told.append(notice)
    if job.erased_at_ms is not None:
        told.append(f"What was asked for and what came of it was erased at {iso(job.erased_at_ms)}.")
    for delivery in reversed(deliveries):
        to = subscriptions.get(delivery.subscription_id)
        told.append(delivery_sentence(delivery, to, breakers.get(to.place) if to else None, deliveries, now_ms))
    if job.final and not deliveries:
        told.append("Nobody was told of it: no subscription takes its events.")
    return {"sentences": told, "facts": _facts(job, attempts, deliveries, accounts, busy, outlook)}


def still_renders(job: Job, attempts: Sequence[Attempt]) -> str | None:
    """What a cancelled job's task is still doing at the upstream; None when there is none."""
    current = next((attempt for attempt in attempts if attempt.occupying), None)
    if job.state != "cancelled" or current is None:
        return None
    does = f"still renders {current.upstream_task_id}" if current.state == "created" else "may still render it"
    return (
        f"The upstream cannot be told to stop: it {does}, may charge for it, and the slot on {current.account} stays "
        "taken until it has ended; what comes of it is kept on this job, and no event tells of it."
    )


def _accepted(job: Job) -> str:
    late = next((problem for problem in job.problems if problem["rule"] in ("late_task", "restored")), None)
    if late is not None and job.origin == "adopted":
        return f"Adopted at {iso(job.created_at_ms)}: {late['message']}."
    door = {"api": "POST /v1/jobs", "dropin": "the drop-in door", "adopted": "the callback inbox"}[job.origin]
    return f"Accepted at {iso(job.created_at_ms)} from {job.submitted_by} through {door}."


def _attempt(attempt: Attempt) -> str:
    began = f"Attempt {attempt.number} on {attempt.account} at {iso(attempt.sent_at_ms)}"
    match attempt.state:
        case "sending":
            return f"{began}: sent, no answer yet."
        case "created":
            return f"{began}: the upstream runs it as {attempt.upstream_task_id}."
        case "unknown":
            return f"{began}: nobody knows whether the upstream took it ({attempt.detail})."
        case "not_created":
            return f"{began}: not taken ({attempt.detail})."
        case _:
            more = f" ({attempt.detail})" if attempt.detail else ""
            return f"{began}: ended at {iso(attempt.ended_at_ms)}{more}."


def _held(hold: Hold) -> str:
    searched = f"searched until {iso(hold.searched_at_ms)}" if hold.searched_at_ms else "being searched"
    return (
        f"Submitting is held since {iso(hold.since_ms)}: {hold.reason}. The upstream is {searched} for what was sent "
        f"and lost ({counted(hold.found, 'task')} found); `relay resume` lets the queue move."
    )


def _waits(
    job: Job, accounts: Sequence[Account], busy: Mapping[str, int], outlook: Outlook, now_ms: int
) -> Iterator[str]:
    ahead = (outlook.queue_position or 1) - 1
    place = "it is next" if ahead == 0 else f"{counted(ahead, 'job')} ahead"
    usable = [account for account in accounts if account.slots and job.pinned in (None, account.email)]
    if not usable:
        yield f"Waits: no account is known that could run it{f' but {job.pinned}' if job.pinned else ''}; {place}."
    for account in usable:
        taken = f"{busy.get(account.email, 0)} of {account.allowed} running"
        if account.others:
            taken += f" and {counted(account.others, 'task')} of somebody else's"
        if account.parked is not None and account.retry_at_ms > now_ms:
            yield f"{account.email} is parked ({account.reason}) and is tried again at {iso(account.retry_at_ms)}."
        elif account.retry_at_ms > now_ms:
            yield f"{account.email} could not be reached and is tried again at {iso(account.retry_at_ms)} ({taken})."
        else:
            yield f"Waits for a slot on {account.email}: {taken}; {place}."
    if outlook.starts_at_ms is not None:
        yield f"It should start {_in(outlook.starts_at_ms, now_ms)}."
    if job.deadline_ms is not None:
        yield f"It fails if it has not started by {iso(job.deadline_ms)}."


def _in_doubt(attempts: Sequence[Attempt], in_doubt_after_s: float) -> Iterator[str]:
    for attempt in attempts:
        if attempt.state == "unknown":
            ends = iso(attempt.sent_at_ms + int(in_doubt_after_s * 1000))
            yield (
                f"Attempt {attempt.number} was looked for {counted(attempt.asked, 'time')}, and is again at "
                f"{iso(attempt.ask_at_ms)}. It may be paid for, so it is never sent again by itself; "
                f"if it is not found by {ends}, the job fails with submit_unknown."
            )
            if attempt.candidates:
                yield (
                    f"{counted(len(attempt.candidates), 'task')} with the same prompt began near it on "
                    f"{attempt.account} (see candidates); the relay does not guess, but who knows can POST …/resolve."
                )


def _runs(job: Job, attempts: Sequence[Attempt], outlook: Outlook, now_ms: int) -> Iterator[str]:
    yield f"The upstream says {job.upstream_status or 'nothing yet'}, {job.progress:.0%}."
    current = next((attempt for attempt in attempts if attempt.state == "created"), None)
    if current is not None and current.hinted_at_ms is not None:
        yield f"Reported as finished at {iso(current.hinted_at_ms)}, waiting for the upstream to confirm."
    if current is not None and current.empty_since_ms is not None:
        yield f"The upstream says that it succeeded, but has had no file of it since {iso(current.empty_since_ms)}."
    if current is not None and current.missing:
        yield f"The upstream has denied it {counted(current.missing, 'time')} since {iso(current.missing_since_ms)}."
    if current is not None and current.ask_at_ms is not None:
        yield f"It is asked about next {_in(current.ask_at_ms, now_ms)}, or at once when a callback says that it ended."
    if job.artifacts:
        yield "Its files are being kept, for 10 minutes at most, before it is told that it succeeded."
    if outlook.ends_at_ms is not None:
        yield f"It should end {_in(outlook.ends_at_ms, now_ms)}."


def _failed(job: Job) -> str:
    if job.state == "cancelled":
        return f"It was cancelled at {iso(job.finished_at_ms)}."
    error = job.error or {}
    again = "a new try may succeed" if error.get("retryable") else "the same again would fail again"
    return (
        f"It {job.state} at {iso(job.finished_at_ms)}: {error.get('code', job.state)}, {error.get('message')}; {again}."
    )


def _facts(
    job: Job,
    attempts: Sequence[Attempt],
    deliveries: Sequence[Delivery],
    accounts: Sequence[Account],
    busy: Mapping[str, int],
    outlook: Outlook,
) -> dict[str, Any]:
    current = attempts[-1] if attempts else None
    return {
        "state": job.state,
        "queuePosition": outlook.queue_position,
        "startsAt": iso(outlook.starts_at_ms),
        "endsAt": iso(outlook.ends_at_ms),
        "attempts": len(attempts),
        "attemptState": current.state if current else None,
        "tries": [
            {
                "attempt": attempt.number,
                "account": attempt.account,
                "state": attempt.state,
                "detail": attempt.detail,
                "sentAt": iso(attempt.sent_at_ms),
                "endedAt": iso(attempt.ended_at_ms),
                "asked": attempt.asked,
                "callbacks": attempt.callbacks,
            }
            for attempt in attempts
        ],
        "askedNextAt": iso(current.ask_at_ms) if current else None,
        "reportedFinishedAt": iso(current.hinted_at_ms) if current else None,
        "candidates": (current.candidates if current and current.state == "unknown" else None) or [],
        "accounts": [
            {
                "email": account.email,
                "slots": account.slots,
                "admits": account.allowed,
                "running": busy.get(account.email, 0),
                "parked": account.parked,
                "retryAt": iso(account.retry_at_ms or None),
            }
            for account in accounts
        ],
        "deliveries": {state: sum(d.state == state for d in deliveries) for state in {d.state for d in deliveries}},
    }


def _in(at_ms: int, now_ms: int) -> str:
    """A time as somebody would say it."""
    seconds = max(0, round((at_ms - now_ms) / 1000))
    if seconds < 90:
        return f"in about {seconds} s"
    minutes = round(seconds / 60)
    return f"in about {minutes} min" if minutes < 90 else f"in about {round(minutes / 60)} h"
