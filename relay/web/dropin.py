"""The drop-in door: creates and tasks in the upstream's own shapes, for programs that change only base URL and token.

A create waits a little for the upstream's own answer when a slot is free, and is told the truth about the queue when
none is. Once the job is stored the answer is a 200 with its taskId, or a 4xx after which the job is final.
"""

import re
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from relay.clock import wait_at_most
from relay.core.dispatch import Waiting, explores, open_now
from relay.core.dropin import STATUSES, busy, create_answer, refusal, status_of, task_view
from relay.core.job import ErrorCode, Job, mode_of
from relay.core.request import Checked, advice, check
from relay.core.submitting import CreateAnswered, JobGivenUp
from relay.core.task import TASK_ID
from relay.errors import InvalidRequest, NotFound, Problem
from relay.store.contract import JobFilter
from relay.web.accept import accept, key_of, reply_url_of
from relay.web.forecast import next_start, outlook_of
from relay.web.guard import Principal
from relay.web.problem import Json, read_object, read_query, whole

ANSWER_WAIT_S: Final = 10.0
FORM_FIELDS_MAX: Final = 64
FORM_FIELD_MAX_BYTES: Final = 64 * 1024
OFFSET_MAX: Final = 1_000
LIMIT_MAX: Final = 1_000
RETRY_AFTER_MAX_S: Final = 3_600
NO_CREDITS: Final = "You do not have enough credits to run this task."


async def create(request: Request) -> Response:
    """`POST …/videos/create`."""
    state: Any = request.app.state
    principal: Principal = request.state.principal
    key = key_of(request)
    form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    fields = await _form(request) if form else await read_object(request)
    checked = check(fields, state.catalogue, door="dropin", mode=state.settings.validation, textual=form)
    if checked.refused:
        raise InvalidRequest(
            f"{'; '.join(problem.message for problem in checked.problems)}. {advice(state.catalogue)}",
            problems=checked.problems,
        )
    free = await _has_free_slot(state, principal, checked)
    refused = None if free else await _without_room(state, principal, checked)
    used = await state.store.used_key(key) if key else None
    if refused is not None and used is None:
        return refused
    job = await accept(state, principal, checked, "dropin", key=key)
    if used is None or used.answered_at_ms is None:
        if free or used is not None:
            await _left_the_queue(state, job)
        return await _answer(state, principal, job, key)
    return Json(create_answer(await _task(state, principal, job)))


async def task(request: Request) -> Response:
    """`GET …/tasks/{taskId}`, from the store."""
    state: Any = request.app.state
    principal: Principal = request.state.principal
    task_id = raw_id(request, TASK_ID, "task")
    job: Job | None = await state.store.job(task_id)
    if job is None or not principal.sees(job.token_id):
        raise NotFound("Not found.")
    return Json(await _task(state, principal, job))


def raw_id(request: Request, form: re.Pattern[str], what: str) -> str:
    """The id at the end of the path as it was sent: percent-encoded ones are refused, as by the upstream."""
    given = request.scope["raw_path"].rpartition(b"/")[2].decode("latin-1")
    if not form.fullmatch(given):
        message = f"a {what} id has the form user:<number>-runwayml:<account>-{what}:<uuid>, and is not percent-encoded"
        raise InvalidRequest.field(f"{what}Id", "id_form", message, given=given[:80])
    return str(given)


async def own_tasks(request: Request) -> Response:
    """`GET …/tasks/` for a token that may see its own jobs only: from the store, newest first."""
    state: Any = request.app.state
    principal: Principal = request.state.principal
    query = read_query(request, one=("offset", "limit", "statuses", "email"))
    offset, limit = whole(query, "offset", 0, 0, OFFSET_MAX), whole(query, "limit", 50, 1, LIMIT_MAX)
    statuses = query["statuses"][0].upper().split(",") if query["statuses"] else STATUSES
    wanted = JobFilter(token_id=(principal.token_id,), account=query["email"], origin=("dropin",))
    found = await state.store.jobs(wanted, None, OFFSET_MAX + LIMIT_MAX)
    page = [job for job in found if status_of(job) in statuses][offset : offset + limit]
    return Json([await _task(state, principal, job) for job in page])


async def _task(state: Any, principal: Principal, job: Job) -> dict[str, Any]:
    reply_url = reply_url_of(state, principal, job)
    return task_view(job, state.addresses.of, await outlook_of(state, job), reply_url, state.clock.now_ms())


