"""`/static/relay.js` in a real browser: through restarts, refusals and expired tickets it misses nothing."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from relay.clock import ManualClock
from tests.browser.conftest import Profile, Tabs
from tests.browser.proxy import proxy
from tests.browser.watching import told, types, watching
from tests.journeys import Journey, eventually, journey, surroundings, while_time_passes
from tests.whole.processes import free_port, serving

pytestmark = pytest.mark.anyio
FOREVER = (1e6, 1e6)
WHOLE = ["job.queued", "job.submitted", "job.cancelled"]


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncGenerator[Journey]:
    """A relay whose jobs run until they are cancelled."""
    async with journey(tmp_path, times_s=(0.01, 1e6)) as running:
        yield running


async def ticket(here: Any, **body: Any) -> str:
    answer = await here.client.post("/v1/tickets", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["eventsUrl"])


async def cancel(here: Any, job_id: str) -> None:
    assert (await here.client.post(f"/v1/jobs/{job_id}/cancel")).status_code == 200


async def test_a_page_follows_a_job_to_its_end_and_stops(slow: Journey, tabs: Tabs) -> None:
    job = await slow.submit()
    page = await watching(tabs, slow.relay_url, await ticket(slow, job=job["id"]))
    await told(page, "told.events.some((event) => event.type === 'job.submitted')")
    await cancel(slow, job["id"])
    found = await told(page, "told.ends.length")

    assert types(found) == WHOLE
    assert found["ends"] == [{"reason": "over", "status": 204}]
    assert found["opens"][0]["job"]["id"] == job["id"]
    assert slow.node.app.state.streams.open == 0


async def test_a_page_lives_through_a_restart_of_the_relay(
    tmp_path: Path, tabs: Tabs, picture: Callable[[Page, str], Awaitable[Path]]
) -> None:
    port = free_port()
    async with surroundings(tmp_path, times_s=(0.01, 1e6)) as around:
        async with serving(around, port) as relay:
            job = await relay.submit()
            page = await watching(tabs, relay.url, await ticket(relay, job=job))
            await told(page, "told.events.some((event) => event.type === 'job.submitted')")
            assert await relay.stopped(signal.SIGTERM) == 0
        await told(page, "told.states.at(-1).name === 'waiting'")
        async with serving(around, port) as relay:
            await told(page, "told.opens.length === 2")
            await cancel(relay, job)
            found = await told(page, "told.ends.length")
            taken = await picture(page, "restart")
    ids = [int(event["id"].split("-")[1]) for event in found["events"]]

    assert types(found) == WHOLE
    assert ids == sorted(set(ids))
    assert found["opens"][1]["resumedFrom"] is not None
    assert taken.stat().st_size > 5_000


async def test_a_bad_gateway_in_between_does_not_end_it(slow: Journey, tabs: Tabs) -> None:
    job = await slow.submit()
    async with proxy(slow.relay_url) as front:
        url = (await ticket(slow, job=job["id"])).replace(slow.relay_url, front.url)
        page = await watching(tabs, front.url, url)
        await told(page, "told.events.some((event) => event.type === 'job.submitted')")
        front.broken = True
        front.cut()
        # A native EventSource would have given up for ever by now.
        await told(page, "told.states.some((state) => state.status === 502)")
        front.broken = False
        await cancel(slow, job["id"])
        await page.evaluate("() => window.following.retry()")
        found = await told(page, "told.ends.length")

    assert types(found) == WHOLE


async def test_an_expired_ticket_is_renewed(tmp_path: Path, tabs: Tabs) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, sandbox_clock=clock, times_s=FOREVER) as here:
        job = await here.submit()
        first = await ticket(here, job=job["id"], ttlS=20)
        second = await ticket(here, job=job["id"], ttlS=86_400)
        page = await watching(tabs, here.relay_url, first, tickets=[second])
        await told(page, "told.opens.length === 1")
        await while_time_passes(clock, told(page, "told.opens.length === 2"))
        await here.client.post(f"/v1/jobs/{job['id']}/cancel")
        found = await told(page, "told.ends.length")

    assert found["renewals"] == 1
    assert types(found).count("job.queued") == 1
    assert types(found)[-1] == "job.cancelled"


async def test_a_ticket_that_nobody_renews_ends_it(slow: Journey, tabs: Tabs) -> None:
    page = await watching(tabs, slow.relay_url, f"{slow.relay_url}/v1/events?ticket=none", tickets=[])
    found = await told(page, "told.ends.length")

    assert (found["renewals"], found["ends"]) == (1, [{"reason": "unauthorized", "status": 401}])


async def test_events_that_are_gone_are_told_of(slow: Journey, tabs: Tabs) -> None:
    job = await slow.submit()
    lost = f"{'0' * 8}-7"
    page = await watching(tabs, slow.relay_url, await ticket(slow, job=job["id"]), lastEventId=lost)
    found = await told(page, "told.events.some((event) => event.type === 'job.submitted')")

    assert [(gap["requested"], gap["missed"]) for gap in found["gaps"]] == [(lost, None)]
    assert types(found)[0] == "job.queued"


async def test_twelve_tabs_leave_connections_for_everything_else(slow: Journey, tabs: Tabs) -> None:
    jobs = [await slow.submit(replyRef=f"tab {number}") for number in range(12)]
    urls = [await ticket(slow, job=job["id"]) for job in jobs]
    pages = await asyncio.gather(*(watching(tabs, slow.relay_url, url) for url in urls))
    await asyncio.gather(*(told(page, "told.events.length > 0") for page in pages))
    asked = [page.evaluate("() => fetch('/healthz', { cache: 'no-store' }).then((it) => it.status)") for page in pages]
    answers = await asyncio.gather(*asked)
    open_at_once = slow.node.app.state.streams.open
    await asyncio.gather(*(cancel(slow, job["id"]) for job in jobs))
    found = await asyncio.gather(*(told(page, "told.ends.length") for page in pages))

    assert answers == [200] * 12
    assert open_at_once <= 3
    assert [types(each)[-1] for each in found] == ["job.cancelled"] * 12
    assert [types(each).count("job.queued") for each in found] == [1] * 12


async def test_tabs_with_the_same_address_share_one_connection(slow: Journey, tabs: Tabs) -> None:
    job = await slow.submit()
    url = await ticket(slow, job=job["id"])
    first = await watching(tabs, slow.relay_url, url)
    await told(first, "told.events.some((event) => event.type === 'job.submitted')")
    second = await watching(tabs, slow.relay_url, url)
    await told(second, "told.events.some((event) => event.type === 'job.submitted')")
    streams = slow.node.app.state.streams.open
    before = types(await told(first, "told.events.length"))
    await first.close()
    await cancel(slow, job["id"])
    found = await told(second, "told.ends.length")

    assert streams == 1
    assert before == WHOLE[:2]
    assert types(found) == WHOLE


async def test_a_tab_that_goes_leaves_nothing_open(slow: Journey, tabs: Tabs) -> None:
    urls = [await ticket(slow, job=(await slow.submit())["id"]) for _ in range(3)]
    pages = [await watching(tabs, slow.relay_url, url) for url in urls]
    for page in pages:
        await told(page, "told.opens.length")
    opened = slow.node.app.state.streams.open
    await pages[0].close()
    await eventually(lambda: slow.node.app.state.streams.open == 2)
    await pages[1].evaluate("() => window.following.close()")
    await eventually(lambda: slow.node.app.state.streams.open == 1)

    assert opened == 3


async def test_a_browser_without_shared_workers_connects_for_the_tab_in_front(slow: Journey, profile: Profile) -> None:
    tabs = await profile()
    await tabs.context.add_init_script("delete window.SharedWorker")
    job = await slow.submit()
    page = await watching(tabs, slow.relay_url, await ticket(slow, job=job["id"]))
    await told(page, "told.events.some((event) => event.type === 'job.submitted')")
    hide = """(state) => {
      Object.defineProperty(document, 'visibilityState', { value: state, configurable: true })
      document.dispatchEvent(new Event('visibilitychange'))
    }"""
    await page.evaluate(hide, "hidden")
    await eventually(lambda: slow.node.app.state.streams.open == 0)
    await cancel(slow, job["id"])
    await page.evaluate(hide, "visible")
    found = await told(page, "told.ends.length")

    assert types(found) == WHOLE
