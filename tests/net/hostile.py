"""What subscribers may do with a delivery, and what becomes of it: a table that a test goes through line by line.

    python -m tests.net.hostile

prints it as it is measured. Every line is a real server; beside each hostile delivery others go to a good subscriber,
over the same sender, and must be through before the hostile one has ended.
"""

import asyncio
import gzip
import socket
import ssl
import sys
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509

from relay.core.retry import Answer, AnswerKind, Delivered, decide
from relay.core.target import parse_allow
from relay.net.webhook import WebhookSender
from tests.net.peers import (
    OK,
    Act,
    Authority,
    answering,
    black_hole,
    dripping,
    flooding,
    read_request,
    saying,
    saying_and_waiting,
    serving,
)

LONG_S = 30.0
SHORT_S = 0.3
OTHERS = 5
BODY = b'{"type":"job.succeeded"}'
BOMB = gzip.compress(gzip.compress(bytes(50_000_000), 9), 9)
"""Small, and 50 MB after the second inflation."""
CHUNKED = "Transfer-Encoding: chunked"
HEAD_PHASE, BODY_PHASE = "waiting for its answer", "reading its answer"

Tls = Literal["", "good", "self-signed", "wrong host", "expired", "none"]
"""What stands behind an https address; empty for http."""


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def resetting(after: bytes | None) -> Act:
    """Reset the connection: before the request is read, or when so much of an answer has been sent."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if after is not None:
            await read_request(reader)
            writer.write(after)
            await writer.drain()
        without_linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, without_linger)
        writer.transport.abort()

    return act


async def refusing_to_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def speaking_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(OK)
    await writer.drain()
    await reader.read()


@dataclass(frozen=True)
class Hostile:
    """What a subscriber does, and what is to come of it."""

    name: str
    act: Act | None
    """None: nobody listens."""
    kind: AnswerKind
    status: int | None = None
    words: str = ""
    excerpt: str = ""
    tls: Tls = ""
    addresses: Sequence[str] = ("127.0.0.1",)

    @property
    def deadline_s(self) -> float:
        return SHORT_S if self.kind == "timeout" else LONG_S


def _flood(name: str, first: bytes, piece: bytes, status: int | None = None) -> Hostile:
    return Hostile(name, flooding(first, piece), "too_large", status, "beside an answer's body")


def _broken(name: str, act: Act, words: str, status: int | None = None, excerpt: str = "") -> Hostile:
    return Hostile(name, act, "protocol_error", status, words, excerpt)


HOSTILE: Sequence[Hostile] = [
    Hostile("has a name that leads inside", saying(OK), "target_refused", addresses=["127.0.0.1", "10.0.0.1"],
            words="a private address"),
    Hostile("has a name without an address", saying(OK), "resolve_failed", addresses=[], words="not be resolved"),
    Hostile("closes its port", None, "connect_failed", words="connection refused"),
    Hostile("swallows the connection", None, "timeout", addresses=["127.0.0.2"], words="connecting"),
    Hostile("accepts and never answers", saying_and_waiting(b""), "timeout", words=HEAD_PHASE),
    Hostile("accepts and never reads", refusing_to_read, "timeout", words=HEAD_PHASE),
    Hostile("stops in its head", saying_and_waiting(b"HTTP/1.1 200 OK\r\nX: "), "timeout", words=HEAD_PHASE),
    Hostile("drips its head", dripping(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "timeout", words=HEAD_PHASE),
    Hostile("drips 1xx", dripping(b"", head("102 Processing")), "timeout", words=HEAD_PHASE),
    Hostile("drips its body", dripping(head("200 OK", "Content-Length: 9999") + b"ab", b"c"), "timeout", 200,
            BODY_PHASE, "ab"),
    Hostile("drips its chunks", dripping(head("200 OK", CHUNKED), b"1\r\na\r\n"), "timeout", 200, BODY_PHASE, "a"),
    Hostile("stops in its body", saying_and_waiting(head("200 OK", "Content-Length: 9") + b"ab"), "timeout", 200,
            BODY_PHASE, "ab"),
    _flood("floods 1xx", b"", head("103 Early Hints") * 100),
    _flood("sends a header without end", b"HTTP/1.1 200 OK\r\nX: ", b"y" * 9999),
    _flood("sends headers without end", b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 999),
    _flood("sends empty lines without end", b"", b"\r\n" * 999),
    _flood("extends a chunk without end", head("200 OK", CHUNKED) + b"2;", b"x" * 9999, 200),
    _flood("sends a trailer without end", head("200 OK", CHUNKED) + b"0\r\nX: ", b"y" * 9999, 200),
    _broken("resets before it reads", resetting(None), "closed the connection without an answer"),
    _broken("resets instead of an answer", resetting(b""), "closed the connection without an answer"),
    _broken("resets in its head", resetting(b"HTTP/1.1 200 OK\r\nX"), "closed the connection"),
    _broken("closes without an answer", saying(b""), "without an answer"),
    _broken("closes in its head", saying(b"HTTP/1.1 200 OK\r\nX"), "in the middle of its answer"),
    _broken("cuts its body", saying(head("200 OK", "Content-Length: 9") + b"ab"), "in the middle", 200, "ab"),
    _broken("cuts its chunks", saying(head("200 OK", CHUNKED) + b"9\r\nab"), "in the middle", 200, "ab"),
    _broken("answers garbage", saying(b"\x00\xff\x1b[31m\r\n\r\n"), "not HTTP"),
    _broken("answers in HTTP/0.9", saying(b"<html>it works</html>\r\n"), "not HTTP"),
    _broken("says that it is HTTP/0.9", saying(b"HTTP/0.9 200 OK\r\n\r\n"), "not HTTP"),
    _broken("speaks HTTP/2", saying(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"), "not HTTP"),
    _broken("speaks SSH", saying(b"SSH-2.0-OpenSSH\r\n\r\n"), "not HTTP"),
    _broken("states two lengths", saying(head("200 OK", "Content-Length: 1", "Content-Length: 2") + b"ab"), "not HTTP"),
    _broken("states length and chunks", saying(head("200 OK", CHUNKED, "Content-Length: 2") + b"ab"), "not HTTP"),
    _broken("states a negative length", saying(head("200 OK", "Content-Length: -1")), "not HTTP"),
    _broken("breaks its chunks", saying(head("200 OK", CHUNKED) + b"2\r\nok\r\nzz\r\n"), "not HTTP", 200, "ok"),
    _broken("switches protocols", saying(head("101 Switching Protocols", "Upgrade: x")), "not HTTP"),
    Hostile("does not speak TLS", speaking_up, "tls_failed", tls="none", words="no TLS connection"),
    Hostile("resets in the handshake", resetting(None), "tls_failed", tls="none", words="connection was closed"),
    Hostile("stops in the handshake", refusing_to_read, "timeout", tls="none", words="the TLS handshake"),
    Hostile("signs its own certificate", saying(OK), "tls_failed", tls="self-signed", words="certificate is not valid"),
    Hostile("has a certificate of another host", saying(OK), "tls_failed", tls="wrong host", words="mismatch"),
    Hostile("has a certificate that is over", saying(OK), "tls_failed", tls="expired", words="expired"),
    Hostile("drips under TLS", dripping(head("200 OK"), b"x"), "timeout", 200, BODY_PHASE, "x", tls="good"),
    Hostile("redirects inside", saying(head("307 Moved", "Location: http://10.0.0.1/", "Content-Length: 0")),
            "answered", 307),
    Hostile("sets cookies", saying(head("200 OK", "Set-Cookie: a=b", "Content-Length: 0")), "answered", 200),
    Hostile("sends more than its length", saying(OK + b"HTTP/1.1 500 No\r\n\r\n"), "answered", 200, excerpt="ok"),
    Hostile("sends 100 MB", flooding(head("200 OK", "Content-Length: 100000000"), b"x" * 65536), "answered", 200,
            excerpt="x" * 1024),
    Hostile("sends without end", flooding(head("500 No"), b"x" * 65536), "answered", 500, excerpt="x" * 1024),
    Hostile("sends a gzip bomb",
            saying(head("200 OK", "Content-Encoding: gzip", f"Content-Length: {len(BOMB)}") + BOMB), "answered", 200),
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One line of the table as it was measured."""

    answer: Answer
    peak_bytes: int
    """Of all that Python held at once meanwhile, the hostile server's own buffers included."""
    others: Sequence[Answer]
    others_were_first: bool


