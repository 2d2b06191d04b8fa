"""The event log as a page of JSON and as a stream of server-sent events, resumed from the store at any position.

The stream reads the store, sends, and when there is nothing more waits for the feed: there is no hand-over between
history and live, hence no gap and no double. It is plain ASGI, for middleware that wraps responses costs four times as
much a frame.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.clock import wait_at_most
from relay.core import sse
from relay.core.event import TYPES, Event, render
from relay.core.job import Address
from relay.core.sse import HEARTBEAT_S, Cursor
from relay.errors import InvalidRequest, Unavailable
from relay.feed import ALL
from relay.store.contract import EVENTS_PAGE, EventFilter
from relay.vault import jitter
from relay.web.guard import Principal
from relay.web.jobs import find
from relay.web.leaving import while_connected
from relay.web.problem import Json, listed, read_query, whole

RETRY_MS: Final = (1_500, 4_500)
SEND_S: Final = 30.0
# Less than from one heartbeat to the next: a reader whose token was revoked hears at most one more.
TRUST_S: Final = HEARTBEAT_S / 2
STREAMS_MAX: Final = 2_000
FRAMES_KEPT: Final = 1_000
PAGE_DEFAULT: Final = 100
_AGO: Final = re.compile(r"(\d{1,9})([smhd])")
_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True)
class Start:
    """Where a reader begins; `gap` says that events between its position and here may be missing."""

    cursor: Cursor
    requested: Cursor | None = None
    gap: bool = False


async def of_all(request: Request) -> Response:
    """`GET /v1/events`."""
    query = read_query(request, many=("job", "replyRef", "model", "type"), one=("last_event_id", "since", "limit"))
    wanted = EventFilter(
        job_id=query["job"],
        reply_ref=query["replyRef"],
        model=query["model"],
        type=listed(query, "type", TYPES),
        token_id=request.state.principal.own_only,
        # Operator events are for those who can do something about them.
        of_jobs_only="manage" not in request.state.principal.scopes,
    )
    return await _answer(request, query, wanted, None)


async def of_job(request: Request) -> Response:
    """`GET /v1/jobs/{id}/events`: from the beginning unless told otherwise, and over after the final event."""
    job = await find(request, request.path_params["id"])
    query = read_query(request, many=("type",), one=("last_event_id", "since", "limit"))
    wanted = EventFilter(job_id=(job.id,), type=listed(query, "type", TYPES))
    return await _answer(request, query, wanted, job.id)


async def _answer(
    request: Request, query: dict[str, tuple[str, ...]], wanted: EventFilter, job_id: str | None
) -> Response:
    state: Any = request.app.state
    limit = whole(query, "limit", PAGE_DEFAULT, 1, EVENTS_PAGE)
    start = await _start(request, query, "earliest" if job_id or wanted.job_id else "now")
    if "text/event-stream" not in request.headers.get("accept", ""):
        events: list[Event] = await state.store.events_after(start.cursor.seq, wanted, limit)
        after = str(Cursor(events[-1].seq, events[-1].epoch) if events else start.cursor)
        return Json({"data": [render(event, state.addresses.of) for event in events], "next": after})
    if job_id is not None and await _is_over(state, job_id, start.cursor.seq):
        return Response(status_code=204)
    if state.streams.full:
        raise Unavailable("the relay serves as many streams as it can", retry_after_s=5)
    return EventStream(state, request.state.principal, start, wanted, job_id)


async def _is_over(state: Any, job_id: str, seq: int) -> bool:
    """Whether a job has ended and a reader at `seq` has seen all of it."""
    job = await state.store.job(job_id)
    return bool(job.final) and not await state.store.events_after(seq, EventFilter(job_id=(job_id,)), 1)


async def _start(request: Request, query: dict[str, tuple[str, ...]], default: str) -> Start:
    """`Last-Event-ID`, else `?last_event_id=`, else `?since=`, else the default."""
    store: Any = request.app.state.store
    given, field = request.headers.get("last-event-id"), "Last-Event-ID"
    if not given and query["last_event_id"]:
        given, field = query["last_event_id"][0], "query.last_event_id"
    if given:
        cursor = sse.parse_cursor(given)
        if cursor is None:
            message = f"{field} must be an event's id, <epoch>-<number>, as it came in the stream"
            raise InvalidRequest.field(field, "cursor", message, given=given[:80])
        return await _resumed(store, cursor)
    since = query["since"][0] if query["since"] else default
    return Start(Cursor(await _since(request, since), store.epoch))


async def _resumed(store: Any, cursor: Cursor) -> Start:
    """A position that this log does not have (another epoch, behind its head, before its start) is a gap."""
    head, earliest = await store.head(), await store.earliest()
    event = await store.event(cursor.seq) if cursor.seq else None
    known = event is None or event.epoch == cursor.epoch
    if cursor.seq > head or cursor.seq < earliest - 1 or not known:
        return Start(Cursor(earliest - 1, store.epoch), requested=cursor, gap=True)
    return Start(cursor, requested=cursor)


async def _since(request: Request, since: str) -> int:
    store: Any = request.app.state.store
    if since == "now":
        return int(await store.head())
    if since == "earliest":
        return int(await store.earliest()) - 1
    ago = _AGO.fullmatch(since)
    try:
        at_ms = (
            request.app.state.clock.now_ms() - int(ago[1]) * _UNIT_MS[ago[2]]
            if ago
            else int(datetime.fromisoformat(since).timestamp() * 1000)
        )
    except (ValueError, OverflowError) as error:
        message = "since must be now, earliest, a time ago (30s, 10m, 6h, 2d) or an ISO 8601 time"
        raise InvalidRequest.field("query.since", "since", message, given=since[:80]) from error
    return max(int(await store.seq_at(at_ms)), int(await store.earliest()) - 1)


class Streams:
    """How many streams are open, and their bound: callbacks must always find a place."""

    def __init__(self, most: int = STREAMS_MAX) -> None:
        self.open = 0
        self._most = most
        self._frames: dict[str, bytes] = {}

    @property
    def full(self) -> bool:
        return self.open >= self._most

    def frame(self, event: Event, address: Address) -> bytes:
        """An event's frame, made once for all streams that send it now; one with artifacts is made anew each time."""
        if event.final:
            return sse.frame(event, address)
        if event.id not in self._frames:
            if len(self._frames) >= FRAMES_KEPT:
                self._frames.clear()
            self._frames[event.id] = sse.frame(event, address)
        return self._frames[event.id]


