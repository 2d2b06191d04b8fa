"""Runs ASGI apps under uvicorn: in the foreground until a signal, or inside a loop on a port of its own."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn

GRACE_S: Final = 30
BACKLOG: Final = 2_048


def _config(app: Any, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
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


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `OSError` when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Connections inherit it. asyncio sets it only on sockets that were made with their protocol named, and without it
    # the body of every answer waits 40 ms for the acknowledgement of its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _not_a_sentence_of_ours(record: logging.LogRecord) -> bool:
    return not record.getMessage().rstrip().rpartition("\n")[2].startswith("relay.errors.")


def run(app: Any, listening: socket.socket) -> bool:
    """Serve until SIGTERM or SIGINT; False when the app could not start."""
    # Whoever calls prints the sentence of an error of ours; its traceback is no help to an operator.
    logging.getLogger("uvicorn.error").addFilter(_not_a_sentence_of_ours)
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
