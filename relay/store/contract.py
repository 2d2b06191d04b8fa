"""What every engine promises: one writer that decides and commits, and readers that see what is committed.

`apply` returns only after the commit is durable. Reads see every commit that was acknowledged before they began. Lists
are bounded by their `limit`. An engine that cannot write raises `Unavailable`, and comes back by itself.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from relay.core.artifacts import StoredFile
from relay.core.breaker import Breaker
from relay.core.delivery import Delivery, Replay, Selection, Subscription
from relay.core.dispatch import Account, Waiting
from relay.core.estimate import Running
from relay.core.event import Event
from relay.core.job import Attempt, Job
from relay.core.ledger import Adoption, Callback, Deed, Happening, Hold, Quarantined, Token, UsedKey
from relay.core.stats import Tally
from relay.store.trimming import Kind

R = TypeVar("R")

PAGE_MAX: Final = 200
# How many jobs are looked at for one page. Those that one of the filters chooses may be many, and the others' rare.
LOOKED_AT_MAX: Final = 2_000
EVENTS_PAGE: Final = 500
LONG_FILTER_CHARS: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list; an empty tuple is no condition, several values of one field are alternatives."""

    state: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    reply_ref: tuple[str, ...] = ()
    account: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    token_id: tuple[str, ...] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    # All of these are in the prompt; each is a word, whatever it looks like.
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs of a list, without `request` and `task`; `next_seq` is what the next page begins before, None at the end."""

    jobs: list[Job]
    next_seq: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events to read; an empty tuple is no condition, several values of one field are alternatives."""

    job_id: tuple[str, ...] = ()
    reply_ref: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    type: tuple[str, ...] = ()
    token_id: tuple[str, ...] = ()
    of_jobs_only: bool = False

    def takes(self, event: Event) -> bool:
        """Whether this very event is among them: the same that `Store.events_after` asks the database."""
        if self.of_jobs_only and event.job_id is None:
            return False
        return all(not values or getattr(event, name) in values for name, values in self._conditions())

    @property
    def is_long(self) -> bool:
        """Whether it has more text than anybody needs who follows a few jobs."""
        return sum(len(value) for _, values in self._conditions() for value in values if value) > LONG_FILTER_CHARS

    @property
    def only_job(self) -> str | None:
        """The one job that all of them are about, if that is so."""
        return self.job_id[0] if len(self.job_id) == 1 else None

    def _conditions(self) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
        names = ("job_id", "reply_ref", "model", "type")
        # Operator events are nobody's, and `of_jobs_only` alone decides on them.
        token_ids = (*self.token_id, None) if self.token_id else ()
        return (*((name, getattr(self, name)) for name in names), ("token_id", token_ids))


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that may go now to its `place`."""

    delivery_id: str
    place: str


@dataclass(frozen=True, slots=True)
class Totals:
    """How much there is of everything; of what is owed at most as many are looked at as was asked."""

    owed: int
    oldest_owed_at_ms: int | None
    breakers_open: int
    quarantined: int
    files: int
    file_bytes: int
    subscriptions: dict[str, int]


class Store(Protocol):
    """The durable store, as the rest of the relay sees it."""

    @property
    def instance(self) -> str:
        """8 hex digits that name this relay in its replyRefs."""
        ...

    @property
    def epoch(self) -> str:
        """The first part of the ids of events written now."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other relays may be at work on the same database."""
        ...

    def leading(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Enters when the workers of this relay are the ones to work; the event is set when they are no more."""
        ...

    async def apply(self, happening: Happening[R]) -> R:
        """Decide and commit; the result is what the happening answers."""
        ...

    def begin(self, happening: Happening[R]) -> "asyncio.Future[R]":
        """The same, for whoever does not wait; raises `Unavailable` at once when too much waits already."""
        ...

    async def head(self) -> int:
        """The number of the newest event, 0 when there is none."""
        ...

    async def earliest(self) -> int:
        """The number of the oldest event that is still kept, `head() + 1` when there is none."""
        ...

    async def seq_at(self, at_ms: int) -> int:
        """The number of the last event before `at_ms`, 0 when there is none."""
        ...

    async def events_after(self, seq: int, wanted: EventFilter, limit: int) -> list[Event]:
        """Events behind `seq`, oldest first."""
        ...

    async def event(self, seq: int) -> Event | None: ...

    async def job(self, any_id: str) -> Job | None:
        """A job by its id or by any of its task ids."""
        ...

    async def jobs(self, wanted: JobFilter, before_seq: int | None, limit: int) -> list[Job]:
        """Jobs before `before_seq`, newest first by insertion number."""
        ...

    async def job_page(self, wanted: JobFilter, before_seq: int | None, limit: int) -> JobPage:
        """The same for lists: at most so many, and fewer where many others would have to be looked at to find more."""
        ...

    async def queue_positions(self, jobs: Sequence[Job]) -> dict[str, int]:
        """By their ids, of those that wait: 1 for the job that is next."""
        ...

    async def waiting(self, accounts: Sequence[str], explorable: Sequence[str], limit: int) -> list[Waiting]:
        """Each token's first job that may run on one of these accounts, or in explore mode on one of `explorable`."""
        ...

    async def queue(self, limit: int) -> list[Waiting]:
        """The head of the queue, the tokens taking turns; each token's jobs by priority, then by age."""
        ...

    async def took_ms(self, model: str, mode: str, limit: int) -> list[int]:
        """How long the last tasks of this model and mode took that succeeded, from submission to their end."""
        ...

    async def stranded(self, accounts: Sequence[str], limit: int) -> list[Waiting]:
        """Queued jobs that are pinned to an account which is not among these."""
        ...

    async def overdue(self, now_ms: int, limit: int) -> list[str]:
        """Queued jobs whose deadline has passed."""
        ...

    async def next_deadline_ms(self) -> int | None:
        """The first deadline of all queued jobs."""
        ...

    async def running(self, limit: int) -> list[Running]:
        """Attempts that take a slot, with the mode of their job."""
        ...

    async def count_by_state(self) -> dict[str, int]:
        """How many jobs are in each state that is not final."""
        ...

    async def tallies(self, since_ms: int) -> list[Tally]:
        """What was counted since then, which is the beginning of a day of UTC, and the jobs that have not ended."""
        ...

    async def ends_by_time(self, since_ms: int, step_ms: int) -> list[Tally]:
        """How many jobs ended how since then, for each step of so many ms (hours, or days)."""
        ...

    async def accounts(self) -> list[Account]: ...

    async def hold(self) -> Hold | None:
        """Why nothing is sent to the upstream now; None: nothing forbids it."""
        ...

    async def knows_attempts(self) -> bool:
        """Whether anything has ever been sent that is still known of."""
        ...

    async def busy(self) -> dict[str, int]:
        """Attempts that take a slot, counted per account."""
        ...

    async def exploring(self) -> set[str]:
        """The accounts of which an explore task takes a slot."""
        ...

    async def attempts(self, job_id: str) -> list[Attempt]: ...

    async def attempts_due(self, now_ms: int, limit: int) -> list[Attempt]:
        """Attempts that the upstream should be asked about now, the longest overdue first."""
        ...

    async def next_ask_ms(self, after_ms: int) -> int | None:
        """When, behind that time, the next attempt has to be asked about."""
        ...

    async def attempts_sending(self, before_ms: int = 2**62) -> list[Attempt]:
        """Attempts that were sent until then and whose answer never came, because whoever sent them is gone."""
        ...

    async def adoptions_due(self, now_ms: int, limit: int) -> list[Adoption]:
        """Tasks that the inbox named and the upstream should be asked about now."""
        ...

    async def next_adoption_ms(self, after_ms: int) -> int | None:
        """When, behind that time, the next of those is asked about."""
        ...

    async def callbacks(self, job_id: str, after_seq: int, limit: int) -> list[Callback]: ...

    async def quarantine(self, before_seq: int | None, limit: int) -> list[Quarantined]: ...

    async def trim_quarantine(self, max_entries: int, max_bytes: int, rows: int) -> int:
        """Delete the oldest, as long as one of the bounds does not hold; how many were deleted, at most `rows`."""
        ...

    async def deeds(self, wanted: Mapping[str, str], before_seq: int | None, limit: int) -> list[Deed]:
        """Who did what, newest first; `wanted` may name an `actor` (a token's name or id), `action` and `object`."""
        ...

    async def used_key(self, key: str) -> UsedKey | None:
        """What an `Idempotency-Key` has made, by the hash that it is kept as."""
        ...

    async def trim(self, kind: Kind, before_ms: int, rows: int) -> int:
        """Delete the oldest rows of a kind that are from before that time and of no use; how many, at most `rows`."""
        ...

    async def subscriptions(self) -> list[Subscription]:
        """All but those of single jobs."""
        ...

    async def subscription(self, subscription_id: str) -> Subscription | None: ...

    async def tokens(self) -> list[Token]:
        """The living ones, oldest first."""
        ...

    async def token(self, token_id: str) -> Token | None: ...

    async def token_of_hash(self, token_hash: str) -> Token | None: ...

    async def deliveries_due(self, now_ms: int, room: int, limit: int) -> list[Due]:
        """What may go now to active subscriptions: as much as `room` at a place has left, which is one where it fails.

        Nothing for places whose breaker is open, nor, unless it is late, for those that another relay sends to.
        """
        ...

    async def next_due_ms(self, room: int) -> int | None:
        """When the next delivery may go to a place to which fewer than `room` are under way."""
        ...

    async def deliveries_sending(self, lease_before_ms: int | None, limit: int) -> list[Delivery]:
        """Deliveries whose lease ended before that time (None: all)."""
        ...

    async def deliveries(self, wanted: Selection, before_seq: int | None, limit: int) -> list[Delivery]:
        """Newest first by insertion number, with the states that the doors show (`held` among them)."""
        ...

    async def delivery(self, delivery_id: str) -> Delivery | None:
        """One of them, likewise."""
        ...

    async def count_deliveries(self, wanted: Selection) -> tuple[int, int]:
        """How many they are, by their stored states, and the insertion number of the last one."""
        ...

    async def owed(self) -> dict[str, int]:
        """How many deliveries of each subscription have not ended."""
        ...

    async def totals(self, owed_max: int) -> Totals:
        """Counts for whoever watches the relay, by state for standing subscriptions."""
        ...

    async def shown_urls(self, subscription_ids: Sequence[str]) -> dict[str, str]:
        """What may be shown of the addresses of these subscriptions."""
        ...

    async def breakers(self) -> list[Breaker]:
        """Of all places where the last delivery did not arrive."""
        ...

    async def replay(self, replay_id: str) -> Replay | None: ...

    async def replays_running(self, limit: int) -> list[Replay]:
        """Those that have not come to their end, oldest first."""
        ...

    async def file(self, file_id: str) -> StoredFile | None: ...

    async def files(
        self, state: Sequence[str], job_id: Sequence[str], before_seq: int | None, limit: int
    ) -> list[StoredFile]:
        """What is kept and to be kept, newest first by insertion number; an empty filter is none."""
        ...

    async def files_due(self, now_ms: int, limit: int) -> list[StoredFile]:
        """What is to be fetched now, the longest overdue first."""
        ...

    async def files_doomed(self, limit: int) -> list[StoredFile]:
        """What is to be removed from the storage, oldest first."""
        ...

    async def next_file_ms(self, after_ms: int) -> int | None:
        """When, behind that time, the next file is to be fetched, or a held end is to be told."""
        ...

    async def files_held(self, until_ms: int, limit: int) -> list[str]:
        """The jobs whose ends were held back until that time at the latest."""
        ...

    async def files_to_go(self, kept_before_ms: int, max_bytes: int | None, limit: int) -> list[str]:
        """The jobs whose kept files are older than that, or do not fit with all newer ones; none that is still owed."""
        ...

    async def jobs_to_go(self, ended_before_ms: int, limit: int) -> list[str]:
        """The jobs that ended before that time, of which nothing is owed and no attempt takes a slot; oldest first."""
        ...

    async def files_kept(self, file_ids: Sequence[str]) -> dict[str, str]:
        """The paths of those files that are kept, by their ids."""
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Path]:
        """A sound copy of all that is committed now, in a file that is gone afterwards; `Conflict` for a second one."""
        ...

    async def check(self) -> None:
        """Write and read something; raises `Unavailable` when the store cannot."""
        ...

    async def close(self) -> None: ...
