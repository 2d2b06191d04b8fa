"""Tickets: a browser watches one job, or those of one reference, and learns nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from relay.clock import ManualClock
from tests.journeys import ADMIN_TOKEN, EXAMPLE, Journey, journey, while_time_passes
from tests.web.test_scopes import token
from tests.wire import stream

pytestmark = pytest.mark.anyio
PUBLIC = {
    "id",
    "state",
    "progress",
    "queuePosition",
    "startsAt",
    "eta",
    "artifacts",
    "error",
    "createdAt",
    "finishedAt",
}
NOBODY = {"Authorization": ""}


async def made(here: Journey, **body: Any) -> dict[str, Any]:
    answer = await here.client.post("/v1/tickets", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


async def seen(here: Journey, path: str, ticket: str, accept: str = "application/json") -> tuple[int, Any]:
    headers = NOBODY | {"Accept": accept}
    answer = await here.client.get(path, params={"ticket": ticket}, headers=headers)
    return answer.status_code, answer.json() if accept == "application/json" else answer.text


async def test_a_ticket_shows_one_job_in_public_and_ends_with_it(here: Journey) -> None:
    job = await here.ended((await here.submit(replyRef="secret of ours"))["id"])
    other = await here.submit()
    ticket = await made(here, job=job["id"])
    status, shown = await seen(here, f"/v1/jobs/{job['id']}", ticket["ticket"])
    path = ticket["eventsUrl"].removeprefix(here.relay_url)
    async with stream(here.relay_url, path, NOBODY) as connection:
        frames = await connection.events()
    _, page = await seen(here, "/v1/events", ticket["ticket"])
    opened, *events = [frame for frame in frames if frame.event]

    assert (status, set(shown)) == (200, PUBLIC)
    assert set(opened.data["job"]) == PUBLIC
    assert [event.event for event in events][:: len(events) - 1] == ["job.queued", "job.succeeded"]
    assert all(set(event.data["data"]["job"]) == PUBLIC for event in events)
    assert {event["data"]["job"]["id"] for event in page["data"]} == {job["id"]}
    assert "secret of ours" not in json.dumps([shown, page, [frame.data for frame in frames]])
    assert (await seen(here, f"/v1/jobs/{other['id']}", ticket["ticket"]))[0] == 404
    for path in (f"/v1/jobs/{job['id']}/callbacks", f"/v1/jobs/{job['id']}/why", "/v1/jobs", "/v1/accounts"):
        assert (await seen(here, path, ticket["ticket"]))[0] == 401, path


async def test_a_ticket_for_a_reference_shows_what_its_maker_may_read(here: Journey) -> None:
    shop = await token(here, "submit")
    headers = {"Authorization": f"Bearer {shop['token']}"}
    answer = await here.client.post("/v1/tickets", json={"replyRef": "shared"}, headers=headers)
    ticket = answer.json()["ticket"]
    mine = (await here.client.post("/v1/jobs", json=EXAMPLE | {"replyRef": "shared"}, headers=headers)).json()
    foreign = await here.submit(replyRef="shared")
    other = (await here.client.post("/v1/jobs", json=EXAMPLE | {"replyRef": "other"}, headers=headers)).json()
    _, page = await seen(here, "/v1/events?type=job.queued", ticket)

    assert {event["data"]["job"]["id"] for event in page["data"]} == {mine["id"]}
    assert [(await seen(here, f"/v1/jobs/{job['id']}", ticket))[0] for job in (mine, foreign, other)] == [200, 404, 404]


async def test_a_ticket_dies_with_its_makers_token(here: Journey) -> None:
    shop = await token(here, "submit", "read")
    job = await here.submit()
    headers = {"Authorization": f"Bearer {shop['token']}"}
    ticket = (await here.client.post("/v1/tickets", json={"job": job["id"]}, headers=headers)).json()["ticket"]
    before = await seen(here, f"/v1/jobs/{job['id']}", ticket)
    await here.client.delete(f"/v1/tokens/{shop['id']}")
    after = await seen(here, f"/v1/jobs/{job['id']}", ticket)

    assert (before[0], after[0]) == (200, 401)


async def test_a_ticket_ends_in_its_time_and_a_stream_by_it_too(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, sandbox_clock=clock, times_s=(1e6, 1e6)) as here:
        job = await here.submit()
        ticket = await made(here, job=job["id"], ttlS=20)
        path = ticket["eventsUrl"].removeprefix(here.relay_url)
        async with stream(here.relay_url, path, NOBODY) as connection:
            frames = await while_time_passes(clock, connection.events())
        status, problem = await seen(here, f"/v1/jobs/{job['id']}", ticket["ticket"])

    assert (frames[-1].event, frames[-1].data["reason"]) == ("stream.bye", "expired")
    assert (status, "over" in problem["detail"]) == (401, True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"job": "x", "replyRef": "y"}, "body"),
        ({"replyRef": "y", "ttlS": 86_401}, "ttlS"),
        ({"replyRef": "y", "ttlS": 0}, "ttlS"),
        ({"replyRef": "y", "scope": "all"}, "scope"),
    ],
)
async def test_what_is_no_request_for_a_ticket_is_refused(here: Journey, body: dict[str, Any], field: str) -> None:
    answer = await here.client.post("/v1/tickets", json=body)

    assert answer.status_code == 400
    assert [problem["field"] for problem in answer.json()["problems"]] == [field]


async def test_a_changed_ticket_opens_nothing(here: Journey) -> None:
    job = await here.submit()
    ticket = (await made(here, job=job["id"]))["ticket"]
    for wrong in ("", ticket[:-1], ticket[:-2] + "AA", "x" * 5_000, ADMIN_TOKEN):
        assert (await seen(here, f"/v1/jobs/{job['id']}", wrong))[0] == 401, wrong
    assert (await here.client.post("/v1/tickets", json={"job": "nobody's"})).status_code == 404


async def test_pages_of_allowed_origins_alone_may_call(tmp_path: Path) -> None:
    async with journey(tmp_path, cors_origins="https://app.example.com") as here:
        ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        allowed = await here.client.options("/v1/jobs", headers={"Origin": "https://app.example.com"} | ask)
        refused = await here.client.options("/v1/jobs", headers={"Origin": "https://evil.example.com"} | ask)
        read = await here.client.get("/healthz", headers={"Origin": "https://app.example.com"})

    assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "access-control-allow-origin" not in refused.headers
    assert read.headers["access-control-allow-origin"] == "https://app.example.com"
