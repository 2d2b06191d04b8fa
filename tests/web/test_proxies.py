"""Whom the relay believes: listed proxies about a request's client and TLS, nobody about the relay's own name."""

from pathlib import Path
from typing import Any

import pytest

from relay.web.session import FAILURES_MAX
from tests.journeys import ADMIN_TOKEN, EXAMPLE, journey
from tests.web.test_session import browser, signed_in

pytestmark = pytest.mark.anyio


async def test_wrong_tokens_count_against_the_client_that_a_listed_proxy_names(tmp_path: Path) -> None:
    async with journey(tmp_path, trusted_proxies="127.0.0.1,10.0.0.0/8") as here, browser(here) as client:

        async def status(forwarded: str) -> int:
            headers = {"X-Forwarded-For": forwarded}
            return (await client.post("/session", json={"token": "a guess"}, headers=headers)).status_code

        guesses = [await status("192.0.2.1") for _ in range(FAILURES_MAX)]
        another = await status("192.0.2.2")
        # What stands before it, its sender may have invented; what stands behind it, the proxies have added.
        forged = await status("198.51.100.7, 192.0.2.1, 10.1.1.1")

    assert guesses == [401] * FAILURES_MAX
    assert (another, forged) == (401, 429)


@pytest.mark.parametrize("listed", ["", "192.0.2.0/24"])
async def test_nobody_else_can_say_whom_a_request_comes_from(tmp_path: Path, listed: str) -> None:
    async with journey(tmp_path, trusted_proxies=listed) as here, browser(here) as client:
        statuses = []
        for number in range(FAILURES_MAX + 1):
            headers = {"X-Forwarded-For": f"192.0.2.{number}", "X-Forwarded-Proto": "https"}
            statuses.append((await client.post("/session", json={"token": "a guess"}, headers=headers)).status_code)
        client.headers["X-Forwarded-Proto"] = "https"
        here.node.app.state.sign_ins._until_s.clear()
        cookie = (await signed_in(client)).headers["set-cookie"]

    assert statuses == [401] * FAILURES_MAX + [429]
    assert "secure" not in cookie.lower()


async def test_the_cookie_is_for_tls_alone_where_a_listed_proxy_says_that_the_browser_speaks_it(tmp_path: Path) -> None:
    async with journey(tmp_path, trusted_proxies="127.0.0.1") as here, browser(here) as client:
        client.headers |= {"X-Forwarded-Proto": "https", "Origin": here.relay_url.replace("http:", "https:")}
        cookie = (await signed_in(client)).headers["set-cookie"]
        sent = {"Cookie": cookie.partition(";")[0]}
        by_tls = await client.post("/v1/jobs", json=EXAMPLE, headers=sent)
        without = await client.get("/session", headers=sent | {"X-Forwarded-Proto": "http"})

    assert cookie.startswith("__Host-relay-")
    assert "; secure" in cookie.lower()
    assert (by_tls.status_code, without.status_code) == (202, 401)


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("relay.example.com", True),
        ("relay.example.com:8443", True),
        ("APP.example.com.", True),
        ("127.0.0.1:9", True),
        ("[::1]:9", True),
        ("relay", True),
        ("relay.shop.internal", True),
        ("evil.example", False),
        ("relay.example.com.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example@relay.example.com", True),
        ("[::1", False),
    ],
)
async def test_pages_and_sessions_are_not_to_be_had_by_names_of_others(tmp_path: Path, host: str, ours: bool) -> None:
    named: dict[str, Any] = {"public_url": "https://relay.example.com", "cors_origins": "https://app.example.com"}
    async with journey(tmp_path, **named) as here, browser(here, Origin=f"https://{host}") as client:
        client.headers["Host"] = host
        page = await client.get("/")
        session = await client.post("/session", json={"token": ADMIN_TOKEN})
        # A program's request means the relay that it reaches, by whatever name.
        bearer = await client.get("/v1/jobs", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})

    assert page.status_code == (200 if ours else 403)
    assert session.status_code == (201 if ours else 403)
    assert bearer.status_code == 200


async def test_a_session_is_of_no_use_by_a_name_of_somebody_elses(tmp_path: Path) -> None:
    async with journey(tmp_path) as here, browser(here) as client:
        await signed_in(client)
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        refused = await client.get("/v1/jobs", headers={"Host": "evil.example", "Cookie": cookie})

    assert refused.status_code == 403
    assert "RELAY_PUBLIC_URL" in refused.json()["detail"]
