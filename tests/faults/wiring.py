"""The body of an answer as it comes, in pieces that end anywhere, and the ways in which a connection may end."""

import asyncio
import json
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import httptools

# A reader that does not read fills this at once, and then what the relay's side can hold.
RECEIVE_BYTES = 8 * 1024


class Frame(NamedTuple):
    """An event or a notice; `id` None where the reader's position stays as it was."""

    id: str | None
    type: str
    data: dict[str, Any]


class Body:
    """Takes the bytes of one answer after another: `status`, `whole` once the last one has come to its end."""

    def __init__(self, media_type: str) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._media_type = media_type
        self._rest = b""
        self.status = 0
        self.whole = False

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.whole = False

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._rest += data

    def on_message_complete(self) -> None:
        self.whole = True

    def frames(self) -> Iterator[Frame]:
        """Those that are complete."""
        if self._media_type == "application/json":
            if self.whole and self.status == 200:
                page, self._rest = json.loads(self._rest), b""
                for event in page["data"]:
                    yield Frame(event["id"], event["type"], event["data"])
                yield Frame(page["next"], "stream.cursor", {})
            return
        end = b"\n\n" if self._media_type == "text/event-stream" else b"\n"
        *whole, self._rest = self._rest.split(end)
        for text in filter(None, whole):
            yield self._of_lines(text) if end == b"\n\n" else self._of_line(text)

    @staticmethod
    def _of_line(text: bytes) -> Frame:
        event = json.loads(text)
        return Frame(event.get("id"), event["type"], event["data"])

    @staticmethod
    def _of_lines(text: bytes) -> Frame:
        fields = dict(line.split(b": ", 1) for line in text.split(b"\n") if not line.startswith(b":"))
        data, position = json.loads(fields[b"data"]), fields.get(b"id", b"").decode() or None
        name = fields[b"event"].decode()
        if not name.startswith("stream."):
            assert (data["id"], data["type"]) == (position, name), "the frame says otherwise than its data"
            data = data["data"]
        return Frame(position, name, data)


class Connection:
    """A socket with a small receive buffer, which can be ended rudely."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.has_stalled = False

    @classmethod
    async def to(cls, port: int) -> "Connection":
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
            return cls(*await asyncio.open_connection(sock=made, limit=RECEIVE_BYTES))
        except BaseException:
            made.close()
            raise

    def reset(self) -> None:
        """End it with an RST, as a crash or a firewall does."""
        with suppress(OSError):
            made = self.writer.get_extra_info("socket")
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def finish(self) -> None:
        """End it with a FIN, whatever is still under way."""
        self.writer.close()
