"""The document of all doors is valid, and it is true: of parameters, scopes, answers, streams and webhooks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from relay.core.event import TYPES
from relay.settings import load_catalogue
from relay.web import passage
from relay.web.app import routes
from relay.web.openapi import Doorway, document
from relay.web.samples import SAMPLES
from tests.journeys import EXAMPLE, Journey, journey
from tests.web.answers import Document, Judged
from tests.web.test_guard import OPEN, scopes_of
from tests.wire import stream

pytestmark = pytest.mark.anyio

DOCUMENT = document(routes(), load_catalogue(None), "strict")
DROPIN = "/v1/runwayml/"
# These ignore what they do not know, as the upstream does, or are asked by probes that add what they like.
ANY_QUERY = {
    "/",
    "/metrics",
    "/healthz",
    "/readyz",
    "/docs",
    "/openapi.json",
    "/static/{path}",
    "/.well-known/webhooks-keys.json",
}


@pytest.fixture(scope="module")
async def judged(here: Journey) -> Judged:
    """The relay's clients are judged by what it serves."""
    answer = await here.client.get("/openapi.json", headers={"Authorization": ""})
    assert answer.status_code == 200
    return Judged(here.client, Document(answer.json()))


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_the_document_is_openapi_3_1() -> None:
    assert [fault.message for fault in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_every_schema_of_the_document_is_one_and_used() -> None:
    text = json.dumps(DOCUMENT)
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema_rs.meta.validate({**schema, "components": {}})
        assert f'"#/components/schemas/{name}"' in text, f"{name} is used nowhere"


def test_the_document_says_which_scopes_open_a_door() -> None:
    for route in routes():
        assert isinstance(route, Doorway)
        for name in route.names:
            method, _, path = name.partition(" ")
            if "{path}" in path:
                continue
            operation = DOCUMENT["paths"][path][method.lower()]
            expected = set(route.scopes) if route.path in OPEN else scopes_of(method, route.path)
            assert set(operation["x-scope"]) == expected, name
            tickets: list[dict[str, list[str]]] = [{"ticket": []}] if route.tickets else []
            assert operation["security"] == [{"token": [scope]} for scope in route.scopes] + tickets, name


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]

    assert len(names) == len(set(names))


async def test_each_door_takes_the_query_that_the_document_gives_it_and_no_other(
    judged: Judged, ended: dict[str, Any]
) -> None:
    wrong = []
    for method, path, operation in operations():
        said = {one["name"]: one["schema"] for one in operation["parameters"] if one["in"] == "query"}
        url = path.replace("/v1/jobs/{id}", f"/v1/jobs/{ended['id']}")
        if "{" in url or path in ANY_QUERY or path.startswith(DROPIN) or method not in ("GET", "POST"):
            continue
        answer = await judged.client.request(method, url, params={"no_such_thing": "1"}, json={})
        problems = answer.json().get("problems", [])
        known = next((one["allowed"] for one in problems if one["field"] == "query.no_such_thing"), None)
        if known is None and not said:
            continue
        if known is None or set(known) - {"ticket"} != said.keys():
            wrong.append(f"{method} {path} takes {known}, said are {sorted(said)}")
        for name, schema in said.items():
            answer = await judged.client.request(method, url, params=[(name, "1"), (name, "1")], json={})
            once = f'"query.{name}","rule":"once"' in answer.text
            if once == (schema.get("type") == "array"):
                wrong.append(f"{method} {path}: {name} {'once' if once else 'again and again'}")

    assert wrong == []


def test_the_document_has_the_queries_that_the_drop_in_door_passes_on() -> None:
    for path, names in passage.QUERIES.items():
        doors = DOCUMENT["paths"][DROPIN.rstrip("/") + path].values()
        assert {one["name"] for door in doors for one in door["parameters"] if one["in"] == "query"} == set(names)


def test_every_type_of_event_has_a_webhook_with_an_example_that_is_one() -> None:
    ours = Document(DOCUMENT)
    assert DOCUMENT["webhooks"].keys() == {*TYPES, "subscription.ping"}

    for name, hook in DOCUMENT["webhooks"].items():
        operation = hook["post"]
        content = operation["requestBody"]["content"]["application/json"]
        assert [one["name"] for one in operation["parameters"]] == [
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
        ]
        for form, example in content.get("examples", {}).items():
            assert ours.faults(content["schema"], example["value"]) == [], (name, form)
    for name in SAMPLES:
        examples = DOCUMENT["webhooks"][name]["post"]["requestBody"]["content"]["application/json"]["examples"]
        assert examples.keys() == {"event", "task"}
        assert examples["event"]["value"]["type"] == name


