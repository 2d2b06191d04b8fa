"""What an operator asks of a running relay: a copy of its database, and to let the queue move after a restore."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from relay.core.holding import SubmittingResumed
from relay.core.job import iso
from relay.core.ledger import Hold
from relay.web.problem import Json, read_object, read_query
from relay.web.subscriptions import read_model

CHUNK_BYTES: Final = 256 * 1024


class Resumption(BaseModel):
    """The body of `POST /v1/resume`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    force: bool = False


async def resume(request: Request) -> Response:
    """200: the queue moves, and what the hold was (null: there was none). 409 before the search has come to its end."""
    state: Any = request.app.state
    read_query(request)
    given = read_model(Resumption, await read_object(request))
    hold = await state.store.apply(SubmittingResumed(given.force))
    return Json({"held": False, "hold": hold and shown(hold)})


def shown(hold: Hold) -> dict[str, Any]:
    """A hold as the doors show it."""
    return {
        "reason": hold.reason,
        "since": iso(hold.since_ms),
        "searchedAt": iso(hold.searched_at_ms),
        "found": hold.found,
    }


async def backup(request: Request) -> Response:
    """200 and a whole database, as it was when the request came, with its SHA-256 (`Repr-Digest`, RFC 9530).

    The key that its secrets are sealed with is not in it.
    """
    read_query(request)
    return _Copy(request.app.state.store)


class _Copy(Response):
    """Holds the copy for as long as it is sent."""

    def __init__(self, store: Any) -> None:
        super().__init__()
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._store.snapshot() as path:
            digest = await asyncio.to_thread(_digest, path)
            headers = {
                "Content-Length": str(path.stat().st_size),
                "Content-Disposition": 'attachment; filename="relay-backup.db"',
                "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
                "Cache-Control": "no-store",
            }
            body = StreamingResponse(_chunks(path), headers=headers, media_type="application/vnd.sqlite3")
            await body(scope, receive, send)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        file.close()