async def _form(request: Request) -> dict[str, str]:
    """A form's names and texts; files have no place in it."""
    try:
        form = await request.form(max_files=0, max_fields=FORM_FIELDS_MAX, max_part_size=FORM_FIELD_MAX_BYTES)
    except HTTPException as error:
        raise InvalidRequest.field("body", "form", f"the form cannot be read: {error.detail}") from error
    twice = sorted({name for name in form if len(form.getlist(name)) > 1})
    if twice:
        raise InvalidRequest.of([Problem(name, "once", f"{name} is given twice") for name in twice])
    return {name: value for name, value in form.items() if isinstance(value, str)}


async def _has_free_slot(state: Any, principal: Principal, checked: Checked) -> bool:
    """Whether by our own count the job can go out at once, beside those that are about to."""
    store = state.store
    accounts = await store.accounts()
    if not accounts:
        return True  # the relay has just begun to ask which there are, and waits for that as for an answer
    fits = [account for account in accounts if checked.account in (None, account.email)]
    emails, explore = [account.email for account in fits], mode_of(checked.request) == "explore"
    # Read in the order in which a job goes: one that leaves the queue meanwhile is seen twice, never not at all.
    waits = await store.waiting(emails, emails if explore else [], 1)
    candidates = open_now(state.clock.now_ms(), fits, await store.busy())
    if explore:
        exploring = await store.exploring()
        candidates = [account for account in candidates if explores(account, exploring, state.clock.now_ms())]
    if not candidates or not waits:
        return bool(candidates)
    starts_at_ms = None if explore else await _starts_at_ms(state, principal, checked)
    return starts_at_ms is not None and starts_at_ms <= state.clock.now_ms()


async def _starts_at_ms(state: Any, principal: Principal, checked: Checked) -> int | None:
    """When the job should go out if it is queued now."""
    model, mode = str(checked.request["model"]), mode_of(checked.request)
    job = Waiting("", checked.account, principal.token_id, model, mode)
    return (await next_start(state, job)).starts_at_ms


async def _without_room(state: Any, principal: Principal, checked: Checked) -> Response | None:
    """The upstream's 412 when no account can pay, its 429 (a) when the job would wait too long; nothing is stored."""
    store, wait_s, now_ms = state.store, state.settings.dropin_wait, state.clock.now_ms()
    accounts = await store.accounts()
    if all(account.parked == "no_credits" and account.retry_at_ms > now_ms for account in accounts):
        return Json({"error": NO_CREDITS}, 412)
    if wait_s is None:
        return None
    starts_at_ms = await _starts_at_ms(state, principal, checked)
    estimate_s = None if starts_at_ms is None else max(1, (starts_at_ms - now_ms) // 1000)
    if wait_s > 0 and (estimate_s is None or estimate_s <= wait_s):
        return None
    running = sum((await store.busy()).values())
    body = busy(running, sum(account.slots for account in accounts), estimate_s)
    return Json(body, 429, {"Retry-After": str(min(estimate_s or 10, RETRY_AFTER_MAX_S))})


async def _left_the_queue(state: Any, job: Job) -> None:
    """Wait until the upstream has answered the create, or has sent the job back, but no longer than ten seconds."""

    async def answered() -> None:
        while not state.feed.closing:
            seen = state.feed.generation
            now = await state.store.job(job.id)
            if now.state not in ("queued", "submitting") or (now.state == "queued" and now.attempts > 0):
                return
            await state.feed.changed(seen)

    await wait_at_most(state.clock, answered(), ANSWER_WAIT_S)


async def _answer(state: Any, principal: Principal, job: Job, key: str | None) -> Response:
    """What the create answers, by what has become of the job."""
    now: Job = await state.store.job(job.id)
    if now.state == "queued" and (now.attempts > 0 or state.settings.dropin_wait == 0):
        now = await _perhaps_given_up(state, now)
    refused = refusal(now)
    if refused is not None:
        status, body = refused
        return Json(body, status)
    now = await state.store.apply(CreateAnswered(job.id, state.clock.now_ms(), key))
    return Json(create_answer(await _task(state, principal, now)))


async def _perhaps_given_up(state: Any, job: Job) -> Job:
    """A job that is still in the queue stays there, unless nobody can pay or nobody wants to wait."""
    accounts = await state.store.accounts()
    reason: tuple[ErrorCode, str] | None = None
    if all(account.parked == "no_credits" for account in accounts):
        reason = ("no_credits", NO_CREDITS)
    elif state.settings.dropin_wait == 0:
        reason = ("deadline", "the upstream had no room, and the relay does not queue at this door")
    if reason is None:
        return job
    given_up: Job = await state.store.apply(JobGivenUp(job.id, *reason, state.clock.now_ms()))
    return given_up
