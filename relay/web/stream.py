"""The event log as a page of JSON, now or when there is something, and as a stream, resumed at any position.

The stream reads the store, sends, and when there is nothing more waits for the feed: there is no hand-over between
history and live, hence no gap and no double. It is plain ASGI, for middleware that wraps responses costs four times as
much a frame.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.clock import wait_at_most
from relay.core import sse
from relay.core.event import TYPES, Event, public, render
from relay.core.job import Address, event_view, public_view
from relay.core.sse import HEARTBEAT_S, Cursor, Form
from relay.errors import InvalidRequest, Unavailable
from relay.feed import ALL
from relay.store.contract import EVENTS_PAGE, EventFilter
from relay.vault import jitter
from relay.web.forecast import outlook_of
from relay.web.guard import Principal, Ticket
from relay.web.jobs import find
from relay.web.leaving import while_connected
from relay.web.problem import Json, instant, listed, read_query, whole

RETRY_MS: Final = (1_500, 4_500)
SEND_S: Final = 30.0
# Less than from one heartbeat to the next: a reader whose token was revoked hears at most one more.
TRUST_S: Final = HEARTBEAT_S / 2
STREAMS_MAX: Final = 10_000
# Open files that streams leave to callbacks, calls out and the database, whatever the system allows in all.
RESERVED_FILES: Final = 400
WAIT_MAX_S: Final = 60
SEND_MAX_BYTES: Final = 64 * 1024
PLACE: Final = ("last_event_id", "since", "limit", "wait", "ticket")
FRAMES_KEPT: Final = 1_000
PAGE_DEFAULT: Final = 100
BORDERS: Final = ("now", "earliest")


@dataclass(frozen=True, slots=True)
class Start:
    """Where a reader begins; `gap` says that events between its position and here may be missing."""

    cursor: Cursor
    requested: Cursor | None = None
    gap: bool = False


async def of_all(request: Request) -> Response:
    """`GET /v1/events`."""
    query = read_query(request, many=("job", "replyRef", "model", "type"), one=PLACE)
    wanted = EventFilter(
        job_id=query["job"],
        reply_ref=query["replyRef"],
        model=query["model"],
        type=listed(query, "type", TYPES),
        token_id=request.state.principal.own_only,
        # Operator events are for those who can do something about them.
        of_jobs_only="manage" not in request.state.principal.scopes,
    )
    ticket: Ticket | None = request.state.principal.ticket
    if ticket is not None:
        # Whatever else was asked for, a ticket opens what it opens.
        wanted = replace(wanted, of_jobs_only=True, job_id=_only(ticket.job_id), reply_ref=_only(ticket.reply_ref))
    return await _answer(request, query, wanted, None)


def _only(value: str | None) -> tuple[str, ...]:
    return () if value is None else (value,)


async def of_job(request: Request) -> Response:
    """`GET /v1/jobs/{id}/events`: from the beginning unless told otherwise, and over after the final event."""
    job = await find(request, request.path_params["id"])
    query = read_query(request, many=("type",), one=PLACE)
    wanted = EventFilter(job_id=(job.id,), type=listed(query, "type", TYPES))
    return await _answer(request, query, wanted, job.id)


async def _answer(
    request: Request, query: dict[str, tuple[str, ...]], wanted: EventFilter, job_id: str | None
) -> Response:
    state: Any = request.app.state
    limit = whole(query, "limit", PAGE_DEFAULT, 1, EVENTS_PAGE)
    wait_s = whole(query, "wait", 0, 0, WAIT_MAX_S)
    principal: Principal = request.state.principal
    start = await _start(request, query, "earliest" if job_id or wanted.job_id or principal.ticket else "now")
    form = sse.form_of(request.headers.get("accept", ""))
    if form is None:
        return await _page(request, start, wanted, limit, wait_s)
    if job_id is not None and await _is_over(state, job_id, start.cursor.seq):
        return Response(status_code=204)
    if state.streams.full:
        raise Unavailable("the relay serves as many streams as it can", retry_after_s=5)
    return EventStream(state, principal, start, wanted, job_id, form)


async def _page(request: Request, start: Start, wanted: EventFilter, limit: int, wait_s: int) -> Response:
    """A page of events; an empty one comes only when none has been written for `wait_s`."""
    state: Any = request.app.state
    if wait_s and state.streams.full:
        raise Unavailable("the relay serves as many streams as it can", retry_after_s=5)
    events: list[Event] = []

    async def look() -> None:
        until_s, after = state.clock.monotonic_s() + wait_s, start.cursor.seq
        while True:
            seen, head = state.feed.generation, state.feed.head
            events.extend(await state.store.events_after(after, wanted, limit))
            left_s = until_s - state.clock.monotonic_s()
            if events or left_s <= 0 or state.feed.closing:
                return
            after = max(after, head)
            await wait_at_most(state.clock, state.feed.changed(seen, wanted.only_job or ALL), left_s)

    with state.streams.one_more():
        await (while_connected(request.receive, look()) if wait_s else look())
    after = str(Cursor(events[-1].seq, events[-1].epoch) if events else start.cursor)
    if request.state.principal.ticket is not None:
        events = [public(event) for event in events]
    return Json({"data": [render(event, state.addresses.of) for event in events], "next": after})


async def _is_over(state: Any, job_id: str, seq: int) -> bool:
    """Whether a job has ended and a reader at `seq` has seen all of it."""
    job = await state.store.job(job_id)
    return bool(job.final) and not await state.store.events_after(seq, EventFilter(job_id=(job_id,)), 1)


async def _start(request: Request, query: dict[str, tuple[str, ...]], default: str) -> Start:
    """`Last-Event-ID`, else `?last_event_id=`, else `?since=`, else the default."""
    store: Any = request.app.state.store
    since = query["since"][0] if query["since"] else default
    at_ms = None if since in BORDERS else instant(query, "since", request.app.state.clock.now_ms(), *BORDERS)
    given, field = request.headers.get("last-event-id"), "Last-Event-ID"
    if not given and query["last_event_id"]:
        given, field = query["last_event_id"][0], "query.last_event_id"
    if given:
        cursor = sse.parse_cursor(given)
        if cursor is None:
            message = f"{field} must be an event's id, <epoch>-<number>, as it came in the stream"
            raise InvalidRequest.field(field, "cursor", message, given=given[:80])
        return await _resumed(store, cursor)
    if since == "now":
        return Start(Cursor(int(await store.head()), store.epoch))
    earliest = int(await store.earliest()) - 1
    return Start(Cursor(earliest if at_ms is None else max(int(await store.seq_at(at_ms)), earliest), store.epoch))


async def _resumed(store: Any, cursor: Cursor) -> Start:
    """A position that this log does not have (another epoch, behind its head, before its start) is a gap."""
    head, earliest = await store.head(), await store.earliest()
    event = await store.event(cursor.seq) if cursor.seq else None
    known = event is None or event.epoch == cursor.epoch
    if cursor.seq > head or cursor.seq < earliest - 1 or not known:
        return Start(Cursor(earliest - 1, store.epoch), requested=cursor, gap=True)
    return Start(cursor, requested=cursor)


class Streams:
    """How many streams are open, and their bound: callbacks must always find a place."""

    def __init__(self, most: int = STREAMS_MAX) -> None:
        self.open = 0
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = max(1, min(most, allowed - RESERVED_FILES))
        self._frames: dict[tuple[str, bool, str], bytes] = {}

    @property
    def full(self) -> bool:
        return self.open >= self._most

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a reader for as long as it is there."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

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
        self._wanted = wanted
        self._job_id = job_id
        self._form = form
        self._seq = start.cursor.seq
        self._told = start.cursor
        self._beat_at_s = 0.0
        self._trusted_until_s = state.clock.monotonic_s() + TRUST_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end or until the reader leaves; a HEAD request gets the head alone."""
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b""})
            return
        with self._state.streams.one_more():
            await while_connected(receive, self._write(send))

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        bye = "slow"
        try:
            if await self._send(send, await self._opening()):
                bye = await self._follow(send)
        except Unavailable:  # the head is out: a store that cannot be read for a while must not cut the body
            bye = "drain"
        if bye:
            resume = {"reason": bye, "resume": str(self._told)}
            await self._send(send, self._form.notice("stream.bye", resume))
        await wait_at_most(self._state.clock, send({"type": "http.response.body", "body": b""}), SEND_S)

    async def _opening(self) -> bytes:
        store, low = self._state.store, RETRY_MS[0]
        head = await store.head()
        opened: dict[str, Any] = {
            "epoch": store.epoch,
            "head": f"{store.epoch}-{head}",
            "resumedFrom": str(self._start.requested) if self._start.requested else None,
            "gap": self._start.gap,
            "heartbeatS": HEARTBEAT_S,
        }
        if self._job_id is not None and (job := await store.job(self._job_id)) is not None:
            view = public_view if self._principal.ticket else event_view
            opened["job"] = view(job, self._state.addresses.of, await outlook_of(self._state, job))
        retry_ms = low + int((RETRY_MS[1] - low) * jitter())
        frames = self._form.retry(retry_ms) + self._form.notice("stream.open", opened)
        if self._start.gap:
            frames += self._form.notice("stream.gap", self._gap())
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
        state = self._state
        feed, clock = state.feed, state.clock
        while True:
            seen = feed.generation
            if not await self._is_trusted():
                return "expired"
            head = feed.head
            events = await self._read()
            if events:
                if not await self._send_all(send, events):
                    return "slow"
                self._seq = events[-1].seq
                self._told = Cursor(events[-1].seq, events[-1].epoch)
                if self._job_id is not None and any(event.final for event in events):
                    return ""
            else:
                self._seq = max(self._seq, head)
                if self._job_id is not None and self._wanted.type and await _is_over(state, self._job_id, self._seq):
                    return ""  # the final event was there, and is none of the types that this reader wants
            if feed.closing:
                return "drain"
            if events:
                continue
            # Commits that this reader does not want wake it as well, and must not put its heartbeat off.
            wait_s = self._beat_at_s - clock.monotonic_s()
            if wait_s > 0:
                await wait_at_most(clock, feed.changed(seen, self._wanted.only_job or ALL), wait_s)
            elif not await self._beat(send):
                return "slow"

    async def _read(self) -> list[Event]:
        """What comes next for this reader: from what has just been committed, or from the store."""
        newest = self._state.feed.after(self._seq)
        if newest is not None and len(newest) <= EVENTS_PAGE:
            return [event for event in newest if self._wanted.takes(event)]
        found: list[Event] = await self._state.store.events_after(self._seq, self._wanted, EVENTS_PAGE)
        return found

    async def _is_trusted(self) -> bool:
        """Whether the reader's token is still good; asked now and then, and always at a heartbeat."""
        now_s = self._state.clock.monotonic_s()
        if now_s < self._trusted_until_s:
            return True
        self._trusted_until_s = now_s + TRUST_S
        return bool(await self._state.guard.lives(self._principal, self._state.clock.now_ms()))

    async def _beat(self, send: Send) -> bool:
        frames = self._form.heartbeat(self._state.clock.now_ms() // 1000)
        if self._seq > self._told.seq:
            # Events that this reader did not want have moved the head; a reconnect need not read them again.
            self._told = Cursor(self._seq, self._state.store.epoch)
            frames += self._form.notice("stream.cursor", {}, cursor=self._told)
        return await self._send(send, frames)

    async def _send_all(self, send: Send, events: list[Event]) -> bool:
        """As few sends as possible, each bounded: a server keeps in memory what a slow reader has not taken."""
        piece, address, in_public = b"", self._state.addresses.of, self._principal.ticket is not None
        for event in events:
            made = self._state.streams.frame(self._form, event, address, in_public=in_public)
            if piece and len(piece) + len(made) > SEND_MAX_BYTES:
                if not await self._send(send, piece):
                    return False
                piece = b""
            piece += made
        return await self._send(send, piece)

    async def _send(self, send: Send, body: bytes) -> bool:
        """False when the reader takes so long that what waits for it must be let go."""
        message = {"type": "http.response.body", "body": body, "more_body": True}
        sent = await wait_at_most(self._state.clock, send(message), SEND_S)
        self._beat_at_s = self._state.clock.monotonic_s() + HEARTBEAT_S
        return sent
