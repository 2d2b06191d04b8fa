"""The guarded transport: the only way to addresses that somebody else named.

`core/target.py` decides, this enforces. Below httpcore2's connection pool lies a network backend that resolves a name,
has every address judged, and connects to the very address that was judged, while the Host header, SNI and the check of
the certificate keep the name: a name server that changes its answer in between changes nothing. The pool is called
directly, without a client above it: no cookies, no redirects, no proxies from the environment, no decompression.

One deadline lies over the name lookup, connecting, TLS, head and body together. httpx's own time-outs start anew with
every read, and a server that sends a byte a second would never meet one.
"""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Any, NoReturn

import httpcore2

from relay.core.retry import AnswerKind
from relay.core.target import Allow, Target, check_addresses, check_url
from relay.errors import BadGateway, InvalidRequest

MAX_CONNECTIONS = 1024
MAX_IDLE_CONNECTIONS = 128
KEEP_ALIVE_S = 15.0
MAX_HEAD_BYTES = 32 * 1024
"""All that may come before an answer's body, informational answers (1xx) included: parsing is the dear part of it."""
_HEAD_PIECE_BYTES = 4 * 1024
MAX_UNREAD_BYTES = 128 * 1024
"""Received and not yet read on one connection; beyond it the other side has to wait."""
MAX_CANDIDATES = 4
"""Of a name's addresses so many are tried, each for its share of the time that is left."""
MAX_LOOKUPS = 32
"""Threads for name lookups. They are apart from the loop's own few, so that slow names stop nothing else."""
USER_AGENT = "video-callback-relay"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a name and a port to all its addresses; raises OSError when it has none."""

_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})


class CallFailed(BadGateway):
    """A call that got no whole answer; `kind` is the class of what happened, the message a sentence without secrets."""

    def __init__(self, kind: AnswerKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Response:
    """The head of an answer, and its body as it comes: the bytes of the transfer, not decompressed."""

    def __init__(self, raw: httpcore2.Response, call: "_Call") -> None:
        self.host = call.target.host
        self.status = raw.status
        self.headers = _joined(raw.headers)
        """Lower-case names; the values of a name that came more than once are joined by a comma."""
        self._raw = raw
        self._call = call
        self._body = raw.aiter_stream()

    def iter_raw(self) -> AsyncIterator[bytes]:
        """Pieces of the body of at most 64 KiB; `CallFailed` when it is cut. Bounding the sum is the caller's part."""
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._body)
        except (httpcore2.ProtocolError, httpcore2.NetworkError) as error:
            self._call.fail(error)

    async def close(self) -> None:
        """Give the connection back when the body was read to its end, else close it."""
        await self._body.aclose()
        await self._raw.aclose()


class GuardedTransport:
    """Calls addresses that `allow` permits; one instance, with its connections, for the whole process."""

    def __init__(
        self, allow: Allow, *, resolve: Resolve | None = None, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        # At DEBUG httpcore2 logs what it sends and to whom, and the secrets are in there.
        logging.getLogger("httpcore2").setLevel(logging.WARNING)
        self._allow = allow
        self._lookups = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="relay-lookup")
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=KEEP_ALIVE_S,
            network_backend=_JudgingBackend(allow, resolve or self._resolve),
        )

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes = b"", deadline_s: float
    ) -> AsyncGenerator[Response]:
        """Send a request and give the answer once its head has come; the body is read inside the `async with`.

        Everything together, the caller's own work inside the block included, ends after `deadline_s` seconds. Raises
        `TargetRefused` for an address that is not to be called, `CallFailed` for everything that the other side or the
        network does, `InvalidRequest` when `headers` hold what HTTP cannot carry. Headers that are part of the
        transfer (Host, Content-Length, Accept-Encoding, …) are set here and not taken from `headers`.
        """
        target = check_url(url, self._allow)
        call = _Call(target, asyncio.get_running_loop().time() + deadline_s)
        sent = _request_headers(target, method, headers or {}, len(body))
        timer = asyncio.timeout_at(call.ends_at_s)
        try:
            async with timer:
                response = await self._exchange(call, method, sent, body)
                try:
                    yield response
                finally:
                    await response.close()
        except TimeoutError:
            if not timer.expired():
                raise
            message = f"{target.host} was not done after {deadline_s:g} s: the time went into {call.phase}"
            raise CallFailed("timeout", message) from None

    async def aclose(self) -> None:
        """Close every connection; calls that are under way fail."""
        await self._pool.aclose()
        self._lookups.shutdown(wait=False, cancel_futures=True)

    async def _exchange(self, call: "_Call", method: str, headers: list[tuple[bytes, bytes]], body: bytes) -> Response:
        target = call.target
        url = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        while True:
            token = _current.set(call)
            try:
                raw = await self._pool.handle_async_request(
                    httpcore2.Request(method, url, headers=headers, content=body)
                )
            except (httpcore2.ProtocolError, httpcore2.NetworkError) as error:
                if call.may_try_again():
                    continue
                call.fail(error)
            finally:
                _current.reset(token)
            if call.head_is_complete():
                return Response(raw, call)
            call.hang_up()
            await raw.aclose()
            if not call.may_try_again():
                raise CallFailed("protocol_error", f"{target.host} answered before it was asked")

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        found = await asyncio.get_running_loop().run_in_executor(self._lookups, lookup)
        return list(dict.fromkeys(str(each[4][0]) for each in found))


