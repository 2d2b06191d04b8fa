"""Health tells whether the process answers and the store can be written, and strangers only counts."""

from pathlib import Path

import httpx2
import pytest

from tests.journeys import Journey, journey

pytestmark = pytest.mark.anyio


async def test_a_stranger_sees_counts_and_no_account(here: Journey) -> None:
    await here.client.get("/v1/accounts")
    async with httpx2.AsyncClient(base_url=here.relay_url, trust_env=False) as stranger:
        alive = await stranger.get("/healthz")
        ready = await stranger.get("/readyz")
        mistaken = await stranger.get("/readyz", headers={"Authorization": "Bearer wrong"})

    assert alive.json() == {"status": "ok"}
    assert ready.status_code == mistaken.status_code == 200
    assert ready.json().keys() == mistaken.json().keys() == {"status", "jobs"}
    assert "@" not in ready.text


async def test_a_reader_sees_the_accounts(here: Journey) -> None:
    await here.until(lambda: here.get("/v1/accounts"), lambda listed: listed["data"] != [])

    ready = await here.get("/readyz")

    assert ready["accounts"] == [{"email": "sandbox@example.com", "slots": 2, "parked": None}]


async def test_jobs_that_have_not_ended_are_counted(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"never_ends": True}) as here:
        jobs = [await here.submit() for _ in range(3)]
        for job in jobs[:2]:
            await here.job_in(job["id"], "running")

        assert (await here.get("/readyz"))["jobs"] == {"queued": 1, "running": 2}


async def test_a_store_that_cannot_be_written_is_not_ready_and_comes_back_by_itself(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        store = here.node.app.state.store
        await store._in_thread(lambda: store._file._sql.execute("PRAGMA query_only = ON"))
        unready = await here.client.get("/readyz")
        refused = await here.client.post("/v1/jobs", json={"model": "gen4.5", "text_prompt": "a hill"})
        called_back = await here.client.post("/callbacks/" + "a" * 32, content=b"{}")
        alive = await here.client.get("/healthz")
        await store._in_thread(lambda: store._file._sql.execute("PRAGMA query_only = OFF"))
        job = await here.submit()

        assert (await here.ended(job["id"]))["state"] == "succeeded"
    assert unready.status_code == refused.status_code == called_back.status_code == 503
    assert unready.headers["retry-after"] == "5"
    assert refused.json()["code"] == "unavailable"
    assert alive.status_code == 200
