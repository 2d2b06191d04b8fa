"""Which waiting job goes to which account, and when: decided from what the store knows, without I/O or a clock.

The upstream says how many tasks an account may run, and admits more or fewer. So an account is filled to what it was
last seen to admit (`Account.allowed`), and where that is full one more job is tried now and then: at once after each
end, then more and more rarely. A refusal costs nothing but a request; its answer is what the relay goes by.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from relay.core.job import JSON, Mode

# Nothing of ours runs there, so that only another try can find out when there is room.
BUSY_STEPS_MS: Final = (10_000, 20_000, 40_000, 60_000)
PROBE_STEPS_MS: Final = (60_000, 120_000, 240_000, 480_000, 600_000)
EXPLORE_MS: Final = 60_000
PARKED_MS: Final = 600_000
UPSTREAM_DOWN_MS: Final = 60_000

Parked = Literal["no_credits", "broken", "unauthorized"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One upstream account as the store knows it: `slots` is what it is said to run, `admits` what was learnt.

    Nothing goes to it before `retry_at_ms`, nothing beyond what it admits before `probe_at_ms`, no explore job before
    `explore_at_ms`. `refusals` in a row make those times longer. `others` counts tasks that are not this relay's, as of
    the last refusal. `turn` is the token whose job went last, `freed_at_ms` when a task of ours last ended, and `heard`
    that a callback told of it. `busy_answers` counts its 429s of all times.
    `parked` is why it stands apart from the others for a while, `reason` the upstream's sentence about it.
    """

    email: str
    slots: int
    admits: int | None = None
    others: int = 0
    retry_at_ms: int = 0
    probe_at_ms: int = 0
    explore_at_ms: int = 0
    refusals: int = 0
    freed_at_ms: int = 0
    turn: str = ""
    heard: bool = False
    busy_answers: int = 0
    parked: Parked | None = None
    reason: str | None = None
    moderated_at_ms: list[int] = field(default_factory=list, metadata=JSON)
    updated_at_ms: int = 0

    @property
    def allowed(self) -> int:
        """How many of our tasks it is expected to run at the same time."""
        return self.slots if self.admits is None or self.slots == 0 else self.admits


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job; `pinned` is the only account that may run it, if its request names one."""

    job_id: str
    pinned: str | None = None
    token_id: str = ""
    model: str = ""
    mode: Mode = "credits"


@dataclass(frozen=True, slots=True)
class Submit:
    job_id: str
    email: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until_ms` (None: before something changes)."""

    until_ms: int | None


def open_at_ms(account: Account, busy: int) -> int | None:
    """When the account, `busy` of whose tasks run or may run, gets a job next: 0 for now, None when never."""
    if account.slots == 0:
        return None
    return account.retry_at_ms if busy < account.allowed else max(account.retry_at_ms, account.probe_at_ms)


def open_now(now_ms: int, accounts: Sequence[Account], busy: Mapping[str, int]) -> list[Account]:
    """The accounts that have room now, the one with most room first.

    `busy` counts, per e-mail, the attempts whose tasks run or may run.
    """
    room = {account.email: account.allowed - busy.get(account.email, 0) for account in accounts}
    found = [account for account in accounts if account.retry_at_ms <= now_ms and room[account.email] > 0]
    return sorted(found, key=lambda account: (-room[account.email], account.email))


def may_try(now_ms: int, accounts: Sequence[Account], busy: Mapping[str, int]) -> list[Account]:
    """The accounts that may get a job now: those with room, and behind them those that are due for a probe."""
    room = {account.email: account.allowed - busy.get(account.email, 0) for account in accounts}
    times = ((account, open_at_ms(account, busy.get(account.email, 0))) for account in accounts)
    found = [account for account, at_ms in times if at_ms is not None and at_ms <= now_ms]
    return sorted(found, key=lambda account: (-room[account.email], account.email))


