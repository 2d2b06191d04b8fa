"""Who changed what is kept with the change itself, and shown to the holder of the admin token alone."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from relay.core.holding import SubmittingHeld
from relay.vault import new_hex
from tests import journeys
from tests.journeys import EXAMPLE, Journey, journey, surroundings
from tests.web.test_guard import DROPIN, GUARDED
from tests.web.test_kept import storage
from tests.web.test_scopes import token
from tests.web.test_steering import in_doubt, lost_answer

pytestmark = pytest.mark.anyio

# Doors that leave no line: what they make says itself who made it, or they change nothing that the relay keeps.
WITHOUT_A_LINE = {
    "POST /v1/jobs",
    "POST /v1/tickets",
    "POST /v1/subscriptions/{id}/ping",
    "POST /v1/artifacts/{id}/verify",
}


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The engine that journeys run on."""
    cluster = request.getfixturevalue("postgres") if request.param == "postgres" else None
    monkeypatch.setattr(journeys, "server", cluster)
    name: str = request.param
    return name


class Doing:
    """Does things with a token of its own, and remembers of each what the audit is to say."""

    def __init__(self, here: Journey, made: dict[str, Any]) -> None:
        self._here, self.headers = here, {"Authorization": f"Bearer {made['token']}"}
        self.expected: list[dict[str, Any]] = []
        self._who = {"actor": made["name"], "token": made["id"]}

    async def __call__(self, action: str, id_of: str | None = None, made: str | None = None, **body: Any) -> Any:
        method, _, path = action.partition(" ")
        trace = new_hex(32)
        headers = self.headers | {"traceparent": f"00-{trace}-{new_hex(16)}-01"}
        answer = await self._here.client.request(
            method, path.replace("{id}", id_of or ""), headers=headers, json=body if method != "DELETE" else None
        )
        assert answer.is_success, answer.text
        found = answer.json() if answer.headers.get("content-type") == "application/json" else {}
        self.expected.append(
            {**self._who, "action": action, "object": found[made] if made else id_of, "request": trace}
        )
        return found


async def lines(here: Journey, query: str = "") -> list[dict[str, Any]]:
    """The audit, oldest first, without its times."""
    found: list[dict[str, Any]] = (await here.get(f"/v1/audit{query}"))["data"]
    return [{name: value for name, value in line.items() if name != "at"} for line in reversed(found)]


async def in_pages(here: Journey, limit: int) -> list[dict[str, Any]]:
    """The audit, newest first, page by page."""
    found: list[dict[str, Any]] = []
    path = f"/v1/audit?limit={limit}"
    page = await here.get(path)
    while page["next"] is not None:
        found += page["data"]
        page = await here.get(f"{path}&cursor={page['next']}")
    found += page["data"]
    return found


async def everything(here: Journey, unkept: str, engine: str) -> Doing:
    """Goes through every door that changes something once; `unkept` is a job whose files nobody has kept."""
    boss = (await here.client.post("/v1/tokens", json={"name": "boss", "scopes": ["submit", "manage"]})).json()
    do = Doing(here, boss)
    hook = {"url": here.subscriber.url}
    subscription = await do("POST /v1/subscriptions", None, "id", **hook)
    job = (await here.submit())["id"]
    assert (await here.ended(job))["state"] == "failed"
    retried = (await do("POST /v1/jobs/{id}/retry", job))["id"]
    await do("PATCH /v1/subscriptions/{id}", subscription["id"], description="mine")
    await do("POST /v1/subscriptions/{id}/rotate", subscription["id"])
    await do("POST /v1/subscriptions/{id}/enable", subscription["id"], backlog="none")
    await here.ended(retried)
    of_job = f"/v1/jobs/{job}/deliveries?state=delivered"
    delivered = await here.until(lambda: here.get(of_job), lambda page: bool(page["data"]))
    await do("POST /v1/deliveries/{id}/retry", delivered["data"][0]["id"])
    await do("POST /v1/deliveries/replay", None, "id", filter={"state": ["delivered"]}, dryRun=False)
    await do("DELETE /v1/jobs/{id}", job)
    here.vendor.faults.replace(lost_answer())
    await do("POST /v1/jobs/{id}/resolve", (await in_doubt(here))["id"], outcome="failed")
    await here.node.app.state.store.apply(SubmittingHeld("a test", here.node.clock.now_ms()))
    waiting = (await here.submit())["id"]
    await do("POST /v1/jobs/{id}/cancel", waiting)
    await do("POST /v1/resume", None, force=True)
    await do("POST /v1/artifacts/fetch", unkept, job=unkept)
    await do("POST /v1/artifacts/prune")
    if engine == "sqlite":
        await do("POST /v1/backup")
    token = await do("POST /v1/tokens", None, "id", name="new", scopes=["read"])
    await do("DELETE /v1/tokens/{id}", token["id"])
    await do("DELETE /v1/subscriptions/{id}", subscription["id"])
    return do


