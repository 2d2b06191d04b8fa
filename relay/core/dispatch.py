"""Which waiting job goes to which account, and when: decided from what the store knows, without I/O or a clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

BUSY_STEPS_MS: Final = (10_000, 20_000, 40_000, 60_000)
PARKED_MS: Final = 600_000
UPSTREAM_DOWN_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One upstream account as the store knows it: `slots` at most, nothing before `retry_at_ms`, `parked` says why."""

    email: str
    slots: int
    retry_at_ms: int = 0
    refusals: int = 0
    parked: str | None = None
    updated_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job; `pinned` is the only account that may run it, if its request names one."""

    job_id: str
    pinned: str | None = None


@dataclass(frozen=True, slots=True)
class Submit:
    job_id: str
    email: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until_ms` (None: before something changes)."""

    until_ms: int | None


def choose(now_ms: int, accounts: Sequence[Account], busy: dict[str, int], waiting: Sequence[Waiting]) -> Submit | Wait:
    """The first waiting job (they come in order) that some account has room for, or how long to wait.

    `busy` counts, per e-mail, the attempts whose tasks run or may run. The account with most room takes a free job.
    """
    room = {account.email: account.slots - busy.get(account.email, 0) for account in accounts}
    open_now = [account for account in accounts if account.retry_at_ms <= now_ms and room[account.email] > 0]
    open_now.sort(key=lambda account: (-room[account.email], account.email))
    for job in waiting:
        for account in open_now:
            if job.pinned in (None, account.email):
                return Submit(job.job_id, account.email)
    if not waiting:
        return Wait(None)
    later = [a.retry_at_ms for a in accounts if a.retry_at_ms > now_ms and room[a.email] > 0]
    return Wait(min(later, default=None))


def busy_until_ms(account: Account, now_ms: int) -> int:
    """When an account that has just answered 429 is tried again; each refusal in a row waits longer, up to a minute."""
    return now_ms + BUSY_STEPS_MS[min(account.refusals, len(BUSY_STEPS_MS) - 1)]
