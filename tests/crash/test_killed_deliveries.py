"""Killed while many deliveries are due, or while many are replayed: each arrives, and few of them twice.

Twice comes what had arrived when the relay was killed, but was not yet written down: at most what was under way.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest

from relay.clock import SystemClock
from relay.core.breaker import AT_ONCE_EACH
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs
from relay.store.contract import Store
from tests.core.builders import job
from tests.journeys import Surroundings, surroundings
from tests.store.serving import opened
from tests.whole.processes import Serving, free_port, serving

pytestmark = pytest.mark.anyio

SUBSCRIPTIONS = 20
SIZES = pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.long)])
KILLS = 3
PIECE = 100


@dataclass(frozen=True)
class Ended(Happening[None]):
    """Some jobs have ended, all in one transaction."""

    first: int
    count: int
    at_ms: int

    def needs(self) -> Needs:
        return Needs(subscriptions=True)

    def decide(self, loaded: Loaded) -> Changes[None]:
        draft = Draft(loaded)
        for number in range(self.first, self.first + self.count):
            draft.tell(job(id=f"job-{number}", state="succeeded"), "job.succeeded", self.at_ms)
        return draft.changes(None)


async def owe(store: Store, count: int) -> None:
    """Owe so many deliveries, in equal parts to all subscriptions."""
    jobs = count // SUBSCRIPTIONS
    for first in range(0, jobs, PIECE):
        # Now: what is older than is kept goes as soon as it has been delivered.
        await store.apply(Ended(first, min(PIECE, jobs - first), SystemClock().now_ms()))


@asynccontextmanager
async def owing(folder: Path, count: int) -> AsyncIterator[tuple[Surroundings, int]]:
    """Subscribers, and a relay's database that owes them so much; the relay's port."""
    port = free_port()
    async with surroundings(folder) as around:
        async with serving(around, port) as relay:
            for number in range(SUBSCRIPTIONS):
                body = {"url": f"{around.subscriber.url}?number={number}"}
                assert (await relay.client.post("/v1/subscriptions", json=body)).status_code == 201
            await relay.stopped(SIGTERM)
        async with opened(around.database) as store:
            await owe(store, count)
        yield around, port


async def counted(relay: Serving, chosen: dict[str, Any]) -> int:
    """How many deliveries a replay would take."""
    answer = await relay.client.post("/v1/deliveries/replay", json={"filter": chosen})
    found: int = answer.json()["count"]
    return found


async def all_delivered(relay: Serving, count: int) -> None:
    async with asyncio.timeout(100):
        while await counted(relay, {"state": "delivered"}) < count:  # noqa: ASYNC110 # another process
            await asyncio.sleep(0.05)


def twice(around: Surroundings, once: int) -> int:
    """How many came more often than `once`; each of them with the id that it had at first."""
    came = Counter((headers["webhook-id"], headers["host"], body) for headers, body in around.subscriber.got)
    return sum(came.values()) - len(came) * SUBSCRIPTIONS * once


@SIZES
async def test_all_that_was_due_when_the_relay_was_killed_arrives(tmp_path: Path, count: int) -> None:
    async with owing(tmp_path, count) as (around, port):
        for kill in range(1, KILLS + 1):
            async with serving(around, port) as relay:
                await around.subscriber.wait_for(count * kill // (KILLS + 2))
                await relay.stopped(SIGKILL)
        async with serving(around, port) as relay:
            await all_delivered(relay, count)
            attempts = await counted(relay, {"state": ["delivered", "dead", "superseded"]})

    more = twice(around, 1)
    print(f"{count} deliveries, {KILLS} kills: all arrived, {more} of them twice")
    assert attempts == count
    assert len({headers["webhook-id"] for headers, _ in around.subscriber.got}) == count // SUBSCRIPTIONS
    assert 0 <= more <= KILLS * SUBSCRIPTIONS * AT_ONCE_EACH


@SIZES
async def test_a_replay_that_a_kill_cut_off_goes_on_and_takes_each_once(tmp_path: Path, count: int) -> None:
    async with owing(tmp_path, count) as (around, port):
        async with serving(around, port) as relay:
            await all_delivered(relay, count)
            body = {"filter": {"state": "delivered"}, "dryRun": False}
            began_s = time.monotonic()
            begun = (await relay.client.post("/v1/deliveries/replay", json=body)).json()
            await around.subscriber.wait_for(count + 1)
            await relay.stopped(SIGKILL)
        async with serving(around, port) as relay:
            async with asyncio.timeout(60):
                while (found := await replay(relay, begun["id"]))["state"] != "done":  # noqa: ASYNC110 # likewise
                    await asyncio.sleep(0.01)
            took_s = time.monotonic() - began_s
            await around.subscriber.wait_for(2 * count)
            await all_delivered(relay, count)

    print(f"{count} deliveries replayed: owed anew within {took_s:.1f} s, a kill and a start among them")
    assert (found["total"], found["requeued"], found["skipped"]) == (count, count, 0)
    assert 0 <= twice(around, 2) <= SUBSCRIPTIONS * AT_ONCE_EACH


async def replay(relay: Serving, replay_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await relay.client.get(f"/v1/replays/{replay_id}")).json()
    return found
