"""The only place that decides what becomes of a job: happenings in, changes out.

A **happening** is a frozen value that says what took place (a job was submitted, a callback came, a delivery was
attempted). It names the rows that it has to see (`needs`) and decides (`decide`) from those rows alone what is written:
pure, so that every engine, replica and simulation comes to the same end. The engine loads, applies `Changes`, and
commits; no rule of the domain is written in SQL.

The happenings stand beside this file, by what they are about: `submitting`, `receiving`, `delivering`, `accounts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar, get_args

from relay.core import event as events
from relay.core.artifacts import Keeping, StoredFile
from relay.core.breaker import Breaker
from relay.core.delivery import OPEN, Delivery, Replay, Selection, Subscription, owe, wants
from relay.core.dispatch import Account
from relay.core.event import Event
from relay.core.job import FINAL, JSON, WAYS, Attempt, Job, State

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """One callback as it came, callback secrets masked; `effect` says what it did."""

    seq: int = 0
    job_id: str
    number: int
    at_ms: int
    content_type: str
    sha256: str
    size_bytes: int
    body: bytes = field(metadata={"packed": True})
    status: str | None = None
    progress: float | None = None
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A body that came to a callback door and is not a report on its task."""

    seq: int = 0
    job_id: str | None
    at_ms: int
    reason: str
    content_type: str
    sha256: str
    size_bytes: int
    body: bytes = field(metadata={"packed": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """A task that somebody else submitted and the inbox named: asked about until the upstream answers for it."""

    task_id: str
    job_id: str
    first_at_ms: int
    ask_at_ms: int
    asked: int = 0
    missing: int = 0
    callbacks: int = 0
    callback_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A named token as it is kept, by its hash; what it may do never changes. Limits are in jobs, None for no limit."""

    seq: int = 0
    id: str
    name: str
    hash: str
    scopes: list[str] = field(metadata=JSON)
    max_waiting: int | None = None
    max_per_day: int | None = None
    expires_at_ms: int | None = None
    created_at_ms: int

    def good_at(self, now_ms: int) -> bool:
        """Whether it still opens anything then."""
        return self.expires_at_ms is None or now_ms < self.expires_at_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedKey:
    """An `Idempotency-Key` that made a job. `id` is a hash of token and key, `request_hash` of what was asked for.

    `answered_at_ms`: the drop-in door has answered the create with a taskId, which is the job's for ever.
    """

    id: str
    request_hash: str
    job_id: str
    at_ms: int
    answered_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Nothing is sent to the upstream while there is one: since when and why, and how far the search has come.

    `searched_at_ms`: when the lists of all accounts were searched to their end; `found` counts the attempts that they
    named and this store did not know.
    """

    id: str = "submitting"
    reason: str
    since_ms: int
    searched_at_ms: int | None = None
    found: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Who changed what, by which door; `object` is the id of what was changed or made. No secret is in it."""

    seq: int = 0
    at_ms: int
    token_id: str
    actor: str
    action: str
    object: str | None
    request_id: str


Record = (
    Adoption
    | Job
    | Attempt
    | Event
    | Subscription
    | Delivery
    | Breaker
    | Replay
    | Account
    | Callback
    | Quarantined
    | Token
    | UsedKey
    | StoredFile
    | Hold
    | Deed
)


@dataclass(slots=True, kw_only=True)
class Needs:
    """The rows that a happening has to see. A job brings its attempts, its open deliveries and the subscriptions."""

    job_id: str | None = None
    token_hash: str | None = None
    upstream_task_id: str | None = None
    sha256: str | None = None
    delivery_id: str | None = None
    # `batch` are these deliveries; with them come their subscriptions and breakers, and how much is under way.
    delivery_ids: tuple[str, ...] = ()
    subscription_id: str | None = None
    subscriptions: bool = False
    # With `busy`: how many attempts take a slot of each account.
    accounts: bool = False
    busy: bool = False
    queue_of_token: str | None = None
    # With `queue_of_token`: the jobs that it submitted behind this time are counted, if they are limited.
    jobs_since_ms: int = 0
    tokens: bool = False
    # `earlier` is the job that this key made, or the retry of this job that has not ended.
    used_key: str | None = None
    retry_of: str | None = None
    # The job that has this task of the upstream's, and all events of this job.
    owner_of: str | None = None
    events_of: str | None = None
    # `batch` are the first of these deliveries; with them come the open ones of their lanes.
    batch: Selection | None = None
    replay_id: str | None = None
    # What is kept, or to be kept, of this job's files.
    files_of: str | None = None
    hold: bool = False


@dataclass(slots=True, kw_only=True)
class Loaded:
    """What the engine found, read in the very transaction that will write."""

    epoch: str
    next_seq: int
    job: Job | None = None
    attempts: tuple[Attempt, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    open_deliveries: tuple[Delivery, ...] = ()
    delivery: Delivery | None = None
    subscription: Subscription | None = None
    # That of the delivery's, or of the subscription's, place.
    breaker: Breaker | None = None
    breakers: tuple[Breaker, ...] = ()
    # How many deliveries are under way to a place.
    under_way: Mapping[str, int] = field(default_factory=dict)
    batch: tuple[Delivery, ...] = ()
    replay: Replay | None = None
    accounts: tuple[Account, ...] = ()
    busy: Mapping[str, int] = field(default_factory=dict)
    adoption: Adoption | None = None
    adoptions: int = 0
    callback_seen: bool = False
    queued: int = 0
    queued_of_token: int = 0
    # All living ones, or the one whose queue was asked for.
    tokens: tuple[Token, ...] = ()
    jobs_since: int = 0
    oldest_since_ms: int | None = None
    used_key: UsedKey | None = None
    earlier: Job | None = None
    owner: str | None = None
    events: tuple[Event, ...] = ()
    files: tuple[StoredFile, ...] = ()
    hold: Hold | None = None
    # None: this relay keeps no files.
    keeping: Keeping | None = None

    def account(self, email: str) -> Account | None:
        return next((account for account in self.accounts if account.email == email), None)

    def file(self, file_id: str) -> StoredFile | None:
        return next((file for file in self.files if file.id == file_id), None)

    def attempt(self, number: int) -> Attempt | None:
        return next((attempt for attempt in self.attempts if attempt.number == number), None)

    def attempt_of_token(self, token_hash: str) -> Attempt | None:
        return next((attempt for attempt in self.attempts if attempt.token_hash == token_hash), None)


@dataclass(frozen=True, slots=True)
class Changes(Generic[R]):
    """What is written: `puts` are inserted, or replace the row of the same key; `result` goes to the caller.

    `quiet`: no worker has to look, unless a delivery is among it. `shift_ms`: all open waits are moved by it, first.
    """

    result: R
    puts: tuple[Record, ...] = ()
    drops: tuple[Record, ...] = ()
    quiet: bool = False
    shift_ms: int = 0

    @property
    def concerns_workers(self) -> bool:
        """Whether a worker may have something to do because of this; `quiet` changes at most owe a delivery."""
        return any(isinstance(record, Delivery) or not self.quiet for record in (*self.puts, *self.drops))


class Happening(Generic[R]):
    """Base of all happenings; subclasses are frozen dataclasses."""

    __slots__ = ()

    def needs(self) -> Needs:
        raise NotImplementedError

    def decide(self, loaded: Loaded) -> Changes[R]:
        raise NotImplementedError


class IllegalStep(AssertionError):
    """A happening tried a way that the table of states does not have: a defect of ours, and nothing is written."""


# Rows of which there is never a later version: the table gives them their numbers.
ADDED: Final = frozenset({Callback, Quarantined, Deed})
# The fields by which a row is known.
KEYS: Final[dict[type, tuple[str, ...]]] = dict.fromkeys(get_args(Record), ("id",)) | {
    **dict.fromkeys((*ADDED, Event), ("seq",)),
    Attempt: ("job_id", "number"),
    Account: ("email",),
    Adoption: ("task_id",),
    Breaker: ("place",),
}
_READ_KEY: Final = {kind: attrgetter(*names) for kind, names in KEYS.items()}


def key_of(record: Record) -> object:
    """The same for all versions of one row, and for no other."""
    kind = type(record)
    return object() if kind in ADDED else (kind, _READ_KEY[kind](record))


class Draft:
    """Collects what one happening changes, and keeps order: event numbers, lanes, one last version a row."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._next_seq = loaded.next_seq
        self._puts: dict[Any, Record] = {}
        self._drops: list[Record] = []
        self._open = list(loaded.open_deliveries)

    @property
    def keeping(self) -> Keeping | None:
        return self._loaded.keeping

    def put(self, record: Record) -> None:
        """Write `record`; a later version of the same row takes the place of an earlier one."""
        self._puts[key_of(record)] = record

    def drop(self, record: Record) -> None:
        self._drops.append(record)

    def step(self, before: Job, after: Job) -> None:
        """Write a job that has changed its state, by one of the ways in the table."""
        check_step(before.state, after.state)
        self.put(after)

    def move(self, job: Job, state: State, at_ms: int, *, told: bool = True, **changes: Any) -> Job:
        """Write the job in another state, which ends it when that is final, and the event that tells of it."""
        if state in FINAL:
            changes["finished_at_ms"] = at_ms
        after = replace(job, state=state, updated_at_ms=at_ms, **changes)
        self.step(job, after)
        if told:
            self.tell(after, "job.submitted" if state == "running" else f"job.{state}", at_ms)
        return after

    def tell(self, job: Job, event_type: str, at_ms: int) -> None:
        """Write an event about `job`, and owe it to every subscription that wants it, in the same transaction."""
        event = events.of_job(job, event_type, epoch=self._loaded.epoch, seq=self._next_seq, at_ms=at_ms)
        self._next_seq += 1
        self._write(event)

    def _write(self, event: Event) -> None:
        self.put(event)
        for subscription in self._loaded.subscriptions:
            if wants(subscription, event):
                # What belongs to no job waits for nothing.
                lane = [d for d in self._open if event.job_id and d.in_lane_of(subscription.id, event.job_id)]
                changed = owe(subscription, event, lane)
                for delivery in changed:
                    self.put(delivery)
                ids = {delivery.id for delivery in changed}
                self._open = [d for d in self._open if d.id not in ids] + [d for d in changed if d.state in OPEN]

    def warn(self, event_type: str, subject: str, reason: str, at_ms: int) -> None:
        """Write an operator event, and owe it like all others."""
        event = events.of_operator(
            event_type, subject, reason, epoch=self._loaded.epoch, seq=self._next_seq, at_ms=at_ms
        )
        self._next_seq += 1
        self._write(event)

    def changes(self, result: R, *, quiet: bool = False) -> Changes[R]:
        return Changes(result, tuple(self._puts.values()), tuple(self._drops), quiet)


def check_step(before: State, after: State) -> None:
    if after != before and after not in WAYS[before]:
        raise IllegalStep(f"a job cannot go from {before} to {after}")


def nothing(result: R) -> Changes[R]:
    """No change at all."""
    return Changes(result)


def lane_of(delivery: Delivery, open_deliveries: tuple[Delivery, ...]) -> list[Delivery]:
    """The other open deliveries of the same job to the same subscription, oldest first; none where there is no job."""
    lane = [
        other
        for other in open_deliveries
        if other.in_lane_of(delivery.subscription_id, delivery.job_id)
        and other.job_id is not None
        and other.id != delivery.id
        and other.state in OPEN
    ]
    return sorted(lane, key=lambda other: other.event_seq)
