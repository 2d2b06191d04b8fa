"""Runs ASGI apps under uvicorn: in the foreground until a signal, or inside a loop on a port of its own."""

import asyncio
import contextlib
import gc
import logging
import resource
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

GRACE_S: Final = 30
BACKLOG: Final = 2_048
# Enough for all streams that there may be, where the system allows it: the usual 1,024 are soon used up.
FILES: Final = 16_384
HEAD_S: Final = 20.0
# Of the cycle collector: how many new objects, and how many collections of younger ones, bring the next one about.
GC_THRESHOLDS: Final = (5_000, 20, 20)
HEAD_MAX_BYTES: Final = 64 * 1024
# Once the server ends, who has taken not one byte of what waits for it for so long is let go.
STALLED_S: Final = 5.0
# The same at any other time: a reader that has stopped to read would otherwise keep its connection for ever.
UNTAKEN_S: Final = 90

Headers = list[tuple[bytes, bytes]]
# Takes the status, the headers and the body of an answer; called once, in the loop.
Answer = Callable[[int, Headers, bytes], None]


class Direct(Protocol):
    """An app that answers some requests without ASGI, whose making of tasks and messages costs more than they do."""

    def takes(self, method: bytes, target: bytes) -> bool:
        """Whether it would, so far as can be told before the headers."""
        ...

    def answer_directly(self, target: bytes, headers: Headers, body: bytes, answer: Answer) -> None:
        """Answer this request, now or later; it came whole. Raises nothing."""
        ...


class _Exchange:
    """A request that is answered directly, where uvicorn has its cycle: so much of that as uvicorn looks at."""

    __slots__ = ("_connection", "disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self, connection: "_Connection", *, keep_alive: bool) -> None:
        self._connection = connection
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.message_event = _UNHEARD

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send all of it in one piece."""
        self.response_complete = True
        parts = [STATUS_LINE[status]]
        for name, value in (*self._connection.server_state.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n", body)
        self._connection.transport.write(b"".join(parts))
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_response_complete()


# uvicorn wakes a cycle's app when its connection is lost; here there is none.
_UNHEARD: Final = asyncio.Event()


class _Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with bounds on the head of a request, which no app sees before its end, and on the last wait.

    Without them a connection that sends its head byte by byte, or one without end, would be held for ever, and one
    reader that does not read would hold up the end of the server.

    A request that came in one piece, and that the app would answer directly, is handed to it with no more ado.
    """

    _timer: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0
    # Whether in what was received last there was the end of a request: not all of it is the head of the next one.
    _has_ended = False
    # The pieces of the body that came with the head of a request to be answered directly.
    _pieces: list[bytes] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._direct: Direct | None = self.app if hasattr(self.app, "answer_directly") else None
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        self._has_ended = False
        super().data_received(data)
        if self._in_head:
            # Most heads come whole, and with their body: a timer each would cost as much as to parse them.
            self._wait_for_head()
            if not self._has_ended:
                self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES:
                self.transport.abort()
        elif self._pieces is not None:
            self._by_asgi(self._pieces)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stop_timer()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head = False
        if self._direct is not None and self._may_be_direct(self._direct):
            self._pieces = []
        else:
            super().on_headers_complete()

    def _may_be_direct(self, app: Direct) -> bool:
        return (
            app.takes(self.parser.get_method(), self.url)
            and getattr(self.cycle, "response_complete", True)
            and not (self.expect_100_continue or self.parser.should_upgrade() or self.flow.write_paused)
        )

    def on_body(self, body: bytes) -> None:
        if self._pieces is None:
            super().on_body(body)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._has_ended = True
        if self._direct is None or self._pieces is None:
            super().on_message_complete()
            return
        body, self._pieces = b"".join(self._pieces), None
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        exchange: Any = _Exchange(self, keep_alive=keep_alive)
        self.cycle = exchange
        self._direct.answer_directly(self.url, self.headers, body, exchange.answer)

    def _by_asgi(self, pieces: list[bytes]) -> None:
        """Its body is still to come: whoever waits for it must have bounds, and those the app has."""
        self._pieces = None
        super().on_headers_complete()
        for piece in pieces:
            super().on_body(piece)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._stall is not None:
            self._stall.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        self._unless_stalled(0)

    def _unless_stalled(self, untaken_bytes: int) -> None:
        now_bytes = self.transport.get_write_buffer_size()
        if now_bytes and now_bytes == untaken_bytes:
            self.transport.abort()
        else:
            self._stall = self.loop.call_later(STALLED_S, self._unless_stalled, now_bytes)

    def _wait_for_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _config(app: Any, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=_Connection,
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
        # A proxy in front is not trusted before somebody says so.
        proxy_headers=False,
        server_header=False,
        **more,
    )


class _Hosted(uvicorn.Server):
    """A server inside somebody else's loop: signals are not its business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Foreground(uvicorn.Server):
    """A server that ends when it is told to. uvicorn raises the signal again at its end, and would die of it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals():
            try:
                yield
            finally:
                self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """What is there by now stays, and need not be looked through again: a full collection of it all takes longer
        than a callback may wait."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `OSError` when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Connections inherit it. asyncio sets it only on sockets that were made with their protocol named, and without it
    # the body of every answer waits 40 ms for the acknowledgement of its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_S * 1000)
    return listening


def _not_a_sentence_of_ours(record: logging.LogRecord) -> bool:
    return not record.getMessage().rstrip().rpartition("\n")[2].startswith("relay.errors.")


def run(app: Any, listening: socket.socket) -> bool:
    """Serve until SIGTERM or SIGINT; False when the app could not start."""
    # Whoever calls prints the sentence of an error of ours; its traceback is no help to an operator.
    logging.getLogger("uvicorn.error").addFilter(_not_a_sentence_of_ours)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    server = _Foreground(_config(app))
    with contextlib.suppress(SystemExit):  # uvicorn's way to say that the app did not start
        server.run(sockets=[listening])
    return server.started


@asynccontextmanager
async def hosted(app: Any, listening: socket.socket, *, drain: Callable[[], None] | None = None) -> AsyncGenerator[str]:
    """Serve inside this loop, and give the address once it answers; `drain` ends streams before the server waits."""
    server = _Hosted(_config(app))
    host, port = listening.getsockname()[:2]
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started:
            if serving.done():
                serving.result()
                raise RuntimeError("the app did not start; its log says why")
            await asyncio.sleep(0.005)
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        if drain is not None:
            drain()
        server.should_exit = True
        await serving
        listening.close()
