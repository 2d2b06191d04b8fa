"""A proxy that cuts what passes through it, for a client whose own sockets nobody can reach."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from random import Random

from tests.faults.readers import CUT_BYTES, Field
from tests.faults.wiring import Connection

BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
STALL_S = 0.2
CUT_S = (0.1, 2.0)


@asynccontextmanager
async def cutting(here: Field) -> AsyncGenerator[None]:
    """Serve on `here.proxy_port`."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await _pass_on(here, Connection(reader, writer))
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", here.proxy_port)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(here: Field, client: Connection) -> None:
    chance: Random = here.chance
    request = await client.reader.readuntil(b"\r\n\r\n")
    if not here.up.is_set():
        client.writer.write(chance.choice((BAD_GATEWAY, BUSY, b"")))
        client.finish()
        return
    relay = await Connection.to(here.port)
    try:
        relay.writer.write(request)
        left = 2**60 if here.calm else chance.randrange(1, CUT_BYTES)
        seconds = None if here.calm else chance.uniform(*CUT_S)
        data = await relay.reader.read(
            min(16_384, left)
        )  # however long that takes: a client that gets nothing gives up
        async with asyncio.timeout(seconds):
            while data:
                client.writer.write(data)
                await client.writer.drain()
                left -= len(data)
                if not left:
                    break
                data = await relay.reader.read(min(16_384, left))
            else:  # the relay has ended it
                client.finish()
                return
    except TimeoutError:
        pass
    finally:
        relay.reset()
    here.tally.proxied += 1
    here.more.set()
    how = chance.choice((client.reset, client.finish, None))
    if how is None:
        await asyncio.sleep(STALL_S)
        how = client.reset
    how()
