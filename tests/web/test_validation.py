"""How strictly requests are judged is a setting, and the catalogue can be overridden without code."""

from pathlib import Path

import pytest

from tests.journeys import EXAMPLE, journey

pytestmark = pytest.mark.anyio

# gen4.5 renders 2 to 10 seconds by the page.
TOO_LONG = EXAMPLE | {"duration": 11}


async def test_strict_refuses_and_stores_nothing(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        answer = await running.client.post("/v1/jobs", json=TOO_LONG)

        assert answer.status_code == 400
        assert (await running.get("/v1/jobs"))["data"] == []


async def test_warn_submits_and_keeps_the_problems_on_the_job(tmp_path: Path) -> None:
    async with journey(tmp_path, validation="warn", faults={"unchecked": True}) as running:
        job = await running.ended((await running.client.post("/v1/jobs", json=TOO_LONG)).json()["id"])

        assert job["state"] == "succeeded"
        assert [(problem["field"], problem["given"]) for problem in job["problems"]] == [("duration", 11)]


async def test_off_passes_through(tmp_path: Path) -> None:
    async with journey(tmp_path, validation="off", faults={"unchecked": True}) as running:
        job = await running.ended((await running.client.post("/v1/jobs", json=TOO_LONG)).json()["id"])

        assert (job["state"], job["problems"], job["request"]["duration"]) == ("succeeded", [], 11)


async def test_a_catalogue_of_ones_own_adds_and_overrides_without_code(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[models."gen4.5"]\nduration = [11, 12]\n', "utf-8")
    async with journey(tmp_path, catalogue=own, faults={"unchecked": True}) as running:
        longer = await running.client.post("/v1/jobs", json=TOO_LONG)
        shorter = await running.client.post("/v1/jobs", json=EXAMPLE)

        assert longer.status_code == 202
        assert shorter.json()["problems"][0]["message"].startswith("duration 5 is not offered by gen4.5: 11 or 12")


async def test_a_dry_run_says_what_would_become_of_a_request_and_stores_nothing(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        good = (await running.client.post("/v1/jobs?dry_run=true", json=EXAMPLE)).json()
        bad = (await running.client.post("/v1/jobs?dry_run=true", json=TOO_LONG)).json()

        assert (good["valid"], good["problems"], good["request"]) == (True, [], EXAMPLE)
        assert (bad["valid"], bad["problems"][0]["field"]) == (False, "duration")
        assert (await running.get("/v1/jobs"))["data"] == []


async def test_text_that_nothing_can_hold_is_refused_by_its_field(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        answer = await running.client.post(
            "/v1/jobs",
            content=b'{"model": "gen4.5", "text_prompt": "half a pair: \\ud83d"}',
            headers={"Content-Type": "application/json"},
        )

        assert answer.status_code == 400
        assert [problem["field"] for problem in answer.json()["problems"]] == ["text_prompt"]
