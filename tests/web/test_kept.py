"""With a storage the addresses of files outlive the upstream's links and tasks, and without it the links."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.clock import ManualClock
from tests.journeys import Journey, journey, surroundings
from tests.web.outlived import outlived

pytestmark = pytest.mark.anyio

JOBS = 20
# What lies in a storage beside the files.
OURS = ("instance", "boot")


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "files").rglob("*") if path.is_file() and path.name not in OURS)


def storage(folder: Path, **more: Any) -> dict[str, Any]:
    return {"artifacts": f"file://{folder / 'files'}", **more}


async def all_kept(here: Journey, jobs: int = 1) -> list[dict[str, Any]]:
    """The rows of all files, once those of so many jobs are kept: a film and a preview each."""

    async def look() -> list[dict[str, Any]]:
        return (await here.get("/v1/artifacts?limit=200"))["data"]  # type: ignore[no-any-return]

    return await here.until(look, lambda rows: sum(row["state"] == "kept" for row in rows) == 2 * jobs)


@pytest.mark.parametrize("with_storage", [True, False])
async def test_every_address_of_every_event_serves_its_file_after_the_links_have_died(
    tmp_path: Path, with_storage: bool
) -> None:
    found = await outlived(tmp_path, JOBS, with_storage=with_storage)

    assert found.wrong == []
    assert found.opened == dict.fromkeys(("events", "webhooks", "jobs", "tasks"), 2 * JOBS)
    assert found.dead_links == JOBS
    assert found.questions == (0 if with_storage else JOBS)


async def test_a_kept_file_says_so_and_is_served_in_parts(tmp_path: Path) -> None:
    async with journey(tmp_path, **storage(tmp_path)) as here:
        job = await here.ended((await here.submit())["id"])
        rows = await all_kept(here)
        here.vendor.faults.replace({"links_fail": "403"})
        artifact = (await here.job(job["id"]))["artifacts"][0]
        async with httpx2.AsyncClient(trust_env=False) as stranger:
            whole = await stranger.get(artifact["url"])
            head = await stranger.head(artifact["url"])
            etag = whole.headers["etag"]
            part = await stranger.get(artifact["url"], headers={"Range": "bytes=4-7"})
            beyond = await stranger.get(artifact["url"], headers={"Range": f"bytes={len(whole.content)}-"})
            changed = await stranger.get(artifact["url"], headers={"Range": "bytes=4-7", "If-Range": '"x"'})
            same = await stranger.get(artifact["url"], headers={"If-None-Match": etag})

    assert artifact["keptUntil"] is not None
    assert artifact["sizeBytes"] == len(whole.content)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["content-security-policy"] == "sandbox"
    assert (head.content, head.headers["content-length"]) == (b"", str(len(whole.content)))
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert part.headers["content-range"] == f"bytes 4-7/{len(whole.content)}"
    assert (beyond.status_code, changed.status_code, same.status_code) == (416, 200, 304)
    assert {row["sha256"] for row in rows} >= {hashlib.sha256(whole.content).hexdigest()}
    assert len(kept(tmp_path)) == 2


async def test_the_end_is_told_once_the_files_are_kept(tmp_path: Path) -> None:
    async with journey(tmp_path, **storage(tmp_path, artifacts_before_final=True)) as here:
        await here.subscribe(types=["job.succeeded"])
        job = await here.ended((await here.submit())["id"])
        (told,) = await here.subscriber.wait_for(1)

    (artifact,) = told["data"]["job"]["artifacts"]
    assert job["state"] == "succeeded"
    assert artifact["keptUntil"] is not None
    assert "notKept" not in artifact


async def test_an_end_is_not_held_back_for_ever(tmp_path: Path) -> None:
    clock = ManualClock()
    faults = {"links_fail": "500"}
    async with journey(tmp_path, clock=clock, faults=faults, **storage(tmp_path, artifacts_before_final=True)) as here:
        job_id = (await here.submit())["id"]
        held = await here.job_that(job_id, lambda job: bool(job["artifacts"] and job["artifacts"][0].get("notKept")))
        clock.advance(601)
        ended = await here.job_in(job_id, "succeeded")

    assert (held["state"], held["progress"]) == ("running", 1.0)
    assert ended["artifacts"][0]["keptUntil"] is None
    assert "500" in ended["artifacts"][0]["notKept"]


async def test_an_end_that_was_held_back_is_told_after_a_start_without_storage(tmp_path: Path) -> None:
    async with surroundings(tmp_path, faults={"links_fail": "500"}) as around:
        async with around.relay(**storage(tmp_path, artifacts_before_final=True)) as here:
            job_id = (await here.submit())["id"]
            await here.job_that(job_id, lambda job: bool(job["artifacts"]))
        async with around.relay() as here:
            ended = await here.job_in(job_id, "succeeded")

    assert ended["artifacts"][0]["keptUntil"] is None


async def test_a_file_that_is_fetched_again_though_it_is_kept_by_then_stays(tmp_path: Path) -> None:
    async with journey(tmp_path, **storage(tmp_path)) as here:
        await here.ended((await here.submit())["id"])
        await all_kept(here)
        before, mirror = kept(tmp_path), here.node.app.state.mirror
        for row in await here.node.app.state.store.files((), (), None, 9):
            # As it was in a list that had been read before its end.
            await mirror._keep(mirror._house, replace(row, state="wanted", path=None))

    assert kept(tmp_path) == before


async def test_an_erased_job_leaves_no_file(tmp_path: Path) -> None:
    async with journey(tmp_path, **storage(tmp_path)) as here:
        job = await here.ended((await here.submit())["id"])
        await all_kept(here)
        url = (await here.job(job["id"]))["artifacts"][0]["url"]
        assert (await here.client.delete(f"/v1/jobs/{job['id']}")).status_code == 204
        await here.until(lambda: here.get("/v1/artifacts"), lambda page: page["data"] == [])
        gone = await here.client.get(url)

    assert kept(tmp_path) == []
    assert gone.status_code == 404


async def test_a_file_that_somebody_removed_is_served_from_its_host(tmp_path: Path) -> None:
    async with journey(tmp_path, **storage(tmp_path)) as here:
        job = await here.ended((await here.submit())["id"])
        await all_kept(here)
        for path in kept(tmp_path):
            path.unlink()
        url = (await here.job(job["id"]))["artifacts"][0]["url"]
        served = await here.client.get(url)

    assert (served.status_code, served.content[4:8]) == (200, b"ftyp")
