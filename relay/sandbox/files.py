"""The sandbox's files over HTTP: assets that stream in, and artifacts that signed links open, with ranges."""

import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from relay.clock import Clock
from relay.core.media import part_of
from relay.sandbox.answer import TEXT, Answer, Refusal, answer, fail, not_found, refusal
from relay.sandbox.asking import number_in
from relay.sandbox.film import Film, preview
from relay.sandbox.library import KEPT_MAX_BYTES, MEDIA, UPLOAD_MAX_BYTES, Asset
from relay.sandbox.shapes import Json
from relay.sandbox.vendor import Vendor

ASSETS_LIMIT_MAX: Final = 50
OFFSET_MAX: Final = 999_999
NAME_MAX: Final = 255
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
            raise refusal(400, f"Content-Type {content_type or 'missing'} is not supported.")
        if query.get("email") not in (None, *self._vendor.accounts.by_email):
            raise refusal(404, f"Account {query['email']} was not found.")
        digest, size, kept = hashlib.sha256(), 0, bytearray()
        async for piece in request.stream():
            digest.update(piece)
            size += len(piece)
            if size > UPLOAD_MAX_BYTES:
                raise refusal(413, f"The file is larger than {UPLOAD_MAX_BYTES} bytes.")
            kept += piece if size <= KEPT_MAX_BYTES else b""
        if size == 0:
            raise refusal(400, "The request body is empty.")
        asset = Asset(
            uuid=self._vendor.new_uuid(),
            account=query.get("email") or self._vendor.any_account(),
            user_id=self._vendor.user_id,
            created_ms=self._clock.now_ms(),
            name=query.get("name", "")[:NAME_MAX] or f"asset.{MEDIA[content_type]}",
            content_type=content_type,
            size=size,
            sha256=digest.hexdigest(),
            kept=bytes(kept) if size <= KEPT_MAX_BYTES else b"",
            duration_s=_number(query, "duration"),
            width=_number(query, "width"),
            height=_number(query, "height"),
        )
        self._vendor.library.add(asset)
        return answer(self._object(asset, origin))

    def listed(self, query: Mapping[str, str], origin: str) -> Answer:
        """`GET /assets/?mediaType=&offset=&limit=&email=`: newest first, at most 50."""
        offset = number_in(query, "offset", 0, OFFSET_MAX, default="0")
        limit = number_in(query, "limit", 1, ASSETS_LIMIT_MAX, default=str(ASSETS_LIMIT_MAX))
        assets = self._vendor.library.listed(media_type=query.get("mediaType"), email=query.get("email"))
        page = (self._object(each, origin) for each in assets[offset : offset + limit])
        return self._vendor.asking.list_of(page, "assets")

    def one(self, raw_id: str, origin: str) -> Answer:
        return answer(self._object(self._found(raw_id), origin))

    def delete(self, raw_id: str, origin: str) -> Answer:
        asset = self._found(raw_id)
        self._vendor.library.remove(asset)
        return answer({**self._object(asset, origin), "deleted": True})

    def serve(self, request: Request) -> Response:
        """`GET /artifacts/{name}?_jwt=`: an artifact, a preview or an uploaded asset."""
        fail(self._vendor.faults.take("links_fail"))
        name = request.path_params["name"]
        if not self._vendor.links.good(name, request.query_params.get("_jwt", ""), self._clock.now_ms()):
            raise Refusal(_FORBIDDEN)
        uuid, _, extension = name.partition(".")
        if (asset := self._vendor.library.find(uuid)) is not None:
            if not asset.kept:
                raise Refusal(Answer(404, b"The sandbox keeps no contents of this size.", TEXT))
            return Response(asset.kept, headers={"content-type": asset.content_type})
        task = self._vendor.register.made(uuid.removesuffix("-preview"), self._clock.now_ms())
        if task is None:
            raise not_found()
        if extension == "png":
            return Response(preview(task.task_id), headers={"content-type": "image/png"})
        return _film(request.headers, self._vendor.asking.film(task))

    def _found(self, raw_id: str) -> Asset:
        asset = self._vendor.library.get(self._vendor.asking.id_of(raw_id))
        if asset is None:
            raise not_found()
        return asset

    def _object(self, asset: Asset, origin: str) -> Json:
        return asset.as_json(self._vendor.asking.link(origin, asset.filename, self._clock.now_ms()))


def _film(asked: Mapping[str, str], film: Film) -> Response:
    """The whole film, or the one range that was asked for; browsers seek with it."""
    headers = {"content-type": "video/mp4", "accept-ranges": "bytes", "etag": film.etag}
    part = part_of(asked.get("range"), film.size) if asked.get("if-range") in (None, film.etag) else None
    if part is None:
        return StreamingResponse(_pieces(film.read()), 200, {**headers, "content-length": str(film.size)})
    if not part:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{film.size}"})
    headers |= {
        "content-length": str(len(part)),
        "content-range": f"bytes {part.start}-{part.stop - 1}/{film.size}",
    }
    return StreamingResponse(_pieces(film.read(part.start, part.stop)), 206, headers)


async def _pieces(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    # As a coroutine: Starlette would run a plain iterator in a thread, a hop for each piece.
    for piece in pieces:
        yield piece


def _number(query: Mapping[str, str], name: str) -> float | None:
    text = query.get(name, "")
    return float(text) if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text) else None