async def meet(hostile: Hostile, folder: Path) -> Outcome:
    """Deliver once to the hostile subscriber, and meanwhile to a good one."""
    authority = Authority.new(folder)
    async with _standing(hostile, authority) as port, serving(answering(OK)) as good:

        async def resolve(host: str, port: int) -> Sequence[str]:
            if not hostile.addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return hostile.addresses

        allow = parse_allow([f"{name}:{port}" for name in ("127.0.0.1", "127.0.0.2")] + [f"127.0.0.1:{good.port}"])
        sender = WebhookSender(allow, deadline_s=hostile.deadline_s, resolve=resolve, ssl_context=authority.trusting())
        scheme = "https" if hostile.tls else "http"
        tracemalloc.start()
        try:
            delivery = asyncio.create_task(sender.send(f"{scheme}://hook.test:{port}/s3cret-path", {}, BODY))
            others = [await sender.send(good.url, {}, BODY) for _ in range(OTHERS)]
            were_first = not delivery.done()
            answer = await delivery
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            await sender.aclose()
    return Outcome(answer, peak, others, were_first)


@asynccontextmanager
async def _standing(hostile: Hostile, authority: Authority) -> AsyncIterator[int]:
    """The hostile subscriber's port."""
    if hostile.act is not None:
        async with serving(hostile.act, tls=_tls(hostile.tls, authority)) as peer:
            yield peer.port
    elif hostile.kind == "timeout":
        async with black_hole(hostile.addresses[0]) as port:
            yield port
    else:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            yield taken.getsockname()[1]


def _tls(kind: Tls, authority: Authority) -> ssl.SSLContext | None:
    match kind:
        case "good":
            return authority.server(x509.DNSName("hook.test"))
        case "self-signed":
            return Authority.new(authority.folder).server(x509.DNSName("hook.test"))
        case "wrong host":
            return authority.server(x509.DNSName("other.test"))
        case "expired":
            return authority.server(x509.DNSName("hook.test"), days=-1)
        case _:
            return None


async def main() -> None:
    print("| the subscriber … | class | status | sentence | then | peak kB | others |\n|---|---|---|---|---|---|---|")
    for hostile in HOSTILE:
        with tempfile.TemporaryDirectory() as folder:
            outcome = await meet(hostile, Path(folder))
        answer = outcome.answer
        then = "delivered" if decide(answer, 1, 0, 0.5) == Delivered() else "again"
        unmoved = sum(other.status == 200 for other in outcome.others)
        cells = (hostile.name, answer.kind, answer.status or "-", answer.detail, then, outcome.peak_bytes // 1000)
        print("|", " | ".join(map(str, cells)), f"| {unmoved} of {OTHERS} |")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
