"""What could grow for ever stays within its bounds, the oldest go first."""

from dataclasses import replace
from pathlib import Path

import pytest

from relay.core.delivering import SubscriptionRemoved, SubscriptionSaved
from relay.core.delivery import Replay, Selection
from relay.core.ledger import UsedKey
from relay.core.receiving import Arrived, CallbackReceived
from relay.core.replaying import ReplayContinued, ReplayStarted
from relay.core.submitting import JobSubmitted
from relay.store.contract import EventFilter
from relay.vault import hash_token
from relay.work import janitor
from relay.work.janitor import BREATH_MS, EVERY_MS, Janitor, Retention
from tests.core.builders import subscription
from tests.work.bench import bench

pytestmark = pytest.mark.anyio


async def test_the_oldest_of_too_many_go_once_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "QUARANTINE_MAX_ENTRIES", 2)
    async with bench(tmp_path) as here:
        attempt = await here.running()
        worker = Janitor(here.store, here.feed, here.clock)
        first_ms = await worker.step()
        for n in range(4):
            received = CallbackReceived(
                hash_token(attempt.job_id),
                Arrived(
                    body=b"not a task",
                    sha256=f"{n:064x}",
                    size_bytes=10,
                    content_type="text/plain",
                    report=None,
                    at_ms=here.clock.now_ms(),
                ),
            )
            assert await here.store.apply(received) == "quarantined"
        again_ms = await worker.step()
        kept_before = await here.store.quarantine(None, 10)
        here.clock.advance(EVERY_MS / 1000)
        later_ms = await worker.step()
        kept_after = await here.store.quarantine(None, 10)

    assert first_ms == again_ms == here.clock.now_ms()
    assert later_ms == here.clock.now_ms() + EVERY_MS
    assert [row.sha256[-1] for row in kept_before] == ["3", "2", "1", "0"]
    assert [row.sha256[-1] for row in kept_after] == ["3", "2"]


async def test_used_keys_are_forgotten_after_a_day_and_a_half(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        job = await here.submit()
        key = UsedKey(id="k", request_hash="h", job_id=job.id, at_ms=here.clock.now_ms())
        await here.store.apply(JobSubmitted(replace(job, seq=0, id="another", task_id="another"), 10, 10, None, key))
        worker = Janitor(here.store, here.feed, here.clock)
        await worker.step()
        here.clock.advance(24 * 3600)
        await worker.step()
        after_a_day = await here.store.used_key("k")
        here.clock.advance(24 * 3600)
        await worker.step()

        assert after_a_day == key
        assert await here.store.used_key("k") is None


async def test_what_is_old_goes_in_bites_with_a_breath_between_them_until_none_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "BITE_ROWS", 4)
    async with bench(tmp_path) as here:
        for _ in range(10):
            await here.submit()
        here.clock.advance(10)
        young = await here.submit()
        worker = Janitor(here.store, here.feed, here.clock, retention=Retention(2**60, 5_000, 5_000))
        begins: list[int] = []
        waits_ms: list[int] = []
        while not waits_ms or waits_ms[-1] < EVERY_MS:
            begins.append(await here.store.earliest())
            waits_ms.append((await worker.step() or 0) - here.clock.now_ms())
            here.clock.advance(0.05)
            assert await worker.step() == here.clock.now_ms() - 50 + waits_ms[-1], "it takes breath"
            here.clock.advance(waits_ms[-1] / 1000)
        left = await here.store.events_after(0, EventFilter(), 100)

    assert begins == [1, 5, 9]
    assert waits_ms == [BREATH_MS, BREATH_MS, EVERY_MS]
    assert [event.job_id for event in left] == [young.id]


async def test_deliveries_stay_while_a_replay_goes_through_them(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.store.apply(SubscriptionSaved(subscription()))
        job = await here.submit()
        await here.store.apply(SubscriptionRemoved("sub-1", here.clock.now_ms()))
        asked = Replay(id="r", selection={}, total=0, until_seq=0, created_at_ms=here.clock.now_ms())
        await here.store.apply(ReplayStarted(asked))
        here.clock.advance(10)
        worker = Janitor(here.store, here.feed, here.clock, retention=Retention(2**60, 5_000, 5_000))
        await worker.step()
        during = await here.store.deliveries(Selection(), None, 10)
        await here.store.apply(ReplayContinued(asked, here.clock.now_ms()))
        here.clock.advance(EVERY_MS / 1000)
        await worker.step()

        assert [delivery.job_id for delivery in during] == [job.id]
        assert await here.store.deliveries(Selection(), None, 10) == []
        assert await here.store.event(1) is None
