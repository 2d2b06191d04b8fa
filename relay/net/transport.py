"""The guarded transport: the only way to addresses that somebody else named.

`core/target.py` decides, this enforces: a name is resolved, every address judged, and the connection goes to the very
address that was judged, while the Host header, SNI and the check of the certificate keep the name. A name server that
changes its answer in between changes nothing. There are no cookies, no redirects, no proxies from the environment and
no decompression, for nothing here could do them.

One deadline lies over the name lookup, connecting, TLS, head and body together, by the clock that was handed in.
"""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import Final

import httpx2

from relay.clock import ROUNDING_S, Clock, SystemClock
from relay.core.target import Allow, Target, check_addresses, check_url
from relay.errors import InvalidRequest
from relay.net.connection import CallFailed, Connection

MAX_CALLS: Final = 1024
"""Under way at once; more wait for a place, and their deadline runs."""
MAX_IDLE_CONNECTIONS: Final = 512
KEEP_ALIVE_S: Final = 15.0
MAX_CANDIDATES: Final = 4
"""Of a name's addresses so many are tried, each for its share of the time that is left."""
MAX_LOOKUPS: Final = 32
"""Threads for name lookups. They are apart from the loop's own few, so that slow names stop nothing else."""
USER_AGENT: Final = "video-callback-relay"

PHASES: Final = {
    "queue": "waiting for a free connection",
    "lookup": "looking up its name",
    "connect": "connecting",
    "tls": "the TLS handshake",
    "head": "waiting for its answer",
    "body": "reading its answer",
}

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a name and a port to all its addresses; raises OSError when it has none."""

_Place = tuple[str, str, int]

_OWN_HEADERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\x00-\x08\x0a-\x1f\x7f]*")


class Response:
    """The head of an answer, and its body as it comes: the bytes of the transfer, not decompressed."""

    def __init__(self, host: str, connection: Connection) -> None:
        self.host = host
        self.status = connection.status
        self.headers = _joined(connection.headers)
        """Lower-case names; the values of a name that came more than once are joined by a comma."""
        self._connection = connection

    def iter_raw(self) -> AsyncIterator[bytes]:
        """Pieces of the body of at most 64 KiB; `CallFailed` when it is cut. Bounding the sum is the caller's part."""
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if piece := await self._connection.chunk():
            return piece
        raise StopAsyncIteration


