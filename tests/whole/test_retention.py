"""What a relay has kept for long enough goes while it works, and nothing of it that is owed to anybody."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay.clock import ManualClock
from tests.conformance.target import numbers
from tests.journeys import WAIT_S, Journey, surroundings, while_time_passes
from tests.rest import at_rest
from tests.whole.test_restore import vendor

pytestmark = pytest.mark.anyio

MONTH_S = 31 * 86_400.0


async def log(here: Journey) -> list[dict[str, Any]]:
    """The log of events, from its start on."""
    found: list[dict[str, Any]] = (await here.get("/v1/events?since=earliest&limit=500"))["data"]
    return found


async def begins_at(here: Journey, clock: ManualClock, number: int) -> None:
    """Time passes until the log begins at this event."""
    async with asyncio.timeout(WAIT_S):
        while await here.node.app.state.store.earliest() != number:
            clock.advance(1)
            await at_rest()


async def test_events_go_after_a_month_up_to_the_first_that_a_paused_subscription_is_owed(tmp_path: Path) -> None:
    clock = ManualClock()
    async with surroundings(tmp_path, sandbox_clock=clock, vendor=vendor()) as around:
        async with around.relay(clock=clock) as here:
            heard = [await while_time_passes(clock, here.ended((await here.submit())["id"])) for _ in range(2)]
            made = await here.subscribe(types=["job.queued", "job.succeeded"])
            here.subscriber.answers = [410]
            owed = [await while_time_passes(clock, here.ended((await here.submit())["id"])) for _ in range(2)]
            before, held = await log(here), (await here.get("/v1/deliveries?state=held"))["data"]
            first_owed = min(numbers([delivery["event"] for delivery in held]))
            clock.advance(MONTH_S)
            await begins_at(here, clock, first_owed)
        async with around.relay(clock=clock) as here:  # as if it had been killed meanwhile
            kept, callbacks = await log(here), await here.get(f"/v1/jobs/{heard[0]['id']}/callbacks")
            path = f"/v1/subscriptions/{made['id']}"
            paused = await here.get(path)
            await here.client.post(f"{path}/enable", json={"backlog": "final"})
            [_, *sent] = await here.subscriber.wait_for(3)
            await begins_at(here, clock, len(before) + 1)
            deliveries = (await here.get("/v1/deliveries"))["data"]
            jobs = [(await here.job(job["id"]))["state"] for job in (*heard, *owed)]

    assert [event["id"] for event in kept][: len(before) - first_owed + 1] == [
        event["id"] for event in before[first_owed - 1 :]
    ]
    assert callbacks["data"] == []
    assert (paused["state"], paused["owed"]) == ("disabled", len(held))
    assert {event["data"]["job"]["id"] for event in sent} == {job["id"] for job in owed}
    assert {event["type"] for event in sent} == {"job.succeeded"}
    assert deliveries == []
    assert jobs == ["succeeded"] * 4
