"""`relay resolve`, as a person uses it: a process of its own, against a relay with a job in doubt."""

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import at, relay
from tests.journeys import journey

pytestmark = pytest.mark.anyio


async def test_a_doubt_is_settled_by_a_command(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"create_fails": {"value": "522", "times": 1}}) as here:
        job = await here.submit()
        await here.job_in(job["id"], "in_doubt")
        unknown = await relay("resolve", job["id"], "created", "--task", "nothing", env=at(here))
        code, text, _ = await relay("resolve", job["id"], "not_created", "--json", env=at(here))
        after = await here.ended(job["id"])
        again, _, said = await relay("resolve", job["id"], "failed", env=at(here))

    assert (unknown[0], "taskId" in unknown[2]) == (1, True)
    assert (code, json.loads(text)["id"]) == (0, job["id"])
    assert (after["state"], after["attempts"]) == ("succeeded", 2)
    assert (again, "none of its attempts is in doubt" in said) == (1, True)
