"""`relay delivery`, as an operator uses it: a process of its own, against a relay with a subscriber."""

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import at, relay
from tests.journeys import Journey, journey

pytestmark = pytest.mark.anyio


async def delivered(here: Journey, count: int) -> list[str]:
    """The ids of deliveries once so many are done."""
    found = await here.until(
        lambda: here.get("/v1/deliveries?state=delivered&limit=200"), lambda page: len(page["data"]) == count
    )
    return [row["id"] for row in found["data"]]


async def test_deliveries_are_listed_by_state_and_shown_with_every_answer(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe()
        jobs = [await here.submit() for _ in range(3)]
        ids = await delivered(here, 3)
        env = at(here) | {"COLUMNS": "60"}
        code, table, said = await relay("delivery", "list", "--limit=2", "--state=delivered", "--state=dead", env=env)
        _, text, _ = await relay("delivery", "list", f"--job={jobs[0]['id']}", "--json", env=env)
        _, none, _ = await relay("delivery", "list", "--subscription=other", "--json", env=env)
        _, mine, _ = await relay("delivery", "list", f"--subscription={made['id']}", "--json", env=env)
        wrong = await relay("delivery", "list", "--state=nonsense", env=env)

        assert (code, said) == (0, "")
        assert [line.split()[0] for line in table.splitlines() if "-" in line] == ids[:2]
        [row] = json.loads(text)
        assert (row["job"], row["answers"][0]["status"]) == (jobs[0]["id"], 200)
        assert json.loads(none) == []
        assert len(json.loads(mine)) == 3
        assert (wrong[0], "state" in wrong[2]) == (1, True)


async def test_one_is_shown_and_sent_again_under_its_id(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        await here.subscribe()
        await here.submit()
        [delivery] = await delivered(here, 1)
        code, shown, said = await relay("delivery", "show", delivery, env=at(here))
        again = await relay("delivery", "retry", delivery, env=at(here))
        await here.subscriber.wait_for(2)
        missing = await relay("delivery", "retry", "nothing", env=at(here))

        assert (code, said) == (0, "")
        assert all(word in shown for word in (delivery, "delivered", "status", "200"))
        assert again[0] == 0, again[2]
        assert len({headers["webhook-id"] for headers, _ in here.subscriber.got}) == 1
        assert (missing[0], "there is no delivery" in missing[2]) == (1, True)


async def test_a_replay_is_a_preview_until_it_is_wanted(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        made = await here.subscribe()
        for _ in range(3):
            await here.submit()
        ids = await delivered(here, 3)
        chosen = ("delivery", "replay", "--state=delivered", f"--subscription={made['id']}", "--type=job.succeeded")
        _, preview, said = await relay(*chosen, env=at(here))
        _, counted, _ = await relay(*chosen, "--json", env=at(here))
        before = len(here.subscriber.got)
        code, done, _ = await relay(*chosen, "--yes", "--json", env=at(here))
        await here.subscriber.wait_for(6)
        nothing = await relay("delivery", "replay", "--since=2100-01-01T00:00:00Z", "--yes", "--json", env=at(here))

        assert said == ""
        assert "to be sent again: 3" in preview
        assert all(delivery in preview for delivery in ids)
        assert json.loads(counted)["count"] == before == 3
        assert (code, json.loads(done)["state"], json.loads(done)["requeued"]) == (0, "done", 3)
        assert len({headers["webhook-id"] for headers, _ in here.subscriber.got}) == 3
        assert (nothing[0], json.loads(nothing[1])["total"]) == (0, 0)
