"""The quarantine stays within its bounds, the oldest go first."""

from dataclasses import replace
from pathlib import Path

import pytest

from relay.core.ledger import UsedKey
from relay.core.receiving import Arrived, CallbackReceived
from relay.core.submitting import JobSubmitted
from relay.vault import hash_token
from relay.work import janitor
from relay.work.janitor import EVERY_MS, Janitor
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