class _Call:
    """What is known of one call while it runs. The pool's backend and streams find it in a context variable."""

    __slots__ = ("ends_at_s", "phase", "stream", "target", "tried_again")

    def __init__(self, target: Target, ends_at_s: float) -> None:
        self.target = target
        self.ends_at_s = ends_at_s
        self.phase = "waiting for a free connection"
        self.stream: _Stream | None = None
        self.tried_again = False

    def may_try_again(self) -> bool:
        """True, once, when a kept connection turned out to be dead or spoiled before a byte of the answer came.

        The other side may close a kept connection at the moment when we use it. Whether it read the request first we
        cannot know; deliveries carry an id for that.
        """
        stream = self.stream
        if self.tried_again or stream is None or stream.uses < 2 or stream.answer_bytes:
            return False
        self.tried_again = True
        self.stream = None
        return True

    def head_is_complete(self) -> bool:
        """False when the head was there before the request: what an earlier answer had sent beyond its length."""
        self.phase = "reading its answer"
        if self.stream is None or not self.stream.answer_bytes:
            return False
        self.stream.in_head = False
        return True

    def hang_up(self) -> None:
        if self.stream is not None:
            self.stream.abort()

    def fail(self, error: Exception) -> NoReturn:
        """Raise the `CallFailed` (or `InvalidRequest`) that `error`, one of httpcore2's, stands for."""
        host = self.target.host
        if isinstance(error, httpcore2.LocalProtocolError):
            raise InvalidRequest.field("headers", "characters", "a header holds what HTTP cannot carry") from None
        # The pool cuts the chain of causes, so what lies below is taken from the arguments.
        if error.args and isinstance(error.args[0], ssl.SSLError):
            message = f"the TLS connection to {host} broke: {_ssl_reason(error.args[0])}"
            raise CallFailed("tls_failed", message) from None
        if self.stream is None or not self.stream.answer_bytes:
            raise CallFailed("protocol_error", f"{host} closed the connection without an answer") from None
        # The parser's own words repeat what was sent to us, so they are not shown.
        if isinstance(error, httpcore2.NetworkError) or str(error).startswith(("Server disconnected", "peer closed")):
            raise CallFailed("protocol_error", f"{host} closed the connection in the middle of its answer") from None
        raise CallFailed("protocol_error", f"{host} answered something that is not HTTP/1.1") from None


_current: ContextVar[_Call] = ContextVar("relay_net_call")


