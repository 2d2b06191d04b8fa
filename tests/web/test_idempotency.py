"""`Idempotency-Key`: the same key is the same job, at both doors, whatever is cut off, doubled or refused."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.client import RelayClient
from relay.serve import bound, hosted
from tests.journeys import ADMIN_TOKEN, EXAMPLE, Journey, journey, surroundings

pytestmark = pytest.mark.anyio

CREATE = "/v1/runwayml/videos/create"


async def post(here: Journey, key: str, path: str = "/v1/jobs", **more: Any) -> httpx2.Response:
    return await here.client.post(path, json=EXAMPLE | more, headers={"Idempotency-Key": key})


async def test_the_same_key_answers_with_the_job_of_the_first_time(here: Journey) -> None:
    first = await post(here, "one", deadline=3600, priority=3, replyRef="one")
    await here.ended(first.json()["id"])
    again = await post(here, "one", priority=3, replyRef="one", deadline=3600)

    assert (again.status_code, again.headers["location"]) == (202, first.headers["location"])
    assert again.json()["id"] == first.json()["id"]
    assert len((await here.get("/v1/jobs?replyRef=one"))["data"]) == 1


async def test_at_the_drop_in_door_it_answers_with_the_same_task_for_ever(here: Journey) -> None:
    first = await post(here, "dropin", CREATE)
    await here.ended(first.json()["jobId"])
    again = await post(here, "dropin", CREATE)

    assert (first.status_code, again.status_code) == (200, 200)
    assert (again.json()["taskId"], again.json()["jobId"]) == (first.json()["taskId"], first.json()["jobId"])
    assert again.json()["task"]["status"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("path", "changed"),
    [("/v1/jobs", {"seed": 7}), ("/v1/jobs", {"priority": 1}), (CREATE, {}), ("/v1/jobs", {"replyRef": "x"})],
)
async def test_the_same_key_with_another_request_is_a_conflict(
    here: Journey, path: str, changed: dict[str, Any]
) -> None:
    first = await post(here, f"conflict {path} {changed}")
    other = await post(here, f"conflict {path} {changed}", path, **changed)

    assert (first.status_code, other.status_code) == (202, 409)
    assert other.json()["code"] == (409 if path == CREATE else "idempotency_key_reused")


@pytest.mark.parametrize("key", ["", "a\tb", "x" * 256, "käse".encode()])
@pytest.mark.parametrize("path", ["/v1/jobs", CREATE])
async def test_a_key_that_cannot_be_one_is_refused_by_its_name(here: Journey, key: str | bytes, path: str) -> None:
    raw = key if isinstance(key, bytes) else key.encode()
    answer = await here.client.post(path, json=EXAMPLE, headers=[(b"Idempotency-Key", raw)])

    assert answer.status_code == 400
    assert [(p["field"], p["rule"]) for p in answer.json()["problems"]] == [("Idempotency-Key", "key_form")]


async def test_two_keys_in_one_request_are_refused(here: Journey) -> None:
    both = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert (await here.client.post("/v1/jobs", json=EXAMPLE, headers=both)).status_code == 400


@pytest.mark.parametrize("path", ["/v1/jobs", CREATE])
async def test_many_at_once_with_one_key_make_one_job_and_pay_once(tmp_path: Path, path: str) -> None:
    async with journey(tmp_path) as here:
        answers = await asyncio.gather(*(post(here, "race", path) for _ in range(12)))
        jobs = (await here.get("/v1/jobs"))["data"]
        await here.ended(jobs[0]["id"])
        submits = here.vendor.submits

    assert {answer.status_code for answer in answers} == {200 if path == CREATE else 202}
    assert len({answer.json()["taskId"] for answer in answers}) == 1
    assert (len(jobs), submits) == (1, 1)


async def test_what_stored_nothing_is_not_remembered(tmp_path: Path) -> None:
    async with journey(tmp_path, queue_max=1, faults={"busy": True}) as here:
        waiting = await here.submit()
        await here.job_that(waiting["id"], lambda now: now["state"] == "queued" and now["attempts"] > 0)
        full = await post(here, "full")
        await here.client.post(f"/v1/jobs/{waiting['id']}/cancel")
        again = await post(here, "full")

    assert (full.status_code, again.status_code) == (429, 202)


async def test_a_refusal_of_the_upstream_is_the_answer_again(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        first = await post(here, "moderated", CREATE, text_prompt="moderate-me")
        again = await post(here, "moderated", CREATE, text_prompt="moderate-me")

    assert first.status_code == again.status_code
    assert first.json().get("jobId") == again.json().get("jobId")


async def test_a_key_outlives_the_relay(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        async with around.relay() as before:
            first = (await post(before, "durable", CREATE)).json()
        async with around.relay() as after:
            again = (await post(after, "durable", CREATE)).json()

    assert (first["jobId"], first["taskId"]) == (again["jobId"], again["taskId"])


async def test_the_client_that_lost_the_answer_does_not_pay_twice(tmp_path: Path) -> None:
    """A proxy between client and relay throws away the first answer, as a cut connection does."""
    async with journey(tmp_path) as here:
        passed: list[str | None] = []

        async def proxy(request: Request) -> Response:
            answer = await here.client.post(
                "/v1/jobs", content=await request.body(), headers=dict(request.headers) | {"host": "relay"}
            )
            passed.append(request.headers.get("idempotency-key"))
            return Response(answer.content, answer.status_code if len(passed) > 1 else 503)

        between = Starlette(routes=[Route("/v1/jobs", proxy, methods=["POST"])])
        async with hosted(between, bound("127.0.0.1", 0)) as url, RelayClient(url, ADMIN_TOKEN) as client:
            fields: dict[str, Any] = dict(EXAMPLE)
            job = await client.submit(**fields)
        jobs = (await here.get("/v1/jobs"))["data"]

    assert len(passed) == 2
    assert passed[0] is not None
    assert passed[0] == passed[1]
    assert [found["id"] for found in jobs] == [job["id"]]


async def test_a_repeated_key_is_answered_while_there_is_no_room_for_a_new_one(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=(0.01, 60.0), dropin_wait="0s") as here:
        first = await post(here, "early", CREATE)
        others = [await post(here, f"other {n}", CREATE) for n in range(6)]
        full = await post(here, "late", CREATE)
        again = await post(here, "early", CREATE)
        jobs = (await here.get("/v1/jobs"))["data"]

    assert (first.status_code, full.status_code, again.status_code) == (200, 429, 200)
    assert again.json()["taskId"] == first.json()["taskId"]
    assert len(jobs) <= 1 + len(others), "the 429 stored nothing"