class GuardedTransport:
    """Calls addresses that `allow` permits; one instance, with its connections, for the whole process."""

    def __init__(
        self,
        allow: Allow,
        *,
        clock: Clock | None = None,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._allow = allow
        self._clock = clock or SystemClock()
        self._resolve = resolve or self._ask_system
        self._ssl_context = ssl_context
        self._lookups = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="relay-lookup")
        self._places = asyncio.Semaphore(MAX_CALLS)
        self._deadlines = _Deadlines(self._clock)
        self._kept = _Kept(self._clock)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        deadline_s: float,
        phases: dict[str, int] | None = None,
    ) -> AsyncGenerator[Response]:
        """Send a request and give the answer once its head has come; the body is read inside the `async with`.

        Everything together, the caller's own work inside the block included, ends after `deadline_s` seconds. Raises
        `TargetRefused` for an address that is not to be called, `CallFailed` for everything that the other side or the
        network does, `InvalidRequest` when `headers` hold what HTTP cannot carry. Headers that are part of the
        transfer (Host, Content-Length, Accept-Encoding, …) are set here and not taken from `headers`. How many
        milliseconds each phase took is put into `phases`, the one that failed included.
        """
        target = check_url(url, self._allow)
        call = _Call(target, self._clock, deadline_s, {} if phases is None else phases)
        request = _request(target, method, headers or {}, body)
        try:
            async with self._deadlines.at(call.ends_at_s) as timer, self._places:
                connection = await self._exchange(call, request, has_body=method != "HEAD")
                call.enter("body")
                try:
                    yield Response(target.host, connection)
                finally:
                    self._kept.put(target, connection)
        except TimeoutError:
            if not timer.expired():
                raise
            if self._deadlines.are_over:
                raise CallFailed("protocol_error", f"the relay closed the connection to {target.host}") from None
            message = f"{target.host} was not done after {deadline_s:g} s: the time went into {PHASES[call.phase]}"
            raise CallFailed("timeout", message) from None
        finally:
            call.enter(call.phase)

    async def aclose(self) -> None:
        """Close every connection; calls that are under way fail."""
        self._kept.abort()
        self._deadlines.end()
        self._lookups.shutdown(wait=False, cancel_futures=True)
        await asyncio.sleep(0)  # connections end in the loop's next turn

    async def _exchange(self, call: "_Call", request: bytes, *, has_body: bool) -> Connection:
        kept = self._kept.take(call.target)
        connection = kept or await self._connect(call)
        call.enter("head")
        try:
            try:
                await connection.ask(request, has_body=has_body)
            except CallFailed:
                # The other side may close a kept connection at the moment when we use it. Whether it read the request
                # first we cannot know; deliveries carry an id for that.
                if kept is None or kept.answer_bytes:
                    raise
                connection = await self._connect(call)
                call.enter("head")
                await connection.ask(request, has_body=has_body)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _connect(self, call: "_Call") -> Connection:
        """A connection to an address that was judged a moment ago."""
        target = call.target
        call.enter("lookup")
        addresses = await self._addresses(target.host, target.port)
        check_addresses(target, addresses, self._allow)
        call.enter("connect")
        connection = await self._reach(call, _alternating(addresses)[:MAX_CANDIDATES])
        if target.scheme == "https":
            call.enter("tls")
            self._ssl_context = self._ssl_context or httpx2.create_ssl_context(trust_env=False)
            self._ssl_context.set_alpn_protocols(["http/1.1"])
            await connection.start_tls(self._ssl_context)
        return connection

    async def _reach(self, call: "_Call", candidates: Sequence[str]) -> Connection:
        why, target = "", call.target
        for left in range(len(candidates), 0, -1):
            address, now_s = candidates[-left], self._clock.monotonic_s()
            try:
                # The last one has until the deadline of the whole call: both come in one moment, the outer one tells.
                ends_at_s = call.ends_at_s if left == 1 else now_s + (call.ends_at_s - now_s) / left
                async with self._deadlines.at(ends_at_s):
                    return await self._kept.new(target, address)
            except OSError as error:  # TimeoutError is one
                why = os.strerror(error.errno).lower() if error.errno else "no answer"
        raise CallFailed("connect_failed", f"{target.host} took no connection on port {target.port}: {why}")

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            return [str(ip_address(host))]
        except ValueError:
            pass
        try:
            return await self._resolve(host, port)
        except (OSError, UnicodeError):  # socket.gaierror; a name that the system's IDNA does not take
            raise CallFailed("resolve_failed", f"the name {host} could not be resolved") from None

    async def _ask_system(self, host: str, port: int) -> Sequence[str]:
        lookup = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        found = await asyncio.get_running_loop().run_in_executor(self._lookups, lookup)
        return list(dict.fromkeys(str(each[4][0]) for each in found))


class _Call:
    """Where one call stands, and how long each of its phases took."""

    __slots__ = ("_clock", "_phases", "_since_s", "ends_at_s", "phase", "target")

    def __init__(self, target: Target, clock: Clock, deadline_s: float, phases: dict[str, int]) -> None:
        self.target = target
        self.phase = "queue"
        self._clock = clock
        self._phases = phases
        self._since_s = clock.monotonic_s()
        self.ends_at_s = self._since_s + deadline_s

    def enter(self, phase: str) -> None:
        now_s = self._clock.monotonic_s()
        if self.phase != "queue" or now_s - self._since_s >= 0.001:
            self._phases[self.phase] = self._phases.get(self.phase, 0) + round((now_s - self._since_s) * 1000)
        self.phase, self._since_s = phase, now_s


