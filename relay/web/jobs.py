"""Jobs: submit one, read one, list them."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.core import job as jobs
from relay.core.job import NO_OUTLOOK, STATES, Job
from relay.core.request import check
from relay.errors import InvalidRequest, NotFound
from relay.store.contract import PAGE_MAX, JobFilter
from relay.web.accept import accept, reply_url_of
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
    checked = check(await read_object(request), state.catalogue, door="native", mode=state.settings.validation)
    if flag(query, "dry_run"):
        problems = [problem.as_json() for problem in checked.problems]
        return Json({"valid": not checked.refused, "problems": problems, "request": checked.request})
    if checked.refused:
        raise InvalidRequest.of(checked.problems)
    job = await accept(state, principal, checked, "api")
    return Json(await shown(state, principal, await find(request, job.id)), 202, {"Location": f"/v1/jobs/{job.id}"})


async def show(request: Request) -> Response:
    """One job in the full view, by its id or by any of its task ids."""
    job = await find(request, request.path_params["id"])
    return Json(await shown(request.app.state, request.state.principal, job))


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


async def find(request: Request, any_id: str) -> Job:
    """The job; `NotFound` when there is none, or when it belongs to somebody else."""
    job: Job | None = await request.app.state.store.job(any_id)
    principal: Principal = request.state.principal
    if job is None or not principal.sees(job.token_id):
        raise NotFound(f"there is no job {any_id[:80]}")
    return job


async def shown(state: Any, principal: Principal, job: Job) -> dict[str, Any]:
    """The full view."""
    return jobs.full_view(job, state.addresses.of, await outlook_of(state, job), reply_url_of(state, principal, job))
