"""Several relays on one PostgreSQL: whichever is asked, and whichever dies, it is one relay to those outside."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.clock import ManualClock
from relay.core.breaker import AT_ONCE_EACH
from relay.core.event import JOB_TYPES
from relay.store import postgres as engine
from relay.store.postgres import PostgresStore
from tests.chaos.partition import way_to
from tests.chaos.watcher import Watcher
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
async def relay_on(
    around: Surroundings, url: str, clock: ManualClock | None = None, **more: Any
) -> AsyncGenerator[Journey]:
    settings: dict[str, Any] = {"database_url": url, "secret_key": SECRET_KEY, **more}
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


@pytest.mark.parametrize("shared_out", [True, False], ids=["places shared out", "all after the same"])
async def test_whoever_sends_of_three_a_job_has_its_order_and_a_subscriber_its_limit(
    tmp_path: Path, postgres: Cluster, monkeypatch: pytest.MonkeyPatch, shared_out: bool
) -> None:
    if not shared_out:  # as for a moment when a relay comes or goes
        monkeypatch.setattr(PostgresStore, "own", "TRUE")
    url, watcher = await postgres.database(str(tmp_path)), Watcher()
    async with surroundings(tmp_path) as around, watcher.serving(), AsyncExitStack() as stack:
        allowed = f"{around.sandbox_url.removeprefix('http://')},127.0.0.1:{watcher.port}"
        relays = [await stack.enter_async_context(relay_on(around, url, allow_targets=allowed)) for _ in range(3)]
        stack.callback(watcher.open.set)
        await eventually(lambda: all(here.node.app.state.store.share["relays"] == 3 for here in relays))
        for n in range(3):
            await relays[n].subscribe(url=f"http://127.0.0.1:{watcher.port}/{n}", types=list(JOB_TYPES))
        jobs = [(await relays[n % 3].submit())["id"] for n in range(AT_ONCE_EACH + 2)]
        for n in range(3):
            await watcher.until_under_way(f"/{n}", AT_ONCE_EACH)
        for here in relays:
            await next(worker for worker in here.node.workers if worker.name == "deliverer").step()
        full = dict(watcher.most)
        watcher.open.set()
        ends = {(await relays[0].ended(job))["state"] for job in jobs}
        await relays[0].until(
            lambda: relays[0].get("/v1/deliveries?state=due&state=sending"), lambda left: not left["data"]
        )

    assert (ends, watcher.wrong, watcher.most) == ({"succeeded"}, [], full)
    assert set(watcher.got.values()) == {1}
    assert len(watcher.order) == 3 * len(jobs)


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


async def test_whoever_takes_over_asks_at_once_about_everything_that_runs(tmp_path: Path, postgres: Cluster) -> None:
    url, clock, upstreams = await postgres.database(str(tmp_path)), ManualClock(), ManualClock()
    async with (
        surroundings(tmp_path, sandbox_clock=upstreams, times_s=LONG_S) as around,
        AsyncExitStack() as first,
    ):
        leader = await first.enter_async_context(relay_on(around, url, clock, callbacks=False))
        async with relay_on(around, url, clock, callbacks=False) as other:
            made = await leader.submit()
            await other.job_in(made["id"], "running")
            upstreams.advance(2 * sum(LONG_S))
            await first.aclose()
            ended = await other.ended(made["id"])

    assert ended["state"] == "succeeded"


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


@pytest.mark.skipif(programs() is None, reason=MISSING)
async def test_a_relay_that_is_cut_off_refuses_and_keeps_its_streams_while_another_one_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SILENT_S", 4.0)
    monkeypatch.setattr(engine, "IDLE_S", 5)
    with cluster() as own:
        async with (
            surroundings(tmp_path) as around,
            way_to(own) as way,
            relay_on(around, way.through(own.url())) as leader,
            relay_on(around, own.url()) as other,
        ):
            await leader.ended((await leader.submit())["id"])
            async with stream(leader.relay_url, "/v1/events?since=earliest") as open_meanwhile:
                before = await open_meanwhile.events(until=lambda frame: frame.event == "job.succeeded")
                way.whole.clear()
                refused = await leader.client.post("/v1/jobs", json=EXAMPLE)
                callback = await leader.client.post("/callbacks/nobody-knows-this-one", json={})
                ready = await leader.client.get("/readyz")
                meanwhile = await other.ended((await other.submit())["id"])
                way.whole.set()
                after = await open_meanwhile.events(until=lambda frame: frame.event == "job.succeeded")
            await eventually(lambda: not leader.node.app.state.store.silent)
            ended = await leader.ended((await leader.submit())["id"])
            events = (await other.get("/v1/events?since=earliest"))["data"]

    assert [(answer.status_code, "retry-after" in answer.headers) for answer in (refused, callback, ready)] == [
        (503, True)
    ] * 3
    assert (meanwhile["state"], ended["state"], around.vendor.submits) == ("succeeded", "succeeded", 3)
    told = [frame.id for frame in (*before, *after) if frame.event in JOB_TYPES]
    assert told == [event["id"] for event in events][: len(told)]
    assert after[-1].data["data"]["job"]["id"] == meanwhile["id"]
