"""All open streams together: how many there may be, what they share, and who tells those that have caught up.

A stream that has seen everything waits here, without a task of its own. Each commit is told to all whom it concerns in
one go: what those who are shown the same get is made once, and is handed to each one's server in the same turn.
"""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from relay.clock import Clock
from relay.core.event import Event, public
from relay.core.job import Address
from relay.core.sse import Cursor, Form
from relay.feed import ALL, Feed
from relay.store.contract import EventFilter

TICK_S: Final = 1.0
STREAMS_MAX: Final = 10_000
# Open files that streams leave to callbacks, calls out and the database, whatever the system allows in all.
RESERVED_FILES: Final = 400
SEND_MAX_BYTES: Final = 64 * 1024
FRAMES_KEPT: Final = 1_000
READINGS_KEPT: Final = 10_000
BATCHES_KEPT: Final = 250
# So many are told before others have their turn.
TOLD_AT_ONCE: Final = 100
EVENTS_AT_ONCE: Final = 50
# From when many were told until they are told again, for each of them; what comes meanwhile goes in one piece.
PAUSE_A_STREAM_S: Final = 45e-6


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Which events a reader is shown, and how; the same object for all who are shown the same."""

    wanted: EventFilter
    form: Form
    in_public: bool
    # The key of the feed: the one job that it is about, or all.
    key: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What comes next for whoever reads the same from the same place, in one piece; it tells all up to `seq`.

    `last`: the last event in it, None where none is wanted. `final`: a job ends in it.
    """

    body: bytes
    seq: int
    last: Cursor | None
    final: bool


class Follower(Protocol):
    """An open stream. `seq`: everything up to it has been sent, or is not wanted. `waits`: to be told."""

    reading: Reading
    seq: int
    waits: bool

    def wake(self) -> None:
        """Have it look for itself what there is to do."""
        ...

    def offer(self, batch: Batch | None, now_s: float) -> bool:
        """Have it send this next, where there is something to send; None: it must look for itself."""
        ...

    def tick(self, now_s: float) -> None:
        """A second has passed."""
        ...


