"""Happenings on the upstream's accounts: which there are, and what the answers to creates and the ends of tasks teach.

What an operator should know of them is an event: an account that is parked or restored, or that moderation objects to
again and again, and an upstream that lets nobody in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from relay.core.dispatch import (
    EXPLORE_MS,
    PARKED_MS,
    UPSTREAM_DOWN_MS,
    Account,
    Parked,
    admitted,
    closed,
    freed,
    refused,
)
from relay.core.job import Attempt, Job
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs
from relay.core.outcome import Accepted, BadToken, Busy, NoCredits, NotSent, Outcome, Refused, RunningTask, Unknown
from relay.core.task import account_of

# So many refusals by moderation within an hour get accounts suspended.
MODERATED_OFTEN: Final = 3
MODERATED_WITHIN_MS: Final = 3_600_000
UPSTREAM: Final = "upstream"


@dataclass(frozen=True, slots=True)
class SeenAccount:
    """One account as the upstream or the settings name it; `error` says that the upstream calls it broken."""

    email: str
    slots: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AccountsListed(Happening[tuple[Account, ...]]):
    """The whole list of accounts was read. Those that are no longer in it get no more jobs (no slots).

    `given`: by the settings, so that nobody has asked the upstream. `refused`: it had let nobody in until now.
    """

    seen: tuple[SeenAccount, ...]
    at_ms: int
    given: bool = False
    refused: bool = False

    def needs(self) -> Needs:
        return Needs(accounts=True, subscriptions=True)

    def decide(self, loaded: Loaded) -> Changes[tuple[Account, ...]]:
        draft = Draft(loaded)
        if not self.given:
            loaded = replace(loaded, accounts=_let_in(draft, loaded.accounts, self.at_ms, told=self.refused))
        known = {account.email: account for account in loaded.accounts}
        now = []
        for seen in self.seen:
            before = known.pop(seen.email, None) or Account(email=seen.email, slots=seen.slots)
            after = replace(before, slots=seen.slots, updated_at_ms=self.at_ms)
            if seen.slots != before.slots:
                after = replace(after, admits=None, refusals=0, probe_at_ms=0)
            if seen.error:
                after = _park(draft, after, "broken", seen.error, self.at_ms)
            elif before.parked == "broken":
                after = _restore(draft, after, self.at_ms)
            draft.put(after)
            now.append(after)
        for gone in known.values():
            draft.put(replace(gone, slots=0, updated_at_ms=self.at_ms))
        return draft.changes(tuple(now))


@dataclass(frozen=True, slots=True)
class AccountsRefused(Happening[None]):
    """The upstream was asked for its accounts, and refuses the relay's token; `again`: as it did the last time."""

    message: str
    at_ms: int
    again: bool

    def needs(self) -> Needs:
        return Needs(accounts=True, subscriptions=True)

    def decide(self, loaded: Loaded) -> Changes[None]:
        draft = Draft(loaded)
        _shut_out(draft, loaded.accounts, self.message, self.at_ms, told=self.again)
        return draft.changes(None)


def create_answered(draft: Draft, loaded: Loaded, job: Job, attempt: Attempt, outcome: Outcome, at_ms: int) -> None:
    """What the answer to a create says of the account that it went to."""
    if isinstance(outcome, BadToken):
        _shut_out(draft, loaded.accounts, outcome.message, at_ms)
        return
    accounts = loaded.accounts
    if not isinstance(outcome, Unknown | NotSent):
        accounts = _let_in(draft, accounts, at_ms)
    account = next((known for known in accounts if known.email == attempt.account), None)
    if account is None:
        return
    busy = loaded.busy.get(account.email, 0)
    if isinstance(outcome, Busy):
        account = replace(account, busy_answers=account.busy_answers + 1)
    match outcome:
        case Accepted():
            if account.parked:
                account = _restore(draft, account, at_ms)
            draft.put(admitted(account, busy, at_ms, probe=attempt.probe))
        case Busy() if job.mode == "explore":
            # Perhaps it is somebody else's explore task alone that is in the way.
            draft.put(replace(account, explore_at_ms=at_ms + EXPLORE_MS, updated_at_ms=at_ms))
        case Busy(running=running):
            draft.put(refused(account, busy - 1, _others(attempt, running), attempt.sent_at_ms, at_ms))
        case NotSent():
            draft.put(closed(account, at_ms))
        case NoCredits(message):
            draft.put(_park(draft, account, "no_credits", message, at_ms))
        case Refused(code="moderated"):
            draft.put(moderated(draft, account, at_ms))


