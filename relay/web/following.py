"""One open stream: it follows the log from its position on, and ends by itself.

A stream reads the store, sends, and when there is nothing more waits to be told (`streams.py`): there is no hand-over
between history and live, hence no gap and no double. It is served outside of everything that its request went through.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.clock import wait_at_most
from relay.core import sse
from relay.core.event import Event
from relay.core.job import event_view, public_view
from relay.core.sse import HEARTBEAT_S, Cursor, Form
from relay.errors import Unavailable
from relay.store.contract import EVENTS_PAGE, EventFilter
from relay.vault import jitter
from relay.web.forecast import outlook_of
from relay.web.guard import Principal
from relay.web.leaving import SEND_S, gone
from relay.web.streams import SEND_MAX_BYTES, Batch, Reading

RETRY_MS: Final = (1_500, 4_500)
# Less than from one heartbeat to the next: a reader whose token was revoked hears at most one more.
TRUST_S: Final = HEARTBEAT_S / 2
# The first of many must not wait for all of them.
FIRST_PAGE: Final = 32
# Where a request leaves the stream that it has opened, in its scope.
OPENED: Final = "relay.stream"


@dataclass(frozen=True, slots=True)
class Start:
    """Where a reader begins; `gap` says that events between its position and here may be missing.

    `head`: the end of the log, where it was asked for to find that out. `is_over`: nothing comes after what is missing.
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


class EventStream(Response):
    """The head of a stream; what comes then is sent by whoever called the app first, see `Outermost`."""

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
        self._start = start
        self._opened = Stream(state, principal, start.cursor, wanted, job_id, form)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, which is all that a HEAD request gets, and leave the rest."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
        else:
            scope[OPENED] = self._opened, self._start


