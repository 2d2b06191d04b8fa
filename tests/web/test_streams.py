"""All open streams together: told in one go, each at its own pace, and none at the cost of the others."""

import asyncio
import resource
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Send

from relay import serve
from relay.clock import ManualClock
from relay.core import sse
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs
from relay.feed import Feed
from relay.store.contract import EVENTS_PAGE, EventFilter
from relay.web.following import OPENED, EventStream, Start
from relay.web.guard import ADMIN
from relay.web.leaving import SEND_S
from relay.web.streams import BATCHES_KEPT, EVENTS_AT_ONCE, RESERVED_FILES, TOLD_AT_ONCE, Streams
from tests import journeys
from tests.journeys import Journey, eventually, journey, while_time_passes
from tests.wire import stream

pytestmark = pytest.mark.anyio


async def served(stream: EventStream, send: Send) -> None:
    """Serve a stream as a server does, whose reader stays until it is over."""
    scope: dict[str, Any] = {"type": "http", "method": "GET"}

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    await stream(scope, receive, send)
    opened, start = scope[OPENED]
    await opened.run(start, receive, send)


@dataclass(frozen=True)
class Flood(Happening[None]):
    """Many events about one job at once."""

    job_id: str
    count: int
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[None]:
        assert loaded.job is not None
        draft = Draft(loaded)
        for n in range(self.count):
            draft.tell(replace(loaded.job, progress=n / self.count), "job.progress", self.at_ms)
        return draft.changes(None)


async def test_a_reader_that_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(host: str, port: int) -> socket.socket:
        listening = serve.bound(host, port)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * 1024)
        return listening

    monkeypatch.setattr(journeys, "bound", small)
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, faults={"never_ends": True}) as here:
        job = await here.job_in((await here.submit())["id"], "running")
        streams = here.node.app.state.streams
        async with stream(here.relay_url, "/v1/events") as connection:
            await connection.event()
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined] # a reading transport, too
            for _ in range(6):
                await here.node.app.state.store.apply(Flood(job["id"], EVENTS_PAGE, clock.now_ms()))
            await while_time_passes(clock, eventually(lambda: streams.open == 0), step_s=5)

        assert streams.open == 0
        assert (await here.client.get("/healthz")).status_code == 200


async def test_a_slow_reader_is_told_so_when_it_reads_on(still: tuple[Journey, ManualClock]) -> None:
    here, clock = still
    state = here.node.app.state
    job = await here.job_in((await here.submit())["id"], "running")
    said: list[dict[str, Any]] = []
    stuck, reads = asyncio.Event(), asyncio.Event()

    async def send(message: Any) -> None:
        if len(said) == 2 and not reads.is_set():  # the head and the first frame went through
            stuck.set()
            await reads.wait()
        said.append(message)

    start = Start(sse.Cursor(0, state.store.epoch))
    serving = EventStream(state, ADMIN, start, EventFilter(job_id=(job["id"],)), job["id"])
    running = asyncio.create_task(served(serving, send))
    await stuck.wait()
    stuck.clear()
    clock.advance(SEND_S)
    await stuck.wait()  # it gave the events up, and now wants to say why
    reads.set()
    await running

    bye = said[-2]["body"].decode()
    assert bye == f'event: stream.bye\ndata: {{"reason":"slow","resume":"{state.store.epoch}-0"}}\n\n'
    assert said[-1] == {"type": "http.response.body", "body": b""}


async def test_a_stream_that_has_read_further_than_the_feed_knows_tells_nothing_twice(
    still: tuple[Journey, ManualClock],
) -> None:
    here, _ = still
    real = here.node.app.state
    job = await here.job_in((await here.submit())["id"], "running")
    events = await real.store.events_after(0, EventFilter(), EVENTS_PAGE)
    behind = Feed()
    behind.committed(1)
    state = SimpleNamespace(**real._state | {"feed": behind})
    said: list[bytes] = []
    caught_up = asyncio.Event()

    async def send(message: Any) -> None:
        said.append(message.get("body", b""))
        if f"{events[-1].id}\n".encode() in said[-1]:
            # Only now the feed hears of what the store had told already, and then the stream is to end.
            asyncio.get_running_loop().call_soon(behind.committed, events[-1].seq, events[1:])
            asyncio.get_running_loop().call_later(0, behind.close)
            caught_up.set()

    start = Start(sse.Cursor(0, real.store.epoch))
    await served(EventStream(state, ADMIN, start, EventFilter(job_id=(job["id"],)), None), send)

    told = [line for line in b"".join(said).decode().splitlines() if line.startswith("id: ")]
    assert caught_up.is_set()
    assert told == [f"id: {event.id}" for event in events if event.job_id == job["id"]]


class Reader:
    """What one stream has said, in memory; with `holds` a server that is not ready for frames that have it."""

    def __init__(self, holds: bytes | None = None) -> None:
        self.bodies: list[bytes] = []
        self.held, self.ready = asyncio.Event(), asyncio.Event()
        self._holds = holds

    async def send(self, message: Any) -> None:
        body = message.get("body", b"")
        if self._holds is not None and self._holds in body and not self.ready.is_set():
            self.held.set()
            await self.ready.wait()
        self.bodies.append(body)

    @property
    def ids(self) -> list[str]:
        lines = b"".join(self.bodies).decode().splitlines()
        return [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]


