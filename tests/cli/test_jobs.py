"""`relay submit`, `watch`, `jobs` and `job`, as a person uses them: processes of their own, against a relay."""

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import at, relay
from tests.journeys import journey

pytestmark = pytest.mark.anyio
FIELDS = ("model=gen4.5", "text_prompt=A coast", "duration=5", "aspect_ratio=16:9", "replyRef=order-7")


async def test_a_job_is_submitted_followed_listed_and_explained(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        code, address, _ = await relay("submit", *FIELDS, "--watch", env=at(here))
        _, listed, _ = await relay("jobs", "--state=succeeded", "--reply-ref=order-7", "--json", env=at(here))
        [job] = json.loads(listed)
        _, found, _ = await relay("jobs", "--words=a COAST", "--since=1h", "--origin=api", "--json", env=at(here))
        _, none, _ = await relay("jobs", "--until=1h", "--json", env=at(here))
        _, table, _ = await relay("jobs", env=at(here))
        _, shown, _ = await relay("job", job["id"], env=at(here))
        _, lines, _ = await relay("watch", job["id"], "--json", env=at(here))

    assert (code, address.startswith(f"{here.relay_url}/v1/artifacts/")) == (0, True)
    assert [[one["id"] for one in json.loads(text)] for text in (found, none)] == [[job["id"]], []]
    assert job["id"] in table
    assert "succeeded" in shown
    assert "Accepted at" in shown
    events = [json.loads(line) for line in lines.splitlines()]
    assert (events[0]["type"], events[-1]["type"]) == ("job.queued", "job.succeeded")


async def test_what_fails_is_said_and_is_the_exit_code(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"fails": {"value": "safety"}}) as here:
        failed = await relay("submit", *FIELDS, "--watch", env=at(here))
        refused = await relay("submit", "model=gen4.5", "duration=99", "priority=99", env=at(here))
        wrong = await relay("submit", "model", env=at(here))
        unknown = await relay("job", "nothing", env=at(here))

    assert (failed[0], "failed" in failed[1]) == (1, True)
    assert (refused[0], refused[1]) == (1, "")
    assert sorted(line.split(": ")[1] for line in refused[2].splitlines()) == ["duration", "priority"]
    assert (wrong[0], "FIELD=VALUE" in wrong[2]) == (2, True)
    assert (unknown[0], "no job" in unknown[2]) == (1, True)


async def test_its_files_are_saved_whole_under_the_name_of_the_job(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        folder = tmp_path / "videos" / "today"
        code, said, _ = await relay("submit", *FIELDS, f"--save={folder}", env=at(here))
        job = (await here.get("/v1/jobs"))["data"][0]
        again = await relay("watch", job["id"], f"--save={folder}", "--json", env=at(here))
        (tmp_path / "file").write_bytes(b"")
        refused = await relay("watch", job["id"], f"--save={tmp_path / 'file' / 'folder'}", env=at(here))
        taken = tmp_path / "taken"
        (taken / f"{job['id']}.mp4").mkdir(parents=True)
        in_the_way = await relay("watch", job["id"], f"--save={taken}", env=at(here))
        of_all = await relay("watch", f"--save={folder}", env=at(here))

    path = folder / f"{job['id']}.mp4"
    assert (code, said.strip()) == (0, str(path))
    assert (path.read_bytes()[4:8], path.stat().st_size) == (b"ftyp", job["artifacts"][0]["sizeBytes"])
    assert json.loads(again[1].splitlines()[-1]) == {"type": "saved", "data": {"files": [str(path)]}}
    assert list(folder.iterdir()) == [path]
    assert (refused[0], refused[2].splitlines()[-1].endswith("cannot be written: Not a directory")) == (1, True)
    assert (in_the_way[0], "cannot be written: Is a directory" in in_the_way[2]) == (1, True)
    assert [path.name for path in taken.iterdir()] == [f"{job['id']}.mp4"]
    assert (of_all[0], "name it" in of_all[2]) == (2, True)
