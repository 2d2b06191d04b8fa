"""Sessions: a cookie stands for the token that somebody signed in with, for pages of the relay and for nobody else."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.clock import ManualClock
from relay.vault import hash_token
from relay.web.guard import SESSION_S
from relay.web.session import ADDRESSES_MAX, FAILURES_MAX, Attempts
from tests.journeys import ADMIN_TOKEN, EXAMPLE, Journey, journey, surroundings, while_time_passes
from tests.web.test_scopes import token
from tests.wire import stream

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def browser(here: Journey, **headers: str) -> AsyncGenerator[httpx2.AsyncClient]:
    """Keeps cookies and names its origin, as a browser does."""
    named = {"Origin": here.relay_url} | headers
    async with httpx2.AsyncClient(base_url=here.relay_url, headers=named, trust_env=False) as client:
        yield client


async def signed_in(client: httpx2.AsyncClient, secret: str = ADMIN_TOKEN) -> httpx2.Response:
    answer = await client.post("/session", json={"token": secret})
    assert answer.status_code == 201, answer.text
    return answer


async def test_somebody_signs_in_works_and_signs_out(here: Journey) -> None:
    shop = await token(here, "submit", "read")
    async with browser(here) as client:
        assert (await client.get("/session")).status_code == 401
        answer = await signed_in(client, f" {shop['token']}\n")
        shown = (await client.get("/session")).json()
        job = await client.post("/v1/jobs", json=EXAMPLE)
        not_allowed = await client.get("/v1/tokens")
        out = await client.delete("/session")
        after = await client.get("/v1/jobs")

    assert answer.json() == shown
    assert (shown["name"], shown["scopes"]) == (shop["name"], ["read", "submit"])
    assert (job.status_code, job.json()["submittedBy"]) == (202, shop["name"])
    assert not_allowed.status_code == 403
    assert (out.status_code, after.status_code) == (204, 401)


async def test_the_cookie_is_for_this_relay_alone_and_says_nothing(here: Journey) -> None:
    shop = await token(here, "read")
    async with browser(here) as client:
        cookie = (await signed_in(client, shop["token"])).headers["set-cookie"]
    name, *terms = cookie.split("; ")

    assert {term.lower() for term in terms} == {"httponly", "samesite=strict", "path=/", f"max-age={SESSION_S}"}
    assert name.startswith(f"relay-{here.node.app.state.store.instance}=")
    assert shop["token"] not in cookie
    assert hash_token(shop["token"]) not in cookie
    assert shop["token"].encode() not in (here.settings.database_path).read_bytes()


async def test_behind_tls_the_cookie_never_travels_without(tmp_path: Path) -> None:
    async with (
        journey(tmp_path, public_url="https://relay.example.com") as here,
        browser(here, Origin="https://relay.example.com") as client,
    ):
        cookie = (await signed_in(client)).headers["set-cookie"]
        stolen = {"Cookie": cookie.split(";")[0]}
        refused = await client.post("/v1/jobs", headers=stolen | {"Origin": "http://relay.example.com"}, json=EXAMPLE)
        taken = await client.post("/v1/jobs", headers=stolen, json=EXAMPLE)

    assert cookie.startswith("__Host-relay-")
    assert "; secure" in cookie.lower()
    assert (refused.status_code, taken.status_code) == (403, 202)


@pytest.mark.parametrize("origin", ["https://evil.example.com", "null", "", "file://", "http://127.0.0.1:1"])
async def test_pages_of_others_change_nothing_with_the_cookie(here: Journey, origin: str) -> None:
    async with browser(here) as client:
        await signed_in(client)
        client.headers["Origin"] = origin
        answers = [
            await client.post("/v1/jobs", json=EXAMPLE),
            await client.post("/v1/runwayml/videos/create", data={"model": "gen4.5", "text_prompt": "x"}),
            await client.delete("/v1/tokens/x"),
            await client.post("/session", json={"token": ADMIN_TOKEN}),
            await client.delete("/session"),
        ]
        reading = await client.get("/v1/jobs")
        bearer = await client.post("/v1/jobs", json=EXAMPLE, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})

    assert [answer.status_code for answer in answers] == [403] * 5
    # Reading needs no Origin, for a page of others never sees the answer; and a bearer is no cookie.
    assert (reading.status_code, bearer.status_code) == (200, 202)


async def test_a_session_lives_through_a_restart_and_dies_with_its_token(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        async with around.relay() as here, browser(here) as client:
            shop = await token(here, "read")
            await signed_in(client, shop["token"])
            cookies = client.cookies
        async with around.relay() as here, browser(here) as client:
            client.cookies = cookies
            after_restart = await client.get("/session")
            await here.client.delete(f"/v1/tokens/{shop['id']}")
            revoked = await client.get("/session")
        async with around.relay(admin_token="another-admin-token-for-tests") as here, browser(here) as client:
            client.cookies = cookies
            unknown = await client.get("/session")

    assert [answer.status_code for answer in (after_restart, revoked, unknown)] == [200, 401, 401]


async def test_an_admins_session_dies_when_the_admin_token_is_replaced(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        async with around.relay() as here, browser(here) as client:
            await signed_in(client)
            cookies = client.cookies
        async with around.relay(admin_token="another-admin-token-for-tests") as here, browser(here) as client:
            client.cookies = cookies
            assert (await client.get("/session")).status_code == 401


@pytest.mark.parametrize("ends_by", ["revoking", "time"])
async def test_open_streams_end_with_the_session(tmp_path: Path, ends_by: str) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, sandbox_clock=clock) as here, browser(here) as client:
        shop = await token(here, "read")
        cookie = (await signed_in(client, shop["token"])).headers["set-cookie"].split(";")[0]
        if ends_by == "time":
            clock.advance(SESSION_S - 20)
        async with stream(here.relay_url, "/v1/events", {"Authorization": "", "Cookie": cookie}) as connection:
            first = await connection.event()
            if ends_by == "revoking":
                await here.client.delete(f"/v1/tokens/{shop['id']}")
            frames = await while_time_passes(clock, connection.events())

    assert first is not None
    assert (frames[-1].event, frames[-1].data["reason"]) == ("stream.bye", "expired")


async def test_wrong_tokens_are_taken_in_small_numbers(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, sandbox_clock=clock) as here, browser(here) as client:
        wrong = [await client.post("/session", json={"token": f"guess {n}"}) for n in range(FAILURES_MAX + 1)]
        refused = await client.post("/session", json={"token": ADMIN_TOKEN})
        clock.advance(float(refused.headers["retry-after"]))
        after = await client.post("/session", json={"token": ADMIN_TOKEN})

    assert [answer.status_code for answer in wrong] == [401] * FAILURES_MAX + [429]
    assert (refused.status_code, refused.json()["code"]) == (429, "limit_reached")
    assert after.status_code == 201


def test_what_is_remembered_of_wrong_tokens_is_bounded() -> None:
    attempts = Attempts()
    for number in range(ADDRESSES_MAX + 100):
        attempts.failed(f"address {number}", 0.0)

    assert len(attempts._until_s) == ADDRESSES_MAX


@pytest.mark.parametrize("body", [{}, {"token": ""}, {"token": "x" * 600}, {"token": 7}, {"token": "x", "name": "y"}])
async def test_what_is_no_sign_in_is_refused(here: Journey, body: dict[str, Any]) -> None:
    async with browser(here) as client:
        answer = await client.post("/session", json=body)

    assert answer.status_code == 400
    assert answer.json()["problems"]


async def test_a_changed_cookie_opens_nothing(here: Journey) -> None:
    async with browser(here) as client:
        name, _, value = (await signed_in(client)).headers["set-cookie"].split(";")[0].partition("=")
        ticket = (await here.client.post("/v1/tickets", json={"replyRef": "x"})).json()["ticket"]
        client.cookies.clear()
        for wrong in ("", value[:-1], ticket, hash_token(ADMIN_TOKEN), ADMIN_TOKEN):
            answer = await client.get("/v1/jobs", headers={"Cookie": f"{name}={wrong}"})
            assert answer.status_code == 401, wrong
