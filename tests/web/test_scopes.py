"""Every door, tried by every kind of token: none, revoked, each scope alone, another's, the owner's, the admin's."""

from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.journeys import ADMIN_TOKEN, EXAMPLE, Journey
from tests.web.test_guard import DROPIN, GUARDED, scopes_of

pytestmark = pytest.mark.anyio

PICTURE = b"\x89PNG\r\n\x1a\n0000"
NUMBERS = count()

# What a door needs in its query or body to answer as it should; the others need nothing.
QUERY = {"GET /v1/runwayml/tasks": {"offset": 0, "limit": 10}}
BODY: dict[str, Any] = {
    "POST /v1/jobs": EXAMPLE,
    "POST /v1/runwayml/videos/create": EXAMPLE,
    "POST /v1/jobs/{id}/resolve": {"outcome": "failed"},
    "POST /v1/deliveries/replay": {"filter": {}},
    "POST /v1/tickets": {"replyRef": "order-7"},
}
# What a door answers to whoever may use it, where that is not 200.
STATUS = {
    "POST /v1/jobs": 202,
    "POST /v1/subscriptions": 201,
    "POST /v1/tokens": 201,
    "POST /v1/tickets": 201,
    "DELETE /v1/jobs/{id}": 204,
    # The job has succeeded, so that there is nothing left to do about it.
    "POST /v1/jobs/{id}/cancel": 409,
    "POST /v1/jobs/{id}/retry": 409,
    "POST /v1/jobs/{id}/resolve": 409,
    "DELETE /v1/subscriptions/{id}": 204,
    # There is no delivery and no replay of the job's id.
    "GET /v1/deliveries/{id}": 404,
    "GET /v1/deliveries/{id}/why": 404,
    "POST /v1/deliveries/{id}/retry": 404,
    "GET /v1/replays/{id}": 404,
    "DELETE /v1/tokens/{id}": 204,
    # This relay keeps no files.
    "POST /v1/artifacts/fetch": 409,
    "POST /v1/artifacts/prune": 409,
    "POST /v1/artifacts/{id}/verify": 404,
}
# Doors to one job: there is nothing there for whoever may not see it.
OF_ONE_JOB = ("/v1/jobs/{id}", f"{DROPIN}tasks/{{task_id:path}}")


@dataclass
class Cast:
    """A job that has ended, and the headers of those who try the doors."""

    here: Journey
    job: dict[str, Any]
    asset: str
    tokens: dict[str, str]

    async def ask(self, who: str, method: str, path: str, kind: str = "", **more: Any) -> httpx2.Response:
        token = self.tokens[who]
        headers = {"Authorization": f"Bearer {token}" if token else ""} | ({"Content-Type": kind} if kind else {})
        return await self.here.client.request(method, path, headers=headers, **more)

    async def address(self, method: str, path: str) -> str:
        """The path with ids of what is really there; what a door deletes is made anew for each visit."""
        fresh = method == "DELETE"
        if "{asset_id:path}" in path:
            return path.replace("{asset_id:path}", await upload(self.here) if fresh else self.asset)
        if path.startswith("/v1/subscriptions/"):
            return path.replace("{id}", (await self.here.subscribe())["id"])
        if path.startswith("/v1/tokens/"):
            return path.replace("{id}", (await token(self.here, "read"))["id"])
        path = path.replace("{path:path}", "gen4/create")
        if fresh:
            return path.replace("{id}", (await self.here.ended((await self.here.submit())["id"]))["id"])
        return path.replace("{id}", self.job["id"]).replace("{task_id:path}", self.job["taskId"])

    async def knock(self, who: str, method: str, path: str) -> httpx2.Response:
        door = f"{method} {path.rstrip('/')}"
        more: dict[str, Any] = {"params": QUERY.get(door.replace("HEAD", "GET"))}
        if door == "POST /v1/runwayml/assets":
            more = {"content": PICTURE, "kind": "image/png", "params": {"name": "a.png"}}
        elif door == "POST /v1/tokens":
            more["json"] = {"name": f"new {next(NUMBERS)}", "scopes": ["read"]}
        elif door == "POST /v1/subscriptions":
            more["json"] = {"url": self.here.subscriber.url}
        elif method in ("POST", "PATCH"):
            more["json"] = BODY.get(door, {})
        return await self.ask(who, method, await self.address(method, path), **more)


async def token(here: Journey, *scopes: str, **limits: Any) -> dict[str, Any]:
    """A new token of a name that no other has."""
    body = {"name": f"token {next(NUMBERS)}", "scopes": scopes} | limits
    answer = await here.client.post("/v1/tokens", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def upload(here: Journey) -> str:
    headers = {"Content-Type": "image/png"}
    answer = await here.client.post(f"{DROPIN}assets/?name={uuid4()}.png", headers=headers, content=PICTURE)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["assetId"])


@pytest.fixture(scope="module")
async def cast(here: Journey) -> Cast:
    made = {scope: await token(here, scope) for scope in ("submit", "read", "manage")}
    made |= {"owner": await token(here, "submit"), "revoked": await token(here, "submit", "read", "manage")}
    assert (await here.client.delete(f"/v1/tokens/{made['revoked']['id']}")).status_code == 204
    tokens = {name: token["token"] for name, token in made.items()} | {"none": "", "admin": ADMIN_TOKEN}
    headers = {"Authorization": f"Bearer {tokens['owner']}"}
    answer = await here.client.post("/v1/jobs", json=EXAMPLE, headers=headers)
    job = await here.ended(answer.json()["id"])
    return Cast(here, job, await upload(here), tokens)


def expected(who: str, method: str, path: str) -> int:
    """What a door answers to somebody."""
    door = f"{method.replace('HEAD', 'GET')} {path.rstrip('/')}"
    if who in ("none", "revoked"):
        return 401
    scopes = {"owner": {"submit"}, "admin": {"submit", "read", "manage", "admin"}}.get(who, {who})
    if not scopes & scopes_of(method, path):
        return 403
    if path == f"{DROPIN}{{path:path}}" or (path.startswith(OF_ONE_JOB) and who == "submit"):
        return 404
    return STATUS.get(door, 200)


@pytest.mark.parametrize("who", ["none", "revoked", "submit", "read", "manage", "owner", "admin"])
async def test_every_door_answers_each_kind_of_token_as_the_contract_says(cast: Cast, who: str) -> None:
    wrong = []
    for method, path in GUARDED:
        answer = await cast.knock(who, method, path)
        if answer.status_code != expected(who, method, path):
            wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")

    assert wrong == []
