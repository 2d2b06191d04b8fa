"""The server under check, seen from outside only: requests, streams read byte for byte, and time that passes there."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import httpx2

SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json"
EXAMPLE: Final = {"model": "gen4.5", "text_prompt": "A lighthouse in the fog", "duration": 5, "aspect_ratio": "16:9"}


@dataclass(frozen=True)
class Event:
    """An event as a browser dispatches it; `id` is the last event id then, `own_id` whether it came with it."""

    type: str
    data: str
    id: str
    own_id: bool
    lines: tuple[str, ...]

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def notice(self) -> bool:
        return self.type.startswith("stream.")


def parsed(raw: bytes) -> list[Event]:
    """The events of a stream by the algorithm of WHATWG HTML 9.2.6, those with empty data left out as there."""
    found, last_id = [], ""
    lines: list[str] = []
    text = raw.decode("utf-8").removeprefix("\ufeff")
    for line in re.split(r"\r\n|\n|\r", text)[:-1]:
        if line:
            lines += [line] if line[0] != ":" else []
            continue
        fields: dict[str, list[str]] = {}
        for one in lines:
            name, _, value = one.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
        ids = [value for value in fields.get("id", []) if "\0" not in value]
        last_id = ids[-1] if ids else last_id
        if "data" in fields:
            name = fields.get("event", ["message"])[-1]
            found.append(Event(name, "\n".join(fields["data"]), last_id, bool(ids), tuple(lines)))
        lines = []
    return found


@dataclass
class Stream:
    """An answer whose body is read as it comes."""

    target: "Target"
    response: httpx2.Response
    raw: bytes = b""
    ended: bool = False
    _pieces: AsyncIterator[bytes] | None = None

    @property
    def events(self) -> list[Event]:
        """All events, notices too, so far."""
        return parsed(self.raw)

    @property
    def jobs(self) -> list[Event]:
        """The events about jobs so far."""
        return [event for event in self.events if event.type.startswith("job.")]

    @property
    def lines(self) -> list[Any]:
        """Lines of JSON so far."""
        return [json.loads(line) for line in self.raw.decode().split("\n")[:-1]]

    def of(self, name: str) -> list[Event]:
        return [event for event in self.events if event.type == name]

    async def until(self, holds: Callable[[], Any], *, by_time: bool = False) -> None:
        """Read on until `holds`; with `by_time` what is waited for comes with time, which passes meanwhile."""
        async with asyncio.timeout(self.target.patience_s):
            while not holds():
                assert not self.ended, f"the body ended before that had come: ...{self.raw[-200:]!r}"
                await self._more(by_time)

    async def opened(self) -> None:
        """Read until it has said what it is."""
        await self.until(lambda: b"stream.open" in self.raw and self.raw.endswith(b"\n"))

    async def rest(self, *, by_time: bool = False) -> None:
        """Read to the end of the body; one that is cut is an error of the client's."""
        await self.until(lambda: self.ended, by_time=by_time)

    async def _more(self, by_time: bool) -> None:
        self._pieces = self._pieces or self.response.aiter_raw()
        reading = asyncio.ensure_future(anext(self._pieces, None))
        try:
            while by_time and self.target.pass_time is not None and not reading.done():
                await self.target.pass_time(3.0, reading)
            piece = await reading
        finally:
            reading.cancel()
        self.raw += piece or b""
        self.ended = piece is None


