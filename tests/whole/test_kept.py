"""Killed while it fetches files, again and again, the relay keeps each of them whole in the end, and nothing else."""

import asyncio
import hashlib
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

import httpx2
import pytest

from tests.journeys import WAIT_S, surroundings
from tests.web.test_kept import OURS
from tests.whole.processes import Serving, free_port, serving

pytestmark = pytest.mark.anyio

FILM_BYTES = 24 * 1024 * 1024
JOBS = 4
KILLS = 6


async def rows(relay: Serving) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await relay.client.get("/v1/artifacts?limit=200")).json()["data"]
    return found


async def all_kept(relay: Serving) -> list[dict[str, Any]]:
    async with asyncio.timeout(WAIT_S):
        while True:  # another process keeps them, and has no event for that
            found = await rows(relay)
            if {row["state"] for row in found} == {"kept"}:
                return found
            await asyncio.sleep(0.02)


async def test_whenever_it_is_killed_every_file_is_whole_and_none_is_left_over(tmp_path: Path) -> None:
    port, chance, root = free_port(), Random(7), tmp_path / "files"  # noqa: S311 - chance, not a secret
    settings = {"artifacts": f"file://{root}"}
    cut = 0
    async with surroundings(tmp_path, faults={"artifact_bytes": FILM_BYTES}) as around:
        async with serving(around, port, **settings) as relay:
            jobs = [await relay.submit(text_prompt=f"hill {n}") for n in range(JOBS)]
            for job_id in jobs:
                await relay.told(job_id, "job.succeeded")
            await relay.stopped(SIGKILL)
        for _ in range(KILLS):
            async with serving(around, port, **settings) as relay:
                await asyncio.sleep(chance.uniform(0.0, 0.25))
                await relay.stopped(SIGKILL)
            cut += len(list((root / "incoming").iterdir()))
        async with serving(around, port, **settings) as relay:
            found = await all_kept(relay)
            async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S) as stranger:
                for job_id in jobs:
                    artifact = (await relay.job(job_id))["artifacts"][0]
                    source = (await stranger.get(artifact["sourceUrl"])).content
                    assert (await stranger.get(artifact["url"])).content == source
                    (row,) = [row for row in found if row["id"] == artifact["id"]]
                    assert row["sha256"] == hashlib.sha256(source).hexdigest()
                    assert len(source) == FILM_BYTES

    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name not in OURS}
    assert len(there) == len(found) == 2 * JOBS
    assert {name.partition("/")[2].partition(".")[0] for name in there} == {row["id"] for row in found}
    assert cut > 0, "no kill met a file on its way"