class EventStream(Response):
    """One open stream. Ends by itself after a job's final event, when it drains, when its reader is too slow, or when
    the reader's token has been revoked."""

    def __init__(self, state: Any, principal: Principal, start: Start, wanted: EventFilter, job_id: str | None) -> None:
        super().__init__(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
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
        self._state.streams.open += 1
        try:
            await while_connected(receive, self._write(send))
        finally:
            self._state.streams.open -= 1

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
            await self._send(send, sse.notice("stream.bye", resume))
        await wait_at_most(self._state.clock, send({"type": "http.response.body", "body": b""}), SEND_S)

    async def _opening(self) -> bytes:
        store, low = self._state.store, RETRY_MS[0]
        head = await store.head()
        opened = {
            "epoch": store.epoch,
            "head": f"{store.epoch}-{head}",
            "resumedFrom": str(self._start.requested) if self._start.requested else None,
            "gap": self._start.gap,
            "heartbeatS": HEARTBEAT_S,
        }
        frames = sse.retry(low + int((RETRY_MS[1] - low) * jitter())) + sse.notice("stream.open", opened)
        if self._start.gap:
            gap = {"requested": str(self._start.requested), "earliest": str(self._start.cursor), "missed": None}
            frames += sse.notice("stream.gap", {**gap, "snapshot": "/v1/jobs"})
        return frames

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
                frames = (state.streams.frame(event, state.addresses.of) for event in events)
                if not await self._send(send, b"".join(frames)):
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
                await wait_at_most(clock, feed.changed(seen, self._only_job), wait_s)
            elif not await self._beat(send):
                return "slow"

    @property
    def _only_job(self) -> str:
        """The one job whose commits need wake this stream; empty for all."""
        return self._wanted.job_id[0] if len(self._wanted.job_id) == 1 else ALL

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
        return bool(await self._state.guard.lives(self._principal))

    async def _beat(self, send: Send) -> bool:
        frames = sse.heartbeat(self._state.clock.now_ms() // 1000)
        if self._seq > self._told.seq:
            # Events that this reader did not want have moved the head; a reconnect need not read them again.
            self._told = Cursor(self._seq, self._state.store.epoch)
            frames += sse.notice("stream.cursor", {}, cursor=self._told)
        return await self._send(send, frames)

    async def _send(self, send: Send, body: bytes) -> bool:
        """False when the reader takes so long that what waits for it must be let go."""
        message = {"type": "http.response.body", "body": body, "more_body": True}
        sent = await wait_at_most(self._state.clock, send(message), SEND_S)
        self._beat_at_s = self._state.clock.monotonic_s() + HEARTBEAT_S
        return sent
