"""The guard enforces what was decided, and nothing that the other side does escapes its class or the deadline.

Every peer is a real server on a free port. Where one drips or waits, that is what it is there for: the tests themselves
wait for the call to end.
"""

import asyncio
import gzip
import logging
import random
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509

from relay.clock import ManualClock
from relay.core.target import Allow, parse_allow
from relay.errors import InvalidRequest, TargetRefused
from relay.net.connection import CallFailed, Connection
from relay.net.transport import KEEP_ALIVE_S, GuardedTransport, Resolve, _alternating
from tests.net.peers import (
    CLOSING_OK,
    OK,
    Act,
    Authority,
    answering,
    black_hole,
    dripping,
    flooding,
    read_request,
    resolving,
    saying,
    saying_and_waiting,
    serving,
)

pytestmark = pytest.mark.anyio

LONG_S = 30.0


@asynccontextmanager
async def calling(
    allow: Allow,
    resolve: Resolve | None = None,
    ssl_context: ssl.SSLContext | None = None,
    clock: ManualClock | None = None,
) -> AsyncIterator[GuardedTransport]:
    transport = GuardedTransport(allow, clock=clock, resolve=resolve, ssl_context=ssl_context)
    try:
        yield transport
    finally:
        await transport.aclose()


async def fetch(transport: GuardedTransport, url: str, deadline_s: float = LONG_S, **headers: str) -> tuple[int, bytes]:
    async with transport.stream("GET", url, headers=headers, deadline_s=deadline_s) as response:
        return response.status, b"".join([piece async for piece in response.iter_raw()])


async def failure(transport: GuardedTransport, url: str, deadline_s: float = LONG_S) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await fetch(transport, url, deadline_s)
    return caught.value


# --- what is sent


async def test_a_request_goes_out_as_it_was_given_with_host_and_without_compression() -> None:
    requests: list[bytes] = []
    async with serving(answering(OK, requests=requests)) as peer, calling(peer.allow) as transport:
        status, body = await fetch(transport, f"{peer.url}/a%2Fb/../c?d=e%20f", Range="bytes=0-1")
    assert (status, body) == (200, b"ok")
    lines = requests[0].decode().split("\r\n")
    assert lines[0] == "GET /hook/a%2Fb/../c?d=e%20f HTTP/1.1"
    assert f"Host: 127.0.0.1:{peer.port}" in lines
    assert "Range: bytes=0-1" in lines
    assert "Accept-Encoding: identity" in lines
    assert not [line for line in lines if line.lower().startswith(("content-length", "cookie", "transfer"))]


async def test_a_body_is_sent_with_its_length_and_headers_of_the_transfer_are_not_the_callers() -> None:
    requests: list[bytes] = []
    async with serving(answering(OK, requests=requests)) as peer, calling(peer.allow) as transport:
        headers = {"Content-Type": "application/json", "host": "evil", "Content-Length": "9", "Transfer-Encoding": "x"}
        async with transport.stream("POST", peer.url, headers=headers, body=b"{}", deadline_s=LONG_S):
            pass
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert body == b"{}"
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    assert sorted(names) == [b"accept-encoding", b"content-length", b"content-type", b"host", b"user-agent"]
    assert b"Content-Length: 2" in head
    assert b"evil" not in head


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b"])
async def test_a_header_that_would_break_out_is_refused_and_not_sent(value: str) -> None:
    requests: list[bytes] = []
    async with serving(answering(OK, requests=requests)) as peer, calling(peer.allow) as transport:
        with pytest.raises(InvalidRequest, match="header"):
            await fetch(transport, peer.url, Range=value)
    assert requests == []


async def test_headers_of_the_answer_are_read_in_any_case() -> None:
    answer = b"HTTP/1.1 206 Partial\r\nContent-LENGTH: 0\r\neTag: x\r\nVary: a\r\nvary: b\r\nX: \xff\r\n\r\n"
    async with (
        serving(answering(answer)) as peer,
        calling(peer.allow) as transport,
        transport.stream("GET", peer.url, deadline_s=LONG_S) as response,
    ):
        assert response.status == 206
        assert response.headers == {"content-length": "0", "etag": "x", "vary": "a, b", "x": "ÿ"}


