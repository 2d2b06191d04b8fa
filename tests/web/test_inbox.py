"""The callback inbox: tasks that were submitted elsewhere are adopted on the upstream's word, and on nothing else."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.journeys import EXAMPLE, Journey, journey

pytestmark = pytest.mark.anyio

TOKEN = "inbox-token-of-the-tests-0123456789"
UNKNOWN = "user:7-runwayml:me@example.com-task:11111111-2222-4333-8444-555555555555"


async def report(running: Journey, body: Any, token: str = TOKEN) -> httpx2.Response:
    return await running.client.post(f"/callbacks/inbox/{token}", json=body, headers={"Authorization": ""})


async def created_elsewhere(running: Journey, **more: Any) -> str:
    """A task that somebody else creates at the upstream; its id."""
    answer = await running.client.post(f"{running.sandbox_url}/v1/runwayml/videos/create", json=EXAMPLE | more)
    task_id: str = answer.json()["task"]["taskId"]
    return task_id


async def test_a_task_from_elsewhere_becomes_a_job_and_is_relayed_to_its_end(tmp_path: Path) -> None:
    async with journey(tmp_path, callback_inbox_token=TOKEN) as running:
        await running.subscribe()
        inbox = f"{running.relay_url}/callbacks/inbox/{TOKEN}"
        task_id = await created_elsewhere(running, replyUrl=inbox, replyRef="theirs-1")

        (told,) = await running.subscriber.wait_for(1)

        job = await running.job(task_id)
        assert (told["type"], told["data"]["job"]["id"]) == ("job.succeeded", job["id"])
        assert (job["origin"], job["state"], job["replyRef"]) == ("adopted", "succeeded", "theirs-1")
        assert job["taskId"] == job["upstreamTaskId"] == task_id
        assert TOKEN not in str(await running.get(f"/v1/jobs/{job['id']}/callbacks"))
        assert (await running.get("/v1/jobs?replyRef=theirs-1"))["data"][0]["id"] == job["id"]


async def test_one_report_is_enough_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    async with journey(tmp_path, callback_inbox_token=TOKEN) as running:
        task_id = await created_elsewhere(running)
        body = {"taskId": task_id, "status": "RUNNING"}

        first, second = await report(running, body), await report(running, body)

        assert (first.json()["result"], second.json()["result"]) == ("stored", "duplicate")
        job = await running.until(lambda: running.client.get(f"/v1/jobs/{task_id}"), lambda answer: answer.is_success)
        while running.vendor.state(running.node.clock.now_ms())["tasks"][0]["status"] != "SUCCEEDED":
            await running.client.get("/healthz")
        await report(running, {"taskId": task_id, "status": "SUCCEEDED"})
        assert (await running.ended(job.json()["id"]))["state"] == "succeeded"
        assert len((await running.get("/v1/jobs"))["data"]) == 1


async def test_an_invented_task_makes_the_relay_ask_and_nothing_more(tmp_path: Path) -> None:
    async with journey(tmp_path, callback_inbox_token=TOKEN) as running:
        await running.subscribe()
        forged = {"taskId": UNKNOWN, "status": "SUCCEEDED", "artifacts": [{"url": "https://evil.example/x.mp4"}]}

        answer = await report(running, forged)

        assert (answer.status_code, answer.json()["result"]) == (200, "stored")
        asked = await running.until(
            lambda: running.client.get("/healthz"),
            lambda _: any("/tasks/" in path for path in running.vendor.requests),
        )
        assert asked.is_success
        assert (await running.get("/v1/jobs"))["data"] == []
        assert running.subscriber.got == []


@pytest.mark.parametrize("body", [{"status": "SUCCEEDED"}, ["nothing"], "text", {"taskId": "user:../accounts"}])
async def test_what_names_no_task_goes_to_quarantine(tmp_path: Path, body: Any) -> None:
    async with journey(tmp_path, callback_inbox_token=TOKEN) as running:
        answer = await report(running, body)

        assert (answer.status_code, answer.json()["result"]) == (200, "quarantined")
        assert len((await running.get("/v1/quarantine"))["data"]) == 1


async def test_the_inbox_is_shut_without_its_secret(tmp_path: Path) -> None:
    async with journey(tmp_path, callback_inbox_token=TOKEN) as running:
        assert (await report(running, {"taskId": UNKNOWN}, token="x" * 35)).status_code == 404
    async with journey(tmp_path) as running:
        assert (await report(running, {"taskId": UNKNOWN})).status_code == 404


async def test_a_task_of_the_relays_own_is_not_adopted_a_second_time(tmp_path: Path) -> None:
    async with journey(tmp_path, callback_inbox_token=TOKEN) as running:
        job = await running.ended((await running.submit())["id"])

        answer = await report(running, {"taskId": job["upstreamTaskId"], "status": "FAILED"})

        assert answer.json()["result"] == "stored"
        assert (await running.job(job["id"]))["state"] == "succeeded"
        assert len((await running.get("/v1/jobs"))["data"]) == 1
