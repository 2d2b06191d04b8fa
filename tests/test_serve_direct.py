"""Requests that an app answers without ASGI: over real sockets, beside others on the same connection."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from relay.serve import Answer, Headers, bound, hosted
from tests.journeys import WAIT_S
from tests.test_serve import answering
from tests.wire import Wire, wire

pytestmark = pytest.mark.anyio

BODY = b"0123456789" * 10


@dataclass
class App:
    """Answers `POST /d…` directly, or leaves that for later, and all else by ASGI; the body is in the answer."""

    later: bool = False
    length: int = 6
    waiting: asyncio.Queue[Answer] = field(default_factory=asyncio.Queue)
    direct: list[bytes] = field(default_factory=list)
    by_asgi: list[bytes] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def takes(self, method: bytes, target: bytes) -> bool:
        return method == b"POST" and target.startswith(b"/d")

    def answer_directly(self, target: bytes, headers: Headers, body: bytes, answer: Answer) -> None:
        self.direct.append(body)
        self.heard.set()
        if self.later:
            self.waiting.put_nowait(answer)
        else:
            answered(answer, self.length)

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            await answering(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.by_asgi.append(body)
        self.heard.set()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"asgi"})


def answered(answer: Answer, length: int = 6) -> None:
    answer(201, [(b"content-length", b"%d" % length), (b"x-kind", b"direct")], b"direct".ljust(length))


@asynccontextmanager
async def served(app: App) -> AsyncGenerator[str]:
    async with asyncio.timeout(WAIT_S), hosted(app, bound("127.0.0.1", 0)) as url:
        yield url


def post(path: str = "/d", body: bytes = BODY, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def answer_of(connection: Wire) -> tuple[int, dict[str, str], bytes]:
    status, headers = await connection.head()
    return status, headers, await connection.reader.readexactly(int(headers["content-length"]))


async def test_a_request_in_one_piece_is_answered_directly_in_one_piece() -> None:
    app = App()
    async with served(app) as url, wire(url) as connection:
        for n in range(3):
            await connection.send(post(body=b"%d" % n))
            status, headers, body = await answer_of(connection)
            assert (status, headers["x-kind"], body) == (201, "direct", b"direct")
            assert "date" in headers
            assert "connection" not in headers
    assert (app.direct, app.by_asgi) == ([b"0", b"1", b"2"], [])


async def test_chunks_that_come_together_are_one_body() -> None:
    app = App()
    async with served(app) as url, wire(url) as connection:
        head = b"POST /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await connection.send(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert (await answer_of(connection))[0] == 201
    assert app.direct == [b"abcde"]


@pytest.mark.parametrize("cut", [1, 30, len(post()) - len(BODY), len(post()) - 40, len(post()) - 1])
async def test_a_request_in_pieces_is_whole_whichever_way_it_goes(cut: int) -> None:
    app = App()
    async with served(app) as url, wire(url) as connection:
        await connection.send(post()[:cut])
        await connection.send(b"")
        async with wire(url) as other:  # the first piece was read by then
            await other.send(post())
            await answer_of(other)
        await connection.send(post()[cut:])
        status, _, body = await answer_of(connection)
        in_head = cut < len(post()) - len(BODY)
        assert (status, body) == ((201, b"direct") if in_head else (200, b"asgi"))
        await connection.send(post())
        assert (await answer_of(connection))[0] == 201
    assert app.direct.count(BODY) + app.by_asgi.count(BODY) == 3


@pytest.mark.parametrize(
    "request_",
    [post("/other"), post().replace(b"POST", b"PUT"), post("/d", BODY, "Upgrade: websocket", "Connection: Upgrade")],
    ids=["path", "method", "upgrade"],
)
async def test_what_is_not_taken_goes_by_asgi(request_: bytes) -> None:
    app = App()
    async with served(app) as url, wire(url) as connection:
        await connection.send(request_)
        assert (await answer_of(connection))[2] == b"asgi"
        await connection.send(post())
        assert (await answer_of(connection))[0] == 201
    assert len(app.by_asgi) == 1


async def test_who_wants_to_be_told_to_go_on_is_told() -> None:
    app = App()
    async with served(app) as url, wire(url) as connection:
        await connection.send(post("/d", BODY, "Expect: 100-continue")[: -len(BODY)])
        assert (await connection.head())[0] == 100
        await connection.send(BODY)
        assert (await answer_of(connection))[2] == b"asgi"
    assert app.by_asgi == [BODY]


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    app = App(later=True)
    async with served(app) as url, wire(url) as connection:
        await connection.send(post(body=b"1") + post("/other", b"2") + post(body=b"3") + post("/other", b"4"))
        first = await app.waiting.get()
        assert (app.direct, app.by_asgi) == ([b"1"], [])
        answered(first)
        assert [(await answer_of(connection))[2] for _ in range(4)] == [b"direct", b"asgi", b"asgi", b"asgi"]
        app.later = False
        await connection.send(post(body=b"5"))
        assert (await answer_of(connection))[2] == b"direct"
    assert (app.direct, app.by_asgi) == ([b"1", b"5"], [b"2", b"3", b"4"])


@pytest.mark.parametrize(
    "sent",
    [
        post("/d", BODY, "Connection: close"),
        post(version="1.0"),
        post("/d", BODY, "Connection: keep-alive", version="1.0"),
    ],
    ids=["as it says", "HTTP/1.0", "HTTP/1.0 that would go on"],
)
async def test_a_client_that_wants_it_so_is_hung_up_on(sent: bytes) -> None:
    async with served(App()) as url, wire(url) as connection:
        await connection.send(sent + post())
        status, headers, _ = await answer_of(connection)
        assert (status, headers["connection"]) == (201, "close")
        assert await connection.reader.read() == b""


async def test_who_left_before_the_answer_hurts_nobody() -> None:
    app = App(later=True)
    async with served(app) as url:
        async with wire(url) as connection:
            await connection.send(post())
            answer = await app.waiting.get()
        async with wire(url) as other:  # by its answer the server has seen the first one leave
            await other.send(post("/other"))
            await answer_of(other)
        answered(answer)


async def refused(port: int) -> None:
    while True:
        async with wire(f"http://127.0.0.1:{port}"):
            await asyncio.sleep(0)


async def test_what_waits_is_answered_though_the_server_ends() -> None:
    app, listening, leaving = App(later=True), bound("127.0.0.1", 0), asyncio.Event()
    port = listening.getsockname()[1]

    async def serving() -> None:
        async with hosted(app, listening):
            await leaving.wait()

    async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group, wire(f"http://127.0.0.1:{port}") as connection:
        group.create_task(serving())
        await connection.send(post())
        answer = await app.waiting.get()
        leaving.set()
        with pytest.raises(ConnectionError):
            await refused(port)
        answered(answer)
        status, headers, _ = await answer_of(connection)
        assert (status, headers["connection"]) == (201, "close")
        assert await connection.reader.read() == b""


async def test_who_reads_no_answers_is_not_answered_without_end() -> None:
    app = App(length=64 * 1024)
    async with served(app) as url, wire(url) as connection:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined] # it is one of a socket
        while not app.by_asgi and len(app.direct) < 1_000:
            app.heard.clear()
            await connection.send(post())
            await app.heard.wait()
        connection.writer.transport.abort()
    # What no buffer holds any more goes by ASGI, and waits.
    assert app.by_asgi
