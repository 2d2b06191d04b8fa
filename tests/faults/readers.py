"""Readers of the event log whose connections do not last: by every door, with filters and without."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlencode

from relay.client import RelayClient
from relay.clock import SystemClock
from relay.core.event import FINAL_TYPES
from relay.errors import ClientError
from tests.faults.courses import Course
from tests.faults.wiring import Body, Connection, Frame
from tests.journeys import ADMIN_TOKEN

SSE, NDJSON, PAGE = "text/event-stream", "application/x-ndjson", "application/json"
# A connection is cut after so many bytes or so many seconds, whichever comes first.
CUT_BYTES = 24_000
CUT_S = 1.2
STALL_S = (0.05, 1.2)
ABANDONED_MAX = 60
PAUSE_S = 0.01


@dataclass
class Tally:
    """What was done to readers and relays."""

    rst: int = 0
    fin: int = 0
    half_open: int = 0
    proxied: int = 0
    stalls: int = 0
    slow: int = 0
    kills: int = 0
    terms: int = 0
    broken: int = 0
    truncated: int = 0
    given_up: int = 0

    @property
    def cuts(self) -> int:
        return self.rst + self.fin + self.half_open + self.proxied


@dataclass
class Field:
    """Where it all happens: the relay, which is up or not, what was done so far, and the jobs that there are."""

    port: int
    proxy_port: int
    chance: Random
    tally: Tally = field(default_factory=Tally)
    jobs: list[str] = field(default_factory=list)
    courses: list[Course] = field(default_factory=list)
    up: asyncio.Event = field(default_factory=asyncio.Event)
    calm: bool = False
    # A relay that was told to end must end its bodies; one that was killed cannot.
    ending_well: bool = False
    more: asyncio.Event = field(default_factory=asyncio.Event)
    _abandoned: list[Connection] = field(default_factory=list)

    def cut(self, connection: Connection) -> None:
        """End it in one of three ways; half-open: nobody reads it any more, and nobody says so."""
        how = self.chance.choice(("rst", "fin", "half_open"))
        setattr(self.tally, how, getattr(self.tally, how) + 1)
        self.more.set()
        if how == "half_open":
            self._abandoned.append(connection)
            if len(self._abandoned) > ABANDONED_MAX:
                self._abandoned.pop(0).reset()
        elif how == "rst":
            connection.reset()
        else:
            connection.finish()

    def close(self) -> None:
        for connection in self._abandoned:
            connection.reset()

    def judged(self, course: Course) -> Course:
        """One that counts at the end."""
        self.courses.append(course)
        return course


class _Cut(Exception):
    """The moment has come at which this connection is cut."""


@dataclass
class Reader:
    """Reads one course by one form of the log's door, over connections that are cut, until it has been told enough."""

    here: Field
    course: Course
    path: str
    form: str
    query: dict[str, Any] = field(default_factory=dict)
    token: str = ADMIN_TOKEN
    over: bool = False

    async def run(self) -> None:
        """Be told, cut after cut, until the job that is followed is over, or for ever."""
        while not self.over:
            await self.here.up.wait()
            await self._once(self.here.chance.uniform(0, CUT_S), self.here.chance.randrange(CUT_BYTES))

    async def catch_up(self, head: int) -> None:
        """Come back one last time, and stay until there is nothing more to be told."""
        while not self.over and self.course.seen < head:
            await self._once(None, 2**60, until=head)

    async def _once(self, seconds: float | None, budget: int, until: int | None = None) -> None:
        body = Body(self.form)
        try:
            connection = await Connection.to(self.here.port)
        except OSError:
            await asyncio.sleep(PAUSE_S)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._read(connection, body, budget, until)
        except (TimeoutError, _Cut):
            self.here.cut(connection)
            return
        except (OSError, asyncio.IncompleteReadError):
            self.here.tally.broken += 1
            # Whoever had stopped to read is let go at the end, in the middle of what waited for it.
            took_all = not connection.has_stalled
            if self.here.ending_well and took_all and body.status == 200 and not body.whole and self.form != PAGE:
                self.here.tally.truncated += 1
        except BaseException:
            connection.reset()
            raise
        connection.finish()

    async def _read(self, connection: Connection, body: Body, budget: int, until: int | None) -> None:
        connection.writer.write(self._request())
        stalls = until is None and self.here.chance.random() < 0.05
        while True:
            data = await connection.reader.read(min(16_384, budget))
            if not data:
                raise asyncio.IncompleteReadError(b"", None)
            budget -= len(data)
            body.feed(data)
            for frame in body.frames():
                self._take(frame)
            if until is not None and self.course.seen >= until:
                return
            if budget <= 0:
                raise _Cut
            if body.whole:
                self.over = body.status == 204
                assert body.status in (200, 204, 503), f"{self.course.name}: {body.status}"
                if self.form != PAGE or body.status != 200:
                    return
                connection.writer.write(self._request())
            if stalls:
                stalls = False
                self.here.tally.stalls += 1
                connection.has_stalled = True
                await asyncio.sleep(self.here.chance.uniform(*STALL_S))

    def _take(self, frame: Frame) -> None:
        course = self.course
        if not frame.type.startswith("stream."):
            assert frame.id is not None
            course.take(frame.id, frame.type, frame.data)
            if self.path != "/v1/events" and frame.type in FINAL_TYPES:
                self.over = True
        elif frame.type == "stream.cursor" and frame.id:
            course.last = frame.id
        elif frame.type == "stream.gap":
            course.gaps += 1
        elif frame.type == "stream.bye":
            self.here.tally.slow += frame.data["reason"] == "slow"
            if self.here.chance.random() < 0.5:
                course.last = frame.data["resume"]

    def _request(self) -> bytes:
        query, lines = dict(self.query), [f"Authorization: Bearer {self.token}", f"Accept: {self.form}", "Host: relay"]
        if self.course.last is None:
            query["since"] = "earliest"
        elif self.here.chance.random() < 0.5:
            query["last_event_id"] = self.course.last
        else:
            lines.append(f"Last-Event-ID: {self.course.last}")
        if self.form == PAGE:
            query |= {"wait": 2, "limit": self.here.chance.choice((1, 7, 100, 500))}
        return "\r\n".join([f"GET {self.path}?{urlencode(query, doseq=True)} HTTP/1.1", *lines, "", ""]).encode()


