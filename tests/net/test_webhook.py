"""Whatever a subscriber does with a delivery comes back as one answer with a class and a sentence."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from relay.clock import ManualClock
from relay.core import signature
from relay.core.retry import Answer, Delivered, decide
from relay.core.target import Allow, check_url, parse_allow
from relay.errors import InvalidRequest, TargetRefused
from relay.net.transport import Resolve
from relay.net.webhook import ANSWER_MAX_BYTES, WebhookSender
from tests.net.peers import (
    OK,
    Act,
    answering,
    dripping,
    read_request,
    resolving,
    saying,
    serving,
)

pytestmark = pytest.mark.anyio

LONG_S = 30.0
SHORT_S = 0.3
BODY = b'{"type":"job.succeeded"}'


@asynccontextmanager
async def sending(
    allow: Allow, deadline_s: float = LONG_S, resolve: Resolve | None = None, clock: ManualClock | None = None
) -> AsyncIterator[WebhookSender]:
    sender = WebhookSender(allow, deadline_s=deadline_s, resolve=resolve, clock=clock)
    try:
        yield sender
    finally:
        await sender.aclose()


async def answer_to(act: Act, *, deadline_s: float = LONG_S, path: str = "/hook") -> Answer:
    async with serving(act) as peer, sending(peer.allow, deadline_s) as sender:
        return await sender.send(f"http://127.0.0.1:{peer.port}{path}", {}, BODY)


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


async def test_a_deadline_is_kept_however_the_answer_drips() -> None:
    answer = await answer_to(dripping(head("200 OK"), b"x"), deadline_s=SHORT_S)
    assert SHORT_S * 1000 - 1 <= answer.took_ms < SHORT_S * 1000 + 2000


async def test_of_a_long_answer_no_more_than_its_bound_is_read_and_the_connection_is_closed() -> None:
    sent = 0

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(head("200 OK", "Content-Length: 100000000"))
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with serving(act) as peer, sending(peer.allow) as sender:
        answer = await sender.send(peer.url, {}, BODY)
        await peer.hung_up.wait()
    assert decide(answer, 1, 0, 0.5) == Delivered()
    assert sent < 50_000_000


async def test_an_answer_up_to_the_bound_is_read_and_its_connection_kept() -> None:
    length = ANSWER_MAX_BYTES - 1
    act = answering(head("200 OK", f"Content-Length: {length}") + bytes(length))
    async with serving(act) as peer, sending(peer.allow) as sender:
        for _ in range(2):
            assert (await sender.send(peer.url, {}, BODY)).kind == "answered"
        assert peer.connections == 1


async def test_a_delivery_arrives_whole_and_verifies_as_a_subscriber_would_do_it() -> None:
    requests: list[bytes] = []
    secret = "whsec_" + "A" * 32
    signed = signature.sign([secret], "1-42", 1_767_225_600, BODY)
    headers = {
        "webhook-id": "1-42",
        "webhook-timestamp": "1767225600",
        "webhook-signature": signed,
        "Content-Type": "application/json",
    }
    async with serving(answering(OK, requests=requests)) as peer, sending(peer.allow) as sender:
        answer = await sender.send(peer.url, headers, BODY)
    assert answer == Answer("answered", 200, None, "127.0.0.1 answered 200", "ok", answer.took_ms, answer.phases)
    received, _, body = requests[0].partition(b"\r\n\r\n")
    lines = received.decode().split("\r\n")
    assert lines[0] == "POST /hook HTTP/1.1"
    given = dict(line.split(": ", 1) for line in lines[1:])
    assert given["Accept-Encoding"] == "identity"
    signature.verify([secret], given, body, now_s=1_767_225_600)


async def test_a_cookie_of_one_answer_is_not_sent_with_the_next_delivery() -> None:
    requests: list[bytes] = []
    act = answering(head("200 OK", "Set-Cookie: session=1", "Content-Length: 0"), requests=requests)
    async with serving(act) as peer, sending(peer.allow) as sender:
        for _ in range(2):
            await sender.send(peer.url, {}, BODY)
    assert len(requests) == 2
    assert not [each for each in requests if b"cookie" in each.lower()]


async def test_a_redirect_is_not_followed() -> None:
    async with serving(answering(OK)) as other:
        moved = answering(head("302 Found", f"Location: {other.url}", "Content-Length: 0"))
        async with serving(moved) as peer, sending(parse_allow([*hosts(other.port), *hosts(peer.port)])) as sender:
            assert (await sender.send(peer.url, {}, BODY)).status == 302
        assert other.connections == 0


def hosts(port: int) -> Sequence[str]:
    return [f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("value", "wait_s"), [("120", 120.0), ("Thu, 01 Jan 2026 00:02:00 GMT", 120.0), ("soon", None), ("", None)]
)
async def test_a_retry_after_is_read_by_the_clock_that_was_handed_in(value: str, wait_s: float | None) -> None:
    act = answering(head("503 Busy", f"Retry-After: {value}", "Content-Length: 0"))
    clock = ManualClock(1_767_225_600_000)
    async with serving(act) as peer, sending(peer.allow, clock=clock) as sender:
        answer = await sender.send(peer.url, {}, BODY)
    assert (answer.status, answer.retry_after_s, answer.took_ms) == (503, wait_s, 0)


async def test_an_excerpt_does_not_repeat_the_address_with_its_secret() -> None:
    page = b"Cannot POST /hooks/T0K3N-abc?key=s3cretvalue%20x (T0K3N-abc, s3cretvalue x)\x00"
    act = saying(head("404 Not Found", f"Content-Length: {len(page)}") + page)
    answer = await answer_to(act, path="/hooks/T0K3N-abc?key=s3cretvalue%20x")
    assert answer.excerpt.startswith("Cannot POST ")
    assert "T0K3N" not in answer.excerpt
    assert "s3cretvalue" not in answer.excerpt


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/s3cret-path",
        "http://169.254.169.254/latest/meta-data/s3cret-path",
        "http://localhost:1/s3cret-path",
        "http://[64:ff9b::a00:1]/s3cret-path",
        "ftp://example.com/s3cret-path",
        "http://user:s3cret-path@example.com/",
        "http://example.com:22/s3cret-path",
        "http://[s3cret-path",
        "s3cret-path",
        "",
    ],
)
async def test_an_address_that_is_not_to_be_called_is_an_answer_too(url: str) -> None:
    async with sending(Allow()) as sender:
        answer = await sender.send(url, {}, BODY)
    assert (answer.kind, answer.status) == ("target_refused", None)
    with pytest.raises(TargetRefused) as when_saved:
        check_url(url, Allow())
    assert answer.detail == when_saved.value.message
    assert "s3cret" not in repr(answer)


async def test_a_name_that_leads_inside_is_refused_and_gets_no_connection() -> None:
    resolve, _ = resolving(["127.0.0.1", "10.0.0.1"])
    async with serving(answering(OK)) as peer:
        async with sending(parse_allow(hosts(peer.port)), resolve=resolve) as sender:
            answer = await sender.send(f"http://mixed.test:{peer.port}/", {}, BODY)
        assert peer.connections == 0
    assert answer.kind == "target_refused"
    assert answer.detail.startswith("the name mixed.test resolves to a private address")


async def test_a_name_that_nobody_knows_and_a_closed_port_are_answers_too() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with sending(parse_allow(hosts(port)), resolve=resolve) as sender:
            assert (await sender.send("https://missing.test/", {}, BODY)).kind == "resolve_failed"
            assert (await sender.send(f"http://127.0.0.1:{port}/", {}, BODY)).kind == "connect_failed"


async def test_a_peer_without_tls_is_an_answer_too() -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(OK)
        writer.close()

    async with serving(act) as peer:
        sender = WebhookSender(peer.allow, ssl_context=ssl.create_default_context())
        answer = await sender.send(f"https://127.0.0.1:{peer.port}/", {}, BODY)
        await sender.aclose()
    assert answer.kind == "tls_failed"


async def test_headers_that_http_cannot_carry_are_the_callers_mistake() -> None:
    async with serving(answering(OK)) as peer, sending(peer.allow) as sender:
        with pytest.raises(InvalidRequest):
            await sender.send(peer.url, {"X": "a\r\nY: b"}, BODY)


async def test_closing_the_sender_closes_the_connections_that_it_kept() -> None:
    async with serving(answering(OK)) as peer:
        async with sending(peer.allow) as sender:
            await sender.send(peer.url, {}, BODY)
            assert not peer.hung_up.is_set()
        await peer.hung_up.wait()


async def test_a_cancelled_delivery_is_cancelled() -> None:
    began = asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        began.set()
        await reader.read()

    async with serving(act) as peer, sending(peer.allow) as sender:
        delivery = asyncio.create_task(sender.send(peer.url, {}, BODY))
        await began.wait()
        delivery.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivery
        await peer.hung_up.wait()


async def test_hostile_subscribers_do_not_move_the_deliveries_of_others() -> None:
    async with (
        serving(dripping(head("200 OK"), b"x")) as hostile,
        serving(answering(OK)) as peer,
        sending(parse_allow([*hosts(hostile.port), *hosts(peer.port)]), 1.0) as sender,
    ):
        stuck = [asyncio.create_task(sender.send(hostile.url, {}, BODY)) for _ in range(30)]
        answers = [await sender.send(peer.url, {}, BODY) for _ in range(30)]
        assert {answer.status for answer in answers} == {200}
        assert not [task for task in stuck if task.done()]
        assert {answer.kind for answer in await asyncio.gather(*stuck)} == {"timeout"}
