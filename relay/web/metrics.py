"""`GET /metrics`: what the relay counts, in Prometheus' text format, with gauges that are set when somebody looks."""

import asyncio
from collections import Counter
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, Gauge
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.errors import RelayError
from relay.observe import Metrics
from relay.web.problem import on_http_error, on_relay_error, read_query

KEPT_S: Final = 1.0
OWED_LOOKED_AT: Final = 100_000
ACCOUNTS_SHOWN: Final = 50
OTHERS: Final = "others"
STATES: Final = ("queued", "submitting", "running", "in_doubt")
SUBSCRIPTION_STATES: Final = ("active", "paused", "disabled")


class Scrape:
    """Looks into the store once a second at most, whoever asks how often."""

    def __init__(self) -> None:
        self._looking = asyncio.Lock()
        self._good_until_s = float("-inf")
        self._text = b""

    async def text(self, state: Any) -> bytes:
        """All metrics; `Unavailable` when the store cannot be read."""
        async with self._looking:
            now_s = state.clock.monotonic_s()
            if now_s >= self._good_until_s:
                await _look(state)
                self._text = state.metrics.render()
                self._good_until_s = now_s + KEPT_S
            return self._text


async def show(request: Request) -> Response:
    """Counters since the start of this process, and how things are now: Prometheus' text format, version 0.0.4."""
    state: Any = request.app.state
    read_query(request)
    return Response(await state.scrape.text(state), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def alone(state: Any) -> Starlette:
    """`/metrics` and nothing else, open to whoever reaches its port."""
    app = Starlette(
        routes=[Route("/metrics", show)],
        exception_handlers={RelayError: on_relay_error, HTTPException: on_http_error},
    )
    app.state = state
    return app


async def _look(state: Any) -> None:
    store, metrics, now_ms = state.store, state.metrics, state.clock.now_ms()
    totals = await store.totals(OWED_LOOKED_AT)
    _set_all(metrics.jobs, STATES, await store.count_by_state())
    _set_all(metrics.subscriptions, SUBSCRIPTION_STATES, totals.subscriptions)
    await _look_at_accounts(store, metrics)
    metrics.owed.set(totals.owed)
    oldest_ms = totals.oldest_owed_at_ms
    metrics.oldest_owed_s.set(max(0, now_ms - oldest_ms) / 1000 if oldest_ms is not None else 0)
    metrics.breakers.set(totals.breakers_open)
    metrics.quarantine.set(totals.quarantined)
    metrics.kept.set(totals.files)
    metrics.kept_bytes.set(totals.file_bytes)
    metrics.streams.set(state.streams.open)
    metrics.database_bytes.set(state.disk.database_bytes())
    metrics.disk_free_bytes.set(state.disk.free_bytes())


async def _look_at_accounts(store: Any, metrics: Metrics) -> None:
    """The first of them by name each, the rest together: labels are few, whatever the upstream lists."""
    busy = await store.busy()
    slots, used, parked = Counter[str](), Counter[str](), Counter[str]()
    for place, account in enumerate(await store.accounts()):
        label = account.email if place < ACCOUNTS_SHOWN else OTHERS
        slots[label] += account.slots
        used[label] += busy.get(account.email, 0)
        parked[label] += account.parked is not None
    for gauge, found in ((metrics.slots, slots), (metrics.slots_used, used), (metrics.parked, parked)):
        gauge.clear()
        _set_all(gauge, (), found)


def _set_all(gauge: Gauge, known: tuple[str, ...], found: dict[str, int]) -> None:
    for label, value in (dict.fromkeys(known, 0) | found).items():
        gauge.labels(label).set(value)
