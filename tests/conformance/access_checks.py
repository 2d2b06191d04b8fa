"""Who sees what of the events: tokens, tickets, pages of other origins, and how a refusal looks."""

import json
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from tests.conformance.target import JSON, NDJSON, SSE, Target, check, events_of, same

PUBLIC = {
    "id", "state", "progress", "queuePosition", "startsAt", "eta", "artifacts", "error", "createdAt", "finishedAt",
}  # fmt: skip
UNKNOWN = "01900000-0000-7000-8000-000000000000"


def problem(answer: httpx2.Response, status: int) -> None:
    """Fails unless the answer is a problem of RFC 9457 with this status."""
    same("status", answer.status_code, status)
    same("Content-Type", answer.headers["content-type"].partition(";")[0], "application/problem+json")
    body = answer.json()
    same("status in the body", body["status"], status)
    assert body.get("code"), "there is no code"
    assert body.get("title"), "there is no title"


async def submitter(target: Target) -> dict[str, Any]:
    """A new token that may submit and see its own jobs."""
    answer = await target.ask("POST", "/v1/tokens", body={"name": target.ref()[:60], "scopes": ["submit"]})
    same("a token is made", answer.status_code, 201)
    made: dict[str, Any] = answer.json()
    return made


async def ticket_for(target: Target, **body: Any) -> dict[str, Any]:
    answer = await target.ask("POST", "/v1/tickets", body=body)
    same("a ticket is made", answer.status_code, 201)
    same("Cache-Control of a ticket", answer.headers.get("cache-control"), "no-store")
    made: dict[str, Any] = answer.json()
    return made


@check("RFC 9110 11.6.1 and 15.5.2; RFC 9457; contract 3")
async def nobody_reads_without_a_good_token(target: Target) -> None:
    for token in (None, "not-a-token-of-this-relay"):
        for path, accept in (("/v1/events", SSE), (events_of(await target.ended()), NDJSON), ("/v1/events", JSON)):
            answer = await target.ask("GET", path, token=token, Accept=accept)
            problem(answer, 401)
            assert answer.headers.get("www-authenticate", "").startswith("Bearer"), "WWW-Authenticate is missing"


@check("RFC 6750 5.3; contract 3")
async def a_token_in_the_query_opens_nothing(target: Target) -> None:
    for name in ("token", "access_token", "authorization", "ticket"):
        answer = await target.ask("GET", f"/v1/events?{name}={quote(target.token)}", token=None, Accept=SSE)
        same(f"status with ?{name}=", answer.status_code, 401)


@check("RFC 9110 15.5.4; contract 3")
async def a_door_of_another_scope_stays_shut(target: Target) -> None:
    made = await submitter(target)
    problem(await target.ask("GET", "/v1/accounts", token=made["token"]), 403)


@check("RFC 9110 15.5.5; contract 3")
async def a_job_that_a_token_may_not_see_does_not_exist(target: Target) -> None:
    made, job = await submitter(target), await target.ended()
    for path in (events_of(job), f"/v1/jobs/{UNKNOWN}/events"):
        for accept in (SSE, JSON):
            problem(await target.ask("GET", path, token=made["token"], Accept=accept), 404)


@check("contract 3")
async def a_submitter_hears_of_its_own_jobs_alone(target: Target) -> None:
    made, ref = await submitter(target), target.ref()
    foreign = await target.submit(replyRef=ref)
    own = await target.submit(made["token"], replyRef=ref)
    for job in (foreign, own):
        await target.read(events_of(job))
    answer = await target.ask("GET", f"/v1/events?since=earliest&replyRef={ref}&limit=500", token=made["token"])
    same("jobs", {event["data"]["job"]["id"] for event in answer.json()["data"]}, {own["id"]})


