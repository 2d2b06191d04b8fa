"""A wall clock that jumps burns nothing: no job ends early, no delivery is tried early, no wait is a minute longer.

The relay's clock is moved by hand; the sandbox has one of its own, which does not jump. Jumps only ever move the wall
clock: monotonic time goes on as before. Each of them is told of once.
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
from relay.core.watch import NO_ARTIFACT_AFTER_MS
from relay.sandbox.vendor import Vendor
from relay.work.timekeeper import LOOK_EVERY_MS
from tests.crash import audit
from tests.crash.load import Promises, call_back
from tests.journeys import Journey, eventually, journey, surroundings

pytestmark = pytest.mark.anyio

HOUR_BACK_S = -3_600.0
FOUR_DAYS_AHEAD_S = 4 * 86_400.0
TEN_MINUTES_S = 600.0
JUMPS_S = pytest.mark.parametrize(
    "jump_s",
    [HOUR_BACK_S, FOUR_DAYS_AHEAD_S, -TEN_MINUTES_S, TEN_MINUTES_S],
    ids=["an hour back", "four days ahead", "ten minutes back", "ten minutes ahead"],
)
TASK_S = 70.0
STEP_S = 5.0
LOOK_S = LOOK_EVERY_MS / 1_000
# No wait may be longer than without a jump by more than this.
LATE_S = 60.0
SKEWED = "/v1/events?since=earliest&limit=200&type=clock.skewed"
# So often one after the other nothing must be under way, for a commit to have been heard of.
LOOKS = 3


@dataclass
class Era:
    """A relay with a clock that can jump, at a sandbox whose clock cannot."""

    running: Journey
    clock: ManualClock
    theirs: ManualClock
    jumped: int = 0

    async def passes(self, seconds: float) -> None:
        """Time that everybody agrees about, in steps, each with all that it causes: to what is next, but not far."""
        while seconds > 0:
            step_s = min(seconds, max(STEP_S, self.clock.until_next_s() or 0.0))
            self.clock.advance(step_s)
            self.theirs.advance(step_s)
            seconds -= step_s
            await self.rest()

    async def jumps(self, seconds: float) -> None:
        """The wall clock alone jumps, and is looked at."""
        self.clock.jump_wall(seconds)
        self.jumped += seconds != 0
        await self.passes(LOOK_S)

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

    async def passes_until_end(self, job_id: str, most_s: float) -> tuple[dict[str, Any], float]:
        """The job once it has ended, which it must within so much time, and how long that was."""
        began_s = self.clock.monotonic_s()
        while (job := await self.running.job(job_id))["finishedAt"] is None:
            assert self.clock.monotonic_s() - began_s <= most_s, job
            await self.passes(STEP_S)
        return job, self.clock.monotonic_s() - began_s

    async def delivery(self) -> tuple[str, int]:
        """The state and the attempts of the only delivery."""
        (found,) = (await self.running.get("/v1/deliveries"))["data"]
        return found["state"], found["attempts"]

    @property
    def attempts(self) -> int:
        """How often something was sent to the subscriber."""
        return len(self.running.subscriber.got)

    @property
    def asked(self) -> int:
        return self.running.vendor.requests.get("/tasks/{taskId}", 0)


@asynccontextmanager
async def era(folder: Path, faults: dict[str, Any] | None = None, **settings: Any) -> AsyncGenerator[Era]:
    clock, theirs = ManualClock(), ManualClock()
    vendor = Vendor(Random(1), faults=faults, times_s=(10, TASK_S - 10))  # noqa: S311 - chance, not a secret
    async with journey(folder, vendor=vendor, clock=clock, sandbox_clock=theirs, **settings) as running:
        here = Era(running, clock, theirs)
        yield here
        told = (await running.get(SKEWED))["data"]
        # The sandbox's server dates its answers by a third clock, the machine's: that is told of as well.
        subjects = [event["data"]["subject"] for event in told]
        assert subjects.count("this relay's clock") == here.jumped
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
        job, _ = await here.passes_until_end(job_id, TASK_S)
        assert (job["state"], job["attempts"], here.running.vendor.submits) == ("succeeded", 1, 1)


@JUMPS_S
async def test_a_job_whose_callbacks_are_lost_ends_by_a_poll_as_soon_as_without_a_jump(
    tmp_path: Path, jump_s: float
) -> None:
    took_s, asked = [], []
    for by_s in (0.0, jump_s):
        folder = tmp_path / str(by_s)
        await asyncio.to_thread(folder.mkdir)
        async with era(folder, {"callbacks_dropped": 1.0}) as here:
            job_id = await running_job(here)
            await here.passes(35)  # in the middle of a wait
            await here.jumps(by_s)
            job, until_end_s = await here.passes_until_end(job_id, 3_600)
            assert (job["state"], job["attempts"], here.running.vendor.submits) == ("succeeded", 1, 1)
            took_s.append(until_end_s)
            asked.append(here.asked)
    assert abs(took_s[1] - took_s[0]) <= LATE_S
    assert asked[1] <= asked[0] + 1


@JUMPS_S
async def test_a_jump_uses_up_no_retry_and_delays_none(tmp_path: Path, jump_s: float) -> None:
    async with era(tmp_path) as here:
        here.running.subscriber.answers = [500] * 4
        await here.running.subscribe()
        await here.passes_until_end(await running_job(here), 2 * TASK_S)
        await here.passes(2 * SCHEDULE_S[1])
        assert await here.delivery() == ("due", 2)

        await here.jumps(jump_s)
        await here.passes(SCHEDULE_S[2] * (1 - SPREAD) - 4 * LOOK_S)
        assert (here.attempts, await here.delivery()) == (2, ("due", 2))
        await here.passes(2 * SCHEDULE_S[2] * SPREAD + LATE_S)
        assert (here.attempts, await here.delivery()) == (3, ("due", 3))
        await here.jumps(-jump_s)
        # The third may have been at the very beginning of the time that it had.
        await here.passes(SCHEDULE_S[3] * (1 - SPREAD) - 4 * LATE_S)
        assert (here.attempts, await here.delivery()) == (3, ("due", 3))
        await here.passes(2 * SCHEDULE_S[3] * SPREAD + 5 * LATE_S)
        assert (here.attempts, await here.delivery()) == (4, ("due", 4))


@JUMPS_S
async def test_what_is_being_delivered_while_the_clock_jumps_arrives_once(tmp_path: Path, jump_s: float) -> None:
    async with era(tmp_path) as here:
        await here.running.subscribe()
        job_id = await running_job(here)
        here.running.subscriber.open.clear()
        (deliverer,) = (worker for worker in here.running.node.workers if worker.name == "deliverer")
        while not here.running.subscriber.got:
            if not deliverer.under_way:  # an attempt has its deadline by this clock
                here.clock.advance(STEP_S)
                here.theirs.advance(STEP_S)
            await asyncio.sleep(0.01)
        here.clock.jump_wall(jump_s)
        here.jumped += 1
        here.clock.advance(LOOK_S)
        await here.running.until(lambda: here.running.get(SKEWED), lambda found: bool(found["data"]))
        for _ in range(LOOKS):  # whoever thinks that the lease has ended may say so
            await here.running.client.get("/readyz")
        here.running.subscriber.open.set()
        await here.rest()
        await here.passes(2 * LATE_S)
        assert (here.attempts, await here.delivery()) == (1, ("delivered", 1))
        assert (await here.running.job(job_id))["state"] == "succeeded"


@JUMPS_S
async def test_a_job_in_doubt_is_looked_for_as_long_as_it_should_be(tmp_path: Path, jump_s: float) -> None:
    async with era(tmp_path, {"create_fails": "cut"}, in_doubt_after="30m") as here:
        job_id = str((await here.running.submit())["id"])
        await here.running.job_in(job_id, "in_doubt")
        await here.rest()
        await here.passes(60)
        await here.jumps(jump_s)
        assert (await here.running.job(job_id))["state"] == "in_doubt"
        job, until_end_s = await here.passes_until_end(job_id, 3_600)
        assert job["error"]["code"] == "submit_unknown"
        assert abs(60 + LOOK_S + until_end_s - 1_800) <= LATE_S


@JUMPS_S
async def test_a_task_without_a_film_gets_all_the_time_that_it_has(tmp_path: Path, jump_s: float) -> None:
    async with era(tmp_path, {"no_artifacts_at_first": TASK_S + NO_ARTIFACT_AFTER_MS / 2_000}) as here:
        job_id = await running_job(here)
        await here.passes(2 * TASK_S)
        await here.jumps(jump_s)
        assert (await here.running.job(job_id))["state"] == "running"
        job, _ = await here.passes_until_end(job_id, NO_ARTIFACT_AFTER_MS / 1_000)
        assert job["state"] == "succeeded"


async def test_many_jumps_one_after_the_other_are_as_good_as_none(tmp_path: Path) -> None:
    jumps_s = [HOUR_BACK_S, FOUR_DAYS_AHEAD_S, TEN_MINUTES_S, -TEN_MINUTES_S, HOUR_BACK_S, -FOUR_DAYS_AHEAD_S]
    async with era(tmp_path) as here:
        here.running.subscriber.answers = [500] * 3
        await here.running.subscribe()
        await here.passes_until_end(await running_job(here), 2 * TASK_S)
        await here.passes(2 * SCHEDULE_S[1])
        for jump_s in jumps_s:
            await here.jumps(jump_s)
        await here.passes(SCHEDULE_S[2] * (1 - SPREAD) - (len(jumps_s) + 3) * LOOK_S)
        assert (here.attempts, await here.delivery()) == (2, ("due", 2))
        await here.passes(2 * SCHEDULE_S[2] * SPREAD + LATE_S)
        assert (here.attempts, await here.delivery()) == (3, ("due", 3))


async def test_a_clock_that_is_set_back_while_the_relay_is_down_delays_nothing(tmp_path: Path) -> None:
    clock, theirs = ManualClock(), ManualClock()
    vendor = Vendor(Random(1), faults={"callbacks_dropped": 1.0}, times_s=(10, TASK_S - 10))  # noqa: S311
    async with surroundings(tmp_path, vendor=vendor, sandbox_clock=theirs) as around:
        async with around.relay(clock=clock) as running:
            job_id = await running_job(Era(running, clock, theirs))
        clock.jump_wall(HOUR_BACK_S)
        async with around.relay(clock=clock) as running:
            here = Era(running, clock, theirs)
            await here.rest()
            job, _ = await here.passes_until_end(job_id, 2 * TASK_S + LATE_S)
    assert job["state"] == "succeeded"
    assert audit.faults_of(tmp_path / "relay.db") == []


@JUMPS_S
async def test_cursors_keep_their_place_and_the_log_has_no_gap(tmp_path: Path, jump_s: float) -> None:
    async with era(tmp_path) as here:
        first = await running_job(here)
        before = (await here.running.get("/v1/events?since=earliest&limit=100"))["data"]
        await here.jumps(jump_s)
        second = await running_job(here)
        await here.passes_until_end(first, 2 * TASK_S)
        await here.passes_until_end(second, 2 * TASK_S)
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
