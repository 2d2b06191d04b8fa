"""`GET /v1/artifacts/{id}/{name}`: the bytes of an artifact, streamed, for whoever holds a signed address."""

import re
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.core.job import Job
from relay.core.task import content_type_of
from relay.errors import NotFound
from relay.web.leaving import while_connected
from relay.web.ports import OpenFile

_ID: Final = re.compile(r"(?P<job>[0-9a-f-]{36})-(?P<index>\d{1,3})")
_PREVIEW: Final = re.compile(r"preview-(?P<number>\d{1,3})(\.[a-z0-9]{1,5})?")
_PASSED_ON: Final = ("content-length", "content-range", "etag", "last-modified", "accept-ranges")


async def serve(request: Request) -> Response:
    """200, or 206 for a `Range`; 404 for an address that was never made, 410 for one that has expired."""
    state: Any = request.app.state
    artifact_id, name = request.path_params["id"], request.path_params["name"]
    query = request.query_params
    state.addresses.check(artifact_id, name, query.get("exp", ""), query.get("sig", ""))
    match = _ID.fullmatch(artifact_id)
    job: Job | None = await state.store.job(match["job"]) if match else None
    if match is None or job is None or int(match["index"]) >= len(job.artifacts):
        raise NotFound("the job of this file is gone")
    preview = _PREVIEW.fullmatch(name)
    number = int(preview["number"]) - 1 if preview else None
    ranges = {key: request.headers[key] for key in ("range", "if-range") if key in request.headers}
    return _Streamed(state, job, int(match["index"]), number, ranges, name)


class _Streamed(Response):
    """Passes the bytes on as they come, never the whole file in memory."""

    def __init__(
        self, state: Any, job: Job, index: int, preview: int | None, ranges: dict[str, str], name: str
    ) -> None:
        super().__init__()
        self._state = state
        self._where = (job, index, preview, ranges)
        self._type = content_type_of(name)[1]
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A player that seeks hangs up and comes back, again and again.
        await while_connected(receive, self._pass_on(scope, send))

    async def _pass_on(self, scope: Scope, send: Send) -> None:
        job, index, preview, ranges = self._where
        async with self._state.artifacts.open(job, index, preview, ranges) as file:
            await send({"type": "http.response.start", "status": file.status, "headers": self._heads(file)})
            if scope["method"] != "HEAD":
                async for chunk in file.chunks():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    def _heads(self, file: OpenFile) -> list[tuple[bytes, bytes]]:
        headers = {key: file.headers[key] for key in _PASSED_ON if key in file.headers}
        headers |= {
            "content-type": self._type,
            "content-disposition": f'inline; filename="{self._name}"',
            "cache-control": "private, max-age=3600",
            "x-content-type-options": "nosniff",
            # Whatever the file is, a browser that opens it runs nothing in our name.
            "content-security-policy": "sandbox",
            "accept-ranges": headers.get("accept-ranges", "bytes"),
        }
        return [(key.encode("latin-1"), value.encode("latin-1", "replace")) for key, value in headers.items()]
