"""`POST /callbacks/<token>`: takes what the upstream reports, and answers 200 when it is on disk."""

import hashlib
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from relay.core import task as tasks
from relay.core.adopting import StrayReported
from relay.core.receiving import Arrived, CallbackReceived
from relay.errors import LimitReached, NotFound
from relay.vault import hash_token, new_uuid7
from relay.web.problem import Json, read_body

BODY_MAX_BYTES: Final = 1024 * 1024
BODY_DEADLINE_S: Final = 20.0
CONTENT_TYPE_MAX_CHARS: Final = 200


async def receive(request: Request) -> Response:
    """200 with `{"result"}` once committed; 404 for a token that is unknown or dead."""
    token = request.path_params["token"]
    arrived = await _arrived(request, token)
    return _answer(await request.app.state.store.apply(CallbackReceived(hash_token(token), arrived)))


async def inbox(request: Request) -> Response:
    """Reports on tasks that were submitted elsewhere: 200 once committed, 404 without the inbox's secret."""
    token, state = request.path_params["token"], request.app.state
    arrived = await _arrived(request, token)
    if not state.guard.opens_inbox(token):
        return _answer("unknown")
    return _answer(await state.store.apply(StrayReported(arrived, new_uuid7(arrived.at_ms))))


async def _arrived(request: Request, token: str) -> Arrived:
    body = await read_body(request, max_bytes=BODY_MAX_BYTES, deadline_s=BODY_DEADLINE_S)
    return Arrived(
        body=tasks.mask_bytes(body, token),
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        content_type=request.headers.get("content-type", "")[:CONTENT_TYPE_MAX_CHARS],
        report=tasks.read(tasks.decode(body)),
        at_ms=request.app.state.clock.now_ms(),
    )


def _answer(result: str) -> Response:
    if result == "unknown":
        raise NotFound("nobody waits for callbacks here")
    if result == "full":
        raise LimitReached("this task has sent as many callbacks as the relay keeps", retry_after_s=3600)
    return Json({"result": result})
