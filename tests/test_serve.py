"""Heads of requests that do not end: the server lets go of whoever sends them, and of nobody else."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay import serve
from relay.serve import bound, hosted
from tests.journeys import WAIT_S

pytestmark = pytest.mark.anyio
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Answers every request at once."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def connected() -> AsyncGenerator[Connection]:
    listening = bound("127.0.0.1", 0)
    port = listening.getsockname()[1]
    async with hosted(answering, listening), asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Wait until the server has cut the connection without an answer."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_head_that_does_not_end_in_time_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(serve, "HEAD_S", 0.05)
    async with connected() as (reader, writer):
        writer.write(sent)
        assert await ended(reader)


async def test_a_second_head_on_the_same_connection_is_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(2) == b"ok"
        monkeypatch.setattr(serve, "HEAD_S", 0.05)
        writer.write(b"GET / HTTP/1.1\r\nHost: ")
        assert await ended(reader)


async def test_a_head_without_end_is_cut_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "HEAD_S", 3_600.0)
    async with connected() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * (serve.HEAD_MAX_BYTES + 1))
        assert await ended(reader)


async def test_a_body_before_it_is_no_part_of_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "HEAD_MAX_BYTES", 100)
    async with connected() as (reader, writer):
        body = b"x" * 200
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body + b"GET / HTT")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        writer.write(b"P/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")


async def test_a_head_that_came_in_pieces_gives_the_rest_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "HEAD_S", 1.5)  # not less: until its head is whole that time runs
    listening = bound("127.0.0.1", 0)
    async with hosted(reading, listening), asyncio.timeout(WAIT_S):
        slow, silent = [await asyncio.open_connection(*listening.getsockname()) for _ in range(2)]
        slow[1].write(b"POST / HTTP/1.1\r\nHost: x\r\n")
        # By the answer to another one that is made now, the first piece was read.
        early = await asyncio.open_connection(*listening.getsockname())
        early[1].write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in await early[0].read()
        slow[1].write(b"Content-Length: 2\r\n\r\n")
        await slow[1].drain()
        later = await asyncio.open_connection(*listening.getsockname())
        assert await ended(silent[0])
        assert await ended(later[0])
        slow[1].write(b"ok")
        assert b"200 OK" in await slow[0].readuntil(b"\r\n\r\n")
        for _, writer in (slow, silent, early, later):
            writer.close()


async def reading(scope: Any, receive: Any, send: Any) -> None:
    """Answers when the body is there."""
    while scope["type"] == "http" and (await receive()).get("more_body"):
        pass
    await answering(scope, receive, send)


async def test_a_head_in_pieces_is_answered() -> None:
    async with connected() as (reader, writer):
        for piece in (b"GET / HTTP", b"/1.1\r\nHo", b"st: x\r\n", b"\r\n"):
            writer.write(piece)
            await writer.drain()
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")


PIECE = b"x" * 65_536


async def sending_much(scope: Any, receive: Any, send: Any) -> None:
    """Answers with more than sockets and buffers hold."""
    if scope["type"] == "lifespan":
        await answering(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(200):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def test_who_does_not_read_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "STALLED_S", 0.05)
    listening = bound("127.0.0.1", 0)
    async with asyncio.timeout(serve.GRACE_S / 3):
        async with hosted(sending_much, listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname(), limit=1_000)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_who_reads_gets_all_of_it_though_the_server_ends() -> None:
    listening = bound("127.0.0.1", 0)
    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
        async with hosted(sending_much, listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname(), limit=1_000)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            reading = group.create_task(reader.read())
        body = await reading
    writer.close()
    assert body.count(b"x") == 200 * len(PIECE)
    assert body.endswith(b"\r\n0\r\n\r\n")
