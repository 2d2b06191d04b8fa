"""`relay accounts`, as an operator uses it: a process of its own, against a relay with a job that runs."""

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import at, relay
from tests.journeys import journey

pytestmark = pytest.mark.anyio


async def test_accounts_are_shown_with_what_runs_on_them(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=(0.0, 600.0)) as here:
        job = await here.submit()
        await here.job_in(job["id"], "running")
        code, table, _ = await relay("accounts", env=at(here))
        _, text, _ = await relay("accounts", "--json", env=at(here))

    [account] = json.loads(text)
    assert code == 0
    assert (account["running"], account["parked"]) == (1, None)
    header, row = table.splitlines()
    assert header.split()[:4] == ["account", "state", "running", "slots"]
    assert row.split()[0] == account["email"]
    assert "open" in row
