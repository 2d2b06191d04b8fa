"""`relay artifacts`, as an operator uses it: a process of its own, against a relay that keeps files."""

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import at, relay
from tests.journeys import journey
from tests.web.test_kept import all_kept, kept, storage

pytestmark = pytest.mark.anyio


async def test_files_are_listed_verified_fetched_anew_and_pruned(tmp_path: Path) -> None:
    async with journey(tmp_path, **storage(tmp_path)) as here:
        job = await here.ended((await here.submit())["id"])
        await all_kept(here)
        env = at(here)
        code, table, said = await relay("artifacts", "list", "--state=kept", env=env)
        _, text, _ = await relay("artifacts", "list", f"--job={job['id']}", "--json", env=env)
        sound = await relay("artifacts", "verify", env=env)
        damaged, removed = kept(tmp_path)
        damaged.write_bytes(b"x" * damaged.stat().st_size)
        removed.unlink()
        unsound = await relay("artifacts", "verify", env=env)
        await all_kept(here)
        again = await relay("artifacts", "verify", env=env)
        none = await relay("artifacts", "fetch", f"--job={job['id']}", env=env)
        nobody = await relay("artifacts", "fetch", "--job=nothing", env=env)
        pruned = await relay("artifacts", "prune", "--older-than=0", env=env)
        await here.until(lambda: here.get("/v1/artifacts"), lambda page: page["data"] == [])
        left = kept(tmp_path)
        fetched = await relay("artifacts", "fetch", f"--job={job['id']}", "--json", env=env)
        await all_kept(here)

    assert (code, said) == (0, "")
    assert [line.split()[1] for line in table.splitlines()[1:]] == ["kept", "kept"]
    assert {row["contentType"] for row in json.loads(text)} == {"video/mp4", "image/png"}
    assert (sound[0], sound[1]) == (0, "2 of 2 files are sound\n")
    assert (unsound[0], "its bytes are not those" in unsound[1], "cannot be read" in unsound[1]) == (1, True, True)
    assert again[:2] == (0, "2 of 2 files are sound\n")
    assert none[:2] == (0, "0 files to be fetched\n")
    assert (nobody[0], "there is no job" in nobody[2]) == (1, True)
    assert (pruned[:2], left) == ((0, "2 files removed\n"), [])
    assert json.loads(fetched[1]) == {"files": 2}