class _JudgingBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections for the pool: resolve, judge all, connect to what was judged."""

    def __init__(self, allow: Allow, resolve: Resolve) -> None:
        self._allow = allow
        self._resolve = resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        call = _current.get()
        call.phase = "looking up its name"
        addresses = await self._addresses(host, port)
        check_addresses(Target(call.target.scheme, host, port), addresses, self._allow)
        call.phase = "connecting"
        candidates = _alternating(addresses)[:MAX_CANDIDATES]
        why = ""
        for left in range(len(candidates), 0, -1):
            now_s = asyncio.get_running_loop().time()
            try:
                # The last one has until the deadline of the whole call, which then tells what happened.
                async with asyncio.timeout((call.ends_at_s - now_s) / left if left > 1 else None):
                    return await _connect(candidates[-left], port, host)
            except OSError as error:  # TimeoutError is one
                why = os.strerror(error.errno).lower() if error.errno else "no answer"
        raise CallFailed("connect_failed", f"{host} took no connection on port {port}: {why}")

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            return [str(ip_address(host))]
        except ValueError:
            pass
        try:
            return await self._resolve(host, port)
        except (OSError, UnicodeError):  # socket.gaierror; a name that the system's IDNA does not take
            raise CallFailed("resolve_failed", f"the name {host} could not be resolved") from None


async def _connect(address: str, port: int, host: str) -> "_Stream":
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(lambda: _Stream(host), address, port)
    return stream


class _Stream(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """One connection as httpcore2 reads and writes it. One task uses it at a time.

    The time-outs that httpcore2 hands in are not used: the one deadline of the call cancels whatever waits here.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._error: Exception | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self.in_head = False
        self.uses = 0
        """Calls that wrote to this connection."""
        self.answer_bytes = 0
        """Bytes that came since the last of them began to write."""

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no subclasses of asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > MAX_UNREAD_BYTES and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = exc
        self._wake()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake()

    # What httpcore2 calls.

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while not self._received and not self._ended:
            await self._change()
        if not self._received and self._error is not None:
            raise httpcore2.ReadError(self._error)
        # A head is read in small pieces, so that what comes after it hardly counts towards the bound below.
        size = min(max_bytes, _HEAD_PIECE_BYTES) if self.in_head else max_bytes
        data = bytes(self._received[:size])
        del self._received[:size]
        if self._reading_paused and not self._received and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()
        self.answer_bytes += len(data)
        if self.in_head and self.answer_bytes > MAX_HEAD_BYTES:
            raise CallFailed("too_large", f"{self._host} sent more than {MAX_HEAD_BYTES} bytes before an answer's body")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        call = _current.get()
        if call.stream is not self:
            call.stream = self
            call.phase = "waiting for its answer"
            self.uses += 1
            self.answer_bytes = 0
            self.in_head = True
        if self._transport.is_closing():
            raise httpcore2.WriteError("the connection is closed")
        self._transport.write(buffer)
        while self._writing_paused and not self._transport.is_closing():
            await self._change()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        _current.get().phase = "the TLS handshake"
        try:
            if self._received or self._ended:
                # What came in the clear would later be taken for something that came encrypted.
                raise CallFailed("tls_failed", f"{self._host} does not speak TLS")
            loop = asyncio.get_running_loop()
            secured = await loop.start_tls(self._transport, self, ssl_context, server_hostname=server_hostname)
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):  # ssl.SSLError is one, and so are resets
                message = f"no TLS connection to {self._host}: {_ssl_reason(error)}"
                raise CallFailed("tls_failed", message) from None
            raise
        if secured is None:
            raise CallFailed("tls_failed", f"{self._host} closed the connection after the TLS handshake")
        self._transport = secured
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            # On a kept connection nothing is to come: what is there is the end, or nothing that we want.
            return bool(self._received) or self._ended or self._transport.is_closing()
        return self._transport.get_extra_info(info)

    async def aclose(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Close at once: a TLS farewell would wait for the other side."""
        self._transport.abort()

    async def _change(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _alternating(addresses: Sequence[str]) -> list[str]:
    """The addresses with the two families in turn, so that a broken IPv6 route does not use up all tries."""
    first = [each for each in addresses if (":" in each) == (":" in addresses[0])]
    second = [each for each in addresses if each not in first]
    return [each for each in chain.from_iterable(zip_longest(first, second)) if each is not None]


def _request_headers(target: Target, method: str, given: Mapping[str, str], length: int) -> list[tuple[bytes, bytes]]:
    headers = {name: value for name, value in given.items() if name.lower() not in _OWN_HEADERS}
    if "user-agent" not in {name.lower() for name in headers}:
        headers["User-Agent"] = USER_AGENT
    headers = {"Host": target.authority, **headers, "Accept-Encoding": "identity"}
    if length or method not in ("GET", "HEAD"):
        headers["Content-Length"] = str(length)
    return [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers.items()]


def _joined(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return {name: ", ".join(each) for name, each in values.items()}


def _ssl_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return "the connection was closed"
