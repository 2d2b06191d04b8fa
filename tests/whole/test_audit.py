"""Who did what: one line for whatever was changed with a token, and none for what was only looked at, or refused."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.journeys import EXAMPLE, surroundings
from tests.whole.processes import free_port, serving

pytestmark = pytest.mark.anyio


async def test_what_was_done_is_written_down_with_who_did_it_and_from_where(tmp_path: Path) -> None:
    came_from = {"X-Forwarded-For": "192.0.2.7"}
    async with (
        surroundings(tmp_path, faults={"fails": "other"}) as around,
        serving(around, free_port(), trusted_proxies="127.0.0.1") as relay,
    ):
        ask = relay.client.request
        token = (await ask("POST", "/v1/tokens", json={"name": "boss", "scopes": ["manage", "submit"]})).json()
        boss = {"Authorization": f"Bearer {token['token']}"} | came_from
        job = await relay.submit()
        await relay.told(job, "job.failed")
        made = (await ask("POST", "/v1/subscriptions", json={"url": around.subscriber.url}, headers=boss)).json()
        subscription = f"/v1/subscriptions/{made['id']}"
        retried = (await ask("POST", f"/v1/jobs/{job}/retry", headers=boss)).json()["id"]
        await relay.told(retried, "job.failed")
        await ask("POST", f"/v1/jobs/{retried}/cancel", headers=boss)  # too late: a 409
        await ask("GET", subscription, headers=boss)
        await ask("PATCH", subscription, json={"description": "mine"}, headers=boss)
        await ask("POST", f"{subscription}/rotate", json={}, headers=boss)
        await ask("POST", "/v1/deliveries/replay", json={"filter": {}, "dryRun": False}, headers=boss)
        await ask("POST", "/v1/backup", headers=boss)
        await ask("POST", "/v1/resume", json={}, headers=boss)
        await ask("DELETE", f"/v1/jobs/{job}", headers=boss)
        await ask("DELETE", f"/v1/tokens/{token['id']}")
        await ask("DELETE", subscription, headers=boss)  # nobody's any more: a 401
        kept = (await ask("GET", "/v1/audit")).json()["data"]
        origin = {"Origin": relay.url} | came_from
        await ask("POST", "/session", json={"token": "wrong"}, headers=origin | {"Authorization": ""})
        assert await relay.stopped(signal.SIGTERM) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in relay.lines if line.startswith("{")]
    audit = [line for line in lines if line["event"] == "audit"]

    assert [(line["action"], line["of"].get("id"), line["by"]) for line in audit] == [
        ("POST /v1/tokens", None, "admin"),
        ("POST /v1/subscriptions", None, "boss"),
        ("POST /v1/jobs/{id}/retry", job, "boss"),
        ("PATCH /v1/subscriptions/{id}", made["id"], "boss"),
        ("POST /v1/subscriptions/{id}/rotate", made["id"], "boss"),
        ("POST /v1/deliveries/replay", None, "boss"),
        ("POST /v1/backup", None, "boss"),
        ("POST /v1/resume", None, "boss"),
        ("DELETE /v1/jobs/{id}", job, "boss"),
        ("DELETE /v1/tokens/{id}", token["id"], "admin"),
    ]
    assert [line["made"] for line in audit[:2]] == [token["id"], made["id"]]
    assert {line["client"] for line in audit[1:-1]} == {"192.0.2.7"}
    assert {line["token"] for line in audit[1:-1]} == {token["id"]}
    # What changed nothing, as there was no hold, is in the log alone.
    changes = [line for line in audit if line["action"] != "POST /v1/resume"]
    assert [(line["action"], line["actor"], line["token"], line["request"]) for line in reversed(kept)] == [
        (line["action"], line["by"], line["token"], line["request"]) for line in changes
    ]
    [wrong] = [line for line in lines if line.get("door") == "/session"]
    assert (wrong["status"], wrong["client"]) == (401, "192.0.2.7")
    assert str(EXAMPLE["text_prompt"]) not in "".join(relay.lines)