class _Deadlines:
    """Ends blocks at their time by the clock that was handed in; one task sleeps for all of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[asyncio.Timeout, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._wakes_at_s = float("inf")
        self.are_over = False

    @asynccontextmanager
    async def at(self, ends_at_s: float) -> AsyncGenerator[asyncio.Timeout]:
        """Cancel the block at `ends_at_s` of monotonic time, and make a `TimeoutError` of that."""
        async with asyncio.timeout(None) as timer:
            self._open[timer] = ends_at_s
            if ends_at_s < self._wakes_at_s:
                self._stop()
                self._wakes_at_s = ends_at_s
                self._task = asyncio.create_task(self._watch())
            try:
                yield timer
            finally:
                self._open.pop(timer, None)
                if not self._open:
                    self._stop()

    def end(self) -> None:
        """End every block now."""
        self.are_over = True
        self._stop()
        self._expire(float("inf"))

    def _stop(self) -> None:
        self._wakes_at_s = float("inf")
        if self._task is not None:
            self._task.cancel()

    def _expire(self, until_s: float) -> None:
        for timer in [timer for timer, ends_at_s in self._open.items() if ends_at_s <= until_s]:
            del self._open[timer]
            timer.reschedule(asyncio.get_running_loop().time())

    async def _watch(self) -> None:
        while self._open:
            self._wakes_at_s = min(self._open.values())
            await self._clock.sleep(self._wakes_at_s - self._clock.monotonic_s())
            self._expire(self._clock.monotonic_s() + ROUNDING_S)
        self._wakes_at_s = float("inf")


class _Kept:
    """All open connections, and those among them that wait for another request to the same host."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: set[Connection] = set()
        self._idle: dict[Connection, tuple[_Place, float]] = {}
        """Where to and since when; the oldest first."""
        self._at: dict[_Place, list[Connection]] = {}

    async def new(self, target: Target, address: str) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(target.host, self._open.add, self._gone), address, target.port
        )
        return connection

    def take(self, target: Target) -> Connection | None:
        """The connection to this host that was used last and is still good, or None."""
        while waiting := self._at.get((target.scheme, target.host, target.port)):
            connection = waiting[-1]
            since_s = self._forget(connection)
            if connection.is_idle and self._clock.monotonic_s() - since_s < KEEP_ALIVE_S:
                return connection
            connection.abort()
        return None

    def put(self, target: Target, connection: Connection) -> None:
        """Keep the connection when its answer was read to its end, else close it; the oldest make room."""
        if not connection.rest():
            connection.abort()
            return
        place, now_s = (target.scheme, target.host, target.port), self._clock.monotonic_s()
        self._idle[connection] = place, now_s
        self._at.setdefault(place, []).append(connection)
        while True:
            oldest, (_, since_s) = next(iter(self._idle.items()))
            if len(self._idle) <= MAX_IDLE_CONNECTIONS and now_s - since_s < KEEP_ALIVE_S:
                return
            self._forget(oldest)
            oldest.abort()

    def abort(self) -> None:
        for connection in list(self._open):
            connection.abort()

    def _forget(self, connection: Connection) -> float:
        """It waits no longer; since when it did."""
        place, since_s = self._idle.pop(connection)
        self._at[place].remove(connection)
        if not self._at[place]:
            del self._at[place]
        return since_s

    def _gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._forget(connection)


def _alternating(addresses: Sequence[str]) -> list[str]:
    """The addresses with the two families in turn, so that a broken IPv6 route does not use up all tries."""
    first = [each for each in addresses if (":" in each) == (":" in addresses[0])]
    second = [each for each in addresses if each not in first]
    return [each for each in chain.from_iterable(zip_longest(first, second)) if each is not None]


def _request(target: Target, method: str, given: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{name}: {value}" for name, value in given.items() if name.lower() not in _OWN_HEADERS]
    if not all(map(_HEADER.fullmatch, lines)):
        raise InvalidRequest.field("headers", "characters", "a header holds what HTTP cannot carry")
    if not any(name.lower() == "user-agent" for name in given):
        lines.append(f"User-Agent: {USER_AGENT}")
    if body or method not in ("GET", "HEAD"):
        lines.append(f"Content-Length: {len(body)}")
    start = (f"{method} {target.path} HTTP/1.1", f"Host: {target.authority}", "Accept-Encoding: identity")
    return "\r\n".join((*start, *lines, "\r\n")).encode("latin-1", "replace") + body


def _joined(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    values: dict[str, str] = {}
    for name_bytes, value_bytes in headers:
        name, value = name_bytes.decode("latin-1"), value_bytes.decode("latin-1")
        values[name] = f"{values[name]}, {value}" if name in values else value
    return values