@check("contract 3 and 6 (public view)")
async def a_ticket_shows_the_public_view_alone(target: Target) -> None:
    ref = target.ref()
    job = await target.submit(replyRef=ref)
    await target.read(events_of(job))
    ticket = await ticket_for(target, job=job["id"])
    path = urlsplit(ticket["eventsUrl"])
    async with target.stream(f"{path.path}?{path.query}", token=None) as stream:
        same("status", stream.response.status_code, 200)
        await stream.rest()
    shown = await target.ask("GET", f"/v1/jobs/{job['id']}?ticket={ticket['ticket']}", token=None)
    page = await target.ask("GET", f"/v1/events?ticket={ticket['ticket']}", token=None, Accept=JSON)
    views = [stream.events[0].json["job"], shown.json()]
    views += [event.json["data"]["job"] for event in stream.jobs]
    views += [event["data"]["job"] for event in page.json()["data"]]
    for view in views:
        same("what is shown", set(view), PUBLIC)
    same("the jobs", {view["id"] for view in views}, {job["id"]})
    assert ref not in stream.raw.decode() + shown.text + page.text, "the replyRef is shown"
    ids = [event["id"] for event in (await target.page(events_of(job)))["data"]]
    same("ids", [event.id for event in stream.jobs], ids)
    same("ids in the page", [event["id"] for event in page.json()["data"]], ids)


@check("contract 3")
async def a_ticket_opens_nothing_else(target: Target) -> None:
    job, other = await target.ended(), await target.submit(replyRef=target.ref())
    ticket = (await ticket_for(target, job=job["id"]))["ticket"]
    for path in (f"/v1/jobs/{other['id']}", events_of(other)):
        problem(await target.ask("GET", f"{path}?ticket={ticket}", token=None), 404)
    for path in ("/v1/jobs", f"/v1/jobs/{job['id']}/why", f"/v1/jobs/{job['id']}/callbacks", "/v1/accounts"):
        problem(await target.ask("GET", f"{path}?ticket={ticket}", token=None), 401)
    for spoilt in (ticket[:-4], ticket[:-4] + "AAAA", ""):
        problem(await target.ask("GET", f"{events_of(job)}?ticket={spoilt}", token=None, Accept=SSE), 401)


@check("contract 3 and 7")
async def a_ticket_for_a_reference_begins_at_the_earliest(target: Target) -> None:
    ref = target.ref()
    job = await target.submit(replyRef=ref)
    await target.read(events_of(job))
    ticket = await ticket_for(target, replyRef=ref)
    page = await target.ask("GET", f"/v1/events?ticket={ticket['ticket']}", token=None, Accept=JSON)
    ids = [event["id"] for event in (await target.page(events_of(job)))["data"]]
    same("ids", [event["id"] for event in page.json()["data"]], ids)
    assert ref not in json.dumps(page.json()), "the replyRef is shown"


@check("Fetch 3.2.3 (CORS protocol); contract 2", "origin")
async def pages_of_a_listed_origin_are_let_in(target: Target) -> None:
    assert target.origin is not None
    for path, token, accept in (("/v1/events", "", SSE), (f"/v1/jobs/{UNKNOWN}", "", JSON), ("/v1/events", None, SSE)):
        async with target.stream(path, token=token, accept=accept, Origin=target.origin) as stream:
            got = stream.response.headers.get("access-control-allow-origin")
            same(f"Access-Control-Allow-Origin with status {stream.response.status_code}", got, target.origin)
            assert "origin" in stream.response.headers.get("vary", "").lower(), "Vary does not name Origin"


@check("Fetch 3.2.2 (CORS-preflight); contract 2", "origin")
async def a_preflight_lets_tokens_and_cursors_through(target: Target) -> None:
    assert target.origin is not None
    wanted = {"authorization", "last-event-id"}
    answer = await target.ask(
        "OPTIONS",
        "/v1/events",
        token=None,
        Origin=target.origin,
        Access_Control_Request_Method="GET",
        Access_Control_Request_Headers=",".join(sorted(wanted)),
    )
    assert answer.status_code in (200, 204), f"status is {answer.status_code}"
    same("the origin", answer.headers.get("access-control-allow-origin"), target.origin)
    allowed = {name.strip().lower() for name in answer.headers.get("access-control-allow-headers", "").split(",")}
    same("headers that are let through", wanted - allowed, set())


@check("Fetch 3.2.3 (CORS protocol); contract 2")
async def pages_of_other_origins_are_not(target: Target) -> None:
    async with target.stream("/v1/events", Origin="https://evil.example") as stream:
        same("allowed origin", stream.response.headers.get("access-control-allow-origin"), None)
        same("allowed credentials", stream.response.headers.get("access-control-allow-credentials"), None)
