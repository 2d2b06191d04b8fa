"""The way from a relay to PostgreSQL, which can be cut: what is sent then waits, and neither side is told anything.

As with packets that are lost: TCP sends them again until the way is whole, and tells neither side of the other's end.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.postgres import Cluster

TAKEN_BYTES = 64 * 1024


@dataclass
class Way:
    """A port that leads to the server's socket; `whole` is clear while it is cut."""

    socket: Path
    port: int = 0
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    def through(self, url: str) -> str:
        """The address of a database of this server, by this way."""
        return url.replace("@/", f"@127.0.0.1:{self.port}/").replace(f"host={self.socket.parent}", "sslmode=disable")

    async def cut_for(self, seconds: float) -> None:
        self.whole.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.whole.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self.whole.wait()
            back, to = await asyncio.open_unix_connection(str(self.socket))
            try:
                await asyncio.gather(self._pass_on(reader, to), self._pass_on(back, writer))
            finally:
                to.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # the server is not there, or the test is over
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(TAKEN_BYTES):
                await self.whole.wait()
                sink.write(data)
                await sink.drain()
        await self.whole.wait()
        with suppress(OSError):
            sink.close()

    async def end(self) -> None:
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)


@asynccontextmanager
async def way_to(server: Cluster) -> AsyncIterator[Way]:
    way = Way(server.folder / ".s.PGSQL.5432")
    way.whole.set()
    listening = await asyncio.start_server(way.serve, "127.0.0.1", 0)
    way.port = listening.sockets[0].getsockname()[1]
    try:
        yield way
    finally:
        listening.close()
        await way.end()