async def follow_jobs(here: Field, form: str) -> None:
    """Follow one job after the other, each to its end."""
    while not here.calm:
        if not here.jobs:
            await asyncio.sleep(PAUSE_S)
            continue
        job_id = here.chance.choice(here.jobs[-20:])
        course = here.judged(Course.of_job(form, job_id))
        await Reader(here, course, f"/v1/jobs/{job_id}/events", form).run()


class _Hurried(SystemClock):
    """Long waits are short here, yet together longer than a relay is away."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 1.0))


async def watch_by_client(here: Field) -> None:
    """The same with the Python client, through a proxy that cuts."""
    async with _client(here) as client:
        while not here.calm:
            if not here.jobs:
                await asyncio.sleep(PAUSE_S)
                continue
            job_id = here.chance.choice(here.jobs[-20:])
            course = Course.of_job("watch", job_id)
            try:
                async for event in client.watch(job_id):
                    if event["type"] == "stream.gap":
                        course.gaps += 1
                    else:
                        course.take(event["id"], event["type"], event["data"])
            except ClientError:  # a relay, or a machine, was away for longer than it has patience
                here.tally.given_up += 1
                continue
            here.judged(course)


def _client(here: Field) -> RelayClient:
    return RelayClient(f"http://127.0.0.1:{here.proxy_port}", ADMIN_TOKEN, clock=_Hurried())


@dataclass
class Listener:
    """Everything, or some types of it, with the Python client."""

    here: Field
    course: Course
    types: tuple[str, ...] = ()
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        async with _client(self.here) as client:
            while True:
                with suppress(ClientError):  # the first answer is a page, and one that was cut is asked for again here
                    await self._listen(client)
                await asyncio.sleep(PAUSE_S)

    async def _listen(self, client: RelayClient) -> None:
        async for position, event in client.listen(after=self.course.last, since="earliest", types=self.types):
            if event["type"] == "stream.gap":
                self.course.gaps += 1
            elif not event["type"].startswith("stream."):
                self.course.take(event["id"], event["type"], event["data"])
            self.course.last = position or self.course.last
            self._moved.set()

    async def catch_up(self, head: int) -> None:
        while self.course.seen < head:
            self._moved.clear()
            await self._moved.wait()
