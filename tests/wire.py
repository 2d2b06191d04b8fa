"""A connection to a relay, byte by byte: to send what no client would, and to see that a stream's body is whole."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.journeys import ADMIN_TOKEN, WAIT_S


@dataclass(frozen=True)
class Frame:
    """One server-sent event, or a comment (`comment` alone)."""

    id: str | None = None
    event: str | None = None
    data: Any = None
    comment: str | None = None


@dataclass
class Wire:
    """Reads strictly: a chunk that is not framed as RFC 9112 says is an AssertionError."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _text: bytes = b""
    _lines: list[bytes] = field(default_factory=list)
    ended: bool = False

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers, names in lower case."""
        async with asyncio.timeout(WAIT_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(" ")[1]), headers

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and JSON body."""
        status, headers = await self.head()
        async with asyncio.timeout(WAIT_S):
            body = await self.reader.readexactly(int(headers["content-length"]))
        return status, json.loads(body)

    async def chunk(self) -> bytes:
        """The next chunk of the body; empty for the last one."""
        async with asyncio.timeout(WAIT_S):
            size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
            data = await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        self.ended = size == 0
        return data

    async def frame(self) -> Frame | None:
        """The next event or comment of the stream; None at the end of a body that is whole."""
        while True:
            while b"\n" in self._text:
                line, _, self._text = self._text.partition(b"\n")
                if line.startswith(b":"):
                    return Frame(comment=line[1:].strip().decode())
                if line:
                    self._lines.append(line)
                elif self._lines:
                    found, self._lines = _parsed(self._lines), []
                    return found
            if self.ended:
                assert not self._text, "the body ended in the middle of a line"
                assert not self._lines, "the body ended in the middle of an event"
                return None
            self._text += await self.chunk()

    async def event(self) -> Frame | None:
        """The next frame that is no comment."""
        while (frame := await self.frame()) is not None and frame.comment is not None:
            pass
        return frame

    async def events(self, until: Callable[[Frame], bool] = lambda frame: False) -> list[Frame]:
        """Frames up to and with the first for which `until` holds, or up to the end of the stream."""
        found: list[Frame] = []
        async with asyncio.timeout(WAIT_S):
            while (frame := await self.event()) is not None:
                found.append(frame)
                if until(frame):
                    break
        return found


def _parsed(lines: list[bytes]) -> Frame:
    fields = dict(line.decode().split(": ", 1) for line in lines)
    return Frame(fields.get("id"), fields.get("event"), json.loads(fields["data"]))


@asynccontextmanager
async def wire(url: str) -> AsyncGenerator[Wire]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def request(method: str, path: str, headers: dict[str, str] | None = None, *, token: str | None = ADMIN_TOKEN) -> bytes:
    """The head of a request."""
    lines = {"Host": "relay", **({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
    return "\r\n".join([f"{method} {path} HTTP/1.1", *map(": ".join, lines.items()), "", ""]).encode()


@asynccontextmanager
async def stream(url: str, path: str, headers: dict[str, str] | None = None) -> AsyncGenerator[Wire]:
    """An open event stream, its head read."""
    async with wire(url) as connection:
        await connection.send(request("GET", path, {"Accept": "text/event-stream", **(headers or {})}))
        status, received = await connection.head()
        assert status == 200, await connection.reader.read(2_000)
        assert received["content-type"] in ("text/event-stream; charset=utf-8", "application/x-ndjson; charset=utf-8")
        assert received["transfer-encoding"] == "chunked"
        yield connection
