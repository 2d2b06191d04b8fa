"""A bare page that follows addresses with the relay's module, and keeps all that it is told."""

from typing import Any

from playwright.async_api import Page

from tests.browser.conftest import Tabs

PAGE = """<!doctype html><meta charset="utf-8"><title>watching</title>
<style>body { font: 15px/1.6 system-ui; margin: 2rem } li { font-family: monospace }</style>
<h1>Watching a job</h1><p id="state">…</p><ol id="events"></ol>
<script type="module">
  import { follow } from '/static/relay.js'
  const told = (window.told = { events: [], opens: [], gaps: [], states: [], ends: [], renewals: 0 })
  const say = (text) => (document.querySelector('#state').textContent = text)
  window.watch = (url, more = {}) =>
    (window.following = follow(url, {
      ...more,
      renew: more.tickets && (async () => (told.renewals++, more.tickets.shift() ?? null)),
      event(event) {
        told.events.push(event)
        document.querySelector('#events').insertAdjacentHTML('beforeend', `<li>${event.id} ${event.type}</li>`)
      },
      open: (info) => told.opens.push(info),
      gap: (gap) => told.gaps.push(gap),
      state: (state) => (told.states.push(state), say(`${state.name} ${state.status ?? ''}`)),
      end: (end) => (told.ends.push(end), say(`over: ${end.reason}`)),
    }))
</script>"""


async def watching(tabs: Tabs, origin: str, url: str | None = None, **options: Any) -> Page:
    """A tab at `origin` that follows `url`."""
    await tabs.context.route(f"{origin}/watching", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
    page = await tabs.open(f"{origin}/watching")
    if url is not None:
        await page.evaluate("([url, options]) => void window.watch(url, options)", [url, options])
    return page


async def told(page: Page, holds: str) -> dict[str, Any]:
    """What the page has been told, once `holds` (an expression over `told`) is true."""
    await page.wait_for_function(f"() => {{ const told = window.told; return {holds} }}", polling=50)
    found: dict[str, Any] = await page.evaluate("() => window.told")
    return found


def types(found: dict[str, Any]) -> list[str]:
    """The types of its events in order, without progress, which may or may not have been written."""
    return [event["type"] for event in found["events"] if event["type"] != "job.progress"]
