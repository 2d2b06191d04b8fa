"""The drop-in door: the upstream's own shapes, its answers, the truth about the queue, and references that stay."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.client import verify
from relay.clock import ManualClock
from tests.journeys import EXAMPLE, Journey, journey, while_time_passes

pytestmark = pytest.mark.anyio

DOOR = "/v1/runwayml"
# Long enough that it is still there when the next request comes.
RUNNING_LONG = (0.01, 60.0)


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir()]


async def the_last(running: Journey) -> dict[str, Any]:
    """The body that tells the subscriber of the end; progress may come before it."""
    count = 1
    while (told := (await running.subscriber.wait_for(count))[-1])["status"] != "SUCCEEDED":
        count += 1
    return told


async def create(running: Journey, **more: Any) -> httpx2.Response:
    return await running.client.post(f"{DOOR}/videos/create", json=EXAMPLE | more)


async def task(running: Journey, task_id: str) -> dict[str, Any]:
    return await running.get(f"{DOOR}/tasks/{task_id}")


async def test_a_create_with_a_free_slot_gets_the_upstreams_own_task_id(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        answer = await create(running, replyRef="order-7")

        body = answer.json()
        upstreams = next(iter(running.vendor.state(0)["tasks"]))["taskId"]
        assert answer.status_code == 200
        assert body["taskId"] == body["task"]["taskId"] == upstreams
        assert body["task"]["status"] in ("PENDING", "RUNNING")
        assert body["replyRef"] == body["task"]["replyRef"] == "order-7"


async def test_a_finished_task_has_artifacts_that_open_by_themselves(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        body = (await create(running)).json()
        await running.ended(body["jobId"])

        done = await task(running, body["taskId"])

        assert (done["status"], done["progressRatio"], done["taskId"]) == ("SUCCEEDED", "1", body["taskId"])
        assert done["artifacts"][0]["url"].startswith(running.relay_url)
        video = await running.client.get(done["artifacts"][0]["url"], headers={"Authorization": ""})
        assert video.content[4:8] == b"ftyp"
        assert done["artifacts"][0]["fileSize"] == str(len(video.content))


async def test_a_form_is_read_as_text_and_converted(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        form = {name: (None, str(value)) for name, value in (EXAMPLE | {"exploreMode": "false"}).items()}

        answer = await running.client.post(f"{DOOR}/videos/create", files=form)

        assert answer.status_code == 200, answer.text
        job = await running.job(answer.json()["jobId"])
        assert (job["request"]["duration"], job["request"]["exploreMode"]) == (5, False)


async def test_a_refusal_names_field_rule_and_the_way_out(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        answer = await create(running, duration=77, seconds=5)

        body = answer.json()
        assert (answer.status_code, body["code"]) == (400, 400)
        assert {problem["field"] for problem in body["problems"]} == {"duration", "seconds"}
        assert "duration 77 is not offered by gen4.5" in body["error"]
        assert "today it is duration" in body["error"]
        assert "dated 2026-" in body["error"]
        assert "RELAY_VALIDATION=warn" in body["error"]
        assert running.vendor.submits == 0


async def test_what_the_catalogue_does_not_know_is_passed_on_and_the_upstreams_refusal_comes_back(
    tmp_path: Path,
) -> None:
    async with journey(tmp_path) as running:
        answer = await create(running, model="gen9", newField=1)

        assert answer.status_code == 400
        assert [count for path, count in running.vendor.requests.items() if "create" in path] == [1]
        job = await running.job(answer.json()["jobId"])
        assert (job["state"], job["error"]["code"]) == ("failed", "validation")
        assert job["request"]["newField"] == 1


@pytest.mark.parametrize(
    ("faults", "prompt", "status", "code"),
    [({}, "please moderate-me", 422, "moderated"), ({"no_credits": {"value": "412"}}, "a city", 412, "no_credits")],
)
async def test_the_upstreams_own_refusals_come_back_and_end_the_job(
    tmp_path: Path, faults: dict[str, Any], prompt: str, status: int, code: str
) -> None:
    async with journey(tmp_path, faults=faults) as running:
        answer = await create(running, text_prompt=prompt)

        body = answer.json()
        assert (answer.status_code, body["code"]) == (status, status)
        assert body["error"]
        assert (await running.job(body["jobId"]))["error"]["code"] == code


async def test_without_credits_a_native_job_waits_and_a_create_answers_412_unstored(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"no_credits": {"value": "412"}}) as running:
        waiting = await running.submit()
        await running.job_that(waiting["id"], lambda job: bool(job["attempts"] == 1 and job["state"] == "queued"))

        answer = await create(running)

        assert (answer.status_code, "enough credits" in answer.json()["error"]) == (412, True)
        assert [job["id"] for job in (await running.get("/v1/jobs"))["data"]] == [waiting["id"]]


async def full(running: Journey) -> None:
    """Two tasks take both slots."""
    for answer in await asyncio.gather(create(running), create(running)):
        assert answer.status_code == 200, answer.text


async def test_without_a_free_slot_a_create_is_queued_with_a_truthful_start(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=RUNNING_LONG) as running:
        await full(running)

        body = (await create(running)).json()

        assert body["taskId"] == f"user:0-runwayml:relay-task:{body['jobId']}"
        assert body["task"]["status"] == "PENDING"
        # gen4.5 takes 600 s by the page, and both slots have just been taken.
        assert 590 <= body["task"]["estimatedTimeToStartSeconds"] <= 600


async def test_the_task_id_of_the_answer_stays_and_the_upstreams_is_taken_too(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=(0.01, 0.3)) as running:
        await full(running)
        body = (await create(running)).json()
        assert ":relay-task:" in body["taskId"]
        await running.ended(body["jobId"])

        by_ours = await task(running, body["taskId"])
        by_theirs = await task(running, by_ours["upstreamTaskId"])

        assert by_ours["taskId"] == by_theirs["taskId"] == body["taskId"]
        assert by_ours["status"] == "SUCCEEDED"


async def test_a_job_that_would_wait_too_long_gets_the_upstreams_429_and_is_not_stored(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=RUNNING_LONG, dropin_wait="5m") as running:
        await full(running)

        answer = await create(running)

        assert (answer.status_code, answer.json()["code"]) == (429, 429)
        assert 590 <= int(answer.headers["retry-after"]) <= 600
        assert "2 of 2 tasks" in answer.json()["error"]
        assert len((await running.get("/v1/jobs"))["data"]) == 2


@pytest.mark.parametrize(("wait", "status"), [("0", 429), ("off", 200), ("1h", 200)])
async def test_how_long_the_door_queues_is_a_setting(tmp_path: Path, wait: str, status: int) -> None:
    async with journey(tmp_path, times_s=RUNNING_LONG, dropin_wait=wait) as running:
        await full(running)

        assert (await create(running)).status_code == status


async def test_with_no_waiting_a_create_takes_the_slot_beside_a_job_that_is_about_to_go(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=RUNNING_LONG, dropin_wait="0") as running:
        (submitter,) = (worker for worker in running.node.workers if worker.name == "submitter")
        await submitter.stop()
        ahead = await running.submit()
        beside = asyncio.create_task(create(running))
        await running.until(lambda: running.get("/v1/jobs?state=queued"), lambda found: len(found["data"]) == 2)

        one_too_many = await create(running)
        submitter.start()

        assert (one_too_many.status_code, (await beside).status_code) == (429, 200)
        assert (await running.job_in(ahead["id"], "running"))["attempts"] == 1


async def test_with_no_waiting_creates_at_once_get_every_slot_and_none_is_left_in_the_queue(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, times_s=(10, 6_000), dropin_wait="0") as running:
        creates = asyncio.gather(*(create(running) for _ in range(8)))
        await running.until(lambda: running.get("/v1/jobs?state=running"), lambda found: len(found["data"]) == 2)

        answers = await while_time_passes(clock, creates)

        assert sorted(answer.status_code for answer in answers) == [200] * 2 + [429] * 6
        assert {job["state"] for job in (await running.get("/v1/jobs"))["data"]} <= {"running", "failed"}


async def test_a_429_of_the_upstream_puts_the_job_back_into_the_queue(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"provider_limit": {"times": 1}}) as running:
        answer = await create(running)

        body = answer.json()
        assert (answer.status_code, body["task"]["status"]) == (200, "PENDING")
        assert (await running.job(body["jobId"]))["state"] == "queued"


async def test_with_no_waiting_a_429_of_the_upstream_ends_the_job(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"provider_limit": {"times": 1}}, dropin_wait="0") as running:
        answer = await create(running)

        assert (answer.status_code, answer.json()["code"]) == (429, 429)
        job = await running.job(answer.json()["jobId"])
        assert (job["state"], job["error"]["code"]) == ("failed", "deadline")


async def test_a_create_that_the_upstream_never_answers_gets_the_queued_shape_after_ten_seconds(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, faults={"create_lost": {"value": "hang", "times": 1}}) as running:
        began_s = clock.monotonic_s()

        answer = await while_time_passes(clock, create(running))

        assert (answer.status_code, answer.json()["task"]["status"]) == (200, "PENDING")
        assert 10 <= clock.monotonic_s() - began_s < 40
        assert running.vendor.submits == 1
        # A relay that stops lets a create under way end: this one ends by its own deadline.
        await while_time_passes(clock, running.job_in(answer.json()["jobId"], "in_doubt"))


async def test_a_reply_url_gets_the_flat_task_signed_with_the_public_key(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        url = f"{running.subscriber.url}?secret=s3cr3t-of-the-client"
        body = (await create(running, replyUrl=url, replyRef="order-7")).json()
        await running.ended(body["jobId"])

        last = await the_last(running)
        (key,) = (await running.get("/.well-known/webhooks-keys.json"))["keys"]
        for headers, content in running.subscriber.got:
            verify(key, headers, content)
            assert headers["webhook-signature"].startswith("v1a,")
        assert (last["status"], last["taskId"], last["replyRef"]) == ("SUCCEEDED", body["taskId"], "order-7")
        assert last["replyUrl"] == url
        assert last["artifacts"][0]["url"].startswith(running.relay_url)
        assert all(b"s3cr3t-of-the-client" not in content for content in contents(tmp_path))


async def test_the_default_reply_url_is_told_where_a_client_names_none(tmp_path: Path) -> None:
    async with journey(tmp_path) as first:
        url = first.subscriber.url
        allowed = first.settings.allow_targets
        async with journey(
            tmp_path / "..", default_reply_url=url, allow_targets=allowed, database_url=f"sqlite:///{tmp_path}/2.db"
        ) as running:
            job = await running.submit(replyRef="native")
            await running.ended(job["id"])
            got = await first.subscriber.wait_for(1)

            assert got[-1]["replyRef"] == "native"


async def test_a_reply_url_that_the_relay_would_not_call_is_refused_by_its_field(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        answer = await create(running, replyUrl="http://169.254.169.254/latest")

        assert answer.status_code == 400
        assert [problem["field"] for problem in answer.json()["problems"]] == ["replyUrl"]


async def test_ids_that_are_not_raw_are_refused_and_unknown_ones_not_found(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        uuid = "11111111-2222-4333-8444-555555555555"
        unknown = await running.client.get(f"{DOOR}/tasks/user:7-runwayml:me@example.com-task:{uuid}")
        encoded = await running.client.get(f"{DOOR}/tasks/user%3A7-runwayml%3Ame@example.com-task:{uuid}")
        climbing = await running.client.get(f"{DOOR}/assets/user:1-runwayml:%2F..%2Faccounts%3Fx=-asset:{uuid}")

        assert (unknown.status_code, unknown.json()["error"], unknown.json()["code"]) == (404, "Not found.", 404)
        assert (encoded.status_code, encoded.json()["problems"][0]["rule"]) == (400, "id_form")
        assert climbing.status_code == 400
        assert not [path for path in running.vendor.requests if "accounts" in path and "x=" in path]


async def test_accounts_come_without_their_secrets(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        shown = await running.get(f"{DOOR}/accounts")

        assert shown == {"sandbox@example.com": {"email": "sandbox@example.com", "maxJobs": 2}}


async def test_lists_carry_the_clients_references_and_no_callback_address(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=RUNNING_LONG) as running:
        body = (await create(running, replyRef="order-7")).json()

        scheduled = await running.client.get(f"{DOOR}/scheduler/")
        listed = await running.client.get(f"{DOOR}/tasks/?offset=0&limit=10")

        for answer in (scheduled, listed):
            (row,) = answer.json()
            assert (row["taskId"], row["replyRef"], row["replyUrl"]) == (body["taskId"], "order-7", None)
            assert "/callbacks/" not in answer.text


async def test_nothing_unknown_is_passed_on(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        answer = await running.client.post(f"{DOOR}/gen4/create", json=EXAMPLE)

        assert answer.status_code == 404
        assert "videos/create" in answer.json()["error"]
        assert not [path for path in running.vendor.requests if "gen4" in path]


async def test_an_asset_goes_through_and_pins_the_job_to_its_account(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        picture = b"\x89PNG\r\n\x1a\n" + bytes(2_000)
        upload = await running.client.post(
            f"{DOOR}/assets/?name=a.png", content=picture, headers={"Content-Type": "image/png"}
        )
        asset_id = upload.json()["assetId"]

        found = await running.get(f"{DOOR}/assets/{asset_id}")
        listed = await running.client.get(f"{DOOR}/assets/?mediaType=image&offset=0&limit=50")
        job = await running.job((await create(running, imageAssetId1=asset_id)).json()["jobId"])
        gone = await running.client.delete(f"{DOOR}/assets/{asset_id}")

        assert found["assetId"] == asset_id
        assert asset_id in listed.text
        assert job["account"] == "sandbox@example.com"
        assert gone.status_code == 200


async def test_without_a_token_the_door_answers_in_the_upstreams_shape(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        answer = await running.client.get(f"{DOOR}/accounts", headers={"Authorization": "Bearer wrong"})

        assert (answer.status_code, answer.json()["code"]) == (401, 401)
        assert isinstance(answer.json()["error"], str)
