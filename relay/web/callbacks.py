"""`POST /callbacks/<token>`: takes what the upstream reports, and answers 200 when it is on disk."""

import hashlib
from collections.abc import Coroutine
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.core import task as tasks
from relay.core.adopting import StrayReported
from relay.core.receiving import Arrived, CallbackReceived
from relay.errors import LimitReached, NotFound, RelayError
from relay.vault import hash_token, new_uuid7
from relay.web.problem import Json, problem_response, read_body

PREFIX: Final = "/callbacks/"
BODY_MAX_BYTES: Final = 1024 * 1024
BODY_DEADLINE_S: Final = 20.0
CONTENT_TYPE_MAX_CHARS: Final = 200

_ANSWERS: Final = {
    result: (
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        },
        {"type": "http.response.body", "body": body},
    )
    for result in ("stored", "duplicate", "quarantined")
    for body in (b'{"result":"%s"}' % result.encode(),)
}


class CallbackDoor:
    """Answers the callbacks of attempts before any routing: they are most of all requests, and each must be cheap.

    Everything else, other methods on the same address included, goes on to `app`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(PREFIX):
            token = scope["path"][len(PREFIX) :]
            if token and "/" not in token:
                await _answered(token, scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _answered(token: str, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        result = await _received(token, scope, receive)
    except RelayError as error:
        await problem_response(error)(scope, receive, send)
        return
    for message in _ANSWERS[result]:
        await send(message)


async def receive(request: Request) -> Response:
    """200 with `{"result"}` once committed; 404 for a token that is unknown or dead. The same as by `CallbackDoor`."""
    return Json({"result": await _received(request.path_params["token"], request.scope, request.receive)})


async def _received(token: str, scope: Scope, receive: Receive) -> str:
    state = scope["app"].state

    async def take() -> str:
        arrived = await _arrived(state, receive, scope["headers"], token)
        return _taken(await state.store.apply(CallbackReceived(hash_token(token), arrived)))

    return await _counted(state, take())


async def inbox(request: Request) -> Response:
    """Reports on tasks that were submitted elsewhere: 200 once committed, 404 without the inbox's secret."""
    token, state = request.path_params["token"], request.app.state

    async def take() -> str:
        arrived = await _arrived(state, request.receive, request.scope["headers"], token)
        result = "unknown"
        if state.guard.opens_inbox(token):
            result = await state.store.apply(StrayReported(arrived, new_uuid7(arrived.at_ms)))
        return _taken(result)

    return Json({"result": await _counted(state, take())})


async def _counted(state: Any, taking: Coroutine[Any, Any, str]) -> str:
    try:
        outcome = await taking
    except RelayError as error:
        state.metrics.callbacks[error.code].inc()
        raise
    state.metrics.callbacks[outcome].inc()
    return outcome


async def _arrived(state: Any, receive: Receive, headers: list[tuple[bytes, bytes]], token: str) -> Arrived:
    body = await read_body(receive, max_bytes=BODY_MAX_BYTES, deadline_s=BODY_DEADLINE_S)
    masked = tasks.mask_bytes(body, token)
    content_type = next((value for name, value in headers if name == b"content-type"), b"")
    return Arrived(
        body=masked,
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        content_type=content_type.decode("latin-1")[:CONTENT_TYPE_MAX_CHARS],
        report=tasks.read(tasks.decode(masked), masked=True),
        at_ms=state.clock.now_ms(),
    )


def _taken(result: str) -> str:
    if result == "unknown":
        raise NotFound("nobody waits for callbacks here")
    if result == "full":
        raise LimitReached("this task has sent as many callbacks as the relay keeps", retry_after_s=3600)
    return result
