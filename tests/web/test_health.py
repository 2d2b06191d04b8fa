"""Health tells whether the process answers and the store can be written, and strangers only counts."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from relay.clock import ManualClock
from relay.web.health import WRITE_CHECK_EVERY_S
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


async def test_however_many_strangers_ask_there_is_one_write_a_second_and_a_full_disk_shows_within_it(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, sandbox_clock=clock) as here:
        store = here.node.app.state.store

        async def ask_often() -> set[int]:
            at_once = await asyncio.gather(*(here.client.get("/readyz") for _ in range(20)))
            return {answer.status_code for answer in (*at_once, await here.client.get("/readyz"))}

        async def written() -> int:
            return int((await store._fetch_rows("SELECT value FROM meta WHERE name = 'touched'", {}))[0]["value"])

        statuses, once = await ask_often(), await written()
        clock.advance(WRITE_CHECK_EVERY_S)
        statuses |= await ask_often()
        twice = await written()
        await store._in_thread(lambda: store._file._sql.execute("PRAGMA query_only = ON"))
        clock.advance(WRITE_CHECK_EVERY_S)
        full = await ask_often()
        await store._in_thread(lambda: store._file._sql.execute("PRAGMA query_only = OFF"))
        healed = await here.client.get("/readyz")

    assert (statuses, once, twice) == ({200}, 1, 2)
    assert (full, healed.status_code) == ({503}, 200)
