"""A small proxy that can cut what goes through it, and answer 502 in place of the relay."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class Proxy:
    """`heads` are the first lines of requests, `refused` counts those that got a 502."""

    url: str = ""
    port: int = 0
    broken: bool = False
    refused: int = 0
    heads: list[str] = field(default_factory=list)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """End every connection in the middle of whatever it carries."""
        for writer in tuple(self._open):
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.partition(b"\r\n")[0].decode())
            if self.broken:
                self.refused += 1
                writer.write(BAD_GATEWAY)
                await writer.drain()
            else:
                await self._through(head, reader, writer)
        self._open.discard(writer)
        writer.close()

    async def _through(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.port)
        # One request a connection, so that each of them can be refused.
        ours.write(head.replace(b"\r\n\r\n", b"\r\nX-Via: proxy\r\n\r\n"))
        both = [asyncio.create_task(_copy(reader, ours)), asyncio.create_task(_copy(theirs, writer))]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        ours.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxy(to: str) -> AsyncGenerator[Proxy]:
    """A proxy in front of the relay at `to`."""
    made = Proxy(port=urlsplit(to).port or 0)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        made.cut()
