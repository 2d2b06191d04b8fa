"""What an operator asks of a running relay: a copy of its database, and to let the queue move after a restore."""

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.core.audit import Noted
from relay.core.holding import SubmittingResumed
from relay.core.job import iso
from relay.core.ledger import Hold
from relay.observe import logger
from relay.web.audit import asked_for, deed
from relay.web.leaving import taken, while_connected
from relay.web.problem import Json, read_object, read_query
from relay.web.subscriptions import read_model

CHUNK_BYTES: Final = 256 * 1024
_log = logger("web")


class Resumption(BaseModel):
    """The body of `POST /v1/resume`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    force: bool = False


async def resume(request: Request) -> Response:
    """200: the queue moves, and what the hold was (null: there was none). 409 before the search has come to its end."""
    state: Any = request.app.state
    read_query(request)
    given = read_model(Resumption, await read_object(request))
    hold = await state.store.apply(asked_for(request, SubmittingResumed(given.force)))
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
    return _Copy(request)


class _Copy(Response):
    """Holds the copy for as long as it is sent."""

    def __init__(self, request: Request) -> None:
        super().__init__(media_type="application/vnd.sqlite3")
        self._state, self._deed = request.app.state, deed(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._state.store.snapshot() as path:
            await self._state.store.apply(Noted(self._deed))
            digest = await asyncio.to_thread(_digest, path)
            self.headers["Content-Length"] = str(path.stat().st_size)
            self.headers["Content-Disposition"] = 'attachment; filename="relay-backup.db"'
            self.headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(digest).decode()}:"
            self.headers["Cache-Control"] = "no-store"
            await while_connected(receive, self._send(send, path))

    async def _send(self, send: Send, path: Path) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with _opened(path) as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                # Whoever reads nothing would keep the copy on the disk, and others from theirs.
                if not await taken(self._state.clock, send, chunk):
                    _log.warning("backup.cut", reason="nobody read it")
                    return
        await send({"type": "http.response.body", "body": b""})


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