async def test_what_is_delivered_is_what_the_webhooks_say(tmp_path: Path) -> None:
    ours = Document(DOCUMENT)
    async with journey(tmp_path) as here:
        made = await here.subscribe(types=["job.queued", "job.submitted", "job.progress", "job.succeeded"])
        job = await here.submit(replyUrl=here.subscriber.url, replyRef="order-7")
        await here.ended(job["id"])
        await here.client.post(f"/v1/subscriptions/{made['id']}/ping")
        async with here.client.stream("GET", "/v1/events?since=earliest", headers={"Accept": "text/event-stream"}):
            deliveries = await here.until(
                lambda: here.get(f"/v1/jobs/{job['id']}/deliveries"),
                lambda page: all(one["state"] in ("delivered", "superseded") for one in page["data"]),
            )
        got = [(headers, json.loads(body)) for headers, body in here.subscriber.got]

    names = {one["event"]: one["type"] for one in deliveries["data"]}
    told = set()
    for headers, body in got:
        name = names.get(headers["webhook-id"], "subscription.ping")
        told.add((name, "taskId" in body))
        hook = DOCUMENT["webhooks"][name]["post"]
        assert ours.faults(hook["requestBody"]["content"]["application/json"]["schema"], body) == []
        assert all(one["name"] in headers for one in hook["parameters"])
    assert {("job.succeeded", True), ("job.succeeded", False), ("subscription.ping", False)} <= told


async def test_a_jobs_whole_life_is_as_the_document_has_it(here: Journey, judged: Judged) -> None:
    ask = judged
    hook = {"url": here.subscriber.url}
    subscription = (await ask("POST", "/v1/subscriptions", json=hook | {"types": list(TYPES)})).json()
    of_it = {"id": subscription["id"]}
    await ask("GET", "/v1/subscriptions")
    await ask("GET", "/v1/subscriptions/{id}", of_it)
    await ask("GET", "/v1/subscriptions/{id}/why", of_it)
    await ask("PATCH", "/v1/subscriptions/{id}", of_it, json={"description": "all of it"})
    await ask("POST", "/v1/subscriptions/{id}/rotate", of_it, json={"keepOldFor": "1h"})
    await ask("POST", "/v1/subscriptions/{id}/ping", of_it)
    await ask("POST", "/v1/subscriptions/{id}/enable", of_it, json={"backlog": "final"})

    await ask("POST", "/v1/jobs", params={"dry_run": "true"}, json=EXAMPLE)
    asked = EXAMPLE | {"replyUrl": here.subscriber.url, "replyRef": "life", "priority": 1, "deadline": 600}
    made = await ask("POST", "/v1/jobs", json=asked, headers={"Idempotency-Key": str(uuid4())})
    assert made.headers["location"] == f"/v1/jobs/{made.json()['id']}"
    job = await here.ended(made.json()["id"])
    assert job["state"] == "succeeded"
    of_job = {"id": job["id"]}
    await here.until(
        lambda: here.get(f"/v1/jobs/{job['id']}/deliveries"),
        lambda page: all(one["state"] in ("delivered", "superseded") for one in page["data"]),
    )
    lines = {"Accept": "application/x-ndjson"}
    await ask("GET", "/v1/jobs", params={"state": "succeeded"})
    await ask("GET", "/v1/jobs", headers=lines)
    await ask("GET", "/v1/jobs/{id}/events", of_job, headers=lines)
    for what in ("", "/events", "/why", "/callbacks", "/deliveries"):
        await ask("GET", f"/v1/jobs/{{id}}{what}", of_job)
    await ask("GET", "/v1/events", params={"since": "earliest"})
    for refused in ("cancel", "retry"):
        assert (await ask("POST", f"/v1/jobs/{{id}}/{refused}", of_job)).status_code == 409
    await ask("POST", "/v1/jobs/{id}/resolve", of_job, json={"outcome": "failed"})

    ticket = (await ask("POST", "/v1/tickets", json={"job": job["id"]})).json()["ticket"]
    await ask("GET", "/v1/jobs/{id}", of_job, params={"ticket": ticket}, headers={"Authorization": ""})
    await ask("GET", "/v1/jobs/{id}/events", of_job, params={"ticket": ticket}, headers={"Authorization": ""})

    page = (await ask("GET", "/v1/deliveries")).json()
    of_delivery = {"id": page["data"][0]["id"]}
    await ask("GET", "/v1/deliveries/{id}", of_delivery)
    await ask("GET", "/v1/deliveries/{id}/why", of_delivery)
    await ask("POST", "/v1/deliveries/{id}/retry", of_delivery)
    replay: dict[str, Any] = {"filter": {"state": ["delivered"], "since": "2026-01-01T00:00:00Z"}}
    await ask("POST", "/v1/deliveries/replay", json=replay)
    begun = (await ask("POST", "/v1/deliveries/replay", json=replay | {"dryRun": False})).json()
    await ask("GET", "/v1/replays/{id}", {"id": begun["id"]})

    token = (await ask("POST", "/v1/tokens", json={"name": str(uuid4()), "scopes": ["submit"], "maxPerDay": 1})).json()
    mine = {"Authorization": f"Bearer {token['token']}"}
    await ask("GET", "/v1/tokens")
    waits = await ask("POST", "/v1/jobs", json=EXAMPLE, headers=mine)
    assert (await ask("POST", "/v1/jobs", json=EXAMPLE, headers=mine)).json()["code"] == "quota"
    await ask("POST", "/v1/jobs/{id}/cancel", {"id": waits.json()["id"]})
    await ask("DELETE", "/v1/tokens/{id}", {"id": token["id"]})
    assert (await ask("GET", "/v1/jobs", headers=mine)).status_code == 401

    for path in ("models", "accounts", "quarantine", "artifacts", "stats", "audit"):
        await ask("GET", f"/v1/{path}")
    for path in ("backup", "resume"):
        await ask("POST", f"/v1/{path}", json={})
    for path in ("/", "/metrics", "/healthz", "/readyz", "/.well-known/webhooks-keys.json", "/docs"):
        await ask("GET", path)
    await ask("POST", "/v1/artifacts/fetch", json={})
    await ask("DELETE", "/v1/jobs/{id}", of_job)
    await ask("GET", "/v1/jobs/{id}", of_job)
    await ask("DELETE", "/v1/subscriptions/{id}", of_it)
    await ask("GET", "/v1/subscriptions/{id}", of_it)
    assert {"GET /v1/jobs/{id}: 200", "GET /v1/jobs/{id}/why: 200", "POST /v1/jobs: 429"} <= ask.document.seen


