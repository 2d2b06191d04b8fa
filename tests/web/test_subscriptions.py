"""Subscriptions and what is delivered to them, as the subscriber sees it."""

import asyncio
import base64
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from relay.clock import ManualClock
from relay.core.breaker import AT_ONCE_EACH
from relay.core.retry import SCHEDULE_S, SPREAD
from relay.web import subscriptions
from tests.journeys import Journey, eventually, journey, surroundings
from tests.net.peers import read_request, serving

pytestmark = pytest.mark.anyio

VIEW = {
    "id", "url", "types", "models", "replyRef", "format", "description", "state", "reason", "owed", "failures",
    "failingSince", "triedAgainAt", "createdAt", "updatedAt",
}  # fmt: skip
OWN_SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


async def deliveries(here: Journey, query: str = "") -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = (await here.get(f"/v1/deliveries?limit=200{query}"))["data"]
    return data


async def test_a_webhook_is_verified_by_the_official_library(here: Journey) -> None:
    made = await here.subscribe()
    before = len(here.subscriber.got)
    job = await here.ended((await here.submit())["id"])
    await here.subscriber.wait_for(before + 1)
    headers, body = here.subscriber.got[before]

    event = Webhook(made["secret"]).verify(body, headers)
    assert event == json.loads(body)
    assert event.keys() == {"id", "type", "timestamp", "data"}
    assert (event["type"], event["data"]["job"]["id"]) == ("job.succeeded", job["id"])
    assert headers["webhook-id"] == event["id"]
    assert headers["content-type"] == "application/json"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert not {"request", "task", "replyUrl"} & event["data"]["job"].keys()
    await here.client.delete(f"/v1/subscriptions/{made['id']}")


async def test_the_secret_is_shown_once_and_never_again(here: Journey) -> None:
    answer = await here.client.post("/v1/subscriptions", json={"url": f"{here.subscriber.url}?key=my-own-key"})
    made = answer.json()
    again = await here.client.get(answer.headers["location"])
    listed = await here.client.get("/v1/subscriptions")

    assert answer.status_code == 201
    assert made.keys() == VIEW | {"secret"}
    assert len(base64.b64decode(made["secret"].removeprefix("whsec_"))) == 32
    assert again.json().keys() == VIEW
    for text in (again.text, listed.text):
        assert made["secret"] not in text
        assert "my-own" not in text
        assert "/hook" not in text
    assert made["url"] == here.subscriber.url.removesuffix("/hook") + "/…-key"
    await here.client.delete(f"/v1/subscriptions/{made['id']}")


async def test_address_and_secret_are_sealed_at_rest(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        await here.subscribe(url=f"{here.subscriber.url}?key=my-own-key", secret=OWN_SECRET)
        await here.ended((await here.submit())["id"])
        await here.subscriber.wait_for(1)
        at_rest = b"".join(path.read_bytes() for path in database_files(tmp_path))
        headers, body = here.subscriber.got[0]

    Webhook(OWN_SECRET).verify(body, headers)
    assert b"my-own-key" not in at_rest
    assert OWN_SECRET.removeprefix("whsec_").encode() not in at_rest
    assert b"0123456789abcdef0123456789abcdef" not in at_rest


def database_files(folder: Path) -> list[Path]:
    return list(folder.glob("relay.db*"))


@pytest.mark.parametrize(
    ("wrong", "field", "rule"),
    [
        ({"url": None}, "url", "string_type"),
        ({"url": 7}, "url", "string_type"),
        ({"url": "x" * 3_000}, "url", "string_too_long"),
        ({"url": ""}, "url", "scheme"),
        ({"url": "example.com/hook"}, "url", "scheme"),
        ({"url": "ftp://example.com"}, "url", "scheme"),
        ({"url": "https://user:pass@example.com"}, "url", "userinfo"),
        ({"url": "https://example.com/#there"}, "url", "fragment"),
        ({"url": "https://exämple.com/"}, "url", "characters"),
        ({"url": "https://example.com:99999/"}, "url", "port"),
        ({"urls": []}, "urls", "unknown"),
        ({"types": "job.failed"}, "types", "list_type"),
        ({"types": ["job.*"]}, "types", "one_of"),
        ({"types": ["job.failed"] * 50}, "types", "too_long"),
        ({"models": [7]}, "models.0", "string_type"),
        ({"replyRef": 7}, "replyRef", "string_type"),
        ({"format": "xml"}, "format", "one_of"),
        ({"description": "x" * 501}, "description", "string_too_long"),
    ],
)
async def test_a_wrong_subscription_names_field_and_rule(
    here: Journey, wrong: dict[str, Any], field: str, rule: str
) -> None:
    answer = await here.client.post("/v1/subscriptions", json={"url": here.subscriber.url} | wrong)

    assert answer.status_code == 400
    assert [(found["field"], found["rule"]) for found in answer.json()["problems"]] == [(field, rule)]


@pytest.mark.parametrize("secret", ["whsec_", "whsec_c2hvcnQ=", "my-secret-that-is-no-base64", "whsec_" + "A" * 400])
async def test_a_secret_that_is_none_is_refused_and_not_repeated(here: Journey, secret: str) -> None:
    answer = await here.client.post("/v1/subscriptions", json={"url": here.subscriber.url, "secret": secret})

    assert answer.status_code == 400
    assert answer.json()["problems"][0]["field"] == "secret"
    assert secret.removeprefix("whsec_")[:8] not in answer.text or secret == "whsec_"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/hook",
        "http://127.0.0.1/hook",
        "http://localhost:1/hook",
        "http://[::1]:1/hook",
        "http://[::ffff:127.0.0.1]/hook",
        "http://[64:ff9b::7f00:1]/hook",
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://0.0.0.0:9000/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.1/",
    ],
)
async def test_an_address_that_reaches_inside_is_refused_when_it_is_saved(here: Journey, url: str) -> None:
    before = await here.get("/v1/subscriptions")
    answer = await here.client.post("/v1/subscriptions", json={"url": url})

    assert answer.status_code == 400
    assert answer.json()["code"] == "target_refused"
    assert answer.json()["problems"][0]["field"] == "url"
    assert await here.get("/v1/subscriptions") == before


