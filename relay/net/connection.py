"""One connection to a peer that nobody trusts: HTTP/1.1, one exchange at a time, all that comes in bounded.

llhttp (by httptools) reads what comes; it is strict, and it inflates nothing. What it is fed is counted: whatever is no
body, be it informational answers, endless headers or trailers, may have so many bytes in one go.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final

import httptools

from relay.core.retry import AnswerKind
from relay.errors import BadGateway

MAX_HEAD_BYTES: Final = 32 * 1024
"""All that may come before an answer's body, informational answers (1xx) included; and after it, as trailers."""
MAX_UNREAD_BYTES: Final = 128 * 1024
"""Received and not yet read; beyond it the other side has to wait."""
CHUNK_MAX_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 4 * 1024


class CallFailed(BadGateway):
    """A call that got no whole answer; `kind` is the class of what happened, the message a sentence without secrets."""

    def __init__(self, kind: AnswerKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Connection(asyncio.Protocol):
    """A connection to `host` (its name, for sentences); `made` and `gone` are called when it begins and has ended."""

    def __init__(self, host: str, made: Callable[["Connection"], None], gone: Callable[["Connection"], None]) -> None:
        self._host = host
        self._made = made
        self._gone = gone
        self._transport: Any = None  # uvloop's are no subclasses of asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._is_asked = False
        self._early = b""
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: Exception | None = None
        self._has_body = True
        self._begin()

    def _begin(self) -> None:
        """The state of one exchange."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.answer_bytes = 0
        self._has_head = False
        self._is_complete = False
        self._ends_with_connection = False
        self._may_be_kept = False
        self._body = bytearray()
        self._quiet_bytes = 0
        self._is_paused = False
        self._failure: CallFailed | None = None

    # What the transport calls.

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Go on under TLS, which the other side must show to be `host` in; `CallFailed` when it cannot."""
        try:
            if self._early or self._ended:
                # What came in the clear would later be taken for something that came encrypted.
                raise CallFailed("tls_failed", f"{self._host} does not speak TLS")
            secured = await asyncio.get_running_loop().start_tls(
                self._transport, self, context, server_hostname=self._host
            )
            if secured is None:
                raise CallFailed("tls_failed", f"{self._host} closed the connection after the TLS handshake")
            self._transport = secured
        except BaseException as error:
            self.abort()
            self._gone(self)  # the event loop does not say so before the handshake is over
            if isinstance(error, OSError):  # ssl.SSLError is one, and so are resets
                message = f"no TLS connection to {self._host}: {_ssl_reason(error)}"
                raise CallFailed("tls_failed", message) from None
            raise

    async def ask(self, request: bytes, *, has_body: bool = True) -> None:
        """Send a whole request and return when the head of its answer is here; `CallFailed` when none comes.

        `has_body`: false for HEAD, whose answers state a length and have nothing of it.
        """
        self._begin()
        self._has_body = has_body
        self._is_asked = True
        if not self._ended:
            self._transport.write(request)
        if self._early:
            early, self._early = self._early, b""
            self._transport.resume_reading()
            self.data_received(early)
        while not self._has_head:
            await self._change()

    async def chunk(self) -> bytes:
        """The next piece of the answer's body as it was transferred; empty at its end. `CallFailed` when it is cut."""
        while not self._body and not self._is_complete:
            await self._change()
        data = bytes(self._body[:CHUNK_MAX_BYTES])
        del self._body[:CHUNK_MAX_BYTES]
        if self._is_paused and not self._body and not self._ended:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    def rest(self) -> bool:
        """End the exchange; whether the connection may have another. It may not when bytes are left over."""
        self._is_asked = False
        return self.is_idle and self._is_complete and self._may_be_kept and not self._body

    @property
    def is_idle(self) -> bool:
        """Nothing is under way, and the other side has not closed."""
        return not self._is_asked and not self._ended and not self._transport.is_closing()

    def abort(self) -> None:
        """Close at once: a TLS farewell would wait for the other side."""
        self._transport.abort()

    async def _change(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._ended:
            raise self._cut()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _cut(self) -> CallFailed:
        if isinstance(self._error, ssl.SSLError):
            return CallFailed("tls_failed", f"the TLS connection to {self._host} broke: {_ssl_reason(self._error)}")
        when = "in the middle of its answer" if self.answer_bytes else "without an answer"
        return CallFailed("protocol_error", f"{self._host} closed the connection {when}")

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._made(self)

    def data_received(self, data: bytes) -> None:
        if not self._is_asked:
            # Before the first request it may be an answer to what is just about to be sent; later nobody asked for it.
            if self._may_be_kept:
                self.abort()
            else:
                self._early += data
                self._transport.pause_reading()
            return
        self.answer_bytes += len(data)
        if self._is_complete or self._failure is not None:
            self._may_be_kept = False
            return
        view = memoryview(data)
        for start in range(0, len(data), _PIECE_BYTES):
            self._feed(view[start : start + _PIECE_BYTES])
        if len(self._body) > MAX_UNREAD_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def _feed(self, piece: memoryview) -> None:
        if self._failure is not None:
            return
        self._quiet_bytes += len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserError:
            # The parser's own words repeat what was sent to us, so they are not shown.
            self._fail("protocol_error", f"{self._host} answered something that is not HTTP/1.1")
        if self._quiet_bytes > MAX_HEAD_BYTES:
            self._fail("too_large", f"{self._host} sent more than {MAX_HEAD_BYTES} bytes beside an answer's body")

    def _fail(self, kind: AnswerKind, sentence: str) -> None:
        self._may_be_kept = False
        if not self._is_complete and self._failure is None:
            self._failure = CallFailed(kind, sentence)
            self.abort()

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc
        self._end()
        self._gone(self)

    def _end(self) -> None:
        self._is_complete |= self._ends_with_connection and self._error is None and self._failure is None
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the parser calls. An exception in here would be lost.

    def on_message_begin(self) -> None:
        if self._is_complete:
            self._may_be_kept = False  # something comes after the answer

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._has_head:
            return
        status = self._parser.get_status_code()
        if status < 100 or self._parser.get_http_version() not in ("1.0", "1.1"):
            self._fail("protocol_error", f"{self._host} answered something that is not HTTP/1.1")
        elif status < 200:
            self.headers = []
        else:
            self.status = status
            self._has_head = True
            self._may_be_kept = self._parser.should_keep_alive() and self._has_body
            self._is_complete = not self._has_body
            self._ends_with_connection = self._is_without_length()

    def _is_without_length(self) -> bool:
        names = dict(self.headers)
        chunked = names.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
        return b"content-length" not in names and not chunked

    def on_body(self, body: bytes) -> None:
        self._quiet_bytes = 0
        if self._has_head and not self._is_complete:
            self._body += body

    def on_message_complete(self) -> None:
        if self._has_head:
            self._is_complete = True


def _ssl_reason(error: Exception) -> str:
    """The end of a sentence about what broke a TLS connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return "the connection was closed"
