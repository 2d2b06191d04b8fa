"""`relay audit`, as the holder of the admin token uses it."""

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import at, relay
from tests.journeys import journey

pytestmark = pytest.mark.anyio


async def test_who_did_what_is_listed_for_the_admin_token_and_nobody_else(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        _, token, _ = await relay("token", "create", "boss", "--scope=manage", env=at(here))
        made = await here.subscribe()
        await relay("subscription", "remove", made["id"], env=at(here) | {"RELAY_TOKEN": token.strip()})
        code, table, _ = await relay("audit", "--actor=boss", env=at(here))
        _, text, _ = await relay("audit", "--json", "--limit=2", env=at(here))
        refused, _, said = await relay("audit", env=at(here) | {"RELAY_TOKEN": token.strip()})

    assert code == 0
    header, row = table.splitlines()
    assert header.split() == ["at", "actor", "action", "object", "request"]
    assert row.split()[1:5] == ["boss", "DELETE", "/v1/subscriptions/{id}", made["id"]]
    assert [line["action"] for line in json.loads(text)] == ["DELETE /v1/subscriptions/{id}", "POST /v1/subscriptions"]
    assert (refused, "this needs the admin token" in said) == (1, True)