async def test_every_door_that_changes_something_leaves_one_line_with_the_change(tmp_path: Path, engine: str) -> None:
    async with surroundings(tmp_path) as around:
        async with around.relay() as here:
            unkept = (await here.ended((await here.submit())["id"]))["id"]
        around.vendor.faults.replace({"fails": "other"})
        async with around.relay(**storage(tmp_path)) as here:
            do = await everything(here, unkept, engine)
            found = await lines(here)
            pages = await in_pages(here, 4)

    changing = {f"{method} {path}" for method, path in GUARDED if method not in ("GET", "HEAD")}
    native = {door for door in changing if not door.partition(" ")[2].startswith(DROPIN)} - WITHOUT_A_LINE
    elsewhere = {"POST /v1/backup"} if engine == "postgres" else set()
    assert {line["action"] for line in do.expected} == native - elsewhere
    assert found[0]["action"] == "POST /v1/tokens"
    assert found[1:] == do.expected
    assert [line["request"] for line in pages] == [line["request"] for line in reversed(found)]


async def test_lines_are_found_by_who_did_what_to_what(here: Journey) -> None:
    one, other = await token(here, "manage"), await token(here, "manage")
    do, also = Doing(here, one), Doing(here, other)
    first = await do("POST /v1/subscriptions", None, "id", url=here.subscriber.url)
    second = await also("POST /v1/subscriptions", None, "id", url=here.subscriber.url)
    await also("DELETE /v1/subscriptions/{id}", first["id"])

    assert await lines(here, f"?actor={one['name']}") == await lines(here, f"?actor={one['id']}") == do.expected
    assert await lines(here, f"?object={first['id']}") == [*do.expected, also.expected[1]]
    both = {"actor": other["id"], "action": "POST /v1/subscriptions"}
    assert await lines(here, f"?{urlencode(both)}") == also.expected[:1]
    assert await lines(here, f"?object={second['id']}&actor={one['id']}") == []


async def test_what_was_refused_or_changed_nothing_leaves_no_line(here: Journey) -> None:
    made = await token(here, "submit", "manage")
    do = Doing(here, made)
    job = (await here.client.post("/v1/jobs", json=EXAMPLE, headers=do.headers)).json()["id"]
    await here.ended(job)
    await do("DELETE /v1/jobs/{id}", job)
    for method, path, status in (
        ("DELETE", f"/v1/jobs/{job}", 204),
        ("POST", f"/v1/jobs/{job}/cancel", 409),
        ("POST", "/v1/resume", 200),
        ("POST", "/v1/subscriptions", 400),
        ("DELETE", "/v1/tokens/nobody", 404),
    ):
        answer = await here.client.request(method, path, headers=do.headers, json=None if method == "DELETE" else {})
        assert answer.status_code == status

    assert await lines(here, f"?actor={made['id']}") == do.expected


async def test_only_the_admin_token_reads_the_audit_and_no_other_can_be_made_that_does(here: Journey) -> None:
    everything = await token(here, "submit", "read", "manage")
    headers = {"Authorization": f"Bearer {everything['token']}"}
    refused = await here.client.get("/v1/audit", headers=headers)
    made = await here.client.post("/v1/tokens", json={"name": "second admin", "scopes": ["admin"]})

    assert (refused.status_code, refused.json()["detail"]) == (403, "this needs the admin token")
    assert (made.status_code, made.json()["problems"][0]["rule"]) == (400, "one_of")


async def test_a_change_that_cannot_be_written_has_no_line_and_no_line_is_without_its_change(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe()
        store = here.node.app.state.store
        forbid = "CREATE TRIGGER full BEFORE INSERT ON deeds BEGIN SELECT RAISE(ABORT, 'no line can be written'); END"
        await store._in_thread(lambda: store._file._sql.execute(forbid))
        answer = await here.client.delete(f"/v1/subscriptions/{made['id']}")
        after = (await here.get("/v1/subscriptions"))["data"]

    assert answer.status_code == 500
    assert [one["id"] for one in after] == [made["id"]]
