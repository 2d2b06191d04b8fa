"""Killed between two steps and started again, the relay loses nothing, pays for nothing twice, and tells the end."""

from pathlib import Path
from signal import SIGKILL

import pytest
from standardwebhooks import Webhook

from relay.clock import ManualClock
from tests.journeys import eventually, surroundings
from tests.whole.processes import free_port, serving

pytestmark = pytest.mark.anyio

LONG_S = (10.0, 50.0)


async def test_a_job_that_runs_while_the_relay_is_killed_ends_and_its_webhook_arrives(tmp_path: Path) -> None:
    port, clock = free_port(), ManualClock()
    async with surroundings(tmp_path, sandbox_clock=clock, times_s=LONG_S) as around:
        async with serving(around, port) as relay:
            made = await relay.client.post("/v1/subscriptions", json={"url": around.subscriber.url})
            job_id = await relay.submit()
            before = await relay.told(job_id, "job.submitted")
            assert await relay.stopped(SIGKILL) == -SIGKILL
        async with serving(around, port) as relay:
            clock.advance(sum(LONG_S) * 2)
            events = await relay.told(job_id)
            job = await relay.job(job_id)
            await around.subscriber.wait_for(1)
            deliveries = (await relay.client.get("/v1/deliveries")).json()["data"]

    assert (job["state"], job["attempts"]) == ("succeeded", 1)
    assert [frame.id for frame in events[: len(before)]] == [frame.id for frame in before]
    assert events[-1].event == "job.succeeded"
    headers, body = around.subscriber.got[0]
    assert Webhook(made.json()["secret"]).verify(body, headers)["id"] == events[-1].id
    assert len(around.subscriber.got) == len(deliveries) == 1
    assert around.vendor.submits == 1


async def test_a_create_that_was_cut_off_by_a_kill_is_found_by_its_reference_and_never_sent_again(
    tmp_path: Path,
) -> None:
    port, clock = free_port(), ManualClock()
    faults = {"create_lost": "hang"}
    async with surroundings(tmp_path, sandbox_clock=clock, times_s=LONG_S, faults=faults) as around:
        async with serving(around, port) as relay:
            job_id = await relay.submit()
            await eventually(lambda: around.vendor.submits == 1)
            assert (await relay.job(job_id))["state"] == "submitting"
            await relay.stopped(SIGKILL)
        around.vendor.faults.replace({})
        async with serving(around, port) as relay:
            events = await relay.told(job_id, "job.submitted")
            clock.advance(sum(LONG_S) * 2)
            events = await relay.told(job_id)
            job = await relay.job(job_id)
        state = around.vendor.state(clock.now_ms())

    types = [frame.event for frame in events]
    assert types[:3] == ["job.queued", "job.in_doubt", "job.submitted"]
    assert types[-1] == "job.succeeded"
    assert (job["state"], job["attempts"]) == ("succeeded", 1)
    assert state["submits"] == 1
    assert state["requests"]["/videos/create"] == 1
    assert state["tasks"][0]["taskId"] == job["upstreamTaskId"]


async def test_a_webhook_that_was_on_its_way_is_sent_again_with_the_same_id(tmp_path: Path) -> None:
    port = free_port()
    async with surroundings(tmp_path) as around:
        around.subscriber.open.clear()
        async with serving(around, port) as relay:
            await relay.client.post("/v1/subscriptions", json={"url": around.subscriber.url})
            job_id = await relay.submit()
            await around.subscriber.wait_for(1)
            await relay.stopped(SIGKILL)
        around.subscriber.open.set()
        async with serving(around, port) as relay:
            first, second = await around.subscriber.wait_for(2)
            events = await relay.told(job_id)

    assert first["id"] == second["id"] == events[-1].id
    assert len({headers["webhook-id"] for headers, _ in around.subscriber.got}) == 1


async def test_an_accepted_job_is_kept_by_a_kill_at_the_next_moment(tmp_path: Path) -> None:
    port = free_port()
    async with surroundings(tmp_path) as around:
        async with serving(around, port, upstream_url=f"http://127.0.0.1:{free_port()}/v1/runwayml") as relay:
            jobs = [await relay.submit(replyRef=str(n)) for n in range(5)]
            await relay.stopped(SIGKILL)
        async with serving(around, port) as relay:
            ends = [(await relay.told(job_id))[-1].event for job_id in jobs]

    assert ends == ["job.succeeded"] * 5
    assert around.vendor.submits == 5
