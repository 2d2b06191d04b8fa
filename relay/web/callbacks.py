"""`POST /callbacks/<token>`: takes what the upstream reports, and answers 200 when it is on disk."""

import hashlib
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.core import task as tasks
from relay.core.receiving import CallbackReceived
from relay.errors import LimitReached, NotFound
from relay.vault import hash_token
from relay.web.problem import Json, read_body

BODY_MAX_BYTES: Final = 1024 * 1024
BODY_DEADLINE_S: Final = 20.0
CONTENT_TYPE_MAX_CHARS: Final = 200


async def receive(request: Request) -> Response:
    """200 with `{"result"}` once committed; 404 for a token that is unknown or dead."""
    body = await read_body(request, max_bytes=BODY_MAX_BYTES, deadline_s=BODY_DEADLINE_S)
    token = request.path_params["token"]
    state: Any = request.app.state
    happening = CallbackReceived(
        token_hash=hash_token(token),
        body=tasks.mask_bytes(body, token),
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        content_type=request.headers.get("content-type", "")[:CONTENT_TYPE_MAX_CHARS],
        report=tasks.read(tasks.decode(body)),
        at_ms=state.clock.now_ms(),
    )
    result = await state.store.apply(happening)
    if result == "unknown":
        raise NotFound("nobody waits for callbacks here")
    if result == "full":
        raise LimitReached("this attempt has sent as many callbacks as the relay keeps", retry_after_s=3600)
    return Json({"result": result})
