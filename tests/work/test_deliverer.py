"""What is owed to a subscriber is sent however often the relay is stopped, and by no more than one hand at a time."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay.clock import ManualClock
from relay.core.delivering import DeliveriesClaimed
from relay.core.retry import SCHEDULE_S, SPREAD
from relay.work.deliverer import LEASE_MS, LEFT_MS
from tests.journeys import Journey, eventually, surroundings, while_time_passes

pytestmark = pytest.mark.anyio


async def newest(here: Journey) -> dict[str, Any]:
    found: list[dict[str, Any]] = (await here.get("/v1/deliveries?limit=1"))["data"]
    return found[0] if found else {"state": None, "attempts": 0}


async def after(here: Journey, attempts: int) -> dict[str, Any]:
    """The newest delivery, once so many attempts have been written."""
    return await here.until(lambda: newest(here), lambda row: row["attempts"] == attempts and row["state"] != "sending")


async def test_the_schedule_survives_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    async with surroundings(tmp_path) as around:
        around.subscriber.answers = [500, 500]
        async with around.relay(clock=clock) as here:
            await here.subscribe()
            await here.ended((await here.submit())["id"])
            await after(here, 1)
            clock.advance(SCHEDULE_S[1] * (1 + SPREAD))
            before = await after(here, 2)
        async with around.relay(clock=clock) as here:
            assert await newest(here) == before
            clock.advance(SCHEDULE_S[2] * (1 - SPREAD) - 1)
            assert await newest(here) == before
        async with around.relay(clock=clock) as here:
            clock.advance(SCHEDULE_S[2] * 2 * SPREAD + 1)
            row = await after(here, 3)

    assert row["state"] == "delivered"
    assert [answer["status"] for answer in row["answers"]] == [500, 500, 200]
    assert len({headers["webhook-id"] for headers, _ in around.subscriber.got}) == 1


async def test_a_delivery_that_a_killed_relay_had_claimed_is_sent_after_the_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    async with surroundings(tmp_path) as around:
        around.subscriber.answers = [500]
        async with around.relay(clock=clock) as here:
            await here.subscribe()
            await here.ended((await here.submit())["id"])
            row = await after(here, 1)
            await stop_deliverer(here)
            clock.advance(SCHEDULE_S[1] * 2)
            now_ms = clock.now_ms()
            await here.node.app.state.store.apply(DeliveriesClaimed((row["id"],), now_ms + LEASE_MS, now_ms))
            assert (await newest(here))["state"] == "sending"
        async with around.relay(clock=clock) as here:
            row = await after(here, 2)

    assert row["state"] == "delivered"
    assert [headers["webhook-id"] for headers, _ in around.subscriber.got] == [row["event"]] * 2


async def test_a_claim_that_nobody_holds_any_more_ends_with_its_lease(tmp_path: Path) -> None:
    clock = ManualClock()
    async with surroundings(tmp_path) as around, around.relay(clock=clock) as here:
        around.subscriber.answers = [500]
        await here.subscribe()
        await here.ended((await here.submit())["id"])
        row = await after(here, 1)
        deliverer = await stop_deliverer(here)
        clock.advance(SCHEDULE_S[1] * 2)
        now_ms = clock.now_ms()
        await here.node.app.state.store.apply(DeliveriesClaimed((row["id"],), now_ms + LEASE_MS, now_ms))
        await deliverer.step()
        assert (await newest(here))["state"] == "sending"
        clock.advance(LEASE_MS / 1000 + 0.001)
        await deliverer.step()
        row = await after(here, 2)

    assert row["state"] == "delivered"


async def stop_deliverer(here: Journey) -> Any:
    """From now on only the test's own steps deliver."""
    deliverer = next(worker for worker in here.node.workers if worker.name == "deliverer")
    await deliverer.stop()
    return deliverer


async def test_a_stop_waits_for_the_answer_of_a_subscriber(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        around.subscriber.open.clear()
        async with around.relay() as here:
            await here.subscribe()
            await here.ended((await here.submit())["id"])
            await around.subscriber.wait_for(1)
            stopping = asyncio.create_task(stop_deliverer(here))
            await eventually(lambda: next(w for w in here.node.workers if w.name == "deliverer")._stopping)
            around.subscriber.open.set()
            await stopping
            row = await newest(here)

    assert (row["state"], row["attempts"]) == ("delivered", 1)
    assert len(around.subscriber.got) == 1


async def test_what_was_claimed_too_long_ago_is_left_to_whoever_claims_it_next(tmp_path: Path) -> None:
    clock = ManualClock()
    async with surroundings(tmp_path) as around, around.relay(clock=clock) as here:
        store = here.node.app.state.store
        event = store.event

        async def after_a_standstill(seq: int) -> Any:
            store.event = event
            clock.advance((LEASE_MS - LEFT_MS) / 1000 + 1)
            return await event(seq)

        store.event = after_a_standstill
        await here.subscribe()
        await here.ended((await here.submit())["id"])
        deliverer = next(worker for worker in here.node.workers if worker.name == "deliverer")
        await eventually(lambda: store.event == event and deliverer.under_way == 0)
        assert (around.subscriber.got, (await newest(here))["state"]) == ([], "sending")
        row = await while_time_passes(clock, after(here, 1))

    assert (row["state"], len(around.subscriber.got)) == ("delivered", 1)
