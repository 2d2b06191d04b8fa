"""Servers that break one promise each: the relay, with one thing spoiled on the way in or out.

A check that passes there would see nothing: `test_breaks` walks its table of checks and breaks.
"""

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.conformance.target import NDJSON, SSE
from tests.journeys import ADMIN_TOKEN

Break = Callable[[ASGIApp, Scope, Receive, Send], Awaitable[None]]
Change = Callable[[bytes], bytes]


class Spoiled:
    """Serves `/<number>/…` as the break of that number does; all stand before the same relay."""

    def __init__(self, app: ASGIApp, breaks: list[Break]) -> None:
        self._app = app
        self._breaks = breaks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        _, number, path = scope["path"].split("/", 2)
        inner = {**scope, "path": f"/{path}", "raw_path": f"/{path}".encode()}
        await self._breaks[int(number)](self._app, inner, receive, send)


def answer(change: Callable[[Scope, Message], None]) -> Break:
    """What the server sends is changed, message by message."""

    async def broken(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        async def changed(message: Message) -> None:
            message = {**message, "headers": list(message.get("headers", []))}
            change(scope, message)
            await send(message)

        await app(scope, receive, changed)

    return broken


def header(name: str, value: str | None) -> Break:
    def change(scope: Scope, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            del headers[name]
            if value is not None:
                headers[name] = value

    return answer(change)


def status(wrong: int, instead: int, method: str = "") -> Break:
    def change(scope: Scope, message: Message) -> None:
        if message.get("status") == wrong and method in scope["method"]:
            message["status"] = instead

    return answer(change)


def body(change: Change, media_type: str = "") -> Break:
    """The pieces of a body are changed, of that media type or of any; a stream's are whole frames each."""

    async def broken(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        meant = False

        async def changed(message: Message) -> None:
            nonlocal meant
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                meant = media_type in headers.get("content-type", "")
                if meant:
                    del headers["content-length"]
                message = {**message, "headers": headers.raw}
            elif meant:
                message = {**message, "body": change(message.get("body", b""))}
            await send(message)

        await app(scope, receive, changed)

    return broken


def replaced(old: bytes, new: bytes, media_type: str = "") -> Break:
    return body(lambda piece: re.sub(old, new, piece), media_type)


def ask(change: Callable[[MutableHeaders, dict[str, list[str]]], None]) -> Break:
    """The server does not see what it was asked for: headers and query are changed."""

    async def broken(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        headers = MutableHeaders(raw=list(scope["headers"]))
        query: dict[str, list[str]] = {}
        for name, value in parse_qsl(scope["query_string"].decode(), keep_blank_values=True):
            query.setdefault(name, []).append(value)
        change(headers, query)
        asked = urlencode(query, doseq=True).encode()
        await app({**scope, "headers": headers.raw, "query_string": asked}, receive, send)

    return broken


def deaf(*names: str) -> Break:
    """Takes no notice of these headers and parameters."""

    def change(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
        for name in names:
            query.pop(name, None)
            del headers[name]

    return ask(change)


def always(**query: str) -> Break:
    return ask(lambda headers, given: given.update({name: [value] for name, value in query.items()}))


def by_default(**query: str) -> Break:
    """Another beginning where the reader names none."""

    def change(headers: MutableHeaders, given: dict[str, list[str]]) -> None:
        if not {"since", "last_event_id"} & set(given) and not headers.get("last-event-id"):
            given.update({name: [value] for name, value in query.items()})

    return ask(change)


def header_loses(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
    if "last_event_id" in query:
        del headers["last-event-id"]


def since_wins(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
    if "since" in query:
        del headers["last-event-id"]
        query.pop("last_event_id", None)


def one_too_many(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
    """Resumes at the event that was the last, not behind it."""
    for given in (headers.get("last-event-id"), *query.get("last_event_id", [])):
        if given and re.fullmatch("[0-9a-f]{8}-[0-9]+", given):
            epoch, _, seq = given.partition("-")
            headers["last-event-id"] = f"{epoch}-{int(seq) - 1}"


def empty_is_a_place(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
    if headers.get("last-event-id") == "":
        headers["last-event-id"] = "00000000-0"


def streams_resume_alone(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
    if SSE not in headers.get("accept", ""):
        del headers["last-event-id"]


def last_value_counts(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
    query.update({name: values[-1:] for name, values in query.items()})


def no_iso(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
    if "T" in query.get("since", [""])[0]:
        query["since"] = ["now"]


def lets_all_in(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
    headers["authorization"] = f"Bearer {ADMIN_TOKEN}"
    query.pop("ticket", None)


def takes_tokens_in_queries(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
    for name in ("token", "access_token"):
        if name in query:
            headers["authorization"] = f"Bearer {query.pop(name)[0]}"


def tickets_begin_now(headers: MutableHeaders, query: dict[str, list[str]]) -> None:
    if "ticket" in query:
        query["since"] = ["now"]


def accepts(form: str) -> Break:
    return ask(lambda headers, query: headers.update({"accept": form}))


def without(name: bytes, media_type: str = SSE) -> Break:
    """Frames of that event are left out."""
    if media_type == NDJSON:
        return replaced(rb'(?m)^[^\n]*"type":"' + name + rb'"[^\n]*\n', b"", NDJSON)
    return replaced(rb"(id: [^\n]*\n)?event: " + name + rb"\ndata: [^\n]*\n\n", b"", SSE)


def of_stream(scope: Scope) -> bool:
    return Headers(scope=scope).get("accept", "").startswith((SSE, NDJSON)) or "ticket=" in str(scope["query_string"])


async def held(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """A proxy that buffers: the first piece of a stream waits for the second."""
    kept: list[Message] = []

    async def changed(message: Message) -> None:
        if message.get("more_body") and not kept:
            kept.append(message)
            return
        if message["type"] == "http.response.body" and kept:
            message = {**message, "body": kept[0]["body"] + message["body"]}
        await send(message)

    await app(scope, receive, changed)


async def compressed(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    packer = zlib.compressobj(wbits=31)

    async def changed(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"content-encoding", b"gzip")]}
        elif message.get("body"):
            message = {**message, "body": packer.compress(message["body"]) + packer.flush(zlib.Z_SYNC_FLUSH)}
        await send(message)

    await app(scope, receive, changed if b"gzip" in dict(scope["headers"]).get(b"accept-encoding", b"") else send)


async def endless(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """A stream that does not end when there is nothing more to say."""

    async def changed(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body") and of_stream(scope):
            await asyncio.Event().wait()
        await send(message)

    await app(scope, receive, changed)  # the relay itself notices when the reader leaves


async def cut(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """A stream whose body is not ended: the connection is closed in place of the last chunk."""

    async def changed(message: Message) -> None:
        if message["type"] != "http.response.body" or message.get("more_body") or not of_stream(scope):
            await send(message)

    await app(scope, receive, changed)


def tires(after: int) -> Break:
    """A stream that ends after so many pieces."""

    async def broken(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        pieces = 0

        async def changed(message: Message) -> None:
            nonlocal pieces
            pieces += bool(message.get("more_body"))
            if pieces <= after:
                await send({**message, "more_body": message.get("more_body", False) and pieces < after})

        await app(scope, receive, changed)

    return broken
