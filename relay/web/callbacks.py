"""`POST /callbacks/<token>`: takes what the upstream reports, and answers 200 when it is on disk."""

import asyncio
import hashlib
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.core import task as tasks
from relay.core.adopting import StrayReported
from relay.core.receiving import Arrived, CallbackReceived, Received
from relay.errors import LimitReached, NotFound, RelayError
from relay.vault import hash_token, new_uuid7
from relay.web.problem import Json, mistake, problem_response, read_body

PREFIX: Final = "/callbacks/"
BODY_MAX_BYTES: Final = 1024 * 1024
BODY_DEADLINE_S: Final = 20.0
CONTENT_TYPE_MAX_CHARS: Final = 200

# A path that is its own raw form: no other spelling of it can mean anything else.
_TARGET: Final = re.compile(rb"/callbacks/([A-Za-z0-9_\-]+)")

Headers = list[tuple[bytes, bytes]]
Answer = tuple[int, Headers, bytes]

_ANSWERS: Final[dict[str, Answer]] = {
    result: (200, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))], body)
    for result in ("stored", "duplicate", "quarantined")
    for body in (b'{"result":"%s"}' % result.encode(),)
}


def takes(method: bytes, target: bytes) -> bool:
    """Whether a request is a callback to an attempt, which needs no routing: they are most of all requests."""
    return method == b"POST" and _TARGET.fullmatch(target) is not None


def answer_directly(
    state: Any, target: bytes, headers: Headers, body: bytes, answer: Callable[[int, Headers, bytes], None]
) -> None:
    """The same as `CallbackDoor`, for a request that came in one piece: `answer` is called when it is on disk."""
    try:
        writing = _begun(state, target[len(PREFIX) :].decode(), headers, body)
    except Exception as error:  # there is no app around this that would tell of it
        answer(*_failed(state, error))
    else:
        writing.add_done_callback(partial(_written, state, answer))


def _written(state: Any, answer: Callable[[int, Headers, bytes], None], writing: "asyncio.Future[Received]") -> None:
    try:
        told = _stored(state, writing.result())
    except (Exception, asyncio.CancelledError) as error:
        told = _failed(state, error)
    answer(*told)


class CallbackDoor:
    """Answers the callbacks of attempts before any routing; all else goes on to `app`, other methods too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(PREFIX):
            token = scope["path"][len(PREFIX) :]
            if token and "/" not in token:
                response = await receive_callback(Request({**scope, "path_params": {"token": token}}, receive))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def receive_callback(request: Request) -> Response:
    """200 with `{"result"}` once committed; 404 for a token that is unknown or dead."""
    token, state = request.path_params["token"], request.app.state
    try:
        body = await read_body(request.receive, max_bytes=BODY_MAX_BYTES, deadline_s=BODY_DEADLINE_S)
        told = _stored(state, await _begun(state, token, request.scope["headers"], body))
    except Exception as error:
        told = _failed(state, error)
    response = Response(told[2], told[0])
    response.raw_headers = told[1]
    return response


def _begun(state: Any, token: str, headers: Headers, body: bytes) -> "asyncio.Future[Received]":
    arrived = _arrived(state, body, headers, token)
    writing: asyncio.Future[Received] = state.store.begin(CallbackReceived(hash_token(token), arrived))
    return writing


def _stored(state: Any, result: Received) -> Answer:
    answer = _ANSWERS[_taken(result)]
    state.metrics.callbacks[result].inc()
    return answer


def _failed(state: Any, error: BaseException) -> Answer:
    told = error if isinstance(error, RelayError) else mistake(error, "POST")
    state.metrics.callbacks[told.code].inc()
    response = problem_response(told)
    return response.status_code, response.raw_headers, bytes(response.body)


async def inbox(request: Request) -> Response:
    """Reports on tasks that were submitted elsewhere: 200 once committed, 404 without the inbox's secret."""
    token, state = request.path_params["token"], request.app.state
    try:
        body = await read_body(request.receive, max_bytes=BODY_MAX_BYTES, deadline_s=BODY_DEADLINE_S)
        arrived, result = _arrived(state, body, request.scope["headers"], token), "unknown"
        if state.guard.opens_inbox(token):
            result = await state.store.apply(StrayReported(arrived, new_uuid7(arrived.at_ms)))
        _taken(result)
    except RelayError as error:
        state.metrics.callbacks[error.code].inc()
        raise
    state.metrics.callbacks[result].inc()
    return Json({"result": result})


def _arrived(state: Any, body: bytes, headers: Headers, token: str) -> Arrived:
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
