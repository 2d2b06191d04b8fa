"""`GET /v1/stats`: what it counts, over a real relay whose time the test moves."""

from pathlib import Path
from random import Random

import pytest

from relay.clock import ManualClock
from relay.sandbox.vendor import Vendor
from tests.journeys import EXAMPLE, Journey, journey, while_time_passes

pytestmark = pytest.mark.anyio

NOTHING = {"p50": None, "p90": None}


async def test_jobs_are_counted_by_model_and_account_with_their_times_and_busy_answers(tmp_path: Path) -> None:
    clock = ManualClock()
    faults = {"busy": {"value": True, "times": 2}}
    vendor = Vendor(Random(1), faults=faults, times_s=(10, 120))  # noqa: S311 - chance, not a secret
    async with journey(tmp_path, vendor=vendor, clock=clock, sandbox_clock=clock) as here:
        empty = await here.get("/v1/stats")
        assert (empty["models"], empty["successRate"], empty["waitS"], empty["series"]) == ([], None, NOTHING, [])
        first = await here.submit()
        refused = await here.submit(text_prompt="moderate-me")
        for job in (first, refused):
            await while_time_passes(clock, here.ended(job["id"]), 5)
        await here.client.post(f"/v1/jobs/{(await here.submit())['id']}/cancel")

        found = await here.get("/v1/stats?since=1d")

        assert found["jobs"] == {
            "queued": 0, "submitting": 0, "in_doubt": 0, "running": 0, "succeeded": 1, "failed": 1, "cancelled": 1,
        }  # fmt: skip
        assert (found["successRate"], found["busyAnswers"], found["stepS"]) == (0.5, 2, 3600)
        # The clock runs on while the relay works: later is as good.
        assert found["renderS"]["p50"] >= 90
        [model] = found["models"]
        assert (model["model"], model["jobs"], model["renderS"]) == (EXAMPLE["model"], found["jobs"], found["renderS"])
        [account] = found["accounts"]
        assert (account["busyAnswers"], account["outOfCredits"], account["jobs"]["succeeded"]) == (2, False, 1)
        assert sum(bar["succeeded"] + bar["failed"] + bar["cancelled"] for bar in found["series"]) == 3


@pytest.mark.parametrize("since", ["yesterday", "7", "-1d", "2026-99-01"])
async def test_a_span_that_is_none_is_refused_by_name(here: Journey, since: str) -> None:
    answer = await here.client.get("/v1/stats", params={"since": since})
    assert (answer.status_code, answer.json()["problems"][0]["field"]) == (400, "query.since")
