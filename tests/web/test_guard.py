"""Without a token nobody gets in anywhere, but through the doors that are meant to be open."""

from collections.abc import Iterator

import httpx2
import pytest
from starlette.requests import Request

from relay.vault import hash_token
from relay.web.app import routes
from relay.web.guard import SCOPES, Principal
from tests.journeys import ADMIN_TOKEN, Journey

pytestmark = pytest.mark.anyio

# Health, callbacks by their secret, artifacts by their signature: nothing else, ever.
OPEN = {"/healthz", "/readyz", "/callbacks/{token}", "/v1/artifacts/{id}/{name}"}


def doors() -> Iterator[tuple[str, str]]:
    """Every method and path that the app serves."""
    for route in routes():
        for method in sorted(route.methods or ()):
            yield method, route.path


def address(path: str) -> str:
    return path.replace("{id}", "some-id").replace("{name}", "video.mp4").replace("{token}", "a" * 32)


GUARDED = [door for door in doors() if door[1] not in OPEN]


def test_only_these_doors_are_open() -> None:
    assert {path for _, path in doors() if path not in {path for _, path in GUARDED}} == OPEN


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
            assert method == "HEAD" or answer.json()["code"] == "unauthorized"


async def test_a_token_in_the_query_opens_nothing(here: Journey) -> None:
    async with httpx2.AsyncClient(base_url=here.relay_url, trust_env=False) as stranger:
        for name in ("token", "access_token", "authorization"):
            assert (await stranger.get("/v1/jobs", params={name: ADMIN_TOKEN})).status_code == 401


async def test_the_open_doors_answer_without_a_token(here: Journey) -> None:
    async with httpx2.AsyncClient(base_url=here.relay_url, trust_env=False) as stranger:
        assert (await stranger.get("/healthz")).status_code == 200
        assert (await stranger.get("/readyz")).status_code == 200
        assert (await stranger.post(address("/callbacks/{token}"), content=b"{}")).status_code == 404
        assert (await stranger.get(address("/v1/artifacts/{id}/{name}"))).status_code == 404


async def test_the_admin_token_opens_every_door(here: Journey) -> None:
    for method, path in GUARDED:
        answer = await here.client.request(method, address(path), json={} if method == "POST" else None)

        assert answer.status_code not in (401, 403), f"{method} {path}"


async def test_the_scheme_is_read_without_regard_to_capitals(here: Journey) -> None:
    answer = await here.client.get("/v1/jobs", headers={"Authorization": f"bEARER  {ADMIN_TOKEN}"})

    assert answer.status_code == 200


class OneScope:
    """A guard that lets everybody in, with one scope."""

    def __init__(self, scope: str) -> None:
        self._principal = Principal("t", "tester", frozenset({scope}))

    def who(self, request: Request) -> Principal:
        return self._principal


NEEDED = {
    "submit": {"POST /v1/jobs"},
    "manage": {
        "GET /v1/quarantine",
        "POST /v1/subscriptions",
        "GET /v1/subscriptions",
        "GET /v1/subscriptions/{id}",
        "DELETE /v1/subscriptions/{id}",
    },
}


@pytest.mark.parametrize("scope", sorted(SCOPES))
async def test_a_scope_opens_its_own_doors_and_no_others(
    here: Journey, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(here.node.app.state._state, "guard", OneScope(scope))
    own = NEEDED.get(scope)
    foreign = set.union(*(doors for name, doors in NEEDED.items() if name != scope))
    for method, path in GUARDED:
        answer = await here.client.request(method, address(path), json={} if method == "POST" else None)
        door = f"{method.replace('HEAD', 'GET')} {path}"
        expected = door in own if own is not None else door not in foreign

        assert (answer.status_code != 403) is expected, door
