"""Without a token nobody gets in anywhere, but through the doors that are meant to be open."""

import re
from collections.abc import Iterator

import httpx2
import pytest

from relay.vault import hash_token
from relay.web.app import routes
from tests.journeys import ADMIN_TOKEN, Journey

pytestmark = pytest.mark.anyio

DROPIN = "/v1/runwayml/"
# Health, callbacks by their secret, artifacts by their signature, public keys, files of pages,
# signing in: nothing else, ever.
OPEN = {
    "/healthz",
    "/readyz",
    "/callbacks/{token}",
    "/callbacks/inbox/{token}",
    "/v1/artifacts/{id}/{name}",
    "/.well-known/webhooks-keys.json",
    "/",
    "/session",
    "/static/{path:path}",
    "/openapi.json",
    "/docs",
}

SUBMIT, READ, MANAGE, ADMIN = {"submit"}, {"read"}, {"manage"}, {"admin"}
# Who gets in where, as the contract has it; a door that is new has to be written down here, too.
SCOPES_OF = {
    "POST /v1/jobs": SUBMIT,
    "GET /v1/jobs": SUBMIT | READ,
    "GET /v1/jobs/{id}": SUBMIT | READ,
    "DELETE /v1/jobs/{id}": MANAGE,
    "POST /v1/jobs/{id}/cancel": SUBMIT,
    "POST /v1/jobs/{id}/retry": SUBMIT,
    "POST /v1/jobs/{id}/resolve": MANAGE,
    "GET /v1/jobs/{id}/events": SUBMIT | READ,
    "GET /v1/jobs/{id}/why": SUBMIT | READ,
    "GET /v1/jobs/{id}/callbacks": SUBMIT | READ,
    "GET /v1/jobs/{id}/deliveries": SUBMIT | READ,
    "GET /v1/events": SUBMIT | READ | MANAGE,
    "GET /v1/models": SUBMIT | READ | MANAGE,
    "GET /v1/accounts": READ,
    "GET /v1/stats": READ,
    "GET /v1/quarantine": MANAGE,
    "GET /v1/deliveries": READ,
    "GET /v1/deliveries/{id}": READ,
    "GET /v1/deliveries/{id}/why": READ,
    "POST /v1/deliveries/{id}/retry": MANAGE,
    "POST /v1/deliveries/replay": MANAGE,
    "GET /v1/replays/{id}": READ | MANAGE,
    "GET /v1/artifacts": READ,
    "POST /v1/artifacts/fetch": MANAGE,
    "POST /v1/artifacts/prune": MANAGE,
    "POST /v1/artifacts/{id}/verify": MANAGE,
    "POST /v1/subscriptions": MANAGE,
    "GET /v1/subscriptions": MANAGE,
    "GET /v1/subscriptions/{id}": MANAGE,
    "GET /v1/subscriptions/{id}/why": MANAGE,
    "PATCH /v1/subscriptions/{id}": MANAGE,
    "DELETE /v1/subscriptions/{id}": MANAGE,
    "POST /v1/subscriptions/{id}/rotate": MANAGE,
    "POST /v1/subscriptions/{id}/ping": MANAGE,
    "POST /v1/subscriptions/{id}/enable": MANAGE,
    "POST /v1/tickets": SUBMIT | READ,
    "POST /v1/tokens": MANAGE,
    "GET /v1/tokens": MANAGE,
    "DELETE /v1/tokens/{id}": MANAGE,
    "POST /v1/backup": MANAGE,
    "POST /v1/resume": MANAGE,
    "GET /v1/audit": ADMIN,
    "GET /metrics": READ,
    "POST /v1/runwayml/videos/create": SUBMIT,
    "GET /v1/runwayml/tasks": SUBMIT | READ,
    "GET /v1/runwayml/scheduler": READ,
    "GET /v1/runwayml/accounts": SUBMIT | READ,
    "GET /v1/runwayml/features": SUBMIT | READ,
    "GET /v1/runwayml/assets": SUBMIT,
    "POST /v1/runwayml/assets": SUBMIT,
    "GET /v1/runwayml/tasks/{task_id:path}": SUBMIT | READ,
    "GET /v1/runwayml/assets/{asset_id:path}": SUBMIT,
    "DELETE /v1/runwayml/assets/{asset_id:path}": MANAGE,
}


