"""A subscription is changed, tried out, given new secrets and brought back, as its subscriber sees it."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from relay.clock import ManualClock
from relay.core.delivering import SECRETS_MAX
from relay.core.signature import verify
from relay.errors import SignatureInvalid
from relay.web.subscriptions import PINGS_AT_ONCE
from tests.journeys import Journey, journey
from tests.web.test_subscriptions import OWN_SECRET, database_files, deliveries

pytestmark = pytest.mark.anyio

DAY_S = 24 * 3600


async def post(here: Journey, path: str, body: dict[str, Any] | None = None, status: int = 200) -> dict[str, Any]:
    answer = await here.client.post(path, json=body or {})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def patch(here: Journey, made: dict[str, Any], body: dict[str, Any], status: int = 200) -> dict[str, Any]:
    answer = await here.client.patch(f"/v1/subscriptions/{made['id']}", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def holds(secret: str, got: tuple[dict[str, str], bytes]) -> bool:
    headers, body = got
    try:
        verify([secret], headers, body, now_s=int(headers["webhook-timestamp"]))
    except SignatureInvalid:
        return False
    return True


async def told(here: Journey) -> tuple[dict[str, str], bytes]:
    """What the subscriber is sent of one more job."""
    before = len(here.subscriber.got)
    await here.ended((await here.submit())["id"])
    await here.subscriber.wait_for(before + 1)
    return here.subscriber.got[before]


async def test_a_change_changes_what_it_names_and_nothing_else(here: Journey) -> None:
    made = await here.subscribe(replyRef="mine", description="first")
    given = {"types": ["job.failed"], "models": ["sora-2"], "replyRef": None, "format": "task", "description": "second"}
    for name, value in given.items():
        changed = await patch(here, made, {name: value})
        assert {key for key in changed if changed[key] != made.get(key)} <= {name, "updatedAt"}
        assert changed[name] == value
        made = changed
    assert (await patch(here, made, {"format": "event", "types": []}))["types"] == sorted(
        ["job.cancelled", "job.failed", "job.succeeded"]
    )
    await here.client.delete(f"/v1/subscriptions/{made['id']}")


async def test_a_new_address_is_judged_sealed_and_used(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe(url=f"{here.subscriber.url}?key=first")
        refused = await patch(here, made, {"url": "http://169.254.169.254/latest"}, 400)
        changed = await patch(here, made, {"url": f"{here.subscriber.url}?key=my-other-key"})
        headers, body = await told(here)
        at_rest = b"".join(path.read_bytes() for path in database_files(tmp_path))

    assert refused["code"] == "target_refused"
    assert changed["url"].endswith("/…-key")
    assert b"my-other-key" not in at_rest
    Webhook(made["secret"]).verify(body, headers)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"url": ""}, "url"),
        ({"url": None}, "url"),
        ({"types": ["job.*"]}, "types"),
        ({"format": "task", "types": ["account.parked"]}, "types"),
        ({"secret": OWN_SECRET}, "secret"),
        ({"state": "active"}, "state"),
    ],
)
async def test_a_wrong_change_names_its_field(here: Journey, wrong: dict[str, Any], field: str) -> None:
    made = await here.subscribe()
    answer = await patch(here, made, wrong, 400)
    assert answer["problems"][0]["field"] == field
    await here.client.delete(f"/v1/subscriptions/{made['id']}")


async def test_the_reply_url_of_a_job_is_nobodys_to_change(here: Journey) -> None:
    job = await here.submit(replyUrl=here.subscriber.url)
    await here.ended(job["id"])
    rows = (await here.get(f"/v1/jobs/{job['id']}/deliveries"))["data"]
    for path, body in (("", None), ("/rotate", {}), ("/enable", {})):
        address = f"/v1/subscriptions/{rows[0]['subscription']}{path}"
        answer = await here.client.request("POST" if path else "PATCH", address, json=body or {})
        assert answer.status_code == 409, answer.text


async def test_old_and_new_secrets_sign_until_the_old_one_has_had_its_time(tmp_path: Path) -> None:
    clock = ManualClock(time.time_ns() // 1_000_000)
    async with journey(tmp_path, clock=clock) as here:
        made = await here.subscribe()
        first = made["secret"]
        answer = await post(here, f"/v1/subscriptions/{made['id']}/rotate", {"keepOldFor": "2h"})
        second = answer["secret"]
        during = await told(here)
        clock.advance(2 * 3600 + 1)
        after = await told(here)
        shown = await here.get(f"/v1/subscriptions/{made['id']}")

    assert first != second
    assert (holds(first, during), holds(second, during)) == (True, True)
    assert (holds(first, after), holds(second, after)) == (False, True)
    assert second not in json.dumps(shown)
    Webhook(first).verify(during[1], during[0])
    with pytest.raises(WebhookVerificationError):
        Webhook(first).verify(after[1], after[0])


async def test_a_secret_is_kept_a_day_or_not_at_all_or_brought(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock) as here:
        made = await here.subscribe()
        by_default = await post(here, f"/v1/subscriptions/{made['id']}/rotate")
        clock.advance(DAY_S - 60)
        kept = await told(here)
        clock.advance(61)
        gone = await told(here)
        own = await post(here, f"/v1/subscriptions/{made['id']}/rotate", {"secret": OWN_SECRET, "keepOldFor": "0s"})
        brought = await told(here)

    assert (holds(made["secret"], kept), holds(made["secret"], gone)) == (True, False)
    assert own["secret"] == OWN_SECRET
    assert (holds(by_default["secret"], brought), holds(OWN_SECRET, brought)) == (False, True)


@pytest.mark.parametrize("wrong", [{"keepOldFor": "8d"}, {"keepOldFor": 5}, {"keepOldFor": "soon"}, {"secret": "x"}])
async def test_a_wrong_rotation_is_refused(here: Journey, wrong: dict[str, Any]) -> None:
    made = await here.subscribe()
    await post(here, f"/v1/subscriptions/{made['id']}/rotate", wrong, 400)
    await here.client.delete(f"/v1/subscriptions/{made['id']}")


async def test_no_more_secrets_sign_than_a_header_should_hold(here: Journey) -> None:
    made = await here.subscribe()
    for _ in range(SECRETS_MAX - 1):
        await post(here, f"/v1/subscriptions/{made['id']}/rotate")
    await post(here, f"/v1/subscriptions/{made['id']}/rotate", status=409)
    await post(here, f"/v1/subscriptions/{made['id']}/rotate", {"keepOldFor": "0s"})
    await here.client.delete(f"/v1/subscriptions/{made['id']}")


async def test_both_formats_carry_the_public_signature_too(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        (key,) = (await here.get("/.well-known/webhooks-keys.json"))["keys"]
        kinds = {}
        for kind in ("event", "task"):
            made = await here.subscribe(format=kind)
            got = await told(here)
            kinds[kind] = (holds(key, got), holds(made["secret"], got), json.loads(got[1]).keys())
            await here.client.delete(f"/v1/subscriptions/{made['id']}")

    assert [kinds[kind][:2] for kind in kinds] == [(True, True)] * 2
    assert kinds["event"][2] == {"id", "type", "timestamp", "data"}
    assert {"taskId", "status", "artifacts", "replyRef"} <= kinds["task"][2]


def ends(rows: list[dict[str, Any]]) -> int:
    return sum(row["type"] == "job.succeeded" for row in rows)


async def test_a_standing_subscription_does_not_learn_the_reply_url_of_a_job(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        await here.subscribe(url=f"{here.subscriber.url}?standing", format="task")
        job = await here.submit(replyUrl=f"{here.subscriber.url}?of-the-client=1")
        await here.ended(job["id"])
        await here.until(lambda: deliveries(here, "&state=delivered"), lambda rows: ends(rows) == 2)
        bodies = [json.loads(body) for _, body in here.subscriber.got]

    assert {body["replyUrl"] and "of-the-client" in body["replyUrl"] for body in bodies} == {None, True}


async def test_a_ping_says_what_came_back_and_leaves_no_trace(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe()
        here.subscriber.answers = [200, 503]
        well = await post(here, f"/v1/subscriptions/{made['id']}/ping")
        ill = await post(here, f"/v1/subscriptions/{made['id']}/ping")
        headers, body = here.subscriber.got[0]
        events = await here.get("/v1/events?since=earliest")
        rows = await deliveries(here)

    assert (well["arrived"], well["status"], ill["arrived"], ill["status"]) == (True, 200, False, 503)
    assert Webhook(made["secret"]).verify(body, headers)["type"] == "subscription.ping"
    assert headers["webhook-id"] == well["id"] != ill["id"]
    assert (events["data"], rows) == ([], [])


async def test_so_many_pings_at_once_and_no_more(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe()
        here.subscriber.open.clear()
        path = f"/v1/subscriptions/{made['id']}/ping"
        pings = [asyncio.create_task(here.client.post(path)) for _ in range(PINGS_AT_ONCE)]
        await here.subscriber.wait_for(PINGS_AT_ONCE)
        one_more = await here.client.post(path)
        here.subscriber.open.set()
        answers = await asyncio.gather(*pings)
        afterwards = await here.client.post(path)

    assert (one_more.status_code, one_more.headers["retry-after"]) == (503, "1")
    assert [answer.json()["arrived"] for answer in (*answers, afterwards)] == [True] * (PINGS_AT_ONCE + 1)


async def test_a_paused_subscription_is_owed_and_gets_of_its_backlog_what_is_asked(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe(types=["job.queued", "job.submitted", "job.succeeded"])
        here.subscriber.answers = [410]
        jobs = [await here.ended((await here.submit())["id"]) for _ in range(2)]
        held = await deliveries(here, "&state=held")
        before = await here.get(f"/v1/subscriptions/{made['id']}")
        after = await post(here, f"/v1/subscriptions/{made['id']}/enable", {"backlog": "final"})
        await here.until(lambda: deliveries(here, "&state=delivered"), lambda rows: len(rows) == 2)
        rows = await deliveries(here)

    # The very first, which failed, has given way to what came after it.
    assert (before["state"], before["owed"], len(held)) == ("disabled", 5, 5)
    assert (after["state"], after["reason"]) == ("active", None)
    got = [json.loads(body) for _, body in here.subscriber.got[1:]]
    assert sorted(event["data"]["job"]["id"] for event in got) == sorted(job["id"] for job in jobs)
    assert {event["type"] for event in got} == {"job.succeeded"}
    assert sum("final events only" in (row["reason"] or "") for row in rows if row["state"] == "superseded") == 3


@pytest.mark.parametrize(("backlog", "sent"), [("all", 2), ("none", 0)])
async def test_all_of_a_backlog_is_sent_or_nothing_and_what_comes_then_is(
    tmp_path: Path, backlog: str, sent: int
) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe(types=["job.queued", "job.submitted", "job.succeeded"])
        here.subscriber.answers = [410]
        await here.ended((await here.submit())["id"])
        assert len(await deliveries(here, "&state=held")) == 2
        await post(here, f"/v1/subscriptions/{made['id']}/enable", {"backlog": backlog})
        await here.ended((await here.submit())["id"])
        await here.until(lambda: deliveries(here, "&state=delivered"), lambda rows: len(rows) == 3 + sent)

    assert len(here.subscriber.got) == 1 + 3 + sent


async def test_a_wrong_backlog_and_unknown_subscriptions_are_refused(here: Journey) -> None:
    made = await here.subscribe()
    await post(here, f"/v1/subscriptions/{made['id']}/enable", {"backlog": "some"}, 400)
    await post(here, "/v1/subscriptions/unknown/enable", {}, 404)
    await post(here, "/v1/subscriptions/unknown/ping", {}, 404)
    await post(here, "/v1/subscriptions/unknown/rotate", {}, 404)
    await here.client.delete(f"/v1/subscriptions/{made['id']}")