async def test_the_drop_in_door_is_as_the_document_has_it(here: Journey, judged: Judged) -> None:
    ask = judged
    made = (await ask("POST", f"{DROPIN}videos/create", json=EXAMPLE | {"replyRef": "dropin"})).json()
    await ask("POST", f"{DROPIN}videos/create", json={"model": "gen4.5", "duration": 99})
    await here.ended(made["jobId"])
    await ask("GET", f"{DROPIN}tasks/{{task_id}}", {"task_id": made["taskId"]})
    await ask("GET", f"{DROPIN}tasks/{{task_id}}", {"task_id": "no-task"})
    for path in ("tasks/", "scheduler/", "accounts", "features/", "assets/"):
        await ask("GET", f"{DROPIN}{path}", params={"limit": 5, "offset": 0} if path == "tasks/" else None)
    assert (await ask("GET", f"{DROPIN}accounts", headers={"Authorization": ""})).status_code == 401


async def test_callbacks_and_artifacts_are_as_the_document_has_them(here: Journey, judged: Judged) -> None:
    ask = judged
    for path in ("/callbacks/{token}", "/callbacks/inbox/{token}"):
        assert (await ask("POST", path, {"token": "nobody"}, json={"any": "thing"})).status_code == 404
    too_long = await ask("POST", "/callbacks/{token}", {"token": "nobody"}, content=b" " * (1024 * 1024 + 1))
    assert too_long.json()["code"] == "body_too_large"
    job = await here.ended((await here.submit())["id"])
    url = job["artifacts"][0]["url"]
    where = {"id": job["artifacts"][0]["id"], "name": url.partition("?")[0].rsplit("/", 1)[-1]}
    query = dict(part.split("=") for part in url.partition("?")[2].split("&"))
    path = "/v1/artifacts/{id}/{name}"
    assert (await ask("GET", path, where, params=query)).status_code == 200
    assert (await ask("GET", path, where, params=query, headers={"Range": "bytes=0-9"})).status_code == 206
    assert (await ask("GET", path, where, params=query | {"sig": "none"})).status_code == 404


@pytest.mark.parametrize("ticket", [False, True])
async def test_streams_say_what_the_document_says_of_them(here: Journey, judged: Judged, ticket: bool) -> None:
    job = await here.ended((await here.submit())["id"])
    path, headers = f"/v1/jobs/{job['id']}/events", {}
    if ticket:
        sealed = (await here.client.post("/v1/tickets", json={"job": job["id"]})).json()["ticket"]
        path, headers = f"{path}?ticket={sealed}", {"Authorization": ""}
    lost = headers | {"Accept": "application/x-ndjson", "Last-Event-ID": "00000000-1"}
    async with here.client.stream("GET", path, headers=lost) as lines:
        said = [json.loads(line) async for line in lines.aiter_lines()]
    frames = []
    if not ticket:
        async with stream(here.relay_url, path) as connection:
            frames = await connection.events()

    assert [one["type"] for one in said[:2]] == ["stream.open", "stream.gap"]
    assert said[-1]["type"] == "job.succeeded"
    for one in said:
        assert judged.document.shape_faults("StreamLine", one) == []
    for frame in frames:
        shape = "StreamOpen" if frame.event == "stream.open" else "Event"
        assert judged.document.shape_faults(shape, frame.data) == []
