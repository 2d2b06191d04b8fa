"""Clients of others, and ours without a browser: each gets every event of a job, though it is cut off in the middle."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.web.static import FOLDER
from tests.browser.conftest import Tabs
from tests.browser.proxy import proxy
from tests.journeys import WAIT_S, journey

pytestmark = pytest.mark.anyio

WHOLE = ["job.queued", "job.submitted", "job.cancelled"]
OFFICIAL = Path(__file__).parent.parent / "whole" / "official"
# What both kinds of EventSource are told to do: remember, and stop at the end.
SCRIPT = """
const types = ['job.queued', 'job.submitted', 'job.cancelled', 'job.succeeded', 'job.failed']
const source = new EventSource(url)
for (const type of types)
  source.addEventListener(type, ({ lastEventId }) => {
    told([lastEventId, type])
    if (type === 'job.cancelled') source.close()
  })
"""


class Reader:
    """What one client has told of: ids and types of events, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self._more = asyncio.Condition()

    async def take(self, event_id: str, event_type: str) -> None:
        async with self._more:
            if event_type != "job.progress":
                self.events.append((event_id, event_type))
            self._more.notify_all()

    async def had(self, event_type: str) -> None:
        async with asyncio.timeout(WAIT_S), self._more:
            await self._more.wait_for(lambda: event_type in self.types)

    @property
    def types(self) -> list[str]:
        return [event_type for _, event_type in self.events]


@asynccontextmanager
async def lines_of(*command: str) -> AsyncGenerator[asyncio.StreamReader]:
    process = await asyncio.create_subprocess_exec(*command, cwd=OFFICIAL, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def browsers_event_source(url: str, reader: Reader, tabs: Tabs) -> None:
    origin = url.partition("/v1/")[0]
    await tabs.context.route(f"{origin}/", lambda route: route.fulfill(body="<title>bare</title>"))
    page = await tabs.open(f"{origin}/")
    await page.expose_function("told", lambda event: reader.take(*event))
    await page.evaluate(f"(url) => {{ {SCRIPT} }}", url)
    await reader.had(WHOLE[-1])


async def npms_eventsource(url: str, reader: Reader, tabs: Tabs) -> None:
    told = "const told = (event) => console.log(JSON.stringify(event))"
    head = f"import {{ EventSource }} from 'eventsource'\nconst url = {json.dumps(url)}\n{told}\n"
    async with lines_of("node", "--input-type=module", "--eval", head + SCRIPT) as lines:
        async for line in lines:
            await reader.take(*json.loads(line))


async def our_module_in_node(url: str, reader: Reader, tabs: Tabs) -> None:
    script = f"""import {{ follow }} from {json.dumps(str(FOLDER / "relay.js"))}
      follow({json.dumps(url)}, {{ event: ({{ id, type }}) => console.log(JSON.stringify([id, type])) }})"""
    async with lines_of("node", "--input-type=module", "--eval", script) as lines:
        async for line in lines:
            await reader.take(*json.loads(line))


async def httpx2s_event_source(url: str, reader: Reader, tabs: Tabs) -> None:
    """It reads one answer; to come back with the last id is the program's business."""
    last = ""
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
        while WHOLE[-1] not in reader.types:
            headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
            try:
                async with client.stream("GET", url, headers=headers) as response:
                    async for event in httpx2.EventSource(response):
                        last = event.id or last
                        if event.event.startswith("job."):
                            await reader.take(event.id, event.event)
            except httpx2.TransportError:
                continue


async def curl(url: str, reader: Reader, tabs: Tabs) -> None:
    """It prints what comes; to run it again with the last id is what a person does."""
    last = ""
    while WHOLE[-1] not in reader.types:
        resumed = ["-H", f"Last-Event-ID: {last}"] if last else []
        async with lines_of("curl", "-sN", "-H", "Accept: text/event-stream", *resumed, url) as lines:
            async for line in lines:
                name, _, value = line.decode().strip().partition(": ")
                if name == "id":
                    last = value
                elif name == "event" and value.startswith("job."):
                    await reader.take(last, value)


@pytest.mark.parametrize(
    "client",
    [browsers_event_source, npms_eventsource, our_module_in_node, httpx2s_event_source, curl],
    ids=["EventSource", "npm", "node", "httpx2", "curl"],
)
async def test_a_client_that_was_cut_off_has_every_event_once(
    tmp_path: Path, tabs: Tabs, client: Callable[[str, Reader, Tabs], Coroutine[Any, Any, None]]
) -> None:
    if client in (npms_eventsource, our_module_in_node) and shutil.which("node") is None:
        pytest.skip("there is no node here")
    if client is npms_eventsource and not (OFFICIAL / "node_modules" / "eventsource").exists():
        pytest.skip("there is no eventsource here: npm ci --ignore-scripts --prefix tests/whole/official")
    if client is curl and shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    async with journey(tmp_path, times_s=(0.01, 1e6)) as here, proxy(here.relay_url) as front:
        job = await here.submit()
        ticket: dict[str, Any] = (await here.client.post("/v1/tickets", json={"job": job["id"]})).json()
        reader = Reader()
        url = ticket["eventsUrl"].replace(here.relay_url, front.url)
        reading = asyncio.create_task(client(url, reader, tabs))
        await reader.had("job.submitted")
        front.cut()
        await here.client.post(f"/v1/jobs/{job['id']}/cancel")
        async with asyncio.timeout(WAIT_S):
            await reading

    assert reader.types == WHOLE
    assert len({event_id for event_id, _ in reader.events}) == len(WHOLE)
    # Our module asks whether there is more, and is told that there is not.
    assert len([head for head in front.heads if "/events" in head]) == (3 if client is our_module_in_node else 2)
