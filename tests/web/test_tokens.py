"""Named tokens: shown once, gone at once, and each sees its own jobs and keeps its own limits."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.clock import ManualClock
from relay.core.event import JOB_TYPES
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs
from relay.vault import hash_token
from tests.journeys import EXAMPLE, WAIT_S, Journey, journey, surroundings, while_time_passes
from tests.web.test_scopes import token
from tests.wire import Frame, Wire, stream

pytestmark = pytest.mark.anyio

DOOR = "/v1/runwayml"


@pytest.fixture
async def still(tmp_path: Path) -> AsyncGenerator[tuple[Journey, ManualClock]]:
    """A relay whose time stands still, with an account of one slot whose tasks never end."""
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, sandbox_clock=clock, times_s=(1e6, 1e6), dropin_wait="off") as running:
        yield running, clock


def bearer(made: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {made['token']}"}


@asynccontextmanager
async def client_of(here: Journey, made: dict[str, Any]) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client that comes with this token."""
    async with httpx2.AsyncClient(
        base_url=here.relay_url, headers=bearer(made), trust_env=False, timeout=WAIT_S
    ) as client:
        yield client


async def rules(here: Journey, body: dict[str, Any]) -> list[tuple[str, str]]:
    """Field and rule of each problem with which a new token is refused."""
    answer = await here.client.post("/v1/tokens", json=body)
    assert answer.status_code == 400, answer.text
    return [(problem["field"], problem["rule"]) for problem in answer.json()["problems"]]


def stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_a_token_is_shown_once_and_kept_by_its_hash_alone(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        answer = await here.client.post("/v1/tokens", json={"name": "shop", "scopes": ["submit", "read"]})
        made = answer.json()
        secret = made.pop("token")
        listed = await here.client.get("/v1/tokens")

        assert answer.status_code == 201
        assert answer.headers["cache-control"] == "no-store"
        assert len(secret) >= 32
        assert made == {
            "id": made["id"],
            "name": "shop",
            "scopes": ["read", "submit"],
            "maxWaiting": None,
            "maxPerDay": None,
            "expiresAt": None,
            "createdAt": made["createdAt"],
        }
        assert listed.json() == {"data": [made], "next": None}
        assert secret.encode() not in stored(tmp_path)
        assert hash_token(secret).encode() in stored(tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"name": ""}, ("name", "name_form")),
        ({"name": " shop"}, ("name", "name_form")),
        ({"name": "sh\nop"}, ("name", "name_form")),
        ({"name": "a" * 65}, ("name", "name_form")),
        ({"scopes": []}, ("scopes", "too_short")),
        ({"scopes": ["admin"]}, ("scopes.0", "one_of")),
        ({"scopes": "submit"}, ("scopes", "list_type")),
        ({"maxWaiting": 0}, ("maxWaiting", "range")),
        ({"maxWaiting": 101}, ("maxWaiting", "range")),
        ({"maxWaiting": True}, ("maxWaiting", "int_type")),
        ({"maxPerDay": 0}, ("maxPerDay", "range")),
        ({"maxPerDay": 100_001}, ("maxPerDay", "range")),
        ({"scope": "submit"}, ("scope", "unknown")),
        ({"token": "a-token-of-my-own-choice-0123456789"}, ("token", "unknown")),
    ],
)
async def test_a_body_that_breaks_a_rule_is_refused_by_field_and_rule(
    here: Journey, changes: dict[str, Any], problem: tuple[str, str]
) -> None:
    assert await rules(here, {"name": "shop", "scopes": ["submit"]} | changes) == [problem]


async def test_what_is_missing_is_named(here: Journey) -> None:
    assert await rules(here, {}) == [("name", "required"), ("scopes", "required")]


async def test_a_name_is_free_again_when_its_token_is_revoked(here: Journey) -> None:
    body = {"name": "one of a kind", "scopes": ["read"]}
    both = await asyncio.gather(*(here.client.post("/v1/tokens", json=body) for _ in range(5)))
    first = next(answer.json() for answer in both if answer.status_code == 201)
    revoked = await here.client.delete(f"/v1/tokens/{first['id']}")
    again = await here.client.post("/v1/tokens", json=body)

    assert sorted(answer.status_code for answer in both) == [201, 409, 409, 409, 409]
    assert (revoked.status_code, revoked.content) == (204, b"")
    assert again.status_code == 201
    assert again.json()["token"] != first["token"]