async def test_a_head_request_has_no_body() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with (
        serving(answering(answer)) as peer,
        calling(peer.allow) as transport,
        transport.stream("HEAD", peer.url, deadline_s=LONG_S) as response,
    ):
        assert response.headers["content-length"] == "1000"
        assert [piece async for piece in response.iter_raw()] == []


async def test_a_compressed_body_is_handed_on_as_it_came() -> None:
    bomb = gzip.compress(bytes(5_000_000))
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with serving(answering(answer + bomb)) as peer, calling(peer.allow) as transport:
        assert await fetch(transport, peer.url) == (200, bomb)


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with serving(answering(OK)) as other:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n".encode()
        async with serving(answering(moved)) as peer, calling(parse_allow(f"127.0.0.1:{peer.port}")) as transport:
            assert await fetch(transport, peer.url) == (307, b"")
        assert other.connections == 0


async def test_a_cookie_is_never_sent_back() -> None:
    requests: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    async with serving(answering(answer, requests=requests)) as peer, calling(peer.allow) as transport:
        await fetch(transport, peer.url)
        await fetch(transport, peer.url)
    assert len(requests) == 2
    assert b"cookie" not in requests[1].lower()


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(CLOSING_OK)) as proxy, serving(answering(OK)) as peer:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with calling(peer.allow) as transport:
            assert (await fetch(transport, peer.url))[0] == 200
        assert (proxy.connections, peer.connections) == (0, 1)


async def test_no_log_line_holds_the_address_or_a_header(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(answering(OK)) as peer, calling(peer.allow) as transport:
        await fetch(transport, f"{peer.url}/s3cret?s3cret", Authorization="s3cret")
    assert "s3cret" not in caplog.text
    assert "hook" not in caplog.text


# --- who is called


async def test_a_name_is_resolved_once_a_connection_and_stays_in_the_host_header() -> None:
    requests: list[bytes] = []
    resolve, asked = resolving(["127.0.0.1"])
    async with serving(answering(OK, requests=requests)) as peer, calling(peer.allow, resolve) as transport:
        for _ in range(3):
            await fetch(transport, f"http://hook.test:{peer.port}/")
    assert asked == ["hook.test"]
    assert peer.connections == 1
    assert len(requests) == 3
    assert f"Host: hook.test:{peer.port}\r\n".encode() in requests[0]


async def test_a_judged_name_is_not_looked_up_again_by_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*args: object, **options: object) -> None:
        raise AssertionError("a second lookup could answer differently")

    resolve, _ = resolving(["127.0.0.1"])
    async with serving(answering(OK)) as peer, calling(peer.allow, resolve) as transport:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        assert (await fetch(transport, f"http://hook.test:{peer.port}/"))[0] == 200


async def test_a_name_server_that_turns_to_the_inside_is_refused_at_the_next_connection() -> None:
    resolve, asked = resolving(["127.0.0.1"], ["127.0.0.2"])
    async with serving(answering(CLOSING_OK), host="0.0.0.0") as peer:  # noqa: S104 - it must be able to come through
        allow = parse_allow(f"127.0.0.1:{peer.port}")
        async with calling(allow, resolve) as transport:
            url = f"http://rebind.test:{peer.port}/"
            assert (await fetch(transport, url))[0] == 200
            with pytest.raises(TargetRefused, match="loopback"):
                await fetch(transport, url)
        assert len(asked) == 2
        assert peer.connections == 1


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1", "10.0.0.1"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1", "::ffff:169.254.169.254"]]
)
async def test_one_forbidden_address_among_good_ones_stops_the_call_before_any_connection(addresses: list[str]) -> None:
    resolve, _ = resolving(addresses)
    async with serving(answering(OK)) as peer:
        async with calling(parse_allow(f"127.0.0.1:{peer.port}"), resolve) as transport:
            with pytest.raises(TargetRefused):
                await fetch(transport, f"http://mixed.test:{peer.port}/")
        assert peer.connections == 0


async def test_an_address_that_is_not_allowed_gets_no_connection() -> None:
    async with serving(answering(OK)) as peer, calling(Allow()) as transport:
        for url in (peer.url, f"http://localhost:{peer.port}/", f"http://[::ffff:127.0.0.1]:{peer.port}/"):
            with pytest.raises(TargetRefused):
                await fetch(transport, url)
        assert peer.connections == 0