def task_ended(draft: Draft, loaded: Loaded, attempt: Attempt, at_ms: int, *, by_moderation: bool) -> None:
    """A task's slot is free."""
    account = loaded.account(attempt.account)
    if account is not None:
        account = freed(account, at_ms, heard=attempt.hinted_at_ms is not None)
        draft.put(moderated(draft, account, at_ms) if by_moderation else account)


def moderated(draft: Draft, account: Account, at_ms: int) -> Account:
    """The account once moderation has refused a job of its; told when that was often."""
    times = [*(then_ms for then_ms in account.moderated_at_ms if at_ms - then_ms < MODERATED_WITHIN_MS), at_ms]
    if len(times) >= MODERATED_OFTEN:
        reason = f"moderation has refused {len(times)} jobs within an hour; that gets accounts suspended"
        draft.warn("account.moderated", account.email, reason, at_ms)
        times = []
    return replace(account, moderated_at_ms=times, updated_at_ms=at_ms)


def _park(draft: Draft, account: Account, why: Parked, reason: str, at_ms: int) -> Account:
    if account.parked != why:
        draft.warn("account.parked", account.email, reason, at_ms)
    return replace(account, parked=why, reason=reason, retry_at_ms=at_ms + PARKED_MS, updated_at_ms=at_ms)


def _restore(draft: Draft, account: Account, at_ms: int) -> Account:
    draft.warn("account.restored", account.email, f"it works again; it was parked for: {account.reason}", at_ms)
    return replace(account, parked=None, reason=None, retry_at_ms=0, updated_at_ms=at_ms)


def _shut_out(draft: Draft, accounts: Sequence[Account], message: str, at_ms: int, *, told: bool = False) -> None:
    """The upstream refuses our token: nothing goes to any account, but for one try a minute."""
    if not told and not any(account.parked == "unauthorized" for account in accounts):
        draft.warn(
            "upstream.down", UPSTREAM, f"it refuses the relay's token, and nothing is submitted: {message}", at_ms
        )
    for account in accounts:
        why, reason = ("unauthorized", message) if account.parked is None else (account.parked, account.reason)
        retry_at_ms = max(account.retry_at_ms, at_ms + UPSTREAM_DOWN_MS)
        draft.put(replace(account, parked=why, reason=reason, retry_at_ms=retry_at_ms, updated_at_ms=at_ms))


def _let_in(draft: Draft, accounts: Sequence[Account], at_ms: int, *, told: bool = False) -> tuple[Account, ...]:
    """The accounts now that the upstream has answered in its own words."""
    if not told and not any(account.parked == "unauthorized" for account in accounts):
        return tuple(accounts)
    draft.warn("upstream.up", UPSTREAM, "it answers again, and jobs go out", at_ms)
    now = tuple(
        replace(account, parked=None, reason=None, retry_at_ms=0, updated_at_ms=at_ms)
        if account.parked == "unauthorized"
        else account
        for account in accounts
    )
    for account in now:
        draft.put(account)
    return now


def _others(attempt: Attempt, running: Sequence[RunningTask]) -> int | None:
    """How many of the tasks that run on the attempt's account are not this relay's; None when nobody said."""
    if not running:
        return None
    ours = attempt.reply_ref.rsplit(":", 2)[0] + ":"
    return sum(
        account_of(task.task_id) == attempt.account and not (task.reply_ref or "").startswith(ours) for task in running
    )
