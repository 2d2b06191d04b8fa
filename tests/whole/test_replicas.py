"""Several relays on one PostgreSQL: whichever is asked, and whichever dies, it is one relay to those outside."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.clock import ManualClock
from tests.cli.test_commands import at
from tests.cli.test_commands import relay as command
from tests.journeys import EXAMPLE, Journey, Surroundings, eventually, surroundings, while_time_passes
from tests.postgres import MISSING, Cluster, cluster, programs
from tests.wire import stream

pytestmark = pytest.mark.anyio

SECRET_KEY = "A" * 43
LONG_S = (10.0, 50.0)
TOKENS: dict[str, str] = {"RELAY_UPSTREAM_TOKEN": "t", "RELAY_ADMIN_TOKEN": "a" * 24}


@asynccontextmanager
async def relay_on(around: Surroundings, url: str, clock: ManualClock | None = None) -> AsyncGenerator[Journey]:
    settings: dict[str, Any] = {"database_url": url, "secret_key": SECRET_KEY}
    async with around.relay(clock=clock, **settings) as here:
        yield here


async def test_a_job_goes_its_whole_way_on_postgresql(tmp_path: Path, postgres: Cluster) -> None:
    url = await postgres.database(str(tmp_path))
    async with surroundings(tmp_path) as around, relay_on(around, url) as here:
        await here.subscribe()
        made = await here.submit(replyRef="order-7")
        job = await here.ended(made["id"])
        [told] = await here.subscriber.wait_for(1)
        events = (await here.get(f"/v1/jobs/{made['id']}/events"))["data"]
        listed = (await here.get("/v1/jobs?replyRef=order-7"))["data"]

    assert (job["state"], told["type"], told["id"]) == ("succeeded", "job.succeeded", events[-1]["id"])
    assert [row["id"] for row in listed] == [made["id"]]
    assert (events[0]["type"], around.vendor.submits) == ("job.queued", 1)


async def test_what_one_relay_takes_another_one_tells_and_a_third_goes_on_with(
    tmp_path: Path, postgres: Cluster
) -> None:
    url, clock = await postgres.database(str(tmp_path)), ManualClock()
    async with (
        surroundings(tmp_path, sandbox_clock=clock, times_s=LONG_S) as around,
        relay_on(around, url, clock) as leader,
        relay_on(around, url, clock) as other,
        relay_on(around, url, clock) as third,
    ):
        made = await other.submit()
        running = await other.job_in(made["id"], "running")
        seen = await leader.job(made["id"])
        ended = await while_time_passes(clock, third.ended(made["id"]))

    assert running["id"] == seen["id"]
    assert (ended["state"], around.vendor.submits) == ("succeeded", 1)


async def test_after_a_failover_nothing_is_sent_before_the_upstream_was_searched(
    tmp_path: Path, postgres: Cluster
) -> None:
    url = await postgres.database(str(tmp_path))
    env = {"RELAY_DATABASE_URL": url, "RELAY_SECRET_KEY": SECRET_KEY} | TOKENS
    async with surroundings(tmp_path) as around:
        async with relay_on(around, url) as here:
            await here.ended((await here.submit())["id"])
            epoch = here.node.app.state.store.epoch
            while_it_runs = await command("restore", "--after-failover", env=env, folder=tmp_path)
        code, out, err = await command("restore", "--after-failover", env=env, folder=tmp_path)
        file = await command("restore", "copy.db", env=env, folder=tmp_path)
        async with relay_on(around, url) as here:
            waiting = await here.submit()
            held = await here.until(lambda: here.get("/readyz"), lambda ready: bool(ready["hold"]["searchedAt"]))
            seen = await here.job(waiting["id"])
            code_of_resume, _, _ = await command("resume", env=at(here))
            ended = await here.ended(waiting["id"])
            events = (await here.get(f"/v1/jobs/{waiting['id']}/events"))["data"]

    assert (while_it_runs[0], "a relay runs on this database" in while_it_runs[2]) == (1, True)
    assert (code, "Submitting is held" in out) == (0, True), err
    assert (file[0], "with its own tools" in file[2]) == (1, True)
    assert "failed over" in held["hold"]["reason"]
    assert (seen["state"], code_of_resume, ended["state"]) == ("queued", 0, "succeeded")
    assert not events[0]["id"].startswith(epoch)


async def test_a_relay_that_leads_and_cannot_begin_tries_again(
    tmp_path: Path, postgres: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    url = await postgres.database(str(tmp_path))
    async with surroundings(tmp_path) as around:
        async with relay_on(around, url):
            pass
        # As while somebody restores it table by table.
        await executed(url, "ALTER TABLE holds RENAME TO holds_away")
        async with relay_on(around, url) as here:
            await eventually(lambda: "crew.not_started" in capsys.readouterr().out)
            await executed(url, "ALTER TABLE holds_away RENAME TO holds")
            ended = await here.ended((await here.submit())["id"])

    assert ended["state"] == "succeeded"


async def executed(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


@pytest.mark.skipif(programs() is None, reason=MISSING)
async def test_while_the_database_is_away_nothing_is_cut_and_all_goes_on_by_itself(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with cluster() as own:
        async with surroundings(tmp_path) as around, relay_on(around, own.url()) as here:
            await here.ended((await here.submit())["id"])
            async with stream(here.relay_url, "/v1/events") as open_meanwhile:
                opened = await open_meanwhile.event()
                assert opened is not None
                await loop.run_in_executor(None, own.stop)
                refused = await here.client.post("/v1/jobs", json=EXAMPLE)
                ready = await here.client.get("/readyz")
                await loop.run_in_executor(None, own.start)
                made = (await here.submit())["id"]
                told = await open_meanwhile.events(until=lambda frame: frame.event == "job.queued")
            if told[-1].event == "stream.bye":
                async with stream(here.relay_url, f"/v1/events?last_event_id={told[-1].data['resume']}") as again:
                    told = await again.events(until=lambda frame: frame.event == "job.queued")
            ended = await here.ended(made)

    assert (refused.status_code, ready.status_code) == (503, 503)
    assert "retry-after" in refused.headers
    assert (told[-1].event, told[-1].data["data"]["job"]["id"]) == ("job.queued", made)
    assert (ended["state"], around.vendor.submits) == ("succeeded", 2)
