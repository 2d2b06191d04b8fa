"""`relay stats` and `relay quarantine`, before anything has happened and afterwards."""

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import at, relay
from tests.journeys import journey

pytestmark = pytest.mark.anyio


async def test_figures_are_shown_by_model_and_account_and_none_where_there_are_none(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        nothing = await relay("stats", env=at(here))
        job = await here.submit()
        await here.ended(job["id"])
        code, table, _ = await relay("stats", "--since=1d", env=at(here))
        _, text, _ = await relay("stats", "--json", env=at(here))
        wrong = await relay("stats", "--since=yesterday", env=at(here))

    assert nothing[0] == 0
    assert nothing[1].splitlines()[1].split() == ["all", "0", "0", "0", "—", "—", "—", "0"]
    rows = {line.split()[0]: line.split()[1:5] for line in table.splitlines()}
    assert (code, rows["all"]) == (0, ["1", "0", "0", "100.0%"])
    assert rows["gen4.5"] == rows["sandbox@example.com"] == rows["all"]
    assert "now 0 queued" in table
    assert json.loads(text)["jobs"]["succeeded"] == 1
    assert (wrong[0], wrong[2].startswith("relay: query.since: ")) == (1, True)


async def test_what_was_no_report_is_listed_with_the_reason(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=(0.0, 600.0)) as here:
        job = await here.submit()
        await here.job_in(job["id"], "running")
        [task] = here.vendor.state(0)["tasks"]
        (await here.client.post(task["replyUrl"], content=b"no JSON")).raise_for_status()
        code, table, _ = await relay("quarantine", env=at(here))
        _, text, _ = await relay("quarantine", "--json", env=at(here))

    [entry] = json.loads(text)
    assert code == 0
    assert entry["job"] == job["id"]
    assert all(word in table for word in (entry["at"], entry["reason"], job["id"]))
