"""`GET /v1/artifacts/{id}/{name}`: the bytes of an artifact, streamed, for whoever holds a signed address."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.core.artifacts import StoredFile, file_id, judge
from relay.core.job import Job
from relay.core.media import Media, is_page, names, part_of
from relay.core.task import content_type_of
from relay.errors import BadGateway, NotFound, RelayError
from relay.observe import logger
from relay.store.files import Folder
from relay.web.leaving import while_connected
from relay.web.ports import OpenFile

_ID: Final = re.compile(r"(?P<job>[0-9a-f-]{36})-(?P<index>\d{1,3})")
_PREVIEW: Final = re.compile(r"preview-(?P<number>\d{1,3})(\.[a-z0-9]{1,5})?")
_PASSED_ON: Final = ("content-length", "content-range", "etag", "last-modified", "accept-ranges")


_log = logger("artifacts")


async def serve(request: Request) -> Response:
    """200, 206 for a `Range`, 304 for a copy that is still good; 404 for an address never made, 410 for an old one."""
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
    folder: Folder | None = state.folder
    kept: StoredFile | None = await state.store.file(file_id(job.id, int(match["index"]), number)) if folder else None
    if folder and kept and kept.state == "kept" and (url := await folder.address(kept, request.method)):
        return Response(status_code=307, headers={"location": url, "cache-control": "no-store"})
    wanted = {key: request.headers[key] for key in ("range", "if-range", "if-none-match") if key in request.headers}
    return _Streamed(state, kept, job, int(match["index"]), number, wanted, name)


class _Streamed(Response):
    """Passes the bytes on as they come, never the whole file in memory."""

    def __init__(
        self,
        state: Any,
        kept: StoredFile | None,
        job: Job,
        index: int,
        preview: int | None,
        wanted: dict[str, str],
        name: str,
    ) -> None:
        super().__init__()
        self._state = state
        self._kept = kept
        self._where = (job, index, preview, wanted)
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A player that seeks hangs up and comes back, again and again.
        await while_connected(receive, self._pass_on(scope, send))

    async def _pass_on(self, scope: Scope, send: Send) -> None:
        wanted = self._where[3]
        async with self._opened(*self._where) as file:
            status, headers, chunks = await self._answer(file, wanted)
            await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
            try:
                if scope["method"] != "HEAD":
                    async for chunk in chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except (RelayError, OSError) as error:
                # An answer that does not end: the server closes the connection, and the reader sees that it was cut.
                _log.warning("artifact.cut", job=self._where[0].id, reason=str(error))
                return
            await send({"type": "http.response.body", "body": b""})

    @asynccontextmanager
    async def _opened(
        self, job: Job, index: int, preview: int | None, wanted: dict[str, str]
    ) -> AsyncGenerator[OpenFile]:
        """The file that is kept, if it is, else as its host has it."""
        async with AsyncExitStack() as stack:
            file: Any = None
            if self._kept and self._kept.state == "kept":
                with suppress(OSError):  # somebody has removed it: `relay artifacts verify` finds that out
                    file = await stack.enter_async_context(self._state.folder.reading(self._kept, wanted))
            if file is None:
                file = await stack.enter_async_context(self._state.artifacts.open(job, index, preview, wanted))
            yield file

    async def _answer(self, file: OpenFile, wanted: dict[str, str]) -> tuple[int, dict[str, str], AsyncIterator[bytes]]:
        """Status, headers and bytes of the answer; `BadGateway` when what comes is no such file."""
        status, kind = file.status, content_type_of(self._name)
        kept = self._kept if self._kept and self._kept.state == "kept" else None
        known = (kind[0], kept.content_type or kind[1], _suffix(kept.path or "")) if kept else (*kind, "")
        headers = {key: file.headers[key] for key in _PASSED_ON if key in file.headers} | self._safe(known)
        if status == 304 or (status < 400 and names(wanted.get("if-none-match"), headers.get("etag"))):
            headers.pop("content-length", None)
            return 304, headers, _nothing()
        if status == 416:
            return 416, headers | {"content-length": "0"}, _nothing()
        chunks = file.chunks()
        if status == 200 or headers.get("content-range", "").startswith("bytes 0-"):
            first = await anext(chunks, b"")
            if kind[0] != "other" and is_page(first):
                raise BadGateway("the host of this file sends a page in its place")
            media = judge(kind[0], first, whole=False)
            if media[2] and not kept:
                headers |= self._safe(media)
            chunks = _again(first, chunks)
        if status == 200 and "range" in wanted and "if-range" not in wanted and "content-length" in headers:
            status, chunks = _cut(headers, chunks, wanted["range"])
        return status, headers, chunks

    def _safe(self, media: Media) -> dict[str, str]:
        stem, extension = self._name.partition(".")[0], media[2] or _suffix(self._name)
        return {
            "content-type": media[1],
            "content-disposition": f'inline; filename="{stem}{extension}"',
            "cache-control": "private, max-age=3600",
            "x-content-type-options": "nosniff",
            # Whatever the file is, a browser that opens it runs nothing in our name.
            "content-security-policy": "sandbox",
            "accept-ranges": "bytes",
        }


def _cut(headers: dict[str, str], chunks: AsyncIterator[bytes], asked: str) -> tuple[int, AsyncIterator[bytes]]:
    """The part that was asked for, of a host that knows no parts and gives the whole."""
    size = int(headers["content-length"])
    part = part_of(asked, size)
    if part is None:
        return 200, chunks
    if not part:
        headers |= {"content-length": "0", "content-range": f"bytes */{size}"}
        return 416, _nothing()
    headers |= {"content-length": str(len(part)), "content-range": f"bytes {part.start}-{part.stop - 1}/{size}"}
    return 206, _between(chunks, part)


async def _between(chunks: AsyncIterator[bytes], part: range) -> AsyncGenerator[bytes]:
    at = 0
    async for chunk in chunks:
        if inside := chunk[max(0, part.start - at) : max(0, part.stop - at)]:
            yield inside
        at += len(chunk)
        if at >= part.stop:
            return


async def _again(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    if first:
        yield first
    async for chunk in chunks:
        yield chunk


async def _nothing() -> AsyncGenerator[bytes]:
    return
    yield b""


def _suffix(path: str) -> str:
    return path[path.rfind(".") :] if "." in path else ""


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(key.encode("latin-1"), value.encode("latin-1", "replace")) for key, value in headers.items()]