async def test_a_revoked_token_opens_nothing_from_the_next_request_on(here: Journey) -> None:
    made = await token(here, "submit", "read", "manage")
    async with client_of(here, made) as client:
        assert (await client.get("/v1/jobs")).status_code == 200
        assert (await client.delete(f"/v1/tokens/{made['id']}")).status_code == 204

        native, dropin = await client.get("/v1/jobs"), await client.get(f"{DOOR}/accounts")
        again = await here.client.delete(f"/v1/tokens/{made['id']}")

    assert (native.status_code, native.json()["code"]) == (401, "unauthorized")
    assert native.headers["content-type"] == "application/problem+json"
    assert (dropin.status_code, dropin.json()["code"]) == (401, 401)
    assert "error" in dropin.json()
    assert again.status_code == 404


async def test_a_named_token_in_the_query_opens_nothing(here: Journey) -> None:
    made = await token(here, "read")
    async with httpx2.AsyncClient(base_url=here.relay_url, trust_env=False) as stranger:
        for name in ("token", "access_token", "authorization", "ticket"):
            assert (await stranger.get("/v1/jobs", params={name: made["token"]})).status_code == 401


async def test_tokens_and_their_jobs_survive_a_restart(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        async with around.relay() as here:
            kept, gone = await token(here, "submit"), await token(here, "submit")
            job = (await here.client.post("/v1/jobs", json=EXAMPLE, headers=bearer(kept))).json()
            await here.client.delete(f"/v1/tokens/{gone['id']}")
        async with around.relay() as here:
            seen = await here.client.get(f"/v1/jobs/{job['id']}", headers=bearer(kept))
            refused = await here.client.get(f"/v1/jobs/{job['id']}", headers=bearer(gone))

    assert (seen.status_code, seen.json()["submittedBy"]) == (200, kept["name"])
    assert refused.status_code == 401


async def test_the_jobs_of_a_revoked_token_go_on(here: Journey) -> None:
    made = await token(here, "submit")
    job = (await here.client.post("/v1/jobs", json=EXAMPLE, headers=bearer(made))).json()
    await here.client.delete(f"/v1/tokens/{made['id']}")

    assert (await here.ended(job["id"]))["state"] == "succeeded"


async def test_a_submit_token_finds_its_own_jobs_everywhere_and_no_others(here: Journey) -> None:
    mine, other = await token(here, "submit"), await token(here, "submit")
    async with client_of(here, mine) as client, client_of(here, other) as stranger:
        created = (await client.post(f"{DOOR}/videos/create", json=EXAMPLE | {"replyRef": "of mine"})).json()
        job_id = created["jobId"]
        await here.ended(job_id)

        for path in (
            f"/v1/jobs/{created['taskId']}",
            "/v1/jobs?replyRef=of%20mine",
            "/v1/events?since=earliest",
            f"/v1/events?job={job_id}",
            f"{DOOR}/tasks/?offset=0&limit=10",
            f"{DOOR}/tasks/{created['taskId']}",
        ):
            own, theirs = await client.get(path), await stranger.get(path)
            assert own.status_code == 200, path
            assert job_id in own.text or created["taskId"] in own.text, path
            assert theirs.status_code in (200, 404), path
            assert theirs.status_code == 404 or theirs.json() == [] or theirs.json()["data"] == [], path
        task = await stranger.get(f"{DOOR}/tasks/{created['taskId']}")
        assert task.json() == {"error": "Not found.", "code": 404, "problems": []}


async def test_a_reply_url_is_shown_to_its_submitter_alone(here: Journey) -> None:
    mine, reader = await token(here, "submit"), await token(here, "read")
    fields = EXAMPLE | {"replyUrl": here.subscriber.url}
    created = (await here.client.post(f"{DOOR}/videos/create", json=fields, headers=bearer(mine))).json()
    for path in (f"/v1/jobs/{created['jobId']}", f"{DOOR}/tasks/{created['taskId']}"):
        own = (await here.client.get(path, headers=bearer(mine))).json()
        read = (await here.client.get(path, headers=bearer(reader))).json()

        assert own["replyUrl"] == here.subscriber.url
        assert read["replyUrl"] is None
        assert here.subscriber.url not in str(read)


async def test_accounts_are_shown_at_the_readiness_door_to_read_tokens_alone(here: Journey) -> None:
    for scopes, shown in ((("read",), True), (("submit", "manage"), False)):
        answer = await here.client.get("/readyz", headers=bearer(await token(here, *scopes)))

        assert answer.status_code == 200
        assert ("accounts" in answer.json()) is shown


async def refused(client: httpx2.AsyncClient, path: str = "/v1/jobs") -> httpx2.Response:
    answer = await client.post(path, json=EXAMPLE)
    assert answer.status_code == 429, answer.text
    return answer


async def test_over_a_days_limit_nothing_is_stored_however_many_come_at_once(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    made = await token(here, "submit", maxPerDay=3)
    async with client_of(here, made) as client:
        answers = await asyncio.gather(*(client.post("/v1/jobs", json=EXAMPLE) for _ in range(12)))
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [429] * 9

        clock.advance(3_600)
        native, dropin = await refused(client), await refused(client, f"{DOOR}/videos/create")
        assert (native.json()["code"], native.headers["content-type"]) == ("quota", "application/problem+json")
        assert native.headers["retry-after"] == dropin.headers["retry-after"] == str(23 * 3_600)
        assert (dropin.json()["code"], "24 hours" in dropin.json()["error"]) == (429, True)
        assert len((await client.get("/v1/jobs")).json()["data"]) == 3

        clock.advance(23 * 3_600)
        assert (await client.post("/v1/jobs", json=EXAMPLE)).status_code == 202
    assert (await here.client.post("/v1/jobs", json=EXAMPLE)).status_code == 202


async def test_over_its_waiting_jobs_a_token_has_to_wait_and_others_have_not(
    still: tuple[Journey, ManualClock],
) -> None:
    here, _ = still
    made, other = await token(here, "submit", maxWaiting=2), await token(here, "submit")
    slots = (await here.get("/v1/accounts"))["data"]
    while not slots or any(row["running"] < row["slots"] for row in slots):
        job = await here.submit()
        await here.job_that(job["id"], lambda job: job["state"] == "running" or job["queuePosition"] is not None)
        slots = (await here.get("/v1/accounts"))["data"]
    async with client_of(here, made) as client:
        answers = await asyncio.gather(*(client.post("/v1/jobs", json=EXAMPLE) for _ in range(8)))
        over = await refused(client)

    assert sorted(answer.status_code for answer in answers) == [202] * 2 + [429] * 6
    assert (over.json()["code"], int(over.headers["retry-after"]) > 0) == ("quota", True)
    assert (await here.client.post("/v1/jobs", json=EXAMPLE, headers=bearer(other))).status_code == 202


@dataclass(frozen=True)
class Warned(Happening[None]):
    """An operator event."""

    at_ms: int

    def needs(self) -> Needs:
        return Needs()

    def decide(self, loaded: Loaded) -> Changes[None]:
        draft = Draft(loaded)
        draft.warn("disk.low", "the disk", "nearly full", self.at_ms)
        return draft.changes(None)


async def types_seen(here: Journey, *scopes: str) -> set[str]:
    """The types of events in the list that a token with these scopes sees, once it has submitted if it may."""
    made = await token(here, *scopes)
    if "submit" in scopes:
        assert (await here.client.post("/v1/jobs", json=EXAMPLE, headers=bearer(made))).status_code == 202
    listed = await here.client.get("/v1/events?since=earliest&limit=500", headers=bearer(made))
    return {event["type"] for event in listed.json()["data"]}


async def test_operator_events_are_for_manage_tokens(still: tuple[Journey, ManualClock]) -> None:
    here, clock = still
    await here.node.app.state.store.apply(Warned(clock.now_ms()))

    operators = await types_seen(here, "manage")
    assert "disk.low" in operators
    assert not operators & set(JOB_TYPES)
    assert await types_seen(here, "submit", "manage") >= {"disk.low", "job.queued"}
    for scopes in (("submit",), ("read",), ("submit", "read")):
        assert "disk.low" not in await types_seen(here, *scopes)


async def test_operator_events_come_at_once_in_the_stream_of_a_manage_token(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    for scopes in (("manage",), ("submit", "manage"), ("read", "manage")):
        async with stream(here.relay_url, "/v1/events", bearer(await token(here, *scopes))) as connection:
            await connection.event()
            await here.node.app.state.store.apply(Warned(clock.now_ms()))

            [*_, event] = await connection.events(until=lambda frame: frame.event == "disk.low")
            assert event.data["data"] == {"subject": "the disk", "reason": "nearly full"}


async def until_ended(connection: Wire) -> tuple[list[Frame], int]:
    """The events up to the stream's end, and how many heartbeats came with them."""
    events: list[Frame] = []
    beats = 0
    while (frame := await connection.frame()) is not None:
        if frame.comment is None:
            events.append(frame)
        else:
            beats += 1
    return events, beats


async def test_the_stream_of_a_submit_token_shows_its_own_jobs_and_ends_with_the_token(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    made = await token(here, "submit")
    async with stream(here.relay_url, "/v1/events", bearer(made)) as connection:
        await here.submit()
        job = (await here.client.post("/v1/jobs", json=EXAMPLE, headers=bearer(made))).json()
        opened, first = await connection.events(until=lambda frame: frame.event == "job.queued")
        assert first.data["data"]["job"]["id"] == job["id"]
        await here.client.delete(f"/v1/tokens/{made['id']}")
        events, beats = await while_time_passes(clock, until_ended(connection))

    assert opened.event == "stream.open"
    assert (events[-1].event, events[-1].data["reason"]) == ("stream.bye", "expired")
    assert beats <= 1
    assert {event.data["data"]["job"]["id"] for event in events if "data" in event.data} <= {job["id"]}


async def test_a_token_of_limited_time_ends_by_itself_and_all_that_it_opened_with_it(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    body = {"name": "guest", "scopes": ["submit", "read"], "ttlS": 3600}
    made = (await here.client.post("/v1/tokens", json=body)).json()
    job = (await here.client.post("/v1/jobs", json=EXAMPLE, headers=bearer(made))).json()
    asked = {"job": job["id"], "ttlS": 7200}
    ticket = (await here.client.post("/v1/tickets", json=asked, headers=bearer(made))).json()["ticket"]
    sign_in = {"Origin": here.relay_url, "Authorization": ""}
    signed_in = await here.client.post("/session", json={"token": made["token"]}, headers=sign_in)
    here.client.cookies.clear()
    cookie = {"Cookie": signed_in.headers["set-cookie"].partition(";")[0], "Authorization": ""}
    ways: list[dict[str, Any]] = [
        {"headers": bearer(made)},
        {"headers": {"Authorization": ""}, "params": {"ticket": ticket}},
        {"headers": cookie},
    ]

    async def statuses() -> list[int]:
        return [(await here.client.get(f"/v1/jobs/{job['id']}", **way)).status_code for way in ways]

    async with (
        stream(here.relay_url, "/v1/events", bearer(made)) as plain,
        stream(here.relay_url, f"/v1/events?ticket={ticket}&since=now", {"Authorization": ""}) as by_ticket,
    ):
        assert await plain.event()
        assert await by_ticket.event()
        clock.advance(3590)
        before = await statuses()
        listed = (await here.get("/v1/tokens"))["data"]
        clock.advance(10)
        after = await statuses()
        ends = [(await while_time_passes(clock, each.events()))[-1] for each in (plain, by_ticket)]
    again = await here.client.post("/v1/tokens", json=body)

    assert (before, after) == ([200] * 3, [401] * 3)
    assert signed_in.json()["expiresAt"] == made["expiresAt"]
    assert made["expiresAt"] in [row["expiresAt"] for row in listed]
    assert [(end.event, end.data["reason"]) for end in ends] == [("stream.bye", "expired")] * 2
    # Its name is free again.
    assert again.status_code == 201
    assert made["id"] not in [row["id"] for row in (await here.get("/v1/tokens"))["data"]]


async def test_a_busy_stream_without_heartbeats_ends_with_its_token_too(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    made = await token(here, "read")
    async with stream(here.relay_url, "/v1/events", bearer(made)) as connection:
        await connection.event()
        await here.client.delete(f"/v1/tokens/{made['id']}")
        ending = asyncio.create_task(connection.events())
        while not ending.done():  # the queue has room for a hundred, each a second after the one before
            clock.advance(1)
            await here.submit()
        events = await ending

    assert events[-1].data["reason"] == "expired"


async def test_the_stream_of_a_living_token_stays_open(still: tuple[Journey, ManualClock]) -> None:
    here, clock = still
    made = await token(here, "read")
    async with stream(here.relay_url, "/v1/events", bearer(made)) as connection:
        await connection.event()
        for _ in range(3):
            frame = await while_time_passes(clock, connection.frame())

            assert frame is not None
            assert frame.event != "stream.bye"
