"""Gives every request an id, the caller's by `traceparent` or a new one, and writes a line about what was changed.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.observe import about, logger
from relay.vault import new_hex
from relay.web.problem import on_defect

HEADER: Final = b"x-request-id"
_ID_DIGITS: Final = 32
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.{0,200})?"
)
# Whoever only reads gets a line when that fails.
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_log = logger("web")


class RequestTrace:
    """The id goes back as `X-Request-Id` and stands in every line that is written for this request.

    Lines name the door and never the address, which may hold a ticket or a signature. Callbacks do not come this way.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, clock, status = id_of(scope["headers"]), scope["app"].state.clock, 0
        about(request=request_id)
        scope.setdefault("state", {})["request_id"] = request_id

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (HEADER, request_id.encode())]
            await send(message)

        began_s = clock.monotonic_s()
        try:
            await self._app(scope, receive, with_id)
        except Exception as error:
            if status:  # a part of an answer is out already
                raise
            answer = await on_defect(Request(scope), error)
            await answer(scope, receive, with_id)
        finally:
            if scope["method"] not in _READS or status >= 500:
                door = getattr(scope.get("route"), "path", None)
                took_ms = round((clock.monotonic_s() - began_s) * 1000)
                _log.info("request.done", method=scope["method"], door=door, status=status, took_ms=took_ms)


def id_of(headers: list[tuple[bytes, bytes]]) -> str:
    """The trace id of a good `traceparent`, else a new one of the same form."""
    given = [value for name, value in headers if name == b"traceparent"]
    match = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    return match[1].decode() if match else new_hex(_ID_DIGITS)