def doors() -> Iterator[tuple[str, str]]:
    """Every method and path that the app serves."""
    for route in routes():
        for method in sorted(route.methods or ()):
            yield method, route.path


def address(path: str) -> str:
    """A path with something in the place of its parameters."""
    return re.sub(r"\{\w+(:path)?\}", "something", path)


def scopes_of(method: str, path: str) -> set[str]:
    """The scopes that open a door."""
    if path == f"{DROPIN}{{path:path}}":
        return SUBMIT | READ  # nothing is there
    door = f"{method.replace('HEAD', 'GET')} {path.rstrip('/')}"
    assert door in SCOPES_OF, f"{door} is new: write down here who may pass"
    return SCOPES_OF[door]


GUARDED = [door for door in doors() if door[1] not in OPEN]


def test_every_door_is_open_or_has_its_scopes_written_down() -> None:
    assert {path for _, path in doors()} >= OPEN
    for method, path in GUARDED:
        assert scopes_of(method, path)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong-token-for-the-tests-only"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer " + "a" * 5_000},
        {"Authorization": f"Basic {ADMIN_TOKEN}"},
        {"Authorization": ADMIN_TOKEN},
        {"Authorization": f"Bearer {hash_token(ADMIN_TOKEN)}"},
        {"X-Token": ADMIN_TOKEN},
        {"Cookie": f"token={ADMIN_TOKEN}"},
    ],
    ids=["none", "wrong", "empty", "long", "basic", "bare", "hash", "header", "cookie"],
)
async def test_every_other_door_is_shut_without_a_good_token(here: Journey, headers: dict[str, str]) -> None:
    async with httpx2.AsyncClient(base_url=here.relay_url, headers=headers, trust_env=False) as stranger:
        for method, path in GUARDED:
            answer = await stranger.request(method, address(path), json={} if method == "POST" else None)

            assert answer.status_code == 401, f"{method} {path}"
            assert answer.headers["www-authenticate"] == 'Bearer realm="relay"'
            assert method == "HEAD" or answer.json()["code"] == (401 if path.startswith(DROPIN) else "unauthorized")


async def test_a_token_in_the_query_opens_nothing(here: Journey) -> None:
    async with httpx2.AsyncClient(base_url=here.relay_url, trust_env=False) as stranger:
        for name in ("token", "access_token", "authorization"):
            assert (await stranger.get("/v1/jobs", params={name: ADMIN_TOKEN})).status_code == 401


async def test_the_open_doors_answer_without_a_token(here: Journey) -> None:
    async with httpx2.AsyncClient(base_url=here.relay_url, trust_env=False) as stranger:
        assert (await stranger.get("/healthz")).status_code == 200
        assert (await stranger.get("/readyz")).status_code == 200
        for callbacks in ("/callbacks/{token}", "/callbacks/inbox/{token}"):
            assert (await stranger.post(address(callbacks), content=b"{}")).status_code == 404
        assert (await stranger.get(address("/v1/artifacts/{id}/{name}"))).status_code == 404


async def test_the_admin_token_opens_every_door(here: Journey) -> None:
    for method, path in GUARDED:
        answer = await here.client.request(method, address(path), json={} if method == "POST" else None)

        assert answer.status_code not in (401, 403), f"{method} {path}"


async def test_the_scheme_is_read_without_regard_to_capitals(here: Journey) -> None:
    answer = await here.client.get("/v1/jobs", headers={"Authorization": f"bEARER  {ADMIN_TOKEN}"})

    assert answer.status_code == 200