async def test_the_systems_own_resolver_is_used_when_none_is_given() -> None:
    async with serving(answering(OK)) as peer, calling(peer.allow) as transport:
        assert (await fetch(transport, f"http://localhost:{peer.port}/"))[0] == 200


async def test_a_name_without_an_address_is_a_failure_of_its_own_class() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with calling(Allow(), resolve) as transport:
        failed = await failure(transport, "https://missing.test/s3cret")
    assert failed.kind == "resolve_failed"
    assert failed.message == "the name missing.test could not be resolved"


async def test_addresses_are_tried_in_turn_until_one_takes_the_connection() -> None:
    resolve, _ = resolving(["127.0.0.3", "127.0.0.2", "127.0.0.1"])
    async with serving(answering(OK)) as peer, calling(peer.allow, resolve) as transport:
        assert (await fetch(transport, f"http://hook.test:{peer.port}/"))[0] == 200


async def test_the_other_family_is_tried_before_the_rest_of_the_first() -> None:
    resolve, _ = resolving(["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "::1"])
    try:
        serving_on_ipv6 = serving(answering(OK), host="::1")
        async with serving_on_ipv6 as peer, calling(parse_allow(f"hook.test:{peer.port}"), resolve) as transport:
            assert (await fetch(transport, f"http://hook.test:{peer.port}/"))[0] == 200
    except OSError:
        pytest.skip("there is no IPv6 here")


async def test_an_ipv6_address_stands_in_brackets_in_the_host_header() -> None:
    requests: list[bytes] = []
    try:
        async with (
            serving(answering(OK, requests=requests), host="::1") as peer,
            calling(parse_allow(f"[::1]:{peer.port}")) as transport,
        ):
            await fetch(transport, f"http://[0:0::1]:{peer.port}/")
    except OSError:
        pytest.skip("there is no IPv6 here")
    assert f"Host: [::1]:{peer.port}\r\n".encode() in requests[0]


@pytest.mark.parametrize(
    ("addresses", "order"),
    [
        (["::1", "::2", "::3", "1.1.1.1", "1.1.1.2"], ["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]),
        (["1.1.1.1", "::1", "1.1.1.2"], ["1.1.1.1", "::1", "1.1.1.2"]),
        (["1.1.1.1", "1.1.1.2"], ["1.1.1.1", "1.1.1.2"]),
    ],
)
def test_the_two_families_are_tried_in_turn_beginning_with_the_systems_first(
    addresses: list[str], order: list[str]
) -> None:
    assert _alternating(addresses) == order


async def test_a_closed_port_is_a_failure_that_names_the_reason_and_no_inner_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        resolve, _ = resolving(["127.0.0.1"])
        async with calling(parse_allow(f"hook.test:{port}"), resolve) as transport:
            failed = await failure(transport, f"http://hook.test:{port}/")
    assert failed.kind == "connect_failed"
    assert failed.message == f"hook.test took no connection on port {port}: connection refused"


async def test_an_address_that_swallows_connections_leaves_time_for_the_next_one() -> None:
    resolve, _ = resolving(["127.0.0.2", "127.0.0.1"])
    async with (
        serving(answering(OK)) as peer,
        black_hole("127.0.0.2", peer.port),
        calling(peer.allow, resolve) as transport,
    ):
        assert (await fetch(transport, f"http://hook.test:{peer.port}/", deadline_s=1.0))[0] == 200


# --- the deadline


def hanging(began: asyncio.Event) -> Act:
    """Say when a request has come, and never answer it."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        began.set()
        await reader.read()

    return act


async def turns() -> None:
    """Let the loop do whatever it can do now."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_deadline_comes_by_the_clock_that_was_handed_in_and_not_before() -> None:
    clock, began = ManualClock(), asyncio.Event()
    async with serving(hanging(began)) as peer, calling(peer.allow, clock=clock) as transport:
        call = asyncio.create_task(failure(transport, peer.url, deadline_s=15.0))
        await began.wait()
        clock.advance(14.9)
        await turns()
        assert not call.done()
        clock.advance(0.1)
        assert (await call).kind == "timeout"


async def test_an_earlier_deadline_is_not_kept_waiting_by_a_later_one_nor_ends_it() -> None:
    clock, first, second = ManualClock(), asyncio.Event(), asyncio.Event()
    async with serving(hanging(first)) as one, serving(hanging(second)) as other:
        allow = parse_allow([f"127.0.0.1:{one.port}", f"127.0.0.1:{other.port}"])
        async with calling(allow, clock=clock) as transport:
            late = asyncio.create_task(failure(transport, one.url, deadline_s=60.0))
            await first.wait()
            early = asyncio.create_task(failure(transport, other.url, deadline_s=5.0))
            await second.wait()
            clock.advance(5.0)
            assert (await early).kind == "timeout"
            await turns()
            assert not late.done()
            clock.advance(55.0)
            assert (await late).kind == "timeout"


async def test_each_phase_of_a_call_is_timed() -> None:
    clock, phases = ManualClock(), dict[str, int]()
    body = asyncio.Event()

    async def resolve(host: str, port: int) -> Sequence[str]:
        clock.advance(0.002)
        return ["127.0.0.1"]

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        clock.advance(0.03)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await body.wait()
        clock.advance(0.4)
        writer.write(b"ok")
        await reader.read()

    async with serving(act) as peer, calling(peer.allow, resolve, clock=clock) as transport:
        url = f"http://hook.test:{peer.port}/"
        async with transport.stream("GET", url, deadline_s=LONG_S, phases=phases) as response:
            body.set()
            assert [piece async for piece in response.iter_raw()] == [b"ok"]
    assert phases == {"lookup": 2, "connect": 0, "head": 30, "body": 400}


async def test_the_phase_that_a_call_failed_in_is_timed_and_a_kept_connection_has_no_phases_of_its_own() -> None:
    clock, began, phases = ManualClock(), asyncio.Event(), dict[str, int]()
    async with serving(answering(OK)) as peer, calling(peer.allow, clock=clock) as transport:
        await fetch(transport, peer.url)
        async with transport.stream("GET", peer.url, deadline_s=LONG_S, phases=phases):
            pass
    assert phases == {"head": 0, "body": 0}
    phases.clear()
    async with serving(hanging(began)) as peer, calling(peer.allow, clock=clock) as transport:

        async def call() -> None:
            async with transport.stream("GET", peer.url, deadline_s=15.0, phases=phases):
                pass

        calling_it = asyncio.create_task(call())
        await began.wait()
        clock.advance(15.0)
        with pytest.raises(CallFailed):
            await calling_it
    assert phases == {"lookup": 0, "connect": 0, "head": 15_000}


async def test_the_deadline_lies_over_the_name_lookup() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with calling(Allow(), resolve) as transport:
        failed = await failure(transport, "https://slow.test/s3cret", deadline_s=0.1)
    assert failed.kind == "timeout"
    assert failed.message == "slow.test was not done after 0.1 s: the time went into looking up its name"


async def test_the_deadline_lies_over_connecting() -> None:
    async with black_hole("127.0.0.1") as port, calling(parse_allow(f"127.0.0.1:{port}")) as transport:
        failed = await failure(transport, f"http://127.0.0.1:{port}/", deadline_s=0.2)
    assert (failed.kind, failed.message.rpartition(" ")[2]) == ("timeout", "connecting")


async def test_the_deadline_lies_over_the_tls_handshake() -> None:
    async with serving(saying_and_waiting(b"")) as peer, calling(peer.allow) as transport:
        failed = await failure(transport, f"https://127.0.0.1:{peer.port}/", deadline_s=0.2)
        await peer.hung_up.wait()
    assert failed.kind == "timeout"
    assert "TLS handshake" in failed.message


@pytest.mark.parametrize(
    ("act", "phase"),
    [
        (saying_and_waiting(b""), "waiting for its answer"),
        (saying_and_waiting(b"HTTP/1.1 200 OK\r\nContent-Le"), "waiting for its answer"),
        (dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "waiting for its answer"),
        (dripping(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), "waiting for its answer"),
        (saying_and_waiting(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"), "reading its answer"),
        (dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"x"), "reading its answer"),
        (dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), "reading its answer"),
        (dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x"), "reading its answer"),
    ],
)
async def test_the_deadline_lies_over_head_and_body_however_they_drip(act: Act, phase: str) -> None:
    async with serving(act) as peer, calling(peer.allow) as transport:
        failed = await failure(transport, peer.url, deadline_s=0.2)
        await peer.hung_up.wait()
    assert failed.kind == "timeout"
    assert phase in failed.message


async def test_the_deadline_lies_over_a_body_that_the_other_side_does_not_take() -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serving(act) as peer, calling(peer.allow) as transport:
        with pytest.raises(CallFailed, match="waiting for its answer"):
            async with transport.stream("POST", peer.url, body=bytes(30_000_000), deadline_s=0.3):
                pass


async def test_the_deadline_lies_over_what_the_caller_does_with_the_answer() -> None:
    async with serving(answering(OK)) as peer, calling(peer.allow) as transport:
        with pytest.raises(CallFailed) as caught:
            async with transport.stream("GET", peer.url, deadline_s=0.1):
                await asyncio.Event().wait()
    assert caught.value.kind == "timeout"


async def test_an_exception_of_the_caller_passes_as_it_is_and_closes_the_connection() -> None:
    async with serving(saying_and_waiting(OK[:-1])) as peer, calling(peer.allow) as transport:
        with pytest.raises(TimeoutError, match="my own"):
            async with transport.stream("GET", peer.url, deadline_s=LONG_S):
                raise TimeoutError("my own")
        await peer.hung_up.wait()


async def test_a_cancelled_call_is_cancelled_and_closes_its_connection() -> None:
    began = asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        began.set()
        await reader.read()

    async with serving(act) as peer, calling(peer.allow) as transport:
        call = asyncio.create_task(fetch(transport, peer.url))
        await began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await peer.hung_up.wait()


async def test_closing_the_transport_fails_the_calls_that_are_under_way() -> None:
    began = asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        began.set()
        await reader.read()

    async with serving(act) as peer, calling(peer.allow) as transport:
        call = asyncio.create_task(failure(transport, peer.url))
        await began.wait()
        await transport.aclose()
        assert (await call).kind == "protocol_error"


# --- bad answers


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (b"", "protocol_error", "without an answer"),
        (b"\x00\xff garbage\r\n\r\n", "protocol_error", "not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "protocol_error", "not HTTP"),
        (b"HTTP/1.1 OK\r\n\r\n", "protocol_error", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "protocol_error", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "protocol_error", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "protocol_error", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX", "protocol_error", "in the middle"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", "protocol_error", "in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "protocol_error", "in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab", "protocol_error", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, "too_large", "beside an answer's body"),
    ],
)
async def test_an_answer_that_is_none_is_a_failure_with_a_class_and_a_sentence(
    answer: bytes, kind: str, words: str
) -> None:
    async with serving(saying(answer)) as peer, calling(peer.allow) as transport:
        failed = await failure(transport, peer.url)
    assert (failed.kind, words in failed.message) == (kind, True), failed.message
    assert peer.connections == 1


async def test_a_head_of_some_size_is_read_whatever_comes_after_it() -> None:
    answer = b"HTTP/1.1 200 OK\r\nX: " + b"y" * 25_000 + b"\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000)
    async with serving(answering(answer)) as peer, calling(peer.allow) as transport:
        for _ in range(2):
            assert await fetch(transport, peer.url) == (200, bytes(1_000_000))
    assert peer.connections == 1


async def test_informational_answers_without_end_are_cut_off() -> None:
    async with (
        serving(flooding(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)) as peer,
        calling(peer.allow) as transport,
    ):
        assert (await failure(transport, peer.url)).kind == "too_large"
        await peer.hung_up.wait()


async def test_a_reset_is_a_failure() -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        linger_not_at_all = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not_at_all)
        writer.transport.abort()

    async with serving(act) as peer, calling(peer.allow) as transport:
        assert (await failure(transport, peer.url)).kind == "protocol_error"


async def test_an_answer_that_comes_before_the_request_was_read_is_an_answer() -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        await reader.read(1)
        writer.close()

    async with (
        serving(act) as peer,
        calling(peer.allow) as transport,
        transport.stream("POST", peer.url, body=bytes(1000), deadline_s=LONG_S) as response,
    ):
        assert response.status == 413


async def test_a_body_that_the_caller_does_not_read_holds_the_other_side_up_and_is_read_later_whole() -> None:
    length = 30_000_000
    held_up = asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
        for _ in range(length // 10_000):
            writer.write(bytes(10_000))
            try:
                await asyncio.wait_for(asyncio.shield(drained := asyncio.ensure_future(writer.drain())), 0.5)
            except TimeoutError:
                held_up.set()
                await drained

    async with (
        serving(act) as peer,
        calling(peer.allow) as transport,
        transport.stream("GET", peer.url, deadline_s=LONG_S) as response,
    ):
        await held_up.wait()
        assert sum([len(piece) async for piece in response.iter_raw()]) == length


async def test_a_body_that_is_not_read_to_its_end_closes_the_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n"
    async with serving(flooding(answer, bytes(65536))) as peer, calling(peer.allow) as transport:
        async with transport.stream("GET", peer.url, deadline_s=LONG_S) as response:
            async for piece in response.iter_raw():
                assert len(piece) <= 65536
                break
        await peer.hung_up.wait()


async def test_whatever_bytes_come_back_the_call_ends_with_an_answer_or_a_failure() -> None:
    chance = random.Random(20261125)  # noqa: S311 - the same answers every time
    seeds = [
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 101 S\r\n\r\n",
    ]
    answers = [chance.randbytes(chance.randrange(200)) for _ in range(50)]
    for _ in range(250):
        answer = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(3)):
            answer[chance.randrange(len(answer))] = chance.randrange(256)
        answers.append(bytes(answer))
    outcomes = {"answered": 0, "failed": 0}
    remaining = iter(answers)

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await saying(next(remaining))(reader, writer)

    async with serving(act) as peer, calling(peer.allow) as transport:
        for _ in answers:
            try:
                await fetch(transport, peer.url)
                outcomes["answered"] += 1
            except CallFailed:
                outcomes["failed"] += 1
    assert peer.connections == len(answers)
    assert min(outcomes.values()) > 20


# --- kept connections


async def test_a_kept_connection_that_the_other_side_closes_at_the_next_request_is_replaced_once() -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await read_request(reader)

    async with serving(act) as peer, calling(peer.allow) as transport:
        assert (await fetch(transport, peer.url))[0] == 200
        assert (await fetch(transport, peer.url))[0] == 200
    assert peer.connections == 2


async def test_kept_connections_that_were_closed_meanwhile_are_not_used() -> None:
    both_are_busy, close = asyncio.Event(), asyncio.Event()
    served = 0

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        is_late = served > 3
        await read_request(reader)
        if served == 3:
            both_are_busy.set()
        await both_are_busy.wait()
        writer.write(OK)
        if not is_late:
            await close.wait()

    async with serving(act) as peer, calling(peer.allow) as transport:
        await asyncio.gather(*(fetch(transport, peer.url) for _ in range(3)))
        close.set()
        await peer.hung_up.wait()
        for _ in range(20):
            await asyncio.sleep(0)  # the ends of three connections are on their way through the loop
        assert (await fetch(transport, peer.url))[0] == 200
    assert peer.connections == 4


async def test_an_answer_that_nobody_asked_for_on_a_kept_connection_closes_it() -> None:
    say_more = asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await say_more.wait()
        writer.write(b"HTTP/1.1 500 Poison\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with serving(act) as peer, calling(peer.allow) as transport:
        assert (await fetch(transport, peer.url))[0] == 200
        say_more.set()
        await peer.hung_up.wait()
        assert (await fetch(transport, peer.url))[0] == 200
        assert peer.connections == 2


async def test_a_connection_that_was_kept_for_long_is_closed_and_not_used() -> None:
    clock = ManualClock()
    async with serving(answering(OK)) as peer, calling(peer.allow, clock=clock) as transport:
        await fetch(transport, peer.url)
        clock.advance(KEEP_ALIVE_S - 1)
        await fetch(transport, peer.url)
        assert peer.connections == 1
        clock.advance(KEEP_ALIVE_S)
        await fetch(transport, peer.url)
        await peer.hung_up.wait()
        assert peer.connections == 2


async def test_of_kept_connections_there_are_only_so_many_and_the_oldest_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relay.net.transport.MAX_IDLE_CONNECTIONS", 1)
    async with serving(answering(OK)) as old, serving(answering(OK)) as new:
        allow = parse_allow([f"127.0.0.1:{old.port}", f"127.0.0.1:{new.port}"])
        async with calling(allow) as transport:
            for peer in (old, new, new):
                await fetch(transport, peer.url)
            await old.hung_up.wait()
            assert (new.connections, new.hung_up.is_set()) == (1, False)


async def test_what_the_other_side_has_closed_is_not_remembered() -> None:
    close = asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        await close.wait()

    async with serving(act) as peer, calling(peer.allow) as transport:
        await fetch(transport, peer.url)
        assert len(transport._kept._idle) == len(transport._kept._open) == 1
        close.set()
        await peer.hung_up.wait()
        await turns()
        assert not transport._kept._idle
        assert not transport._kept._open
        assert not transport._kept._at


async def test_calls_beyond_the_bound_wait_for_a_place_and_their_deadline_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.net.transport.MAX_CALLS", 1)
    clock, began = ManualClock(), asyncio.Event()
    async with serving(hanging(began)) as peer, calling(peer.allow, clock=clock) as transport:
        first = asyncio.create_task(failure(transport, peer.url, deadline_s=20.0))
        await began.wait()
        second = asyncio.create_task(failure(transport, peer.url, deadline_s=10.0))
        await turns()
        assert peer.connections == 1
        clock.advance(10.0)
        assert "waiting for a free connection" in (await second).message
        clock.advance(10.0)
        assert (await first).kind == "timeout"


async def test_a_new_connection_that_is_closed_without_an_answer_is_not_replaced() -> None:
    async with serving(saying(b"")) as peer, calling(peer.allow) as transport:
        await failure(transport, peer.url)
        assert peer.connections == 1


@pytest.mark.parametrize("rest", [b"HTTP/1.1 500 Poison\r\nContent-Length: 0\r\n\r\n", b"garbage\r\n\r\n"])
async def test_what_an_answer_sent_beyond_its_length_does_not_answer_the_next_request(rest: bytes) -> None:
    async with serving(answering(OK + rest, OK)) as peer, calling(peer.allow) as transport:
        assert await fetch(transport, peer.url) == (200, b"ok")
        assert await fetch(transport, peer.url) == (200, b"ok")
    assert peer.connections == 2


async def test_many_calls_at_once_to_a_peer_that_hangs_leave_other_peers_alone() -> None:
    async with serving(saying_and_waiting(b"")) as hanging, serving(answering(OK)) as peer:
        allow = parse_allow([f"127.0.0.1:{hanging.port}", f"127.0.0.1:{peer.port}"])
        async with calling(allow) as transport:
            stuck = [asyncio.create_task(failure(transport, hanging.url, 1.0)) for _ in range(50)]
            for _ in range(20):
                assert (await fetch(transport, peer.url, 1.0))[0] == 200
            assert {each.kind for each in await asyncio.gather(*stuck)} == {"timeout"}


# --- TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path)


async def test_the_name_is_asked_for_by_sni_and_checked_in_the_certificate(authority: Authority) -> None:
    asked: list[str | None] = []
    tls = authority.server(x509.DNSName("hook.test"))
    tls.sni_callback = lambda _socket, name, _context: asked.append(name)
    resolve, _ = resolving(["127.0.0.1"])
    async with (
        serving(answering(OK), tls=tls) as peer,
        calling(peer.allow, resolve, authority.trusting()) as transport,
    ):
        for _ in range(2):
            assert await fetch(transport, f"https://hook.test:{peer.port}/") == (200, b"ok")
    assert asked == ["hook.test"]
    assert peer.connections == 1


async def test_an_address_is_checked_in_the_certificate(authority: Authority) -> None:
    tls = authority.server(x509.IPAddress(IPv4Address("127.0.0.1")))
    async with (
        serving(answering(OK), tls=tls) as peer,
        calling(peer.allow, None, authority.trusting()) as transport,
    ):
        assert (await fetch(transport, f"https://127.0.0.1:{peer.port}/"))[0] == 200


@pytest.mark.parametrize(
    ("name", "days", "words"),
    [("hook.test", -1, "expired"), ("other.test", 1, "mismatch"), ("hook.test", 1, "self-signed")],
)
async def test_a_bad_certificate_is_a_failure_that_says_what_is_wrong(
    authority: Authority, name: str, days: int, words: str
) -> None:
    tls = authority.server(x509.DNSName(name), days=days)
    trust = ssl.create_default_context() if words == "self-signed" else authority.trusting()
    resolve, _ = resolving(["127.0.0.1"])
    async with serving(answering(OK), tls=tls) as peer, calling(peer.allow, resolve, trust) as transport:
        failed = await failure(transport, f"https://hook.test:{peer.port}/")
    assert failed.kind == "tls_failed"
    assert words in failed.message or (words == "self-signed" and "unable to get local issuer" in failed.message)


@pytest.mark.parametrize(
    "answer", [OK, b"", b"220 mail.example ESMTP\r\n", b"\x15\x03\x01\x00\x02\x02\x28", b"\x16\x03" * 9000]
)
async def test_a_peer_that_does_not_speak_tls_is_a_failure(answer: bytes) -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with serving(act) as peer, calling(peer.allow) as transport:
        failed = await failure(transport, f"https://127.0.0.1:{peer.port}/")
        assert not transport._kept._open
    assert failed.kind == "tls_failed"


async def test_bytes_that_come_in_the_clear_before_the_handshake_are_never_taken_for_an_answer(
    authority: Authority,
) -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        await writer.drain()
        await writer.start_tls(authority.server(x509.DNSName("hook.test")))
        await read_request(reader)
        writer.write(OK)
        await writer.drain()

    resolve, _ = resolving(["127.0.0.1"])
    async with serving(act) as peer, calling(peer.allow, resolve, authority.trusting()) as transport:
        assert (await failure(transport, f"https://hook.test:{peer.port}/")).kind == "tls_failed"


async def test_bytes_that_wait_on_a_connection_when_the_handshake_begins_end_it(authority: Authority) -> None:
    gone: list[Connection] = []

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await reader.read()

    async with serving(act) as peer:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection("hook.test", lambda _: None, gone.append), "127.0.0.1", peer.port
        )
        while not connection._early:  # noqa: ASYNC110 - what is awaited is the loop's reading
            await asyncio.sleep(0)
        with pytest.raises(CallFailed, match="does not speak TLS"):
            await connection.start_tls(authority.trusting())
        assert gone
        await peer.hung_up.wait()


async def test_a_peer_that_wants_a_certificate_of_ours_is_a_failure_of_tls(authority: Authority) -> None:
    tls = authority.server(x509.DNSName("hook.test"))
    tls.verify_mode = ssl.CERT_REQUIRED

    def serve(listener: socket.socket) -> None:
        # asyncio's server hangs up without the alert that says why, so this one is a thread.
        connection, _ = listener.accept()
        with tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secured:
            with suppress(ssl.SSLError):
                secured.do_handshake()
            while socket.socket.recv(secured, 65536):
                pass

    resolve, _ = resolving(["127.0.0.1"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        serving_once = asyncio.create_task(asyncio.to_thread(serve, listener))
        async with calling(parse_allow(f"hook.test:{port}"), resolve, authority.trusting()) as transport:
            failed = await failure(transport, f"https://hook.test:{port}/")
        await serving_once
    assert failed.kind == "tls_failed"
    assert failed.message.startswith("the TLS connection to hook.test broke: ")
    assert "certificate required" in failed.message


async def test_a_tls_connection_that_is_cut_in_the_middle_of_an_answer_is_a_failure(authority: Authority) -> None:
    tls = authority.server(x509.DNSName("hook.test"))
    resolve, _ = resolving(["127.0.0.1"])
    async with (
        serving(saying(OK[:-1]), tls=tls) as peer,
        calling(peer.allow, resolve, authority.trusting()) as transport,
    ):
        failed = await failure(transport, f"https://hook.test:{peer.port}/")
    assert failed.kind == "protocol_error"


async def test_a_tls_peer_that_hangs_is_dropped_at_the_deadline_without_a_farewell(authority: Authority) -> None:
    tls = authority.server(x509.DNSName("hook.test"))
    resolve, _ = resolving(["127.0.0.1"])
    async with (
        serving(saying_and_waiting(b""), tls=tls) as peer,
        calling(peer.allow, resolve, authority.trusting()) as transport,
    ):
        failed = await failure(transport, f"https://hook.test:{peer.port}/", deadline_s=0.5)
        await peer.hung_up.wait()
    assert failed.kind == "timeout"