async def test_there_is_a_bound_on_subscriptions(here: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "SUBSCRIPTIONS_MAX", 0)
    answer = await here.client.post("/v1/subscriptions", json={"url": here.subscriber.url})

    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_an_unknown_subscription_is_a_404(here: Journey) -> None:
    for method in ("GET", "DELETE"):
        answer = await here.client.request(method, "/v1/subscriptions/unknown")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_subscription_is_told_of_what_it_asked_for(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        wanted = {
            "finals": await here.subscribe(),
            "queued": await here.subscribe(types=["job.queued", "job.submitted"]),
            "mine": await here.subscribe(replyRef="mine"),
            "sora": await here.subscribe(models=["sora-2"]),
        }
        for reply_ref in ("mine", "theirs"):
            await here.ended((await here.submit(replyRef=reply_ref))["id"])
        await here.subscriber.wait_for(7)
        told: dict[str, list[str]] = {name: [] for name in wanted}
        for row in reversed(await deliveries(here)):
            name = next(name for name, made in wanted.items() if made["id"] == row["subscription"])
            told[name].append(row["type"])

    assert told["finals"] == ["job.succeeded"] * 2
    assert told["queued"] == ["job.queued", "job.submitted"] * 2
    assert told["mine"] == ["job.succeeded"]
    assert told["sora"] == []


async def test_deliveries_of_a_job_come_in_order_and_its_end_is_the_last(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        await here.subscribe(types=["job.queued", "job.submitted", "job.progress", "job.succeeded"])
        job = await here.ended((await here.submit())["id"])
        await here.until(
            lambda: deliveries(here, "&state=delivered"), lambda rows: rows[:1] != [] and is_final(rows[0])
        )
        events = [json.loads(body) for _, body in here.subscriber.got]
        rows = await deliveries(here, f"&job={job['id']}")
        of_job = await here.get(f"/v1/jobs/{job['id']}/deliveries?limit=200")

    numbers = [int(event["id"].rpartition("-")[2]) for event in events]
    assert numbers == sorted(set(numbers))
    assert events[-1]["type"] == "job.succeeded"
    assert {row["state"] for row in rows} <= {"delivered", "superseded"}
    assert all(row["type"] == "job.progress" for row in rows if row["state"] == "superseded")
    assert of_job["data"] == rows


def is_final(row: dict[str, Any]) -> bool:
    return bool(row["type"] == "job.succeeded")


async def test_a_failing_subscriber_is_tried_on_the_schedule_until_a_dead_letter_is_left(tmp_path: Path) -> None:
    clock = ManualClock(time.time_ns() // 1_000_000)
    async with journey(tmp_path, clock=clock) as here:
        made = await here.subscribe()
        here.subscriber.answers = [500] * len(SCHEDULE_S)
        await here.ended((await here.submit())["id"])
        row = (await here.until(lambda: deliveries(here), made_attempts(1)))[0]
        for attempt, step_s in enumerate(SCHEDULE_S[1:], start=2):
            wait_s = (ms(row["dueAt"]) - clock.now_ms()) / 1000
            assert (1 - SPREAD) * step_s <= wait_s <= (1 + SPREAD) * step_s
            assert len(here.subscriber.got) == attempt - 1
            clock.advance(wait_s)
            row = (await here.until(lambda: deliveries(here), made_attempts(attempt)))[0]

        assert (row["state"], row["attempts"], row["dueAt"]) == ("dead", len(SCHEDULE_S), None)
        assert "attempt 10 of 10" in row["reason"]
        assert [answer["status"] for answer in row["answers"]] == [500] * len(SCHEDULE_S)
        assert row["finishedAt"] is not None
        assert {headers["webhook-id"] for headers, _ in here.subscriber.got} == {row["event"]}
        assert len({headers["webhook-timestamp"] for headers, _ in here.subscriber.got}) == len(SCHEDULE_S)
        Webhook(made["secret"]).verify(here.subscriber.got[1][1], here.subscriber.got[1][0])


def ms(time_text: str) -> int:
    return round(datetime.fromisoformat(time_text).timestamp() * 1000)


def made_attempts(count: int) -> Any:
    return lambda rows: rows[:1] != [] and rows[0]["attempts"] == count and rows[0]["state"] != "sending"


async def test_an_attempt_that_fails_is_followed_by_one_that_succeeds(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock) as here:
        await here.subscribe()
        here.subscriber.answers = [302, 200]
        await here.ended((await here.submit())["id"])
        await here.until(lambda: deliveries(here), made_attempts(1))
        clock.advance(SCHEDULE_S[1] * (1 + SPREAD))
        row = (await here.until(lambda: deliveries(here), made_attempts(2)))[0]

    assert (row["state"], row["reason"]) == ("delivered", None)
    assert [answer["status"] for answer in row["answers"]] == [302, 200]
    first, second = here.subscriber.got
    assert first[0]["webhook-id"] == second[0]["webhook-id"]


async def test_a_410_disables_the_subscription_and_what_it_is_owed_is_kept(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe()
        here.subscriber.answers = [410]
        await here.ended((await here.submit())["id"])
        disabled = await here.until(
            lambda: here.get(f"/v1/subscriptions/{made['id']}"), lambda found: found["state"] != "active"
        )
        await here.ended((await here.submit())["id"])
        rows = await deliveries(here)

    assert disabled["state"] == "disabled"
    assert "410" in disabled["reason"]
    assert [(row["state"], row["attempts"]) for row in rows] == [("held", 0), ("held", 1)]
    assert len(here.subscriber.got) == 1


async def test_a_removed_subscription_is_gone_and_its_letters_are_dead(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock) as here:
        made = await here.subscribe()
        here.subscriber.answers = [500]
        await here.ended((await here.submit())["id"])
        await here.until(lambda: deliveries(here), made_attempts(1))
        removed = await here.client.delete(f"/v1/subscriptions/{made['id']}")
        clock.advance(3_600)
        await here.ended((await here.submit())["id"])
        rows = await deliveries(here)

        assert removed.status_code == 204
        assert (await here.get("/v1/subscriptions"))["data"] == []
        assert [(row["state"], row["reason"]) for row in rows] == [("dead", "the subscription was removed")]
        assert len(here.subscriber.got) == 1


async def test_a_subscriber_that_hangs_takes_few_places_and_holds_up_nobody(tmp_path: Path) -> None:
    ending = asyncio.Event()

    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await ending.wait()

    async with surroundings(tmp_path, times_s=(0.0, 0.0)) as around, serving(hangs) as peer:
        allowed = f"{around.sandbox_url.removeprefix('http://')},127.0.0.1:{peer.port}"
        async with around.relay(allow_targets=allowed) as here:
            hanging = (await here.subscribe(url=f"http://127.0.0.1:{peer.port}/hook"))["id"]
            await here.subscribe()
            jobs = [await here.submit() for _ in range(AT_ONCE_EACH + 4)]
            got = await here.subscriber.wait_for(len(jobs))
            await eventually(lambda: peer.connections >= AT_ONCE_EACH)

            rows = await deliveries(here, f"&subscription={hanging}")
            ending.set()

    assert {event["data"]["job"]["id"] for event in got} == {job["id"] for job in jobs}
    assert sorted(row["state"] for row in rows) == ["due"] * 4 + ["sending"] * AT_ONCE_EACH


async def test_an_address_that_came_to_reach_inside_is_not_called(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        async with around.relay() as here:
            await here.subscribe()
        async with around.relay(allow_targets="127.0.0.1:1") as here:
            await here.ended((await here.submit())["id"])
            row = (await here.until(lambda: deliveries(here), made_attempts(1)))[0]

    assert (row["state"], row["answers"][0]["kind"]) == ("due", "target_refused")
    assert around.subscriber.got == []


async def test_a_key_that_was_changed_is_seen_in_the_delivery_and_not_lost_in_the_log(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        async with around.relay() as here:
            await here.subscribe()
        async with around.relay(secret_key=base64.urlsafe_b64encode(b"k" * 32).decode()) as here:
            await here.ended((await here.submit())["id"])
            row = (await here.until(lambda: deliveries(here), made_attempts(1)))[0]

    assert row["state"] == "due"
    assert "key" in row["answers"][0]["detail"]