class Outermost(Starlette):
    """The app. It serves open streams itself: by then all that the request went through has ended, and its memory is
    free."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, send)
        if OPENED in scope:
            opened, start = scope.pop(OPENED)
            await opened.run(start, receive, send)


class Begun:
    """The rest of something awaitable that was begun outside of any task, and could not be ended at once."""

    def __init__(self, first: Any, rest: Generator[Any, Any, None]) -> None:
        self._first = first
        self._rest = rest

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            yield self._first
            yield from self._rest
        finally:
            self._rest.close()


class Stream:
    """Ends by itself after a job's final event, when it drains, when its reader is too slow, or when the reader's token
    has been revoked. While it waits to be told it has no task but the one that notices its reader leave."""

    __slots__ = (
        "_beat_at_s", "_failed", "_is_over", "_is_slow", "_job_id", "_page", "_principal", "_send", "_sending_since_s",
        "_serving", "_state", "_told", "_trusted_until_s", "_working", "reading", "seq", "waits",
    )  # fmt: skip

    def __init__(
        self, state: Any, principal: Principal, cursor: Cursor, wanted: EventFilter, job_id: str | None, form: Form
    ) -> None:
        self.reading: Reading = state.streams.reading(wanted, form, in_public=principal.ticket is not None)
        self.seq = cursor.seq
        self.waits = False
        self._state = state
        self._principal = principal
        self._job_id = job_id
        self._told = cursor
        self._page = FIRST_PAGE
        self._send: Any = None
        self._serving: asyncio.Task[Any] | None = None
        self._working: asyncio.Task[None] | None = None
        self._failed: Exception | None = None
        self._is_over = False
        self._is_slow = False
        self._sending_since_s: float | None = None
        self._beat_at_s = 0.0
        self._trusted_until_s = state.clock.monotonic_s() + TRUST_S

    async def run(self, start: Start, receive: Receive, send: Send) -> None:
        """Send until the end or until the reader leaves: a server's `send` would say nothing of that."""
        state, self._send, self._serving = self._state, send, asyncio.current_task()
        state.streams.join(self, state.feed, state.clock, state.addresses.of)
        try:
            self._begin(partial(self._open, start))
            await gone(receive)
        except asyncio.CancelledError:
            if not self._is_over or self._serving is None or self._serving.uncancel():
                raise
            if self._failed is not None:
                raise self._failed from None
        finally:
            state.streams.leave(self)
            if self._working is not None:
                self._working.cancel()
                with suppress(asyncio.CancelledError):
                    await self._working

    def wake(self) -> None:
        """Look for itself what there is to do."""
        if self.waits:
            self._begin(self._follow)

    def offer(self, batch: Batch | None, now_s: float) -> bool:
        """Send this next, at once where its server takes it at once, as it does unless the reader is slow."""
        may_end = self._job_id is not None and (batch is None or batch.final or self.reading.wanted.type)
        if batch is None or may_end or now_s >= self._trusted_until_s:
            self.wake()
            return True
        if batch.body:
            rest = self._send({"type": "http.response.body", "body": batch.body, "more_body": True}).__await__()
            try:
                first = next(rest)
            except StopIteration:
                self._beat_at_s = now_s + HEARTBEAT_S
            else:
                self._begin(partial(self._finish, Begun(first, rest), batch))
                return True
        self._took(batch)
        return bool(batch.body)

    def tick(self, now_s: float) -> None:
        """Once a second: see to its heartbeat when that is due, let go of what its reader does not take."""
        if self._sending_since_s is not None:
            if now_s - self._sending_since_s >= SEND_S and not self._is_slow and self._working is not None:
                self._is_slow = True
                self._working.cancel()
        elif now_s >= self._beat_at_s:
            self.wake()

    def _begin(self, work: Callable[[], Awaitable[str | None]]) -> None:
        """Go on in a task of its own, until it has caught up, or else is over."""
        self._state.streams.forget(self)
        self._working = asyncio.create_task(self._work(work))

    async def _work(self, work: Callable[[], Awaitable[str | None]]) -> None:
        try:
            try:
                bye = await work()
            except Unavailable:  # the head is out: a store that cannot be read for a while must not cut the body
                bye = "drain"
            if bye is None:
                return
            await self._end(bye)
        except Exception as error:  # raised where the server hears of it
            self._failed = error
        finally:
            self._working = None
        self._is_over = True
        if self._serving is not None:
            self._serving.cancel()

    async def _open(self, start: Start) -> str | None:
        if not await self._sent(await self._opening(start)):
            return "slow"
        return "" if start.is_over else await self._follow()

    async def _finish(self, begun: Begun, batch: Batch) -> str | None:
        if not await self._in_time(begun):
            return "slow"
        self._took(batch)
        return await self._follow()

    async def _end(self, bye: str) -> None:
        if bye:
            resume = {"reason": bye, "resume": str(self._told)}
            await self._sent(self.reading.form.notice("stream.bye", resume))
        await wait_at_most(self._state.clock, self._send({"type": "http.response.body", "body": b""}), SEND_S)

    async def _opening(self, start: Start) -> bytes:
        store, low, form = self._state.store, RETRY_MS[0], self.reading.form
        # Whoever begins at the end begins at this one: a later one would hide what came in between.
        head = await store.head() if start.head is None else start.head
        opened: dict[str, Any] = {
            "epoch": store.epoch,
            "head": f"{store.epoch}-{head}",
            "resumedFrom": str(start.requested) if start.requested else None,
            "gap": start.gap,
            "heartbeatS": HEARTBEAT_S,
        }
        if self._job_id is not None and (job := await store.job(self._job_id)) is not None:
            view = public_view if self.reading.in_public else event_view
            opened["job"] = view(job, self._state.addresses.of, await outlook_of(self._state, job))
        retry_ms = low + int((RETRY_MS[1] - low) * jitter())
        frames = form.retry(retry_ms) + form.notice("stream.open", opened)
        if start.gap:
            frames += form.notice("stream.gap", self._gap(start))
        return frames

    def _gap(self, start: Start) -> dict[str, Any]:
        """What a reader must know whose position this log does not have; `missed` only where that is known."""
        requested, here = start.requested, start.cursor
        same_log = requested is not None and requested.epoch == here.epoch and requested.seq <= here.seq
        return {
            "requested": str(requested),
            "earliest": str(here),
            "missed": here.seq - requested.seq if requested is not None and same_log else None,
            "snapshot": f"/v1/jobs/{self._job_id}" if self._job_id else "/v1/jobs",
        }

    async def _follow(self) -> str | None:
        """Read and send until it has caught up and waits: None. Else why it ends; empty after a job's last event."""
        feed, clock, streams = self._state.feed, self._state.clock, self._state.streams
        while True:
            if not await self._is_trusted():
                return "expired"
            head = feed.head
            batch = streams.batch(feed, self.reading, self.seq, self._state.addresses.of)
            if batch is None:
                taken, final, more = await self._read_on(head)
            else:
                taken, final, more = not batch.body or await self._sent(batch.body), batch.final, False
                if taken:
                    self._took(batch)
            if not taken:
                return "slow"
            if final and self._job_id is not None:
                return ""
            # The final event may have been there, and be none of the types that this reader wants.
            job_id = self.reading.wanted.type and self._job_id
            if job_id and await is_over(self._state, job_id, self.seq):
                return ""
            if feed.closing:
                return "drain"
            # Commits that this reader does not want must not put its heartbeat off.
            if not more and clock.monotonic_s() >= self._beat_at_s:
                if not await self._beat():
                    return "slow"
            elif not more and self.seq >= feed.head:
                streams.remember(self)
                return None

    def _took(self, batch: Batch) -> None:
        # The store is sometimes ahead of the feed, and so is whoever has read it.
        self.seq, self._told = max(self.seq, batch.seq), batch.last or self._told

    async def _read_on(self, head: int) -> tuple[bool, bool, bool]:
        """A page of the store: whether the reader took it, whether its job has ended, and whether there may be more."""
        events = await self._state.store.events_after(self.seq, self.reading.wanted, self._page)
        self._page = min(2 * self._page, EVENTS_PAGE)
        if not events:
            self.seq = max(self.seq, head)
            return True, False, False
        if not await self._send_all(events):
            return False, False, False
        self.seq = events[-1].seq
        self._told = Cursor(events[-1].seq, events[-1].epoch)
        return True, any(event.final for event in events), True

    async def _is_trusted(self) -> bool:
        """Whether the reader's token is still good; asked now and then, and always at a heartbeat."""
        now_s = self._state.clock.monotonic_s()
        if now_s < self._trusted_until_s:
            return True
        self._trusted_until_s = now_s + TRUST_S
        return bool(await self._state.guard.lives(self._principal, self._state.clock.now_ms()))

    async def _beat(self) -> bool:
        frames = self.reading.form.heartbeat(self._state.clock.now_ms() // 1000)
        if self.seq > self._told.seq:
            # Events that this reader did not want have moved the head; a reconnect need not read them again.
            self._told = Cursor(self.seq, self._state.store.epoch)
            frames += self.reading.form.notice("stream.cursor", {}, cursor=self._told)
        return await self._sent(frames)

    async def _send_all(self, events: list[Event]) -> bool:
        """As few sends as possible, each bounded: a server keeps in memory what a slow reader has not taken."""
        piece, address = b"", self._state.addresses.of
        for event in events:
            made = self._state.streams.frame(self.reading, event, address)
            if piece and len(piece) + len(made) > SEND_MAX_BYTES:
                if not await self._sent(piece):
                    return False
                piece = b""
            piece += made
        return await self._sent(piece)

    async def _sent(self, body: bytes) -> bool:
        return await self._in_time(self._send({"type": "http.response.body", "body": body, "more_body": True}))

    async def _in_time(self, sending: Awaitable[None]) -> bool:
        """False when the reader takes so long that what waits for it must be let go."""
        self._sending_since_s = now_s = self._state.clock.monotonic_s()
        self._beat_at_s = now_s + HEARTBEAT_S
        try:
            await sending
        except asyncio.CancelledError:
            if not self._is_slow or self._working is None or self._working.uncancel():
                raise
            self._is_slow = False
            return False
        finally:
            self._sending_since_s = None
        return True
