"""What changes around the relay is told to the operator once a change, to subscribers as everything else."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.core.delivering import SubscriptionSaved
from relay.core.delivery import Selection, Subscription
from relay.core.event import OPERATOR_TYPES
from relay.errors import Unavailable
from relay.store.contract import EventFilter
from relay.work.lookout import DISK_BACK_BYTES, DISK_LOW_BYTES, LOOK_EVERY_MS, SILENT_S, Lookout
from tests.journeys import WAIT_S, journey
from tests.work.bench import Bench, bench

pytestmark = pytest.mark.anyio

PLENTY = 50 * DISK_LOW_BYTES


@dataclass
class Around:
    """A lookout, and what it sees."""

    here: Bench
    silent_s: float = 0.0
    free_bytes: int = PLENTY

    def __post_init__(self) -> None:
        here = self.here
        self.lookout = Lookout(here.store, here.feed, here.clock, lambda: self.silent_s, lambda: self.free_bytes)

    async def after(self, *, silent_s: float = 0.0, free_bytes: int = PLENTY) -> list[str]:
        """What has been told in all, once it was looked at twice."""
        self.silent_s, self.free_bytes = silent_s, free_bytes
        for _ in range(2):
            assert await self.lookout.step() == self.here.clock.now_ms() + LOOK_EVERY_MS
        events = await self.here.store.events_after(0, EventFilter(type=OPERATOR_TYPES), 100)
        return [event.type for event in events]


@asynccontextmanager
async def around(folder: Path) -> AsyncGenerator[Around]:
    async with bench(folder) as here:
        yield Around(here)


async def test_an_upstream_that_falls_silent_and_comes_back_is_told_once_each(tmp_path: Path) -> None:
    async with around(tmp_path) as it:
        assert await it.after() == []
        assert await it.after(silent_s=SILENT_S - 0.1) == []
        assert await it.after(silent_s=SILENT_S) == ["upstream.down"]
        assert await it.after(silent_s=9_999) == ["upstream.down"]
        assert await it.after(silent_s=0.001) == ["upstream.down"]
        assert await it.after() == ["upstream.down", "upstream.up"]
        assert (await it.after(silent_s=SILENT_S))[2:] == ["upstream.down"]


async def test_a_disk_that_runs_full_is_told_once_until_it_had_room_again(tmp_path: Path) -> None:
    async with around(tmp_path) as it:
        assert await it.after(free_bytes=DISK_LOW_BYTES) == []
        assert await it.after(free_bytes=DISK_LOW_BYTES - 1) == ["disk.low"]
        assert await it.after(free_bytes=0) == ["disk.low"]
        assert await it.after(free_bytes=DISK_LOW_BYTES + DISK_BACK_BYTES - 1) == ["disk.low"]
        assert await it.after(free_bytes=0) == ["disk.low"]
        assert await it.after(free_bytes=DISK_LOW_BYTES + DISK_BACK_BYTES) == ["disk.low"]
        assert await it.after(free_bytes=0) == ["disk.low"] * 2


async def test_what_could_not_be_written_is_told_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with around(tmp_path) as it:

        async def full(happening: object) -> None:
            raise Unavailable("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(it.here.store, "apply", full)
            for silent_s, free_bytes in ((SILENT_S, PLENTY), (0.0, 0)):
                it.silent_s, it.free_bytes = silent_s, free_bytes
                with pytest.raises(Unavailable):
                    await it.lookout.step()
        assert await it.after(silent_s=SILENT_S, free_bytes=0) == ["upstream.down", "disk.low"]


async def test_it_is_owed_to_whoever_subscribes_to_it(tmp_path: Path) -> None:
    async with around(tmp_path) as it:
        fields: dict[str, Any] = {"url_sealed": "", "url_shown": "", "secrets": [], "format": "event"}
        wanted = Subscription(id="s", types=["disk.low"], created_at_ms=1, updated_at_ms=1, **fields)
        await it.here.store.apply(SubscriptionSaved(wanted))
        await it.after(silent_s=SILENT_S, free_bytes=0)
        owed = await it.here.store.deliveries(Selection(), None, 10)

        assert [delivery.event_type for delivery in owed] == ["disk.low"]


async def test_a_relay_whose_upstream_is_gone_says_so_and_takes_jobs_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.work.lookout.SILENT_S", 0.001)
    monkeypatch.setattr("relay.work.lookout.LOOK_EVERY_MS", 20)
    monkeypatch.setattr("relay.work.accounts.RETRY_MS", 20)
    async with journey(tmp_path, upstream_url="http://127.0.0.1:1/v1/runwayml") as here:
        await here.subscribe(types=["upstream.down"])
        (told,) = await here.subscriber.wait_for(1, WAIT_S)
        job = await here.submit()

        assert told["type"] == "upstream.down"
        assert told["data"]["subject"] == "upstream"
        assert job["state"] == "queued"
