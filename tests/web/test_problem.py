"""Every refusal is a problem document that names the field and the rule; no input of a client makes a 500."""

import json
from typing import Any

import pytest

from relay.web import problem
from tests.journeys import EXAMPLE, Journey, eventually
from tests.wire import request, wire

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}


async def refusal(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The body of a refusal, once its outer form has been checked."""
    body: dict[str, Any] = answer.json()
    assert answer.status_code == body["status"] == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert body.keys() == {"type", "title", "status", "code", "detail", "problems"}
    assert body["code"] == code
    return body


async def test_an_unknown_address_is_a_problem_too(here: Journey) -> None:
    body = await refusal(await here.client.get("/v1/nothing"), 404, "not_found")

    assert body["detail"] == "There is nothing at this address"


async def test_another_method_names_those_that_are_taken(here: Journey) -> None:
    answer = await here.client.put("/v1/jobs/x", json={})

    await refusal(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "DELETE, GET, HEAD"


async def test_the_drop_in_door_says_what_it_does_not_have_in_its_own_shape(here: Journey) -> None:
    no_path = await here.client.get("/v1/runwayml/tasks/a%0Ab")
    no_method = await here.client.request("OPTIONS", "/v1/runwayml/assets/")

    assert (no_path.status_code, no_path.json()["code"], no_path.json()["problems"]) == (404, 404, [])
    assert (no_method.status_code, no_method.headers["allow"]) == (405, "GET, HEAD, POST")
    assert {no_path.headers["content-type"], no_method.headers["content-type"]} == {"application/json"}


async def test_a_long_request_gets_a_short_refusal_at_a_door_that_is_open_to_all(here: Journey) -> None:
    page = {"Origin": here.relay_url}
    answers = [
        await here.client.request("DELETE", "/session?" + "&".join(["a="] * 10_000)),
        await here.client.post("/session", json={str(n): 1 for n in range(10_000)}, headers=page),
    ]

    for answer in answers:
        body = await refusal(answer, 400, "invalid_request")
        assert len(body["problems"]) == problem.PROBLEMS_MAX


@pytest.mark.parametrize("door", ["/v1/events?model=a", "/v1/jobs?model=a", "/v1/deliveries?job=a"])
async def test_a_name_stands_in_a_query_fifty_times_and_no_more(here: Journey, door: str) -> None:
    again = "&" + door.partition("?")[2]
    most = await here.client.get(door + again * (problem.VALUES_MAX - 1))
    over = await refusal(await here.client.get(door + again * problem.VALUES_MAX), 400, "invalid_request")

    assert most.status_code == 200, most.text
    assert [(one["rule"], one["allowed"]) for one in over["problems"]] == [("too_many", problem.VALUES_MAX)]


async def test_a_start_is_judged_where_a_better_one_is_given_too(here: Journey) -> None:
    answer = await here.client.get("/v1/events?since=yesterday", headers={"Last-Event-ID": "00000000-0"})

    body = await refusal(answer, 400, "invalid_request")
    assert body["problems"][0]["field"] == "query.since"


async def test_five_point_nought_is_a_whole_number(here: Journey) -> None:
    answer = await here.client.post("/v1/tickets", content=b'{"replyRef": "a", "ttlS": 60.0}', headers=JSON)

    assert answer.status_code == 201, answer.text


async def test_a_slash_too_many_is_not_redirected(here: Journey) -> None:
    await refusal(await here.client.post("/v1/jobs/", json=EXAMPLE), 404, "not_found")


@pytest.mark.parametrize(
    ("content", "headers", "field", "rule"),
    [
        (b"", JSON, "body", "json_object"),
        (b"{", JSON, "body", "json_object"),
        (b"null", JSON, "body", "json_object"),
        (b"[]", JSON, "body", "json_object"),
        (b'"text"', JSON, "body", "json_object"),
        (b'{"model": NaN}', JSON, "body", "json_object"),
        (b"\xff\xfe\xfd", JSON, "body", "json_object"),
        (b"[" * 100_000, JSON, "body", "json_object"),
        (b'{"a":' * 50_000, JSON, "body", "json_object"),
        (b"9" * 10_000, JSON, "body", "json_object"),
        (b"{}", {"Content-Type": "text/plain"}, "Content-Type", "media_type"),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, "Content-Type", "media_type"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/subscriptions"])
async def test_a_malformed_body_is_told_apart(
    here: Journey, path: str, content: bytes, headers: dict[str, str], field: str, rule: str
) -> None:
    body = await refusal(await here.client.post(path, content=content, headers=headers), 400, "invalid_request")

    assert [(found["field"], found["rule"]) for found in body["problems"]] == [(field, rule)]


async def test_json_by_another_name_is_taken(here: Journey) -> None:
    for media_type in ("application/json; charset=utf-8", "application/vnd.api+json", "APPLICATION/JSON"):
        answer = await here.client.post(
            "/v1/jobs", content=b"\xef\xbb\xbf" + json.dumps(EXAMPLE).encode(), headers={"Content-Type": media_type}
        )
        assert answer.status_code == 202, answer.text


async def test_a_body_over_the_bound_is_a_413(here: Journey) -> None:
    content = b'{"model": "' + b"x" * problem.BODY_MAX_BYTES + b'"}'

    await refusal(await here.client.post("/v1/jobs", content=content, headers=JSON), 413, "body_too_large")


async def test_a_body_that_does_not_come_is_a_408(here: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem.read_body, "__kwdefaults__", {"max_bytes": 1024, "deadline_s": 0.05})
    async with wire(here.relay_url) as connection:
        await connection.send(request("POST", "/v1/jobs", JSON | {"Content-Length": "100"}) + b'{"model": ')
        status, body = await connection.answer()

    assert status == 408
    assert body["code"] == "body_too_slow"


async def test_bodies_that_come_slowly_do_not_fill_the_memory_and_leave_room_for_those_that_come_at_once(
    here: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problem, "UNFINISHED_MAX_BYTES", 10_000)
    head = request("POST", "/callbacks/nobodys", JSON | {"Content-Length": "20000"})
    async with wire(here.relay_url) as first, wire(here.relay_url) as second:
        await first.send(head + b"x" * 6_000)
        await eventually(lambda: problem._Unfinished.size_bytes == 6_000)
        await second.send(head + b"x" * 6_000)
        refused, why = await second.answer()
        at_once = await here.submit()
        assert problem._Unfinished.size_bytes == 6_000
    await eventually(lambda: problem._Unfinished.size_bytes == 0)

    assert (refused, why["code"]) == (503, "unavailable")
    assert at_once["state"] == "queued"


@pytest.mark.parametrize(
    ("path", "field", "rule"),
    [
        ("/v1/jobs?colour=red", "query.colour", "unknown"),
        ("/v1/jobs?limit=10&limit=20", "query.limit", "once"),
        ("/v1/jobs?limit=0", "query.limit", "range"),
        ("/v1/jobs?limit=201", "query.limit", "range"),
        ("/v1/jobs?limit=%D9%A3", "query.limit", "range"),
        ("/v1/jobs?limit=" + "9" * 5_000, "query.limit", "range"),
        ("/v1/jobs?cursor=abc", "query.cursor", "range"),
        ("/v1/jobs?cursor=-1", "query.cursor", "range"),
        ("/v1/jobs?state=done", "query.state", "one_of"),
        ("/v1/events?type=job.*", "query.type", "one_of"),
        ("/v1/events?limit=501", "query.limit", "range"),
        ("/v1/deliveries?state=lost", "query.state", "one_of"),
        ("/v1/deliveries?cursor=x", "query.cursor", "range"),
        ("/v1/subscriptions?limit=1", "query.limit", "unknown"),
        ("/v1/quarantine?cursor=0", "query.cursor", "range"),
    ],
)
async def test_a_wrong_query_names_the_parameter_and_the_rule(here: Journey, path: str, field: str, rule: str) -> None:
    body = await refusal(await here.client.get(path), 400, "invalid_request")

    assert [(found["field"], found["rule"]) for found in body["problems"]] == [(field, rule)]
    assert len(body["problems"][0]["message"]) < 6_000


@pytest.mark.parametrize(
    "path", ["/v1/jobs/{}", "/v1/jobs/{}/events", "/v1/jobs/{}/callbacks", "/v1/jobs/{}/deliveries"]
)
@pytest.mark.parametrize("odd", ["unknown", "user:1", "%00", "%FF", "a" * 3_000, "..%2f..", "%F0%9F%8E%AC"])
async def test_an_unknown_job_is_a_404(here: Journey, path: str, odd: str) -> None:
    await refusal(await here.client.get(path.format(odd)), 404, "not_found")


async def test_a_defect_is_told_as_such_and_nothing_more(here: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(any_id: str) -> None:
        raise ValueError("the secret of the defect")

    monkeypatch.setattr(here.node.app.state.store, "job", broken)
    answer = await here.client.get("/v1/jobs/x")

    body = await refusal(answer, 500, "internal")
    assert body["detail"] == "the relay made a mistake; it is in its log"
    assert "secret" not in answer.text
