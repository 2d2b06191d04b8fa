"""Open streams: each follows the log from its position on, and ends by itself.

A stream reads the store, sends, and when there is nothing more waits for the feed: there is no hand-over between
history and live, hence no gap and no double. It is plain ASGI, for middleware that wraps responses costs four times as
much a frame. What all who read the same from the same place get next is made once; one ticker is the timer of all.
"""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.clock import Clock, wait_at_most
from relay.core import sse
from relay.core.event import Event, public
from relay.core.job import Address, event_view, public_view
from relay.core.sse import HEARTBEAT_S, Cursor, Form
from relay.errors import Unavailable
from relay.feed import ALL, Feed
from relay.store.contract import EVENTS_PAGE, EventFilter
from relay.vault import jitter
from relay.web.forecast import outlook_of
from relay.web.guard import Principal
from relay.web.leaving import gone

RETRY_MS: Final = (1_500, 4_500)
SEND_S: Final = 30.0
TICK_S: Final = 1.0
# Less than from one heartbeat to the next: a reader whose token was revoked hears at most one more.
TRUST_S: Final = HEARTBEAT_S / 2
STREAMS_MAX: Final = 10_000
# Open files that streams leave to callbacks, calls out and the database, whatever the system allows in all.
RESERVED_FILES: Final = 400
SEND_MAX_BYTES: Final = 64 * 1024
FRAMES_KEPT: Final = 1_000
SHAPES_KEPT: Final = 10_000
# The first of many must not wait for all of them.
FIRST_PAGE: Final = 32


@dataclass(frozen=True, slots=True)
class Start:
    """Where a reader begins; `gap` says that events between its position and here may be missing.

    `head`: the end of the log, where that is where it begins. `is_over`: nothing comes after what is missing.
    """

    cursor: Cursor
    requested: Cursor | None = None
    gap: bool = False
    head: int | None = None
    is_over: bool = False


async def is_over(state: Any, job_id: str, seq: int) -> bool:
    """Whether a job has ended and a reader at `seq` has seen all of it."""
    job = await state.store.job(job_id)
    return bool(job.final) and not await state.store.events_after(seq, EventFilter(job_id=(job_id,)), 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """What comes next for whoever reads the same from the same place, in one piece; `last` is where it ends."""

    body: bytes
    last: Cursor | None
    final: bool


class Streams:
    """How many streams are open, and their bound (callbacks must always find a place); what they share."""

    def __init__(self, most: int = STREAMS_MAX) -> None:
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = max(1, min(most, allowed - RESERVED_FILES))
        self._pages = 0
        self._following: set[EventStream] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._frames: dict[tuple[str, bool, str], bytes] = {}
        self._shapes: dict[tuple[EventFilter, str, bool], int] = {}
        self._next_shape = count()
        self._batches: dict[tuple[int, int], Batch | None] = {}
        self._batches_of = 0

    @property
    def open(self) -> int:
        return self._pages + len(self._following)

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

    @contextmanager
    def followed_by(self, stream: "EventStream", clock: Clock) -> Iterator[None]:
        """Count a stream, and let it hear the time, for as long as it is there."""
        self._following.add(stream)
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick(clock), name="streams")
        try:
            yield
        finally:
            self._following.discard(stream)
            if not self._following:
                self._ticking.cancel()
                self._ticking = None

    async def _tick(self, clock: Clock) -> None:
        while True:
            await clock.sleep(TICK_S)
            now_s = clock.monotonic_s()
            for stream in list(self._following):
                stream.tick(now_s)

    def shape(self, wanted: EventFilter, form: Form, *, in_public: bool) -> int:
        """The same number for all streams that show the same events in the same way; a long filter is nobody else's."""
        if wanted.is_long:
            return next(self._next_shape)
        if len(self._shapes) >= SHAPES_KEPT:
            self._shapes.clear()
        return self._shapes.setdefault((wanted, form.media_type, in_public), next(self._next_shape))

    def batch(self, feed: Feed, stream: "EventStream", address: Address) -> Batch | None:
        """What is newest for this stream; None: more than fits, or more than the feed has kept."""
        if self._batches_of != feed.head:
            self._batches_of = feed.head
            self._batches.clear()
        key = (stream.shape, stream.seq)
        if key not in self._batches:
            self._batches[key] = self._made(feed.after(stream.seq), stream, address)
        return self._batches[key]

    def _made(self, newest: list[Event] | None, stream: "EventStream", address: Address) -> Batch | None:
        if newest is None or len(newest) > EVENTS_PAGE:
            return None
        events = [event for event in newest if stream.wanted.takes(event)]
        body = b"".join(self.frame(stream.form, event, address, in_public=stream.in_public) for event in events)
        if len(body) > SEND_MAX_BYTES:
            return None
        last = Cursor(events[-1].seq, events[-1].epoch) if events else None
        return Batch(body, last, any(event.final for event in events))

    def frame(self, form: Form, event: Event, address: Address, *, in_public: bool) -> bytes:
        """An event's frame, made once for all streams that send it now; one with artifacts is made anew each time."""
        if in_public:
            event = public(event)
        if event.final:
            return form.frame(event, address)
        key = (form.media_type, in_public, event.id)
        if key not in self._frames:
            if len(self._frames) >= FRAMES_KEPT:
                self._frames.clear()
            self._frames[key] = form.frame(event, address)
        return self._frames[key]


