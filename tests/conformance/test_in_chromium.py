"""The promises as a browser sees them, in a page of the relay's origin: by HTTP/1.1, and by the proxies' HTTP/2."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, async_playwright

from tests.conformance.access_checks import PUBLIC, ticket_for
from tests.conformance.seen import seen_through
from tests.conformance.target import NDJSON, SSE, Target, events_of, parsed
from tests.conformance.time_checks import NOTHING

pytestmark = pytest.mark.anyio
SEEN: Final = ("directly", "nginx with TLS", "caddy with TLS")
ARGUMENTS: Final = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
FETCH: Final = """async ([path, headers, pieces]) => {
    const answer = await fetch(path, {headers});
    const reader = answer.body?.getReader(), decoder = new TextDecoder();
    let text = "", piece = {done: !reader};
    for (let n = 0; n < pieces && !piece.done; n++) {
        piece = await reader.read();
        text += decoder.decode(piece.value, {stream: true});
    }
    if (!piece.done) await reader.cancel();
    const protocol = performance.getEntriesByType("navigation")[0].nextHopProtocol;
    return {status: answer.status, headers: Object.fromEntries(answer.headers), text, protocol};
}"""
LISTEN: Final = """([path, types]) => {
    const source = window.source = new EventSource(path);
    window.got = [];
    window.errors = 0;
    source.onerror = () => { window.errors += 1; };
    for (const type of ["message", ...types])
        source.addEventListener(type, ({data, lastEventId}) => window.got.push([type, data, lastEventId]));
}"""
TYPES: Final = ["stream.open", "stream.cursor", "stream.gap", "stream.bye"] + [
    f"job.{name}" for name in ("queued", "submitted", "progress", "succeeded", "failed")
]


class Tab:
    """A page of the relay's origin, and the relay as the checks see it."""

    def __init__(self, page: Page, target: Target) -> None:
        self.page = page
        self.target = target

    async def fetch(self, path: str, pieces: int = 1_000, **headers: str) -> dict[str, Any]:
        sent = self.target.headers(**headers)
        found: dict[str, Any] = await self.page.evaluate(FETCH, [path, sent, pieces])
        return found

    async def listen(self, **ticket: Any) -> None:
        """An EventSource, as a ticket opens it."""
        address = urlsplit((await ticket_for(self.target, **ticket))["eventsUrl"])
        await self.page.evaluate(LISTEN, [f"{address.path}?{address.query}", TYPES])

    async def until(self, holds: str) -> list[tuple[str, str, str]]:
        """What the EventSource has told once that holds in the page."""
        await self.page.wait_for_function(f"() => {holds}")
        return [tuple(event) for event in await self.page.evaluate("() => window.got")]


@pytest.fixture(scope="module")
async def tabs(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[list[Tab]]:
    """One for each way to the relay; each has a relay of its own."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed here")
    async with AsyncExitStack() as stack:
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        stack.push_async_callback(browser.close)
        found = []
        for seen in SEEN:
            target = await stack.enter_async_context(seen_through(seen, tmp_path_factory.mktemp("relay")))
            page = await (await browser.new_context(ignore_https_errors=True)).new_page()
            await page.goto(str(target.client.base_url.join("/healthz")))
            found.append(Tab(page, target))
        yield found


async def test_fetch_reads_streams_as_they_are(tabs: list[Tab]) -> None:
    for tab in tabs:
        path, ids = events_of(await tab.target.ended()), await tab.target.ids()
        stream = await tab.fetch(path, accept=SSE)
        lines = await tab.fetch(path, accept=NDJSON)
        resumed = await tab.fetch(path, accept=SSE, last_event_id=ids[1])

        assert (stream["status"], stream["headers"]["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert stream["headers"]["cache-control"] == "private, no-store, no-transform"
        assert "content-encoding" not in stream["headers"]
        assert [event.id for event in parsed(stream["text"].encode()) if event.own_id] == ids
        assert lines["text"].count("\n") == len(ids) + 1
        assert [event.id for event in parsed(resumed["text"].encode()) if event.own_id] == ids[2:]


async def test_fetch_sees_the_end_and_refusals(tabs: list[Tab]) -> None:
    for tab in tabs:
        path, ids = events_of(await tab.target.ended()), await tab.target.ids()
        over = await tab.fetch(path, accept=SSE, last_event_id=ids[-1])
        stranger = await tab.fetch("/v1/events", accept=SSE, authorization="Bearer nobody")
        bad = await tab.fetch("/v1/events?type=job.*", accept=SSE)

        assert (over["status"], over["text"]) == (204, "")
        assert [answer["status"] for answer in (stranger, bad)] == [401, 400]
        assert {answer["headers"]["content-type"] for answer in (stranger, bad)} == {"application/problem+json"}


async def test_the_first_bytes_of_a_quiet_stream_come_at_once_by_http_1_and_2(tabs: list[Tab]) -> None:
    answers = [await tab.fetch(NOTHING, pieces=1, accept=SSE) for tab in tabs]

    assert ["stream.open" in answer["text"] for answer in answers] == [True] * len(SEEN)
    assert [answer["protocol"] for answer in answers] == ["http/1.1", "h2", "h2"]


async def test_an_event_source_gets_all_events_once_and_stops_for_good_at_the_end_of_its_job(tabs: list[Tab]) -> None:
    async def followed(tab: Tab) -> None:
        job = await tab.target.ended()
        await tab.listen(job=job["id"])
        got = await tab.until("window.source.readyState === EventSource.CLOSED")
        page = (await tab.target.page(events_of(job)))["data"]

        assert got[0][0] == "stream.open"
        assert [(type_, id_) for type_, _, id_ in got[1:]] == [(event["type"], event["id"]) for event in page]
        for type_, data, id_ in got[1:]:
            told = json.loads(data)
            assert (told["id"], told["type"], set(told["data"]["job"])) == (id_, type_, PUBLIC)
        # Once when the stream had ended, and once when the 204 said that there is no more.
        assert await tab.page.evaluate("() => window.errors") == 2

    await asyncio.gather(*map(followed, tabs))


async def test_an_event_source_lives_on_heartbeats_and_is_told_when_the_relay_stops(
    tmp_path_factory: pytest.TempPathFactory, tabs: list[Tab]
) -> None:
    async def lived(tab: Tab, seen: str) -> None:
        async with seen_through(seen, tmp_path_factory.mktemp("relay")) as target:
            assert target.pass_time is not None
            assert target.drain is not None
            here = Tab(await tab.page.context.new_page(), target)
            await here.page.goto(str(target.client.base_url.join("/healthz")))
            ref = target.ref()
            await here.listen(replyRef=ref)
            await here.until("window.got.length === 1")
            never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            for _ in range(60):
                await target.pass_time(1.0, never)
            job = await target.submit(replyRef=ref)
            await here.until("window.got.some(([type]) => type === 'job.succeeded')")
            target.drain()
            got = await here.until("window.got.some(([type]) => type === 'stream.bye')")
            await here.page.close()

        names = [type_ for type_, _, _ in got if type_ not in ("stream.cursor", "job.progress")]
        assert names == ["stream.open", "job.queued", "job.submitted", "job.succeeded", "stream.bye"], job["id"]

    await asyncio.gather(*(lived(tab, seen) for tab, seen in zip(tabs, SEEN, strict=True)))
