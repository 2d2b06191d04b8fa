"""Submitting, reading and listing jobs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from relay.clock import ManualClock
from relay.store.driver import sqlite3
from tests.journeys import EXAMPLE, Journey, journey, while_time_passes

pytestmark = pytest.mark.anyio

# The contract's job, by the contract's names.
FULL_VIEW = {
    "id", "replyRef", "replyUrl", "model", "state", "progress", "queuePosition", "startsAt", "eta", "account", "taskId",
    "upstreamTaskId", "upstreamStatus", "attempts", "request", "task", "artifacts", "error", "problems", "retryOf",
    "origin", "submittedBy", "createdAt", "submittedAt", "startedAt", "finishedAt", "updatedAt",
}  # fmt: skip
EVENT_VIEW = FULL_VIEW - {"request", "task", "replyUrl"}
ARTIFACT = {
    "id", "kind", "url", "contentType", "sizeBytes", "durationS", "width", "height", "previewUrls", "keptUntil",
    "sourceUrl", "sourceExpiresAt",
}  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_a_job_is_on_disk_before_the_answer(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        answer = await here.client.post("/v1/jobs", json=EXAMPLE | {"replyRef": "me-1"})
        job = answer.json()
        with sqlite3.connect(f"file:{tmp_path / 'relay.db'}?mode=ro", uri=True) as database:
            rows = database.execute("SELECT id, reply_ref, request FROM jobs").fetchall()
        database.close()

    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert [(row[0], row[1], json.loads(row[2])) for row in rows] == [
        (job["id"], "me-1", EXAMPLE | {"replyRef": "me-1"})
    ]


async def test_a_new_job_has_the_shape_of_the_contract(here: Journey) -> None:
    job = await here.submit(replyRef="shape")

    assert job.keys() == FULL_VIEW
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", job["id"])
    assert job["taskId"] == f"user:0-runwayml:relay-task:{job['id']}"
    assert (job["origin"], job["submittedBy"], job["replyRef"]) == ("api", "admin", "shape")
    assert TIME.fullmatch(job["createdAt"])


async def test_a_job_that_ended_tells_all_and_is_found_by_every_id(here: Journey) -> None:
    submitted = await here.submit(replyRef="client's own")
    job = await here.ended(submitted["id"])

    assert (job["state"], job["progress"], job["attempts"], job["error"]) == ("succeeded", 1.0, 1, None)
    times = [job[name] for name in ("createdAt", "submittedAt", "startedAt", "finishedAt")]
    assert all(TIME.fullmatch(time) for time in times)
    assert times == sorted(times)
    assert job["artifacts"][0].keys() == ARTIFACT
    # The upstream's JSON with what is the client's own, never with what is the relay's.
    assert (job["task"]["replyRef"], job["task"]["taskId"]) == ("client's own", job["taskId"])
    assert "/callbacks/" not in json.dumps(job)
    for any_id in (job["taskId"], job["upstreamTaskId"]):
        assert (await here.job(any_id))["id"] == job["id"]


async def test_a_list_shows_the_event_view_without_request_and_task(here: Journey) -> None:
    await here.ended((await here.submit())["id"])

    listed = await here.get("/v1/jobs?limit=1&state=succeeded")

    assert listed["data"][0].keys() == EVENT_VIEW
    assert "sourceUrl" not in listed["data"][0]["artifacts"][0]


@pytest.mark.parametrize(
    ("wrong", "field", "rule"),
    [
        ({"model": None}, "model", "required"),
        ({"model": "gen9"}, "model", "known_model"),
        ({"model": 7}, "model", "type"),
        ({"model": []}, "model", "type"),
        ({"duration": "5"}, "duration", "type"),
        ({"duration": True}, "duration", "type"),
        ({"duration": 10**400}, "duration", "number_range"),
        ({"duration": 1}, "duration", "not_offered"),
        ({"aspect_ratio": "5:4"}, "aspect_ratio", "not_offered"),
        ({"seconds": 5}, "seconds", "renamed"),
        ({"colour": "red"}, "colour", "unknown_field"),
        ({"replyRef": "x" * 1_025}, "replyRef", "max_length"),
        ({"replyRef": {"a": 1}}, "replyRef", "type"),
        ({"replyUrl": "ftp://example.com/hook"}, "replyUrl", "url"),
        ({"replyUrl": "http://127.0.0.1:1/hook"}, "replyUrl", "address"),
        ({"email": "nobody"}, "email", "email"),
        ({"imageAssetId1": "x"}, "imageAssetId1", "asset_id"),
        ({"text_prompt": "x" * 9_000}, "text_prompt", "max_length"),
        ({"text_prompt": "a\0b"}, "text_prompt", "unusable_text"),
        ({"seed": 0}, "seed", "not_offered"),
        ({"maxJobs": 11}, "maxJobs", "range"),
    ],
)
async def test_a_refusal_names_the_field_and_the_rule(
    here: Journey, wrong: dict[str, Any], field: str, rule: str
) -> None:
    before = (await here.get("/v1/jobs?limit=1"))["data"]
    answer = await here.client.post("/v1/jobs", json=EXAMPLE | wrong)
    after = (await here.get("/v1/jobs?limit=1"))["data"]

    assert answer.status_code == 400
    problems = answer.json()["problems"]
    assert [(problem["field"], problem["rule"]) for problem in problems] == [(field, rule)]
    assert problems[0].keys() == {"field", "rule", "given", "allowed", "message"}
    assert [job["id"] for job in before] == [job["id"] for job in after], "nothing was stored"


async def test_all_problems_of_a_request_come_at_once(here: Journey) -> None:
    wrong = {"duration": "long", "colour": "red", "replyUrl": "ftp://example.com/secret-path"}
    answer = await here.client.post("/v1/jobs", json=EXAMPLE | wrong)

    assert {problem["field"] for problem in answer.json()["problems"]} == set(wrong)
    assert "secret-path" not in answer.text, "the address is its owner's secret"


async def test_a_full_queue_refuses_and_stores_nothing(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"never_ends": True}, queue_per_token=2) as here:
        for _ in range(2):  # both slots
            await here.job_in((await here.submit())["id"], "running")
        waiting = [await here.submit(), await here.submit()]
        answer = await here.client.post("/v1/jobs", json=EXAMPLE)
        listed = await here.get("/v1/jobs?state=queued")

    assert answer.status_code == 429
    assert answer.json()["code"] == "limit_reached"
    assert int(answer.headers["retry-after"]) > 0
    assert [job["id"] for job in listed["data"]] == [job["id"] for job in reversed(waiting)]
    assert [job["queuePosition"] for job in listed["data"]] == [2, 1]


async def test_pages_walk_from_the_newest_to_the_oldest_without_a_gap_or_a_double(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"never_ends": True}) as here:
        made = [(await here.submit(replyRef=f"ref-{n % 2}"))["id"] for n in range(7)]
        walked, cursor = [], ""
        while True:
            page = await here.get(f"/v1/jobs?limit=3{cursor}")
            walked += [job["id"] for job in page["data"]]
            if not made[7:]:  # a job that comes while somebody walks does not move the pages behind
                made.append((await here.submit())["id"])
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        one_ref = await here.get("/v1/jobs?replyRef=ref-1")
        both_refs = await here.get("/v1/jobs?replyRef=ref-1&replyRef=ref-0&model=gen4.5")
        nothing = await here.get("/v1/jobs?model=sora-2")

    assert walked == made[6::-1]
    assert {job["replyRef"] for job in one_ref["data"]} == {"ref-1"}
    assert len(one_ref["data"]) == 3
    assert len(both_refs["data"]) == 7
    assert nothing == {"data": [], "next": None}


async def test_a_job_pinned_to_an_account_that_there_is_not_fails_and_says_so(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock) as here:
        job_id = (await here.submit(email="nobody@example.com"))["id"]
        job = await while_time_passes(clock, here.ended(job_id), step_s=10)

    assert (job["state"], job["error"]["code"], job["attempts"]) == ("failed", "account_gone", 0)
    assert "nobody@example.com" in job["error"]["message"]


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ({"refused": True}, "validation"),
        ({"moderated": True}, "moderated"),
        ({"fails": "safety"}, "moderated"),
        ({"fails": "bad-output"}, "bad_output"),
        ({"fails": "other"}, "upstream_failed"),
        ({"cancelled": "CANCELED"}, "upstream_failed"),
    ],
)
async def test_what_the_upstream_refuses_or_fails_ends_the_job_with_its_code(
    here: Journey, faults: dict[str, Any], code: str
) -> None:
    here.vendor.faults.replace(faults)
    job = await here.ended((await here.submit())["id"])
    here.vendor.faults.replace({})
    tasks = [task for task in here.vendor.state(0)["tasks"] if job["id"] in task["replyRef"]]

    assert (job["state"], job["error"]["code"], job["attempts"]) == ("failed", code, 1)
    assert len(tasks) <= 1, "a failure is never sent again by itself"
