"""What a person may do with a job that exists: cancel it, try a failed one again, settle a doubt, erase it."""

from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from relay.core.delivery import URL_SEAL
from relay.core.job import Job, event_view, task_id_of
from relay.core.outcome import Found, Missing
from relay.core.steering import JobCancelled, JobErased, JobResolved
from relay.core.task import TASK_ID, Report, account_of
from relay.core.why import still_renders
from relay.errors import BadGateway, Conflict, Forbidden, InvalidRequest
from relay.vault import new_uuid7
from relay.web.accept import queue
from relay.web.audit import asked_for
from relay.web.forecast import outlook_of
from relay.web.guard import Principal
from relay.web.jobs import find, shown
from relay.web.problem import Json, read_object, read_query
from relay.web.subscriptions import read_model

TASK_ID_FORM: Final = "user:<number>-runwayml:<account>-task:<uuid>"


class Resolution(BaseModel):
    """The body of `POST /v1/jobs/{id}/resolve`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    outcome: Literal["created", "not_created", "failed"]
    taskId: str | None = None  # noqa: N815 # the name on the wire


async def cancel(request: Request) -> Response:
    """200 and the job; `notice` says that the upstream still renders, where it does. 409 once it ended otherwise."""
    state: Any = request.app.state
    read_query(request)
    job = await _own(request)
    now: Job = await state.store.apply(asked_for(request, JobCancelled(job.id, state.clock.now_ms()), job.id))
    notice = still_renders(now, await state.store.attempts(job.id))
    return Json({**await _seen(request, now), "notice": notice})


async def retry(request: Request) -> Response:
    """202 and a new job with the request of a failed one; 200 and the retry that has not ended, if there is one."""
    state: Any = request.app.state
    read_query(request)
    old = await _own(request)
    if old.state != "failed":
        raise Conflict(f"the job is {old.state}: only a failed one can be tried again")
    if not old.request:
        raise Conflict("nobody knows any more what was asked for: submit it anew")
    now_ms = state.clock.now_ms()
    job_id = new_uuid7(now_ms)
    deadline_ms = old.deadline_ms if old.deadline_ms is not None and old.deadline_ms > now_ms else None
    job = replace(
        _unsent(old), id=job_id, task_id=task_id_of(job_id), deadline_ms=deadline_ms, retry_of=old.id,
        created_at_ms=now_ms, updated_at_ms=now_ms,
    )  # fmt: skip
    reply_url = state.vault.open(old.reply_url_sealed, URL_SEAL).decode() if old.reply_url_sealed else None
    made = await queue(state, job, reply_url, audited=lambda submitted: asked_for(request, submitted, old.id))
    # Read again, for its number and its place in the queue.
    body = await _seen(request, await state.store.job(made.id))
    return Json(body, 202 if made.id == job_id else 200, {"Location": f"/v1/jobs/{made.id}"})


async def resolve(request: Request) -> Response:
    """200 and the job, its doubt settled; `created` only with the upstream's own word on the task."""
    state: Any = request.app.state
    read_query(request)
    given = read_model(Resolution, await read_object(request))
    job = await find(request, request.path_params["id"], to_manage=True)
    report = None
    if given.outcome == "created":
        report = await _asked(state, job, given.taskId)
    elif given.taskId is not None:
        raise InvalidRequest.field("taskId", "unknown", "taskId goes with the outcome created alone")
    principal: Principal = request.state.principal
    resolved = JobResolved(job.id, given.outcome, report, principal.name, state.clock.now_ms())
    return Json(await _seen(request, await state.store.apply(asked_for(request, resolved, job.id))))


async def erase(request: Request) -> Response:
    """204: prompt, request, task, files and the bodies of callbacks are gone; id, state, counts and times stay."""
    state: Any = request.app.state
    read_query(request)
    job = await find(request, request.path_params["id"], to_manage=True)
    await state.store.apply(asked_for(request, JobErased(job.id, state.clock.now_ms()), job.id))
    return Response(status_code=204)


async def _seen(request: Request, job: Job) -> dict[str, Any]:
    """The job as whoever asks may see it: the scope manage does not include reading what was asked for."""
    state: Any = request.app.state
    principal: Principal = request.state.principal
    if principal.sees(job.token_id):
        return await shown(state, principal, job)
    return event_view(job, state.addresses.of, await outlook_of(state, job))


async def _own(request: Request) -> Job:
    """The job, if whoever asks has submitted it, or may manage all."""
    job = await find(request, request.path_params["id"], to_manage=True)
    principal: Principal = request.state.principal
    if job.token_id != principal.token_id and "manage" not in principal.scopes:
        raise Forbidden("another token submitted this job: its own, or one with the scope manage too, may do this")
    return job


def _unsent(job: Job) -> Job:
    """The job as it was before anything became of it."""
    return Job(
        id=job.id,
        model=job.model,
        mode=job.mode,
        reply_ref=job.reply_ref,
        token_id=job.token_id,
        submitted_by=job.submitted_by,
        priority=job.priority,
        pinned=job.pinned,
        task_id=job.task_id,
        request=job.request,
        problems=job.problems,
        created_at_ms=job.created_at_ms,
        updated_at_ms=job.updated_at_ms,
    )


async def _asked(state: Any, job: Job, task_id: str | None) -> Report:
    """The upstream's word on a task that a person names."""
    if task_id is None or not TASK_ID.fullmatch(task_id):
        message = f"taskId must be the upstream's, of the form {TASK_ID_FORM}"
        raise InvalidRequest.field("taskId", "task_id", message, given=task_id and task_id[:80], allowed=TASK_ID_FORM)
    account = account_of(task_id) or ""
    if job.account is not None and account.casefold() != job.account.casefold():
        message = f"the attempt in doubt was sent to {job.account}, and this task is on {account}"
        raise InvalidRequest.field("taskId", "one_account", message, given=task_id[:80], allowed=job.account)
    match await state.tasks.task(task_id):
        case Found(report) if report.task_id in (None, task_id):
            return replace(report, task_id=task_id)
        case Found():
            raise BadGateway("the upstream answered with another task than it was asked about; nothing was changed")
        case Missing():
            raise Conflict("the upstream does not know this task; nothing was changed")
        case _:
            raise BadGateway("the upstream could not be asked about this task; nothing was changed")
