"""What became of deliveries is seen, one is tried again, many are replayed: each once, under its own id."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from relay.clock import ManualClock
from relay.core import replaying
from relay.core.breaker import FIRST_WAIT_MS, OPENS_AFTER
from relay.core.retry import SCHEDULE_S, SPREAD
from tests.journeys import Journey, journey
from tests.web.test_subscription_doors import post
from tests.web.test_subscriptions import deliveries

pytestmark = pytest.mark.anyio


async def replayed(here: Journey, chosen: dict[str, Any]) -> dict[str, Any]:
    begun = await post(here, "/v1/deliveries/replay", {"filter": chosen, "dryRun": False}, 202)
    return await here.until(lambda: here.get(f"/v1/replays/{begun['id']}"), lambda found: found["state"] == "done")


def ids(here: Journey) -> Counter[str]:
    return Counter(headers["webhook-id"] for headers, _ in here.subscriber.got)


async def several(here: Journey, count: int) -> None:
    """So many jobs, their ends delivered."""
    for job in [await here.submit() for _ in range(count)]:
        await here.ended(job["id"])
    await here.until(lambda: deliveries(here, "&state=delivered"), lambda rows: len(rows) == count)


async def test_every_attempt_is_shown_with_its_times_and_no_address(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        await here.subscribe(url=f"{here.subscriber.url}?key=my-own-key")
        here.subscriber.answers = [418]
        await here.ended((await here.submit())["id"])
        (row,) = await here.until(lambda: deliveries(here), lambda rows: rows[:1] != [] and bool(rows[0]["answers"]))
        one = await here.client.get(f"/v1/deliveries/{row['id']}")

    assert one.json() == row
    (answer,) = row["answers"]
    assert answer.keys() == {"at", "kind", "status", "detail", "excerpt", "tookMs", "phasesMs"}
    assert (answer["kind"], answer["status"]) == ("answered", 418)
    assert row["url"].endswith("/…-key")
    assert "my-own" not in one.text


async def test_a_delivery_that_arrived_is_sent_again_under_its_own_id(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        await here.subscribe()
        await several(here, 1)
        (row,) = await deliveries(here)
        again = await post(here, f"/v1/deliveries/{row['id']}/retry", status=202)
        await here.subscriber.wait_for(2)
        (after,) = await here.until(lambda: deliveries(here), lambda rows: rows[0]["state"] == "delivered")

    assert (again["id"], again["state"]) in {(row["id"], "due"), (row["id"], "sending"), (row["id"], "delivered")}
    assert ids(here) == {row["event"]: 2}
    assert len({headers["webhook-signature"] for headers, _ in here.subscriber.got}) in (1, 2)
    assert len(after["answers"]) == 2


async def test_a_delivery_that_waits_is_sent_now_though_the_breaker_is_open(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock) as here:
        made = await here.subscribe()
        here.subscriber.answers = [500] * OPENS_AFTER
        for job in [await here.submit() for _ in range(OPENS_AFTER)]:
            await here.ended(job["id"])
        rows = await here.until(lambda: deliveries(here), lambda rows: all_failed_once(rows, OPENS_AFTER))
        failing = await here.get(f"/v1/subscriptions/{made['id']}")
        await post(here, f"/v1/deliveries/{rows[0]['id']}/retry", status=202)
        await here.until(lambda: deliveries(here, "&state=delivered"), lambda found: len(found) == 1)
        closed = await here.get(f"/v1/subscriptions/{made['id']}")

    assert (failing["state"], failing["failures"], failing["owed"]) == ("active", OPENS_AFTER, OPENS_AFTER)
    assert None not in (failing["failingSince"], failing["triedAgainAt"])
    assert (closed["failures"], closed["failingSince"], closed["triedAgainAt"]) == (0, None, None)


def all_failed_once(rows: list[dict[str, Any]], count: int) -> bool:
    return len(rows) == count and all(row["attempts"] == 1 and row["state"] == "due" for row in rows)


async def test_an_open_breaker_tries_one_and_then_all(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock) as here:
        await here.subscribe()
        here.subscriber.answers = [500] * OPENS_AFTER
        jobs = [await here.submit() for _ in range(OPENS_AFTER)]
        for job in jobs:
            await here.ended(job["id"])
        await here.until(lambda: deliveries(here), lambda rows: all_failed_once(rows, OPENS_AFTER))
        late = await here.ended((await here.submit())["id"])
        row = (await deliveries(here, f"&job={late['id']}"))[0]
        assert (row["state"], row["attempts"], len(here.subscriber.got)) == ("due", 0, OPENS_AFTER)
        here.subscriber.open.clear()
        clock.advance(FIRST_WAIT_MS / 1000 + SCHEDULE_S[1] * SPREAD + 1)
        await here.subscriber.wait_for(OPENS_AFTER + 1)
        sending = await deliveries(here, "&state=sending")
        here.subscriber.open.set()
        await here.until(lambda: deliveries(here, "&state=delivered"), lambda rows: len(rows) == OPENS_AFTER + 1)

    assert [one["id"] for one in sending] == [row["id"]]
    assert len(here.subscriber.got) == 2 * OPENS_AFTER + 1


async def test_a_replay_is_shown_before_it_is_done(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe()
        await several(here, 3)
        chosen = {"state": "delivered", "subscription": made["id"]}
        preview = await post(here, "/v1/deliveries/replay", {"filter": chosen})
        nothing = [
            await post(here, "/v1/deliveries/replay", {"filter": chosen | more})
            for more in (
                {"state": "dead"},
                {"subscription": "another"},
                {"type": "job.failed"},
                {"until": "2020-01-01T00:00:00Z"},
                {"since": "2100-01-01"},
            )
        ]
        assert len(here.subscriber.got) == 3
        done = await replayed(here, chosen)
        await here.subscriber.wait_for(6)

    assert (preview["dryRun"], preview["count"], len(preview["sample"])) == (True, 3, 3)
    assert [found["count"] for found in nothing] == [0] * 5
    assert (done["total"], done["requeued"], done["skipped"]) == (3, 3, 0)
    assert set(ids(here).values()) == {2}


async def test_a_replay_in_many_batches_takes_each_once_and_goes_on_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "BATCH", 2)
    monkeypatch.setattr("relay.store.statements.BATCH", 2)
    async with journey(tmp_path) as here:
        await here.subscribe(types=["job.queued", "job.submitted", "job.progress", "job.succeeded"])
        for job in [await here.submit() for _ in range(4)]:
            await here.ended(job["id"])
        await here.until(lambda: deliveries(here, "&state=delivered"), lambda rows: ends(rows) == 4)
        once = ids(here)
        order = [headers["webhook-id"] for headers, _ in here.subscriber.got]
        worker = next(worker for worker in here.node.workers if worker.name == "replayer")
        await worker.stop()
        begun = await post(
            here, "/v1/deliveries/replay", {"filter": {"state": ["delivered", "superseded"]}, "dryRun": False}, 202
        )
        await worker.step()
        half = await here.get(f"/v1/replays/{begun['id']}")
        worker._stopping = False
        worker.start()
        done = await here.until(lambda: here.get(f"/v1/replays/{begun['id']}"), lambda found: found["state"] == "done")
        await here.subscriber.wait_for(len(order) + done["requeued"])
        again = [headers["webhook-id"] for headers, _ in here.subscriber.got[len(order) :]]
        kinds = {row["event"]: (row["type"], row["job"]) for row in await deliveries(here)}

    assert (half["state"], half["requeued"], begun["total"]) == ("running", 2, 12)
    assert (done["requeued"], done["skipped"]) == (12, 0)
    assert all(count == 1 for count in Counter(again).values())
    assert {kinds[one][0] for one in again} == {"job.queued", "job.submitted", "job.succeeded"}
    assert not {one for one in again if kinds[one][0] == "job.progress"}
    for job in {job for _, job in kinds.values()}:
        assert [one for one in again if kinds[one][1] == job] == sorted(
            (one for one in again if kinds[one][1] == job), key=lambda one: int(one.rpartition("-")[2])
        )
    assert once


def ends(rows: list[dict[str, Any]]) -> int:
    return sum(row["type"] == "job.succeeded" for row in rows)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"filter": {"state": "due"}}, "filter.state"),
        ({"filter": {"type": "job.progress"}}, "filter.type"),
        ({"filter": {"since": "yesterday"}}, "filter.since"),
        ({"filter": {"job": "x"}}, "filter.job"),
        ({"dryRun": True}, "filter"),
        ({"filter": {}, "dryRun": "no"}, "dryRun"),
    ],
)
async def test_a_wrong_replay_names_its_field(here: Journey, wrong: dict[str, Any], field: str) -> None:
    answer = await post(here, "/v1/deliveries/replay", wrong, 400)
    assert answer["problems"][0]["field"] == field


async def test_what_is_not_there_is_a_404(here: Journey) -> None:
    for method, path in (("GET", "deliveries/x"), ("POST", "deliveries/x/retry"), ("GET", "replays/x")):
        assert (await here.client.request(method, f"/v1/{path}")).status_code == 404


async def test_a_subscriber_that_was_down_for_a_day_gets_one_end_a_job_and_no_stale_progress(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock) as here:
        made = await here.subscribe(types=["job.queued", "job.submitted", "job.progress", "job.succeeded"])
        here.subscriber.answers = [503] * 1_000
        jobs = [await here.ended((await here.submit())["id"]) for _ in range(3)]
        for _ in range(24 * 4):
            clock.advance(15 * 60)
            await settled(here)
        assert (await here.get(f"/v1/subscriptions/{made['id']}"))["state"] == "active"
        down = len(here.subscriber.got)
        here.subscriber.answers = []
        for _ in range(30 * 4):
            clock.advance(15 * 60)
            await settled(here)
        rows = await deliveries(here)
        got = [(type_of(body), headers["webhook-id"]) for headers, body in here.subscriber.got[down:]]

    assert sorted(kind for kind, _ in got) == ["job.succeeded"] * len(jobs)
    assert {row["state"] for row in rows} == {"delivered", "superseded"}
    assert ends([row for row in rows if row["state"] == "delivered"]) == len(jobs)


async def test_days_of_nothing_but_failures_pause_and_tell_and_nothing_is_lost(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock) as here:
        made = await here.subscribe()
        here.subscriber.answers = [503] * 1_000
        for _ in range(7):
            await here.ended((await here.submit())["id"])
            await settled(here)
            for _ in range(6):
                clock.advance(4 * 3_600)
                await settled(here)
        paused = await here.get(f"/v1/subscriptions/{made['id']}")
        told = (await here.get("/v1/events?since=earliest&limit=200&type=subscription.paused"))["data"]
        tried = len(here.subscriber.got)
        clock.advance(24 * 3_600)
        await here.ended((await here.submit())["id"])
        await settled(here)
        assert len(here.subscriber.got) == tried
        before = {row["id"]: row["state"] for row in await deliveries(here)}
        here.subscriber.answers = []
        await post(here, f"/v1/subscriptions/{made['id']}/enable")
        for _ in range(2 * 6):
            await settled(here)
            clock.advance(4 * 3_600)
        await settled(here)
        after = {row["id"]: row["state"] for row in await deliveries(here)}

    assert paused["state"] == "paused"
    assert "503" in paused["reason"]
    assert [event["data"]["subject"] for event in told] == [made["id"]]
    # The oldest may have used up their ten attempts before the five days were over: dead letters, and they stay so.
    assert len(before) == 8
    assert list(before.values()).count("held") > 4
    assert after == {id_: {"held": "delivered"}.get(state, "dead") for id_, state in before.items()}


def type_of(body: bytes) -> str:
    return str(json.loads(body)["type"])


async def settled(here: Journey) -> None:
    """Once nothing that may go now is left, and nothing is on its way."""
    store = here.node.app.state.store

    async def left() -> list[Any]:
        return [
            *await store.deliveries_due(here.node.clock.now_ms(), 1, 1),
            *await store.deliveries_sending(None, 1),
        ]

    await here.until(left, lambda found: not found)
