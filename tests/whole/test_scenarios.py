"""Every scenario of `relay trigger`, through the whole relay in virtual time: what it does to a job, and how that ends.

Relay and sandbox share one clock that the test moves, so a wait of hours takes a moment; the sockets are real.
"""

import asyncio
from pathlib import Path
from random import Random

import pytest

from relay.clock import ManualClock
from relay.sandbox.scenarios import SCENARIOS
from relay.sandbox.vendor import Vendor
from tests.journeys import Journey, journey
from tests.rest import at_rest

pytestmark = pytest.mark.anyio

# The code of the error a job fails with; what is not named here succeeds.
FAILS = {
    "moderated-at-submit": "moderated",
    "refused": "validation",
    "never-created": "submit_unknown",
    "moderated-late": "moderated",
    "bad-output": "bad_output",
    "failed-without-reason": "upstream_failed",
    "failed-otherwise": "upstream_failed",
    "cancelled": "upstream_failed",
    "no-artifact-ever": "no_artifact",
}
# The upstream never says how these end, and the relay does not make it up.
NEVER_END = {"never-ends"}
STEP_MIN_S = 1.0


async def virtual_end(running: Journey, clock: ManualClock, job_id: str) -> dict[str, object]:
    """The job once it has ended; time passes quicker the longer it takes."""

    work = asyncio.ensure_future(running.job_that(job_id, lambda job: job["state"] in ("succeeded", "failed")))
    while not work.done():
        await time_jumps(clock)
    return work.result()


async def time_jumps(clock: ManualClock) -> None:
    """Let what is under way on the sockets come to rest, then go on to the next moment that somebody waits for."""

    await at_rest()
    clock.advance(max(clock.until_next_s() or 0.0, STEP_MIN_S))


@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - NEVER_END))
async def test_every_job_ends_as_the_scenario_says_and_is_paid_for_once(tmp_path: Path, name: str) -> None:
    clock, scenario = ManualClock(), SCENARIOS[name]
    vendor = Vendor(Random(1), faults=scenario.faults, times_s=(10, 60))  # noqa: S311 - chance, not a secret
    async with journey(tmp_path, vendor=vendor, clock=clock, sandbox_clock=clock) as running:
        submitted = (await running.client.post("/v1/jobs", json=dict(scenario.fields))).json()

        job = await virtual_end(running, clock, submitted["id"])

        error = job["error"]["code"] if isinstance(job["error"], dict) else None
        assert error == FAILS.get(name)
        assert running.vendor.submits <= 1
        finals = [
            event["type"]
            for event in (await running.get(f"/v1/jobs/{submitted['id']}/events?limit=500"))["data"]
            if event["type"] in ("job.succeeded", "job.failed", "job.cancelled")
        ]
        assert len(finals) == 1


@pytest.mark.parametrize("name", sorted(NEVER_END))
async def test_a_task_that_never_ends_is_asked_after_and_never_invented(tmp_path: Path, name: str) -> None:
    clock, scenario = ManualClock(), SCENARIOS[name]
    vendor = Vendor(Random(1), faults=scenario.faults, times_s=(10, 60))  # noqa: S311 - chance, not a secret
    async with journey(tmp_path, vendor=vendor, clock=clock, sandbox_clock=clock) as running:
        submitted = (await running.client.post("/v1/jobs", json=dict(scenario.fields))).json()

        def asked() -> int:
            return sum(count for path, count in running.vendor.requests.items() if "/tasks/" in path)

        while asked() < 20:
            await time_jumps(clock)

        assert (await running.job(submitted["id"]))["state"] == "running"