def choose(
    now_ms: int,
    accounts: Sequence[Account],
    busy: Mapping[str, int],
    waiting: Sequence[Waiting],
    exploring: Collection[str] = (),
) -> Submit | Wait:
    """The next job for the first account that may run one, or how long to wait for one to open.

    `waiting` holds the jobs of each token in their order; `exploring` names accounts that run an explore job already.
    """
    for account in may_try(now_ms, accounts, busy):
        for job in in_turn(waiting, account.turn):
            if job.pinned in (None, account.email) and (job.mode == "credits" or explores(account, exploring, now_ms)):
                return Submit(job.job_id, account.email)
    times = [open_at_ms(account, busy.get(account.email, 0)) for account in accounts]
    times += [account.explore_at_ms for account in accounts]
    return Wait(min((at_ms for at_ms in times if at_ms is not None and at_ms > now_ms), default=None))


def explores(account: Account, exploring: Collection[str], now_ms: int) -> bool:
    """Whether an explore job may go to the account: one runs at a time."""
    return account.email not in exploring and account.explore_at_ms <= now_ms


def in_turn(waiting: Sequence[Waiting], after: str) -> Iterator[Waiting]:
    """The jobs in the order in which they go: the tokens take turns, the one behind `after` first."""
    queues: dict[str, list[Waiting]] = {}
    for job in waiting:
        queues.setdefault(job.token_id, []).append(job)
    tokens = sorted(queues, key=lambda token: (token <= after, token))
    for place in range(max((len(queue) for queue in queues.values()), default=0)):
        yield from (queues[token][place] for token in tokens if place < len(queues[token]))


def sent(account: Account, busy: int, at_ms: int) -> Account:
    """The account once one more job is on its way, beside `busy` others: after a probe the next has its time."""
    first = busy + 1 == account.allowed and account.probe_at_ms == 0
    if first or busy >= account.allowed:
        return replace(account, probe_at_ms=at_ms + _step_ms(account, busy + 1 if first else busy))
    return account


def admitted(account: Account, busy: int, at_ms: int, *, probe: bool) -> Account:
    """The account once it has taken a task; `busy` counts that task too."""
    after = replace(account, retry_at_ms=0, parked=None, reason=None, updated_at_ms=at_ms)
    if probe and busy > account.allowed:
        # There was more room than was known, and there may be still more.
        return replace(after, admits=busy, others=max(0, account.others - 1), refusals=0, probe_at_ms=at_ms)
    return after


def refused(account: Account, busy: int, others: int | None, sent_at_ms: int, at_ms: int) -> Account:
    """The account once it had no room; `busy` of our tasks ran or may have run, `others` were somebody else's."""
    if sent_at_ms < account.freed_at_ms <= at_ms:
        # A task of ours has ended since: what was refused then may be taken now.
        return replace(account, probe_at_ms=min(account.probe_at_ms, at_ms), updated_at_ms=at_ms)
    tightened = busy < account.allowed
    after = replace(
        account,
        admits=min(account.allowed, busy),
        others=account.others if others is None else others,
        refusals=0 if tightened else account.refusals,
        updated_at_ms=at_ms,
    )
    return replace(after, probe_at_ms=at_ms + _step_ms(after, busy), refusals=after.refusals + 1)


def freed(account: Account, at_ms: int, *, heard: bool = False) -> Account:
    """The account once a task of ours has ended: its place is used at once, and so is what else has become free."""
    retry_at_ms = account.retry_at_ms if account.parked else 0
    return replace(
        account,
        retry_at_ms=retry_at_ms,
        probe_at_ms=at_ms,
        freed_at_ms=at_ms,
        heard=heard,
        refusals=min(account.refusals, 1),
        updated_at_ms=at_ms,
    )


def closed(account: Account, at_ms: int) -> Account:
    """The account once no connection came about; each time in a row waits longer, up to a minute."""
    step_ms = BUSY_STEPS_MS[min(account.refusals, len(BUSY_STEPS_MS) - 1)]
    return replace(account, retry_at_ms=at_ms + step_ms, refusals=account.refusals + 1, updated_at_ms=at_ms)


def _step_ms(account: Account, busy: int) -> int:
    steps_ms = PROBE_STEPS_MS if busy else BUSY_STEPS_MS
    return steps_ms[min(account.refusals, len(steps_ms) - 1)]
