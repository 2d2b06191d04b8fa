"""Jobs: submit one, read one, list them."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.core import job as jobs
from relay.core.job import NO_OUTLOOK, STATES, Job
from relay.core.request import check
from relay.core.terms import take_terms
from relay.errors import InvalidRequest, NotFound
from relay.store.contract import PAGE_MAX, JobFilter
from relay.web.accept import accept, key_of, reply_url_of
from relay.web.forecast import forecast, outlook_of
from relay.web.guard import Principal
from relay.web.problem import Json, flag, listed, read_object, read_query, whole

PAGE_DEFAULT: Final = 50


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
    """A page of jobs, newest first; `next` is the cursor of the page behind it, null at the end."""
    state: Any = request.app.state
    query = read_query(request, many=("state", "model", "replyRef"), one=("cursor", "limit"))
    limit = whole(query, "limit", PAGE_DEFAULT, 1, PAGE_MAX)
    before = whole(query, "cursor", 0, 1, 10**18) or None
    wanted = JobFilter(
        state=listed(query, "state", STATES),
        model=query["model"],
        reply_ref=query["replyRef"],
        token_id=request.state.principal.own_only,
    )
    found = await state.store.jobs(wanted, before, limit + 1)
    page = found[:limit]
    outlooks = await forecast(state, page)
    data = [jobs.event_view(job, state.addresses.of, outlooks.get(job.id, NO_OUTLOOK)) for job in page]
    return Json({"data": data, "next": str(page[-1].seq) if len(found) > limit else None})


async def find(request: Request, any_id: str, *, to_manage: bool = False) -> Job:
    """The job; `NotFound` when there is none, or when it belongs to somebody else, unless whoever asks manages all."""
    job: Job | None = await request.app.state.store.job(any_id)
    principal: Principal = request.state.principal
    managed = to_manage and "manage" in principal.scopes
    if job is None or not (managed or principal.may_see(job)):
        raise NotFound(f"there is no job {any_id[:80]}")
    return job


async def shown(state: Any, principal: Principal, job: Job) -> dict[str, Any]:
    """The full view."""
    return jobs.full_view(job, state.addresses.of, await outlook_of(state, job), reply_url_of(state, principal, job))
