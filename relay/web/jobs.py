"""Jobs: submit one, read one, list them."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.core import job as jobs
from relay.core.job import NO_OUTLOOK, STATES, Job, Origin
from relay.core.request import check
from relay.core.sse import NDJSON, form_of
from relay.core.terms import take_terms
from relay.errors import InvalidRequest, NotFound, RelayError, Unavailable
from relay.observe import about, logger
from relay.store.contract import PAGE_MAX, JobFilter, JobPage
from relay.web.accept import accept, key_of, reply_url_of
from relay.web.forecast import forecast, outlook_of
from relay.web.guard import Principal
from relay.web.leaving import taken, while_connected
from relay.web.problem import Json, flag, instant, listed, read_object, read_query, whole

_log = logger("web")

PAGE_DEFAULT: Final = 50
AT_ONCE: Final = 25
MANY: Final = ("state", "model", "replyRef", "account", "origin")
WORDS_MAX: Final = 20
WORDS_MAX_CHARS: Final = 500


async def submit(request: Request) -> Response:
    """202 and the job, once it is on disk; every broken rule of the request at once when it is refused.

    `?dry_run=true` says what would become of it, and stores nothing.
    """
    state: Any = request.app.state
    principal: Principal = request.state.principal
    query = read_query(request, one=("dry_run",))
    key, body = key_of(request), await read_object(request)
    fields, terms = take_terms(body, state.clock.now_ms())
    checked = check(fields, state.catalogue, door="native", mode=state.settings.validation)
    problems, refused = (*terms.problems, *checked.problems), bool(terms.problems) or checked.refused
    if flag(query, "dry_run"):
        shown_problems = [problem.as_json() for problem in problems]
        return Json({"valid": not refused, "problems": shown_problems, "request": checked.request})
    if refused:
        raise InvalidRequest.of(problems)
    # A deadline in seconds is another time at every try, and the same wish.
    asked = [terms.priority, body.get("deadline")]
    job = await accept(state, principal, checked, "api", key=key, terms=terms, asked=asked)
    return Json(await shown(state, principal, await find(request, job.id)), 202, {"Location": f"/v1/jobs/{job.id}"})


async def show(request: Request) -> Response:
    """One job in the full view (in the public one for a ticket), by its id or by any of its task ids."""
    job = await find(request, request.path_params["id"])
    state: Any = request.app.state
    if request.state.principal.ticket is not None:
        return Json(jobs.public_view(job, state.addresses.of, await outlook_of(state, job)))
    return Json(await shown(state, request.state.principal, job))


async def index(request: Request) -> Response:
    """A page of jobs, newest first; `next` is the cursor of the page behind it, null at the end.

    A page may have fewer than `limit`, even none, with a `next`: there was much to look through, and it goes on there.
    With `Accept: application/x-ndjson` all of them (or `limit`), a line each.
    """
    state: Any = request.app.state
    query = read_query(request, many=MANY, one=("since", "until", "q", "cursor", "limit"))
    limit = whole(query, "limit", PAGE_DEFAULT, 1, PAGE_MAX)
    before = whole(query, "cursor", 0, 1, 10**18) or None
    wanted = _wanted(query, request.state.principal, state.clock.now_ms())
    if form_of(request.headers.get("accept", "")) is NDJSON:
        if state.streams.full:
            raise Unavailable("the relay serves as many streams as it can", retry_after_s=5)
        return _Lines(state, wanted, before, limit if query["limit"] else None)
    page: JobPage = await state.store.job_page(wanted, before, limit)
    more = f'"{page.next_seq}"' if page.next_seq is not None else "null"
    data = b",".join([text async for text in _encoded(state, page.jobs)])
    return Response(b'{"data":[%b],"next":%b}' % (data, more.encode()), media_type="application/json")


def _wanted(query: Mapping[str, tuple[str, ...]], principal: Principal, now_ms: int) -> JobFilter:
    listed(query, "state", STATES)
    listed(query, "origin", get_args(Origin))
    return JobFilter(
        state=query["state"],
        model=query["model"],
        reply_ref=query["replyRef"],
        account=query["account"],
        origin=query["origin"],
        token_id=principal.own_only,
        since_ms=instant(query, "since", now_ms),
        until_ms=instant(query, "until", now_ms),
        words=_words(query["q"][0]) if query["q"] else (),
    )


def _words(text: str) -> tuple[str, ...]:
    """What is looked for in prompts: whatever somebody types is words, and what has no letter and no digit is none."""
    words = tuple(word for word in text.split() if any(character.isalnum() for character in word))
    if len(text) > WORDS_MAX_CHARS or not 1 <= len(words) <= WORDS_MAX:
        message = f"q must be 1 to {WORDS_MAX} words in at most {WORDS_MAX_CHARS} characters"
        raise InvalidRequest.field("query.q", "words", message, given=text[:80])
    return words


async def _encoded(state: Any, found: Sequence[Job], between: bytes = b",") -> AsyncGenerator[bytes]:
    """The event views of these jobs as JSON, so few at once that nobody else has to wait long for the loop."""
    outlooks = await forecast(state, found)
    for n in range(0, len(found), AT_ONCE):
        views = (
            jobs.event_view(job, state.addresses.of, outlooks.get(job.id, NO_OUTLOOK)) for job in found[n : n + AT_ONCE]
        )
        yield between.join(map(to_json, views))
        await asyncio.sleep(0)


class _Lines(Response):
    """All jobs of a list as lines of JSON: as many as fit a page are in memory, however slowly they are read."""

    def __init__(self, state: Any, wanted: JobFilter, before: int | None, limit: int | None) -> None:
        super().__init__(media_type=NDJSON.media_type)
        self._list = (state, wanted, before, limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._list[0].streams.one_more():
            await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        state, wanted, before, limit = self._list
        headers = [(b"content-type", NDJSON.media_type.encode()), (b"cache-control", b"private, no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            try:
                page = await state.store.job_page(wanted, before, limit or PAGE_MAX)
            except RelayError as error:
                # An answer that does not end: the server closes the connection, and the reader sees that it was cut.
                _log.warning("export.cut", reason=str(error))
                return
            async for lines in _encoded(state, page.jobs, b"\n"):
                if not await taken(state.clock, send, lines + b"\n"):
                    return  # cut off, as above
            before, limit = page.next_seq, limit and limit - len(page.jobs)
            if before is None or limit == 0:
                break
        await send({"type": "http.response.body", "body": b""})


async def find(request: Request, any_id: str, *, to_manage: bool = False) -> Job:
    """The job; `NotFound` when there is none, or when it belongs to somebody else, unless whoever asks manages all."""
    job: Job | None = await request.app.state.store.job(any_id)
    principal: Principal = request.state.principal
    managed = to_manage and "manage" in principal.scopes
    if job is None or not (managed or principal.may_see(job)):
        raise NotFound(f"there is no job {any_id[:80]}")
    about(job=job.id)
    return job


async def shown(state: Any, principal: Principal, job: Job) -> dict[str, Any]:
    """The full view."""
    return jobs.full_view(job, state.addresses.of, await outlook_of(state, job), reply_url_of(state, principal, job))
