"""The event log as a page of JSON, now or when there is something, and as a stream, resumed at any position."""

from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.clock import wait_at_most
from relay.core import sse
from relay.core.event import TYPES, Event, public, render
from relay.core.sse import Cursor
from relay.errors import InvalidRequest, Unavailable
from relay.feed import ALL
from relay.store.contract import EVENTS_PAGE, EventFilter
from relay.web.following import EventStream, Start, is_over
from relay.web.guard import Principal, Ticket
from relay.web.jobs import find
from relay.web.leaving import while_connected
from relay.web.problem import Json, instant, listed, read_query, whole

WAIT_MAX_S: Final = 60
PLACE: Final = ("last_event_id", "since", "limit", "wait", "ticket")
PAGE_DEFAULT: Final = 100
BORDERS: Final = ("now", "earliest")


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
    if job_id is not None and await is_over(state, job_id, start.cursor.seq):
        if not start.gap:
            return Response(status_code=204)
        # What this reader has not seen is not kept any more: it is told so, and where to look.
        start = replace(start, is_over=True)
    if state.streams.full:
        raise Unavailable("the relay serves as many streams as it can", retry_after_s=5)
    return EventStream(state, principal, start, wanted, job_id, form)


async def _page(request: Request, start: Start, wanted: EventFilter, limit: int, wait_s: int) -> Response:
    """A page of events; an empty one comes only when none has been written for `wait_s`."""
    state: Any = request.app.state
    if wait_s and state.streams.full:
        raise Unavailable("the relay serves as many streams as it can", retry_after_s=5)
    events: list[Event] = []
    after = start.cursor

    async def look() -> None:
        nonlocal after
        until_s = state.clock.monotonic_s() + wait_s
        while True:
            seen, head = state.feed.generation, state.feed.head
            events.extend(await state.store.events_after(after.seq, wanted, limit))
            if not events and head > after.seq:
                # Events that this reader does not want; it need not have them looked at again.
                after = Cursor(head, state.store.epoch)
            left_s = until_s - state.clock.monotonic_s()
            if events or left_s <= 0 or state.feed.closing:
                return
            await wait_at_most(state.clock, state.feed.changed(seen, wanted.only_job or ALL), left_s)

    with state.streams.one_more():
        await (while_connected(request.receive, look()) if wait_s else look())
    if events:
        after = Cursor(events[-1].seq, events[-1].epoch)
    if request.state.principal.ticket is not None:
        events = [public(event) for event in events]
    return Json({"data": [render(event, state.addresses.of) for event in events], "next": str(after)})


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
        head = int(await store.head())
        return Start(Cursor(head, store.epoch), head=head)
    earliest = int(await store.earliest()) - 1
    return Start(Cursor(earliest if at_ms is None else max(int(await store.seq_at(at_ms)), earliest), store.epoch))


async def _resumed(store: Any, cursor: Cursor) -> Start:
    """A position that this log does not have (another epoch, behind its head, before its start) is a gap."""
    head, earliest = await store.head(), await store.earliest()
    event = await store.event(cursor.seq) if cursor.seq else None
    known = event is None or event.epoch == cursor.epoch
    if cursor.seq > head or cursor.seq < earliest - 1 or not known:
        return Start(Cursor(earliest - 1, store.epoch), requested=cursor, gap=True, head=head)
    return Start(cursor, requested=cursor, head=head)