@dataclass
class Target:
    """A server under check. `pass_time`, `drain` and `forget` (so many events, the oldest) are there only when whoever
    checks has a hand on the relay.

    `origin` is a page's origin that the server lets in, None where that is not known.
    """

    client: httpx2.AsyncClient
    token: str
    origin: str | None = None
    patience_s: float = 30.0
    pass_time: Callable[[float, "asyncio.Future[Any]"], Awaitable[None]] | None = None
    drain: Callable[[], None] | None = None
    forget: Callable[[int], Awaitable[None]] | None = None
    _ended: dict[str, Any] | None = None
    _one_job: asyncio.Lock = field(default_factory=asyncio.Lock)

    def headers(self, token: str | None = "", **more: str) -> dict[str, str]:
        """With the token unless another one, or None for none, is given."""
        given = self.token if token == "" else token
        return ({"Authorization": f"Bearer {given}"} if given else {}) | {
            name.replace("_", "-"): value for name, value in more.items()
        }

    async def ask(
        self, method: str, path: str, *, token: str | None = "", body: Any = None, **headers: str
    ) -> httpx2.Response:
        """An answer with its whole body, but for a stream's."""
        request = self.client.build_request(method, path, json=body, headers=self.headers(token, **headers))
        async with asyncio.timeout(self.patience_s):
            answer = await self.client.send(request, stream=True)
            try:
                of_stream = answer.headers.get("content-type", "").startswith((SSE, NDJSON))
                if method == "HEAD" or answer.status_code != 200 or not of_stream:
                    await answer.aread()
            finally:
                await answer.aclose()
            return answer

    async def page(self, path: str, **headers: str) -> dict[str, Any]:
        answer = await self.ask("GET", path, Accept=JSON, **headers)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:300]}"
        found: dict[str, Any] = answer.json()
        return found

    @asynccontextmanager
    async def stream(
        self, path: str, *, accept: str = SSE, token: str | None = "", **headers: str
    ) -> AsyncGenerator[Stream]:
        """An open stream, whatever it answers."""
        sent = self.headers(token, Accept=accept, **headers)
        request = self.client.build_request("GET", path, headers=sent)
        async with asyncio.timeout(self.patience_s):
            response = await self.client.send(request, stream=True)
        try:
            yield Stream(self, response)
        finally:
            await response.aclose()

    async def read(self, path: str, *, accept: str = SSE, **headers: str) -> Stream:
        """A stream to its end."""
        async with self.stream(path, accept=accept, **headers) as stream:
            assert stream.response.status_code == 200, f"{path}: {stream.response.status_code}"
            await stream.rest()
        return stream

    def ref(self) -> str:
        """A replyRef that nobody else has."""
        return f"conformance-{uuid4().hex}"

    async def submit(self, token: str | None = "", **more: Any) -> dict[str, Any]:
        answer = await self.ask("POST", "/v1/jobs", token=token, body=EXAMPLE | more)
        assert answer.status_code == 202, f"{answer.status_code} {answer.text[:300]}"
        job: dict[str, Any] = answer.json()
        return job

    async def ended(self) -> dict[str, Any]:
        """A job that has ended, the same one every time."""
        async with self._one_job:
            if self._ended is None:
                job = await self.submit(replyRef=self.ref())
                await self.read(events_of(job))
                self._ended = await self.page(f"/v1/jobs/{job['id']}")
        return self._ended

    async def ids(self) -> list[str]:
        """The ids of all events of the job that has ended, as the page of JSON has them."""
        found = [event["id"] for event in (await self.page(events_of(await self.ended())))["data"]]
        assert len(found) >= 2, f"the job that has ended has {len(found)} events"
        return found


def events_of(job: dict[str, Any]) -> str:
    return f"/v1/jobs/{job['id']}/events"


def numbers(ids: Sequence[str]) -> list[int]:
    return [int(id_.rpartition("-")[2]) for id_ in ids]


@dataclass(frozen=True)
class Check:
    """One promise: its name, where it is written, and how it is looked at. `needs` is what not every target has."""

    name: str
    source: str
    run: Callable[[Target], Awaitable[None]]
    needs: tuple[str, ...] = ()

    def missing(self, target: Target) -> list[str]:
        return [need for need in self.needs if getattr(target, need) is None]

    async def failure(self, target: Target) -> str | None:
        """Why the target does not keep the promise; None when it does."""
        try:
            await self.run(target)
        except (AssertionError, ValueError, LookupError, TypeError) as error:
            return f"{type(error).__name__}: {error}".removeprefix("AssertionError: ")
        except TimeoutError:
            return f"nothing of what was waited for came within {target.patience_s:g} s"
        except httpx2.TransportError as error:
            return f"the answer was cut or broken: {error!r}"
        return None


CHECKS: Final[list[Check]] = []


def check(source: str, *needs: str) -> Callable[[Callable[[Target], Awaitable[None]]], Check]:
    """Makes a function a check; its name says what is promised."""

    def made(run: Callable[[Target], Awaitable[None]]) -> Check:
        CHECKS.append(Check(run.__name__.replace("_", " "), source, run, needs))
        return CHECKS[-1]

    return made


def same(what: str, got: Any, wanted: Any) -> None:
    """Fails with a sentence: these checks run without pytest, too."""
    assert got == wanted, f"{what}: got {got!r:.300}, wanted {wanted!r:.300}"
