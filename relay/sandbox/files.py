"""The sandbox's files over HTTP: assets that stream in, and artifacts that signed links open, with ranges."""

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import islice
from typing import Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from relay.clock import Clock
from relay.errors import BodyTooLarge
from relay.sandbox import shapes
from relay.sandbox.answer import TEXT, Answer, answer, lost, refusal
from relay.sandbox.film import CHUNK_BYTES, preview
from relay.sandbox.library import KEPT_MAX_BYTES, MEDIA, UPLOAD_MAX_BYTES, Asset, Upload, asset_object
from relay.sandbox.shapes import Json
from relay.sandbox.vendor import Vendor

ASSETS_LIMIT_MAX: Final = 50
NAME_MAX: Final = 255
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_FORBIDDEN: Final = Answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>", TEXT)


class Files:
    """Answers for files; contents come from the vendor's library and films."""

    def __init__(self, vendor: Vendor, clock: Clock) -> None:
        self._vendor = vendor
        self._clock = clock

    async def add(self, request: Request, origin: str) -> Answer:
        """`POST /assets/?name=&email=`: raw bytes, read as they come and not held."""
        query = request.query_params
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type not in MEDIA:
            return refusal(shapes.error(400, f"Content-Type {content_type or 'missing'} is not supported."))
        if query.get("email") not in (None, *self._vendor.accounts.by_email):
            return refusal(shapes.error(404, f"Account {query['email']} was not found."))
        digest, size, kept = hashlib.sha256(), 0, bytearray()
        async for piece in request.stream():
            digest.update(piece)
            size += len(piece)
            if size > UPLOAD_MAX_BYTES:
                raise BodyTooLarge(f"The file is larger than {UPLOAD_MAX_BYTES} bytes.")
            kept += piece if size <= KEPT_MAX_BYTES else b""
        if size == 0:
            return refusal(shapes.error(400, "The request body is empty."))
        upload = Upload(
            name=query.get("name", "")[:NAME_MAX] or f"asset.{MEDIA[content_type]}",
            content_type=content_type,
            size=size,
            sha256=digest.hexdigest(),
            kept=bytes(kept) if size <= KEPT_MAX_BYTES else b"",
            duration_s=_number(query, "duration"),
            width=_whole(query, "width"),
            height=_whole(query, "height"),
        )
        asset = self._vendor.add_asset(self._clock.now_ms(), upload, query.get("email"))
        return answer(self._object(asset, origin))

    def listed(self, query: QueryParams, origin: str) -> Answer:
        """`GET /assets/?mediaType=&offset=&limit=&email=`: newest first, at most 50."""
        offset, limit = query.get("offset", "0"), query.get("limit", str(ASSETS_LIMIT_MAX))
        if not re.fullmatch(r"\d{1,6}", offset):
            return refusal(shapes.error(400, "Parameter offset must be a number."))
        if not re.fullmatch(r"\d{1,2}", limit) or not 1 <= int(limit) <= ASSETS_LIMIT_MAX:
            return refusal(shapes.error(400, f"Parameter limit must be a number from 1 to {ASSETS_LIMIT_MAX}."))
        assets = self._vendor.library.listed(media_type=query.get("mediaType"), email=query.get("email"))
        page = [self._object(each, origin) for each in islice(assets, int(offset), int(offset) + int(limit))]
        return answer({"assets": page} if self._vendor.faults.value("list_body") == "object" else page)

    def one(self, raw_id: str, origin: str) -> Answer:
        asset = self._vendor.library.get(self._vendor.asking.id_of(raw_id))
        return refusal(shapes.NOT_FOUND) if asset is None else answer(self._object(asset, origin))

    def delete(self, raw_id: str, origin: str) -> Answer:
        asset = self._vendor.library.delete(self._vendor.asking.id_of(raw_id))
        return refusal(shapes.NOT_FOUND) if asset is None else answer({**self._object(asset, origin), "deleted": True})

    def serve(self, request: Request) -> Response | Answer:
        """`GET /artifacts/{name}?_jwt=`: an artifact, a preview or an uploaded asset."""
        faults = self._vendor.faults
        if way := faults.take("links_fail"):
            return lost(way)
        name = request.path_params["name"]
        if not self._vendor.links.good(name, request.query_params.get("_jwt", ""), self._clock.now_ms()):
            return _FORBIDDEN
        uuid, _, extension = name.partition(".")
        if (asset := self._vendor.library.find(uuid)) is not None:
            upload = asset.upload
            if not upload.kept:
                return Answer(404, b"The sandbox keeps no contents of this size.", TEXT)
            return Response(upload.kept, headers={"content-type": upload.content_type})
        task = self._vendor.register.made(uuid.removesuffix("-preview"), self._clock.now_ms())
        if task is None:
            return Answer(404, b"Not found", TEXT)
        if extension == "png":
            return Response(preview(task.task_id), headers={"content-type": "image/png"})
        film = self._vendor.asking.film(task)
        return _ranged(request, film.size, film.etag, film.read)

    def _object(self, asset: Asset, origin: str) -> Json:
        return asset_object(asset, self._vendor.asking.link(origin, asset.filename, self._clock.now_ms()))


def _ranged(request: Request, size: int, etag: str, read: Callable[[int, int], Iterator[bytes]]) -> Response:
    """The whole film, or the one range that was asked for; browsers seek with it."""
    headers = {"content-type": "video/mp4", "accept-ranges": "bytes", "etag": etag}
    asked = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    start, end, status = 0, size, 200
    if asked and (asked[1] or asked[2]) and request.headers.get("if-range") in (None, etag):
        if asked[1]:
            start, end = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size
        else:
            start = max(0, size - int(asked[2]))
        if start >= end:
            return Response(status_code=416, headers={**headers, "content-range": f"bytes */{size}"})
        status = 206
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    headers["content-length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    if end - start <= CHUNK_BYTES:
        return Response(b"".join(read(start, end)), status, headers)
    return StreamingResponse(_pieces(read(start, end)), status, headers)


async def _pieces(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    # As a coroutine: Starlette would run a plain iterator in a thread, a hop for each piece.
    for piece in pieces:
        yield piece


def _number(query: Mapping[str, str], name: str) -> float | None:
    text = query.get(name, "")
    return float(text) if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) else None


def _whole(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    return int(text) if re.fullmatch(r"\d{1,6}", text) else None
