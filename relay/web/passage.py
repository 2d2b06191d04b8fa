"""What the drop-in door passes through to the upstream: assets, accounts, features, lists for who may see all."""

import re
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.core import task as tasks
from relay.errors import BodyTooLarge, NotFound
from relay.web import dropin
from relay.web.accept import reply_url_of
from relay.web.guard import Principal
from relay.web.ports import Answered
from relay.web.problem import Json

UPLOAD_MAX_BYTES: Final = 1024 * 1024 * 1024
ASSET_ID: Final = re.compile(
    r"user:\d{1,19}-runwayml:[^\s/?#%\\]{1,254}-asset:[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
)
# What each path takes in its query; the rest is not passed on.
QUERIES: Final = {
    "/assets/": ("name", "email", "duration", "width", "height", "mediaType", "offset", "limit"),
    "/features/": ("email",),
    "/tasks/": ("offset", "limit", "statuses", "email"),
}
SERVED: Final = "POST videos/create, GET tasks/{taskId}, tasks/, scheduler/, accounts, features/, and assets"


async def assets(request: Request) -> Response:
    """Upload (streamed) or list."""
    return _passed_on(await _ask(request, "/assets/", with_body=request.method == "POST"))


async def asset(request: Request) -> Response:
    """Read or delete one."""
    return _passed_on(await _ask(request, f"/assets/{dropin.raw_id(request, ASSET_ID, 'asset')}"))


async def accounts(request: Request) -> Response:
    """The accounts without their passwords: e-mail, maxJobs and error only."""
    answered = await _ask(request, "/accounts")
    body = tasks.decode(answered.body)
    if answered.status != 200:
        return _passed_on(answered)
    shown = {
        email: {key: row[key] for key in ("email", "maxJobs", "error") if key in row}
        for email, row in (body.items() if isinstance(body, dict) else ())
        if isinstance(row, dict)
    }
    return Json(shown)


async def features(request: Request) -> Response:
    return _passed_on(await _ask(request, "/features/"))


async def scheduler(request: Request) -> Response:
    """What runs now on all accounts; the relay's own tasks carry their clients' references."""
    return await _restored(request, await _ask(request, "/scheduler/"))


async def tasks_list(request: Request) -> Response:
    """The upstream's list for tokens with `read`; from the store, the token's own, for the others."""
    if "read" not in request.state.principal.scopes:
        return await dropin.own_tasks(request)
    return await _restored(request, await _ask(request, "/tasks/"))


async def nothing_here(request: Request) -> Response:
    """The older create endpoints cost money, so nothing unknown is ever passed on."""
    raise NotFound(f"The relay does not serve this address; it serves {SERVED}.")


async def _ask(request: Request, path: str, *, with_body: bool = False) -> Answered:
    known = QUERIES.get(path, ())
    query = [(name, value) for name, value in request.query_params.multi_items() if name in known]
    headers = {name: request.headers[name] for name in ("content-type", "content-length") if name in request.headers}
    answered: Answered = await request.app.state.passage.forward(
        request.method, path, query, headers if with_body else {}, _bounded(request) if with_body else None
    )
    return answered


async def _bounded(request: Request) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > UPLOAD_MAX_BYTES:
            raise BodyTooLarge(f"an asset may have at most {UPLOAD_MAX_BYTES} bytes")
        yield chunk


def _passed_on(answered: Answered) -> Response:
    body = tasks.mask_bytes(answered.body)
    return Response(body, answered.status, media_type=answered.content_type or "application/json")


async def _restored(request: Request, answered: Answered) -> Response:
    """Tasks of ours carry the client's taskId, replyUrl and replyRef; nobody sees a callback address of the relay."""
    state: Any = request.app.state
    principal: Principal = request.state.principal
    if answered.status != 200:
        return _passed_on(answered)
    masked: Any = tasks.decode(tasks.mask_bytes(answered.body))
    rows = masked.get("tasks") if isinstance(masked, dict) else masked
    for row in rows if isinstance(rows, list) else []:
        job = (
            await state.store.job(row["taskId"])
            if isinstance(row, dict) and isinstance(row.get("taskId"), str)
            else None
        )
        if job is not None:
            row |= {
                "taskId": job.task_id,
                "replyRef": job.reply_ref,
                "replyUrl": reply_url_of(state, principal, job),
            }
    return Json(masked)