class Streams:
    """How many streams are open, and their bound (callbacks must always find a place); what they share."""

    def __init__(self, most: int = STREAMS_MAX) -> None:
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = max(1, min(most, allowed - RESERVED_FILES))
        self._pages = 0
        self._open: set[Follower] = set()
        self._waiting: dict[str, set[Follower]] = {}
        # All that wait have been told what they want of everything up to here.
        self._told_seq = 0
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._frames: dict[tuple[str, bool, str], bytes] = {}
        self._readings: dict[tuple[EventFilter, str, bool], Reading] = {}
        self._batches: dict[tuple[Reading, int], Batch | None] = {}
        self._batches_of = 0

    @property
    def open(self) -> int:
        return self._pages + len(self._open)

    @property
    def full(self) -> bool:
        return self.open >= self._most

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a reader of a page that waits, for as long as it is there."""
        self._pages += 1
        try:
            yield
        finally:
            self._pages -= 1

    def join(self, follower: Follower, feed: Feed, clock: Clock, address: Address) -> None:
        """Count a stream, and let it hear the time, until it leaves."""
        self._open.add(follower)
        if not self._tasks:
            self._told_seq = feed.head
            telling = self._tell(feed, clock, address)
            self._tasks = asyncio.create_task(telling), asyncio.create_task(self._tick(clock))

    def leave(self, follower: Follower) -> None:
        """It is over."""
        self.forget(follower)
        self._open.discard(follower)
        if not self._open:
            for task in self._tasks:
                task.cancel()
            self._tasks = ()

    def remember(self, follower: Follower) -> None:
        """It has seen everything up to the head of the feed: from now on it is told."""
        follower.waits = True
        self._waiting.setdefault(follower.reading.key, set()).add(follower)

    def forget(self, follower: Follower) -> None:
        """From now on it looks for itself."""
        if follower.waits:
            follower.waits = False
            follower.seq = max(follower.seq, self._told_seq)
            waiting = self._waiting[follower.reading.key]
            waiting.remove(follower)
            if not waiting:
                del self._waiting[follower.reading.key]

    async def _tick(self, clock: Clock) -> None:
        while True:
            await clock.sleep(TICK_S)
            now_s = clock.monotonic_s()
            self._batches.clear()  # addresses of artifacts in them grow old
            for follower in list(self._open):
                follower.tick(now_s)

    async def _tell(self, feed: Feed, clock: Clock, address: Address) -> None:
        """Tell those who wait of every commit, until the feed closes."""
        while not feed.closing:
            seen, began_s = feed.generation, clock.monotonic_s()
            told = await self._tell_next(feed, began_s, address)
            if told > TOLD_AT_ONCE:
                await clock.sleep(began_s + told * PAUSE_A_STREAM_S - clock.monotonic_s())
            if self._told_seq >= feed.head:
                await feed.changed(seen)
        for follower in self._concerned(None):
            follower.wake()

    async def _tell_next(self, feed: Feed, now_s: float, address: Address) -> int:
        """Tell of the next events; how many streams have anything to send for it."""
        low, newest = self._told_seq, feed.after(self._told_seq)
        if newest == []:
            return 0
        events = newest and newest[:EVENTS_AT_ONCE]
        high = events[-1].seq if events else feed.head
        told = 0
        for count, follower in enumerate(self._concerned(events), 1):
            after = max(follower.seq, low)
            if follower.waits and after < high:
                try:
                    told += follower.offer(self.batch(feed, follower.reading, after, address), now_s)
                except Exception:  # a defect ends this stream, and must not silence all others
                    follower.wake()
            if count % TOLD_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._told_seq = high
        return told

    def _concerned(self, events: list[Event] | None) -> list[Follower]:
        """Who waits for one of these, or for anything."""
        keys = self._waiting if events is None else {ALL, *(event.job_id or ALL for event in events)}
        return [follower for key in keys for follower in self._waiting.get(key, ())]

    def reading(self, wanted: EventFilter, form: Form, *, in_public: bool) -> Reading:
        """The same for all streams that show the same events in the same way; a long filter is nobody else's."""
        made = Reading(wanted, form, in_public, wanted.only_job or ALL)
        if wanted.is_long:
            return made
        if len(self._readings) >= READINGS_KEPT:
            self._readings.clear()
        return self._readings.setdefault((wanted, form.media_type, in_public), made)

    def batch(self, feed: Feed, reading: Reading, seq: int, address: Address) -> Batch | None:
        """What comes after `seq` for such a reader; None: more than fits, or more than the feed has kept."""
        if self._batches_of != feed.head or len(self._batches) >= BATCHES_KEPT:
            self._batches_of = feed.head
            self._batches.clear()
        key = (reading, seq)
        if key not in self._batches:
            self._batches[key] = self._made(feed.after(seq), reading, seq, address)
        return self._batches[key]

    def _made(self, newest: list[Event] | None, reading: Reading, seq: int, address: Address) -> Batch | None:
        if newest is None:
            return None
        newest = newest[:EVENTS_AT_ONCE]
        events = [event for event in newest if reading.wanted.takes(event)]
        body = b"".join(self.frame(reading, event, address) for event in events)
        if len(body) > SEND_MAX_BYTES:
            return None
        last = Cursor(events[-1].seq, events[-1].epoch) if events else None
        return Batch(body, newest[-1].seq if newest else seq, last, any(event.final for event in events))

    def frame(self, reading: Reading, event: Event, address: Address) -> bytes:
        """An event's frame, made once for all streams that send it now; one with artifacts is made anew each time."""
        if reading.in_public:
            event = public(event)
        if event.final:
            return reading.form.frame(event, address)
        key = (reading.form.media_type, reading.in_public, event.id)
        if key not in self._frames:
            if len(self._frames) >= FRAMES_KEPT:
                self._frames.clear()
            self._frames[key] = reading.form.frame(event, address)
        return self._frames[key]