class EventStream(Response):
    """One open stream. Ends by itself after a job's final event, when it drains, when its reader is too slow, or when
    the reader's token has been revoked."""

    def __init__(
        self,
        state: Any,
        principal: Principal,
        start: Start,
        wanted: EventFilter,
        job_id: str | None,
        form: Form = sse.SSE,
    ) -> None:
        super().__init__(
            headers={
                "Content-Type": f"{form.media_type}; charset=utf-8",
                "Cache-Control": "private, no-store, no-transform",
                "X-Accel-Buffering": "no",
            }
        )
        del self.headers["content-length"]
        self._state = state
        self._principal = principal
        self._start = start
        self._job_id = job_id
        self.wanted = wanted
        self.form = form
        self.in_public = principal.ticket is not None
        self.shape = state.streams.shape(wanted, form, in_public=self.in_public)
        self.seq = start.cursor.seq
        self._told = start.cursor
        self._page = FIRST_PAGE
        self._task: asyncio.Task[Any] | None = None
        self._is_left = False
        self._is_slow = False
        self._sending_since_s: float | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._beat_at_s = 0.0
        self._trusted_until_s = state.clock.monotonic_s() + TRUST_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end or until the reader leaves; a HEAD request gets the head alone."""
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        self._task = asyncio.current_task()
        leaving = asyncio.create_task(gone(receive))
        leaving.add_done_callback(self._left)
        try:
            with self._state.streams.followed_by(self, self._state.clock):
                await self._write(send)
        except asyncio.CancelledError:
            if not self._is_left or self._task is None or self._task.uncancel():
                raise
        finally:
            leaving.remove_done_callback(self._left)
            leaving.cancel()
            with suppress(asyncio.CancelledError):
                await leaving

    def _left(self, leaving: asyncio.Task[None]) -> None:
        """The reader has gone: a server's `send` would say nothing of it."""
        self._is_left = True
        if self._task is not None:
            self._task.cancel()

    def tick(self, now_s: float) -> None:
        """Once a second: wake it when its heartbeat is due, let go of what its reader does not take."""
        if self._sending_since_s is not None:
            if now_s - self._sending_since_s >= SEND_S and not self._is_slow and self._task is not None:
                self._is_slow = True
                self._task.cancel()
        elif self._waiting is not None and now_s >= self._beat_at_s and not self._waiting.done():
            self._waiting.set_result(None)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        bye = "slow"
        try:
            if await self._send(send, await self._opening()):
                bye = "" if self._start.is_over else await self._follow(send)
        except Unavailable:  # the head is out: a store that cannot be read for a while must not cut the body
            bye = "drain"
        if bye:
            resume = {"reason": bye, "resume": str(self._told)}
            await self._send(send, self.form.notice("stream.bye", resume))
        await wait_at_most(self._state.clock, send({"type": "http.response.body", "body": b""}), SEND_S)

    async def _opening(self) -> bytes:
        store, low = self._state.store, RETRY_MS[0]
        # Whoever begins at the end begins at this one: a later one would hide what came in between.
        head = await store.head() if self._start.head is None else self._start.head
        opened: dict[str, Any] = {
            "epoch": store.epoch,
            "head": f"{store.epoch}-{head}",
            "resumedFrom": str(self._start.requested) if self._start.requested else None,
            "gap": self._start.gap,
            "heartbeatS": HEARTBEAT_S,
        }
        if self._job_id is not None and (job := await store.job(self._job_id)) is not None:
            view = public_view if self.in_public else event_view
            opened["job"] = view(job, self._state.addresses.of, await outlook_of(self._state, job))
        retry_ms = low + int((RETRY_MS[1] - low) * jitter())
        frames = self.form.retry(retry_ms) + self.form.notice("stream.open", opened)
        if self._start.gap:
            frames += self.form.notice("stream.gap", self._gap())
        return frames

    def _gap(self) -> dict[str, Any]:
        """What a reader must know whose position this log does not have; `missed` only where that is known."""
        requested, here = self._start.requested, self._start.cursor
        same_log = requested is not None and requested.epoch == here.epoch and requested.seq <= here.seq
        return {
            "requested": str(requested),
            "earliest": str(here),
            "missed": here.seq - requested.seq if requested is not None and same_log else None,
            "snapshot": f"/v1/jobs/{self._job_id}" if self._job_id else "/v1/jobs",
        }

    async def _follow(self, send: Send) -> str:
        """Read, send, wait; the reason why the relay ends the stream, empty when the job's last event has been sent."""
        feed, clock = self._state.feed, self._state.clock
        while True:
            if not await self._is_trusted():
                return "expired"
            seen, head = feed.generation, feed.head
            batch = self._state.streams.batch(feed, self, self._state.addresses.of)
            if batch is None:
                taken, final, more = await self._read_on(send, head)
            else:
                taken, final, more = not batch.body or await self._send(send, batch.body), batch.final, False
                if taken:
                    # The store is sometimes ahead of the feed, and so is whoever has read it.
                    self.seq, self._told = max(self.seq, head), batch.last or self._told
            if not taken:
                return "slow"
            if final and self._job_id is not None:
                return ""
            if self._job_id is not None and self.wanted.type and await is_over(self._state, self._job_id, self.seq):
                return ""  # the final event was there, and is none of the types that this reader wants
            if feed.closing:
                return "drain"
            if more:
                continue
            # Commits that this reader does not want wake it as well, and must not put its heartbeat off.
            if clock.monotonic_s() < self._beat_at_s:
                await self._news(seen)
            elif not await self._beat(send):
                return "slow"

    async def _read_on(self, send: Send, head: int) -> tuple[bool, bool, bool]:
        """A page of the store: whether the reader took it, whether its job has ended, and whether there may be more."""
        events = await self._state.store.events_after(self.seq, self.wanted, self._page)
        self._page = min(2 * self._page, EVENTS_PAGE)
        if not events:
            self.seq = max(self.seq, head)
            return True, False, False
        if not await self._send_all(send, events):
            return False, False, False
        self.seq = events[-1].seq
        self._told = Cursor(events[-1].seq, events[-1].epoch)
        return True, any(event.final for event in events), True

    async def _news(self, seen: int) -> None:
        """Until a commit that may concern this reader, or until its heartbeat."""
        key = self.wanted.only_job or ALL
        self._waiting = self._state.feed.next(seen, key)
        try:
            await self._waiting
        finally:
            self._state.feed.forget(key, self._waiting)
            self._waiting = None

    async def _is_trusted(self) -> bool:
        """Whether the reader's token is still good; asked now and then, and always at a heartbeat."""
        now_s = self._state.clock.monotonic_s()
        if now_s < self._trusted_until_s:
            return True
        self._trusted_until_s = now_s + TRUST_S
        return bool(await self._state.guard.lives(self._principal, self._state.clock.now_ms()))

    async def _beat(self, send: Send) -> bool:
        frames = self.form.heartbeat(self._state.clock.now_ms() // 1000)
        if self.seq > self._told.seq:
            # Events that this reader did not want have moved the head; a reconnect need not read them again.
            self._told = Cursor(self.seq, self._state.store.epoch)
            frames += self.form.notice("stream.cursor", {}, cursor=self._told)
        return await self._send(send, frames)

    async def _send_all(self, send: Send, events: list[Event]) -> bool:
        """As few sends as possible, each bounded: a server keeps in memory what a slow reader has not taken."""
        piece, address = b"", self._state.addresses.of
        for event in events:
            made = self._state.streams.frame(self.form, event, address, in_public=self.in_public)
            if piece and len(piece) + len(made) > SEND_MAX_BYTES:
                if not await self._send(send, piece):
                    return False
                piece = b""
            piece += made
        return await self._send(send, piece)

    async def _send(self, send: Send, body: bytes) -> bool:
        """False when the reader takes so long that what waits for it must be let go."""
        self._sending_since_s = now_s = self._state.clock.monotonic_s()
        self._beat_at_s = now_s + HEARTBEAT_S
        try:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        except asyncio.CancelledError:
            if not self._is_slow or self._is_left or self._task is None or self._task.uncancel():
                raise
            self._is_slow = False
            return False
        finally:
            self._sending_since_s = None
        return True
