"""Jobs: submit one, read one, list them."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.core import job as jobs
from relay.core.job import STATES, Job, Outlook
from relay.core.request import check
from relay.core.submitting import JobSubmitted
from relay.errors import InvalidRequest, NotFound, Problem
from relay.store.contract import PAGE_MAX, JobFilter
from relay.vault import new_uuid7
from relay.web.guard import Principal
from relay.web.problem import Json, listed, read_object, read_query, whole

PAGE_DEFAULT: Final = 50


async def submit(request: Request) -> Response:
    """202 and the job, once it is on disk; every broken rule of the request at once when it is refused."""
    state: Any = request.app.state
    principal: Principal = request.state.principal
    checked = check(await read_object(request), state.catalogue, door="native", mode=state.settings.validation)
    problems = [*checked.problems, *_not_yet(checked.request)]
    if checked.refused or len(problems) > len(checked.problems):
        raise InvalidRequest.of(problems)
    now_ms = state.clock.now_ms()
    job_id = new_uuid7(now_ms)
    job = Job(
        id=job_id,
        model=str(checked.request["model"]),
        reply_ref=_text(checked.request.get("replyRef")),
        token_id=principal.token_id,
        submitted_by=principal.name,
        pinned=checked.account,
        task_id=jobs.task_id_of(job_id),
        request=dict(checked.request),
        problems=[problem.as_json() for problem in problems],
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
    settings = state.settings
    await state.store.apply(JobSubmitted(job, settings.queue_per_token, settings.queue_max))
    return Json(await shown(state, await find(state, job.id)), 202, {"Location": f"/v1/jobs/{job.id}"})


async def show(request: Request) -> Response:
    """One job in the full view, by its id or by any of its task ids."""
    state: Any = request.app.state
    return Json(await shown(state, await find(state, request.path_params["id"])))


async def index(request: Request) -> Response:
    """A page of jobs, newest first; `next` is the cursor of the page behind it, null at the end."""
    state: Any = request.app.state
    query = read_query(request, many=("state", "model", "replyRef"), one=("cursor", "limit"))
    limit = whole(query, "limit", PAGE_DEFAULT, 1, PAGE_MAX)
    before = whole(query, "cursor", 0, 1, 10**18) or None
    wanted = JobFilter(state=listed(query, "state", STATES), model=query["model"], reply_ref=query["replyRef"])
    found = await state.store.jobs(wanted, before, limit + 1)
    page = found[:limit]
    data = [jobs.event_view(job, state.addresses.of, await outlook(state, job)) for job in page]
    return Json({"data": data, "next": str(page[-1].seq) if len(found) > limit else None})


async def find(state: Any, any_id: str) -> Job:
    """The job; `NotFound` when there is none."""
    job: Job | None = await state.store.job(any_id)
    if job is None:
        raise NotFound(f"there is no job {any_id[:80]}")
    return job


async def shown(state: Any, job: Job) -> dict[str, Any]:
    return jobs.full_view(job, state.addresses.of, await outlook(state, job))


async def outlook(state: Any, job: Job) -> Outlook:
    """Where a waiting job stands in the queue."""
    return Outlook(queue_position=await state.store.queue_position(job)) if job.state == "queued" else Outlook()


def _not_yet(request: dict[str, object]) -> list[Problem]:
    if "replyUrl" not in request:
        return []
    message = "replyUrl is not taken for a single job yet: make a subscription (POST /v1/subscriptions)"
    return [Problem("replyUrl", "not_supported", message)]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
