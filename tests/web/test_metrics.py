"""What the relay counts is what took place, for whoever may know, under labels that stay few."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.core.accounts import AccountsListed, SeenAccount
from relay.errors import Unavailable
from relay.web.metrics import ACCOUNTS_SHOWN, KEPT_S, OTHERS
from tests.journeys import EXAMPLE, Journey, journey, surroundings
from tests.whole.processes import environment as environment_of
from tests.whole.processes import free_port, serving, started

pytestmark = pytest.mark.anyio

JOBS = 3


async def counted(client: httpx2.AsyncClient, path: str = "/metrics") -> dict[str, float]:
    """Every sample by its name and labels, as they are written."""
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return dict(samples(answer.text))


def samples(text: str) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            yield (f"{sample.name}{{{labels}}}" if labels else sample.name), sample.value


async def settled(here: Journey, name: str, value: float) -> dict[str, float]:
    """The samples, once one has come to its value; looked at anew whenever the kept ones have become old."""
    async with asyncio.timeout(30):
        while (found := await counted(here.client)).get(name) != value:
            await here.node.clock.sleep(KEPT_S / 4)
    return found


async def test_a_few_jobs_are_counted_where_they_came_through(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        await here.subscribe()
        await here.subscribe(types=["job.failed"], url=here.subscriber.url.replace("/hook", "/nowhere"))
        for _ in range(JOBS):
            await here.ended((await here.submit())["id"])
        await here.client.post("/callbacks/" + "a" * 32, json={})
        await settled(here, "relay_deliveries_total{outcome=delivered}", JOBS)
        found = await settled(here, "relay_deliveries_owed", 0)

        sent = here.vendor.state(here.node.clock.now_ms())["callbacks"]
        callbacks = len([one for one in sent if one["status"] == 200])
        assert found["relay_events_total{type=job.succeeded}"] == JOBS
        assert found["relay_events_total{type=job.failed}"] == 0
        assert found["relay_upstream_requests_total{kind=create,outcome=2xx}"] == JOBS
        assert found["relay_upstream_requests_total{kind=task,outcome=2xx}"] >= JOBS
        assert found["relay_upstream_requests_total{kind=create,outcome=429}"] == 0
        assert found["relay_callbacks_total{outcome=stored}"] == callbacks > 0
        assert found["relay_callbacks_total{outcome=not_found}"] == 1
        assert found["relay_delivery_attempts_total{answer=2xx}"] == JOBS
        assert found["relay_delivery_attempt_seconds_count"] == JOBS
        assert found["relay_commit_happenings_sum"] >= found["relay_commit_happenings_count"] > callbacks / 10
        assert found["relay_account_slots{account=sandbox@example.com}"] == 2
        assert found["relay_account_slots_used{account=sandbox@example.com}"] == 0
        assert found["relay_subscriptions{state=active}"] == 2
        assert found["relay_deliveries_owed"] == found["relay_delivery_oldest_owed_seconds"] == 0
        assert found["relay_database_bytes"] >= here.settings.database_path.stat().st_size > 0


async def test_what_waits_runs_and_is_owed_is_seen(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"never_ends": True}) as here:
        here.subscriber.open.clear()
        await here.subscribe(types=["job.queued"])
        jobs = [await here.submit() for _ in range(3)]
        for job in jobs[:2]:
            await here.job_in(job["id"], "running")
        async with here.client.stream("GET", "/v1/events", headers={"Accept": "text/event-stream"}) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            found = await settled(here, "relay_deliveries_owed", 3)

        assert found["relay_jobs{state=running}"] == found["relay_account_slots_used{account=sandbox@example.com}"] == 2
        assert found["relay_jobs{state=queued}"] == found["relay_streams_open"] == 1
        assert found["relay_delivery_oldest_owed_seconds"] > 0
        here.subscriber.open.set()


async def test_no_room_at_the_upstream_is_a_429_of_a_create(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"busy": True}) as here:
        await here.submit()
        await settled(here, "relay_upstream_requests_total{kind=create,outcome=429}", 1)


async def test_only_a_token_that_reads_sees_the_metrics(here: Journey) -> None:
    made = await here.client.post("/v1/tokens", json={"name": "submitter", "scopes": ["submit"]})
    async with httpx2.AsyncClient(base_url=here.relay_url, trust_env=False) as stranger:
        nobody = await stranger.get("/metrics")
        submitter = await stranger.get("/metrics", headers={"Authorization": f"Bearer {made.json()['token']}"})

    assert (nobody.status_code, submitter.status_code) == (401, 403)


async def test_no_label_names_a_job_and_few_series_come_of_many_jobs(here: Journey) -> None:
    before = len(await counted(here.client))
    jobs = [await here.submit(replyRef=f"order-{n}") for n in range(4)]
    for job in jobs:
        await here.ended(job["id"])
    await here.node.clock.sleep(KEPT_S)
    text = (await here.client.get("/metrics")).text

    assert not any(job["id"] in text for job in jobs)
    assert "order-" not in text
    assert len(dict(samples(text))) <= before + 10


async def test_more_accounts_than_can_be_shown_are_shown_together(tmp_path: Path) -> None:
    async with journey(tmp_path, accounts="a@example.com=1") as here:
        many = tuple(SeenAccount(f"me{n:03d}@example.com", 2) for n in range(ACCOUNTS_SHOWN + 7))
        await here.node.app.state.store.apply(AccountsListed(many, here.node.clock.now_ms()))
        found = await settled(here, f"relay_account_slots{{account={OTHERS}}}", 16)

        assert len([name for name in found if name.startswith("relay_account_slots{")]) == ACCOUNTS_SHOWN + 1


async def test_the_store_is_looked_into_once_for_all_who_ask_at_once(here: Journey) -> None:
    store, looks = here.node.app.state.store, 0
    totals = store.totals

    async def looked(owed_max: int) -> object:
        nonlocal looks
        looks += 1
        return await totals(owed_max)

    store.totals = looked
    await here.node.clock.sleep(KEPT_S)
    await asyncio.gather(*(here.client.get("/metrics") for _ in range(20)))
    del store.totals

    assert looks == 1


async def test_a_store_that_cannot_be_read_is_a_503_and_the_next_look_is_another(here: Journey) -> None:
    async def unreadable(owed_max: int) -> object:
        raise Unavailable("the database cannot be read", retry_after_s=2)

    store = here.node.app.state.store
    store.totals = unreadable
    await here.node.clock.sleep(KEPT_S)
    unready = await here.client.get("/metrics")
    del store.totals

    assert (unready.status_code, unready.headers["retry-after"]) == (503, "2")
    assert await counted(here.client)


async def test_a_port_of_its_own_shows_metrics_to_whoever_reaches_it_and_nothing_else(tmp_path: Path) -> None:
    port = free_port()
    async with (
        journey(tmp_path, metrics_port=port) as here,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as stranger,
    ):
        await here.ended((await here.submit())["id"])
        found = await counted(stranger)
        others = [(await stranger.get(path)).status_code for path in ("/", "/v1/jobs", "/healthz", "/readyz")]

        assert found["relay_events_total{type=job.queued}"] == 1
        assert others == [404] * 4
        assert (await stranger.post("/metrics")).status_code == 405


async def test_a_port_that_is_taken_is_refused_in_words(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        taken = int(around.sandbox_url.rsplit(":", 1)[1])
        process = await started(around, environment_of(around, free_port(), metrics_port=taken))
        _, said = await process.communicate()

    assert process.returncode != 0
    assert f"RELAY_METRICS_PORT: cannot listen on 127.0.0.1:{taken}" in said.decode()
    assert "Traceback" not in said.decode()


async def test_an_outcome_is_a_line_with_the_ids_of_job_and_request(tmp_path: Path) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with surroundings(tmp_path) as around, serving(around, free_port()) as relay:
        good = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
        answer = await relay.client.post("/v1/jobs", json=EXAMPLE, headers=good)
        job_id = answer.json()["id"]
        await relay.told(job_id, "job.succeeded")
        again = await relay.client.post(f"/v1/jobs/{answer.json()['taskId']}/retry", headers=good)
        ids = [(await relay.client.get("/healthz", headers=headers)).headers["x-request-id"] for headers in BAD]
        await relay.stopped(by=15)  # type: ignore[arg-type] # SIGTERM
        lines = "".join(relay.lines)

    assert answer.headers["x-request-id"] == trace_id
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) and one != trace_id for one in ids)
    assert len(set(ids)) == len(ids)
    accepted, refused = [line for line in relay.lines if '"request.done"' in line]
    assert again.status_code == 409
    assert all(said in refused for said in (job_id, trace_id, '"door": "/v1/jobs/{id}/retry"', '"status": 409'))
    for said in (job_id, trace_id, '"door": "/v1/jobs"', '"status": 202', '"by": "admin"'):
        assert said in accepted
    assert len([line for line in relay.lines if '"job.succeeded"' in line and job_id in line]) == 1
    assert "@" not in lines
    assert "/callbacks/" not in lines


async def test_a_mistake_of_ours_is_answered_with_the_id_that_its_log_line_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with journey(tmp_path) as here:

        async def broken() -> object:
            raise ZeroDivisionError("a defect")

        here.node.app.state.store.accounts = broken
        answer = await here.client.get("/v1/accounts")
        del here.node.app.state.store.accounts

    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "request.failed" in line]
    assert answer.headers["x-request-id"] in line


BAD = [
    {},
    {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736"},
    {"traceparent": "00-00000000000000000000000000000000-00f067aa0ba902b7-01"},
    {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"},
    {"traceparent": "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
    {"traceparent": "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"},
]
