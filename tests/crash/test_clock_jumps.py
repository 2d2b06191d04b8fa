"""A wall clock that jumps, an hour back or four days ahead: jobs end, retries go on, nobody loses their place.

The relay's clock is moved by hand; the sandbox has one of its own, which does not jump. Jumps only ever move the wall
clock: monotonic time goes on as before.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from relay.clock import ManualClock
from relay.core.retry import SCHEDULE_S, SPREAD
from relay.core.watch import ASK_EVERY_MS
from relay.sandbox.vendor import Vendor
from tests.crash import audit
from tests.crash.load import Promises, call_back
from tests.journeys import Journey, eventually, journey

pytestmark = pytest.mark.anyio

HOUR_BACK_S = -3_600.0
FOUR_DAYS_AHEAD_S = 4 * 86_400.0
JUMPS_S = pytest.mark.parametrize("jump_s", [HOUR_BACK_S, FOUR_DAYS_AHEAD_S], ids=["an hour back", "four days ahead"])
TASK_S = 70.0
STEP_S = 5.0
# So often one after the other nothing must be under way, for a commit to have been heard of.
LOOKS = 3


@dataclass
class Era:
    """A relay with a clock that can jump, at a sandbox whose clock cannot."""

    running: Journey
    clock: ManualClock
    theirs: ManualClock

    async def passes(self, seconds: float) -> None:
        """Time that everybody agrees about, in steps, each with all that it causes: to what is next, but not far."""
        while seconds > 0:
            step_s = min(seconds, max(STEP_S, self.clock.until_next_s() or 0.0))
            self.clock.advance(step_s)
            self.theirs.advance(step_s)
            seconds -= step_s
            await self.rest()

    async def jumps(self, seconds: float) -> None:
        self.clock.jump_wall(seconds)
        await self.running.client.get("/readyz")
        await self.rest()

    async def rest(self) -> None:
        """Once every worker sleeps and none has anything under way."""
        seen = 0

        def quiet() -> bool:
            nonlocal seen
            workers = self.running.node.workers
            asleep = sum(not sleeper[2].done() for sleeper in self.clock._sleepers) == len(workers)
            seen = seen + 1 if asleep and not any(worker.under_way for worker in workers) else 0
            return seen >= LOOKS

        await eventually(quiet)

    async def passes_until(self, job_id: str, most_s: float) -> dict[str, Any]:
        """The job once it has ended, which it must within so much time."""
        began_s = self.clock.monotonic_s()
        while (job := await self.running.job(job_id))["finishedAt"] is None:
            assert self.clock.monotonic_s() - began_s <= most_s, job
            await self.passes(STEP_S)
        return job

    @property
    def attempts(self) -> int:
        """How often something was sent to the subscriber."""
        return len(self.running.subscriber.got)

    @property
    def asked(self) -> int:
        return self.running.vendor.requests.get("/tasks/{taskId}", 0)


@asynccontextmanager
async def era(folder: Path, faults: dict[str, Any] | None = None) -> AsyncGenerator[Era]:
    clock, theirs = ManualClock(), ManualClock()
    vendor = Vendor(Random(1), faults=faults, times_s=(10, TASK_S - 10))  # noqa: S311 - chance, not a secret
    async with journey(folder, vendor=vendor, clock=clock, sandbox_clock=theirs) as running:
        yield Era(running, clock, theirs)
    assert audit.faults_of(folder / "relay.db") == []


async def running_job(here: Era) -> str:
    job_id = str((await here.running.submit())["id"])
    await here.running.job_in(job_id, "running")
    await here.rest()
    return job_id


@JUMPS_S
async def test_a_job_ends_by_its_callback_as_ever(tmp_path: Path, jump_s: float) -> None:
    async with era(tmp_path) as here:
        job_id = await running_job(here)
        await here.passes(20)
        await here.jumps(jump_s)
        job = await here.passes_until(job_id, TASK_S)
        assert (job["state"], job["attempts"], here.running.vendor.submits) == ("succeeded", 1, 1)
        assert here.asked <= 2 + TASK_S * 1_000 / ASK_EVERY_MS


@JUMPS_S
async def test_a_job_whose_callbacks_are_lost_ends_by_a_poll(tmp_path: Path, jump_s: float) -> None:
    async with era(tmp_path, {"callbacks_dropped": 1.0}) as here:
        job_id = await running_job(here)
        await here.passes(20)
        await here.jumps(jump_s)
        job = await here.passes_until(job_id, TASK_S + max(0, -jump_s) + 2 * ASK_EVERY_MS / 1_000)
        assert (job["state"], job["attempts"], here.running.vendor.submits) == ("succeeded", 1, 1)
        assert here.asked <= 2 + TASK_S * 1_000 / ASK_EVERY_MS


@JUMPS_S
async def test_a_jump_uses_up_no_more_than_one_retry_and_the_next_ones_wait_as_they_should(
    tmp_path: Path, jump_s: float
) -> None:
    async with era(tmp_path) as here:
        here.running.subscriber.answers = [500] * 3
        await here.running.subscribe()
        await here.passes_until(await running_job(here), 2 * TASK_S)
        await here.rest()
        assert here.attempts == 1

        await here.jumps(jump_s)
        assert here.attempts <= 2
        await here.passes(max(0, -jump_s) + 2 * SCHEDULE_S[1])
        assert here.attempts == 2
        await here.passes(SCHEDULE_S[2] * (1 - SPREAD) - 4 * SCHEDULE_S[1])
        assert here.attempts == 2
        await here.passes(SCHEDULE_S[2])
        assert here.attempts == 3
        (delivery,) = (await here.running.get("/v1/deliveries"))["data"]
        assert (delivery["state"], delivery["attempts"]) == ("due", 3)


@JUMPS_S
async def test_what_is_being_delivered_while_the_clock_jumps_arrives_at_most_once_more(
    tmp_path: Path, jump_s: float
) -> None:
    async with era(tmp_path) as here:
        await here.running.subscribe()
        job_id = await running_job(here)
        here.running.subscriber.open.clear()
        while not here.running.subscriber.got:
            here.clock.advance(STEP_S)
            here.theirs.advance(STEP_S)
            await asyncio.sleep(0.01)
        here.clock.jump_wall(jump_s)
        await here.running.client.get("/readyz")
        here.running.subscriber.open.set()
        await here.rest()
        await here.passes(60 + max(0, -jump_s))
        assert len({headers["webhook-id"] for headers, _ in here.running.subscriber.got}) == 1
        assert len(here.running.subscriber.got) <= 2
        assert (await here.running.job(job_id))["state"] == "succeeded"
        (delivery,) = (await here.running.get("/v1/deliveries"))["data"]
        assert delivery["state"] == "delivered"


@JUMPS_S
async def test_cursors_keep_their_place_and_the_log_has_no_gap(tmp_path: Path, jump_s: float) -> None:
    async with era(tmp_path) as here:
        first = await running_job(here)
        before = (await here.running.get("/v1/events?since=earliest&limit=100"))["data"]
        await here.jumps(jump_s)
        second = await running_job(here)
        await here.passes_until(first, 2 * TASK_S)
        await here.passes_until(second, 2 * TASK_S)
        rest = (await here.running.get(f"/v1/events?last_event_id={before[-1]['id']}&limit=100"))["data"]
        whole = (await here.running.get("/v1/events?since=earliest&limit=100"))["data"]
        assert before + rest == whole
        assert [int(event["id"].partition("-")[2]) for event in whole] == list(range(1, len(whole) + 1))


@JUMPS_S
async def test_nothing_runs_hot_after_a_jump(tmp_path: Path, jump_s: float) -> None:
    """A task that runs, a delivery that is refused, an attempt in doubt: an hour of it, in requests and commits."""
    async with era(tmp_path, {"never_ends": True, "callbacks": "final"}) as here:
        here.running.subscriber.answers = [500] * 20
        await here.running.subscribe(types=["job.submitted"])
        await running_job(here)
        here.running.vendor.faults.replace({"create_fails": "cut"})
        await here.running.submit()
        await eventually(lambda: here.running.vendor.requests["/videos/create"] == 2)
        await here.rest()
        await here.jumps(jump_s)
        asked, commits = sum(here.running.vendor.requests.values()), here.running.node.feed.generation
        await here.passes(3_600)
        assert sum(here.running.vendor.requests.values()) - asked < 200
        assert here.running.node.feed.generation - commits < 400


@JUMPS_S
async def test_callbacks_are_taken_at_every_time(tmp_path: Path, jump_s: float) -> None:
    promises = Promises()
    async with era(tmp_path, {"never_ends": True, "callbacks": "final"}) as here:
        await running_job(here)
        (task,) = here.running.vendor.register.oldest_first()
        for number, jump in enumerate((0.0, jump_s, -jump_s)):
            await here.jumps(jump)
            await call_back(here.running.client, task, b'{"status": "RUNNING", "n": %d}' % number, promises)
    assert audit.lost(tmp_path / "relay.db", promises) == set()
