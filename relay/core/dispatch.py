"""Which waiting job goes to which account, and when: decided from what the store knows, without I/O or a clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

BUSY_STEPS_MS: Final = (10_000, 20_000, 40_000, 60_000)
PARKED_MS: Final = 600_000
UPSTREAM_DOWN_MS: Final = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One upstream account as the store knows it: `slots` at most, nothing before `retry_at_ms`.

    `parked` is why it stands apart from the others for a while, `reason` the upstream's sentence about it.
    """

    email: str
    slots: int
    retry_at_ms: int = 0
    refusals: int = 0
    parked: Literal["no_credits", "broken"] | None = None
    reason: str | None = None
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


def open_now(now_ms: int, accounts: Sequence[Account], busy: Mapping[str, int]) -> list[Account]:
    """The accounts that may get a job now, the one with most room first.

    `busy` counts, per e-mail, the attempts whose tasks run or may run.
    """
    room = {account.email: account.slots - busy.get(account.email, 0) for account in accounts}
    found = [account for account in accounts if account.retry_at_ms <= now_ms and room[account.email] > 0]
    return sorted(found, key=lambda account: (-room[account.email], account.email))


def choose(
    now_ms: int, accounts: Sequence[Account], busy: Mapping[str, int], waiting: Sequence[Waiting]
) -> Submit | Wait:
    """The first waiting job (they come in order) that an open account may run, or how long to wait for one to open."""
    candidates = open_now(now_ms, accounts, busy)
    for job in waiting:
        for account in candidates:
            if job.pinned in (None, account.email):
                return Submit(job.job_id, account.email)
    return Wait(min((account.retry_at_ms for account in accounts if account.retry_at_ms > now_ms), default=None))


def busy_until_ms(account: Account, now_ms: int) -> int:
    """When an account that has just answered 429 is tried again; each refusal in a row waits longer, up to a minute."""
    return now_ms + BUSY_STEPS_MS[min(account.refusals, len(BUSY_STEPS_MS) - 1)]