async def opened(here: Journey, readers: list[Reader], form: sse.Form = sse.SSE) -> list["asyncio.Task[None]"]:
    """A stream of what is new for each reader; all of them wait to be told."""
    state = here.node.app.state
    head = await state.store.head()
    start = Start(sse.Cursor(head, state.store.epoch), head=head)
    wanted = EventFilter(type=("job.progress",))
    serving = [
        asyncio.create_task(served(EventStream(state, ADMIN, start, wanted, None, form), reader.send))
        for reader in readers
    ]
    await eventually(lambda: all(len(reader.bodies) == 2 for reader in readers))
    await eventually(lambda: all(stream.waits for stream in state.streams._open))
    return serving


async def ids_after(here: Journey, seq: int) -> list[str]:
    events = await here.node.app.state.store.events_after(seq, EventFilter(type=("job.progress",)), EVENTS_PAGE)
    return [event.id for event in events]


async def test_a_reader_that_pauses_is_waited_for_alone_and_gets_everything_once(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    store = here.node.app.state.store
    job = await here.job_in((await here.submit())["id"], "running")
    head = await store.head()
    slow, swift = Reader(holds=b"job.progress"), Reader()
    serving = await opened(here, [slow, swift])
    await store.apply(Flood(job["id"], 2 * EVENTS_AT_ONCE + 1, clock.now_ms()))
    await slow.held.wait()
    await eventually(lambda: len(swift.ids) == 2 * EVENTS_AT_ONCE + 1)
    await store.apply(Flood(job["id"], 1, clock.now_ms()))
    slow.ready.set()
    told = await ids_after(here, head)
    await eventually(lambda: len(slow.ids) >= len(told))
    here.node.drain()
    await asyncio.gather(*serving)

    assert len(told) == 2 * EVENTS_AT_ONCE + 2
    assert slow.ids == swift.ids == told
    assert all(b"stream.bye" in reader.bodies[-2] and reader.bodies[-1] == b"" for reader in (slow, swift))


async def test_a_defect_ends_the_streams_that_have_it_and_no_others(still: tuple[Journey, ManualClock]) -> None:
    here, clock = still
    job = await here.job_in((await here.submit())["id"], "running")

    def broken(*of: Any) -> bytes:
        raise ValueError("it cannot be written")

    whole = Reader()
    serving = await opened(here, [whole])
    (failing,) = await opened(here, [Reader()], replace(sse.NDJSON, frame=broken))
    await here.node.app.state.store.apply(Flood(job["id"], 1, clock.now_ms()))
    with pytest.raises(ValueError, match="it cannot be written"):
        await failing
    await here.node.app.state.store.apply(Flood(job["id"], 1, clock.now_ms()))
    await eventually(lambda: len(whole.ids) == 2)
    here.node.drain()
    await asyncio.gather(*serving)

    assert here.node.app.state.streams.open == 0


async def test_what_comes_soon_after_many_were_told_goes_to_them_in_one_piece(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    job = await here.job_in((await here.submit())["id"], "running")
    readers = [Reader() for _ in range(TOLD_AT_ONCE + 1)]
    serving = await opened(here, readers)
    await here.node.app.state.store.apply(Flood(job["id"], 1, clock.now_ms()))
    await eventually(lambda: all(len(reader.ids) == 1 for reader in readers))  # at once: the clock stands still
    for _ in range(2):
        await here.node.app.state.store.apply(Flood(job["id"], 1, clock.now_ms()))
    await while_time_passes(clock, eventually(lambda: all(len(reader.ids) == 3 for reader in readers)))
    here.node.drain()
    await while_time_passes(clock, asyncio.gather(*serving))

    assert {reader.bodies[3].count(b"id: ") for reader in readers} == {2}


def test_of_what_is_shared_only_so_much_is_kept() -> None:
    streams, feed = Streams(), Feed()
    reading = streams.reading(EventFilter(), sse.SSE, in_public=False)
    for seq in range(2 * BATCHES_KEPT):
        streams.batch(feed, reading, seq, lambda artifact_id, name: name)

    assert len(streams._batches) <= BATCHES_KEPT


async def test_of_long_filters_nothing_is_kept() -> None:
    streams = Streams()
    short, long = EventFilter(model=("gen4.5",)), EventFilter(model=("m" * 60_000,))
    assert streams.reading(short, sse.SSE, in_public=False) is streams.reading(short, sse.SSE, in_public=False)
    assert streams.reading(long, sse.SSE, in_public=False) is not streams.reading(long, sse.SSE, in_public=False)
    assert sum(len(value) for wanted, *_ in streams._readings for value in wanted.model) < 100


def test_streams_leave_open_files_to_everything_else() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (RESERVED_FILES + 2, hard))
    try:
        streams = Streams()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with streams.one_more():
        assert not streams.full
        with streams.one_more():
            assert streams.full
