"""The Python client's streams, against a server that says exactly what relays, and proxies before them, may say."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay.client import RECONNECT_S, WAIT_MAX_S, RelayClient
from relay.clock import SystemClock
from relay.errors import ClientError
from tests.net.peers import read_request, serving

pytestmark = pytest.mark.anyio

JOB = "0198c0de-0000-7000-8000-000000000001"
BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
OPEN = b"retry: 2500\n: relay\nevent: stream.open\ndata: {}\n\n"


class Recording(SystemClock):
    """Sleeps not at all, and remembers for how long it should have."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)


def later(status: str, after: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nRetry-After: {after}\r\nContent-Length: 0\r\n\r\n".encode()


def event(seq: int, kind: str = "job.progress") -> bytes:
    told = {"id": f"00000001-{seq}", "type": kind, "data": {"job": {"id": JOB}}}
    return f"id: 00000001-{seq}\nevent: {kind}\ndata: {json.dumps(told)}\n\n".encode()


def body(*frames: bytes, whole: bool = True) -> bytes:
    """The answer of an open stream, in chunks; without the last one it was cut."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames)
    return head + chunks + (b"0\r\n\r\n" if whole else b"")


@asynccontextmanager
async def client_of(
    *answers: bytes, clock: SystemClock | None = None
) -> AsyncGenerator[tuple[RelayClient, list[bytes]]]:
    """A client, and the heads of the requests that it has sent; each is answered on a connection of its own."""
    asked: list[bytes] = []

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await read_request(reader))
        writer.write(answers[len(asked) - 1])
        writer.close()
        await writer.wait_closed()

    async with (
        serving(act) as peer,
        RelayClient(f"http://127.0.0.1:{peer.port}", "token", clock=clock or Recording()) as client,
    ):
        yield client, asked


def resumed_from(request: bytes) -> str | None:
    lines = dict(line.split(": ", 1) for line in request.decode().lower().split("\r\n")[1:] if line)
    return lines.get("last-event-id")


async def seqs(client: RelayClient) -> list[Any]:
    return [told.get("id", told["type"]).removeprefix("00000001-") async for told in client.watch(JOB)]


async def test_a_watch_goes_on_behind_the_last_event_through_cuts_proxies_and_a_relay_that_is_full() -> None:
    clock = Recording()
    answers = (
        body(OPEN, event(3), event(4), event(5)[:25], whole=False),
        BAD_GATEWAY,
        later("503 Service Unavailable", "7"),
        later("429 Too Many Requests", "3"),
        body(OPEN, event(5), b'event: stream.bye\ndata: {"reason":"drain"}\n\n'),
        body(OPEN, event(8), event(9, "job.succeeded")),
    )
    async with client_of(*answers, clock=clock) as (client, asked):
        found = await seqs(client)

    assert found == ["3", "4", "5", "8", "9"]
    assert [resumed_from(request) for request in asked] == [None, *["00000001-4"] * 4, "00000001-5"]
    # First what the stream said, then ever longer, but never shorter than it is asked for.
    assert clock.slept_s == [2.5, RECONNECT_S[1], 7.0, RECONNECT_S[3], 2.5]


async def test_a_position_that_comes_without_an_event_is_remembered_too() -> None:
    cursor = b"id: 00000001-70\nevent: stream.cursor\ndata: {}\n\n"
    async with client_of(body(event(3), cursor), body(event(71, "job.failed"))) as (client, asked):
        assert await seqs(client) == ["3", "71"]

    assert resumed_from(asked[1]) == "00000001-70"


async def test_the_204_of_a_job_that_is_over_ends_the_watch() -> None:
    async with client_of(body(event(3)), NO_CONTENT) as (client, _):
        assert await seqs(client) == ["3"]


async def test_a_gap_is_told_to_whoever_watches() -> None:
    gap = b'event: stream.gap\ndata: {"requested":"00000001-3","earliest":"00000001-40","missed":37}\n\n'
    async with client_of(body(event(3)), body(OPEN, gap, event(41, "job.succeeded"))) as (client, _):
        found = [told async for told in client.watch(JOB)]

    assert [told["type"] for told in found] == ["job.progress", "stream.gap", "job.succeeded"]
    assert found[1]["data"]["missed"] == 37


@pytest.mark.parametrize("after", ["Wed, 25 Nov 2026 12:00:00 GMT", "-5", "soon"])
async def test_a_retry_after_that_is_no_number_is_not_waited_for(after: str) -> None:
    clock = Recording()
    async with client_of(later("503 Busy", after), NO_CONTENT, clock=clock) as (client, _):
        assert await seqs(client) == []

    assert clock.slept_s == [RECONNECT_S[0]]


async def test_nobody_makes_it_wait_for_ever() -> None:
    clock = Recording()
    asks = body(b"retry: 9999999999\nevent: stream.open\ndata: {}\n\n")
    async with client_of(later("503 Busy", "9" * 400), asks, NO_CONTENT, clock=clock) as (client, _):
        assert await seqs(client) == []

    assert clock.slept_s == [WAIT_MAX_S, WAIT_MAX_S]


async def test_a_refusal_in_the_middle_is_raised_with_what_the_relay_said() -> None:
    problem = b'{"code":"unauthorized","detail":"this token is not known to the relay"}'
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%b" % (len(problem), problem)
    async with client_of(body(event(3)), refusal) as (client, _):
        with pytest.raises(ClientError, match="this token is not known") as raised:
            await seqs(client)

    assert raised.value.http_status == 401
    assert raised.value.problem["code"] == "unauthorized"


async def test_it_gives_up_in_words_when_nobody_answers_for_long() -> None:
    clock = Recording()
    async with client_of(body(event(3)), *[BAD_GATEWAY] * 20, clock=clock) as (client, asked):
        with pytest.raises(ClientError, match="the relay does not answer"):
            await seqs(client)

    assert clock.slept_s == list(RECONNECT_S)
    assert len(asked) == len(RECONNECT_S) + 1


async def test_whoever_listens_to_everything_is_told_of_breaks_and_hears_on() -> None:
    page = b'{"data":[],"next":"00000001-2"}'
    first = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)
    answers = (first, body(OPEN, event(3), whole=False), *[BAD_GATEWAY] * 20, body(OPEN, event(4)))
    found = []
    async with client_of(*answers) as (client, asked):
        async for position, told in client.listen():
            found.append((position, told["type"]))
            if position == "00000001-4":
                break

    assert found[0] == ("00000001-2", "stream.cursor")
    assert [one for one in found if one[1].startswith("job.")] == [
        ("00000001-3", "job.progress"),
        ("00000001-4", "job.progress"),
    ]
    assert [kind for _, kind in found].count("stream.broken") == 21
    assert [resumed_from(request) for request in asked] == [None, "00000001-2", *["00000001-3"] * 21]
