"""A storage of files that is really full: jobs go on, their files say why they are not kept, and are kept later."""

import asyncio
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.crash.test_trouble import MOUNT, can_mount, fill
from tests.journeys import WAIT_S, surroundings
from tests.whole.processes import Serving, free_port, serving

pytestmark = pytest.mark.anyio

# With room for one of them, in a file system of 3 MiB.
FILM_BYTES = 2 * 1024 * 1024


async def artifact_that(relay: Serving, job_id: str, name: str) -> dict[str, Any]:
    """The job's artifact once it says this of itself."""
    async with asyncio.timeout(WAIT_S):
        while not (found := (await relay.job(job_id))["artifacts"][0]).get(name):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    return dict(found)


async def test_while_the_disk_of_the_files_is_full_jobs_go_on_and_their_files_are_kept_once_there_is_room(
    tmp_path: Path,
) -> None:
    if not await can_mount(tmp_path):
        pytest.skip("no file system of its own can be mounted here")
    (root := tmp_path / "files").mkdir()
    # One that waits for a fifth of a second between its tries.
    relays = (sys.executable, "-m", "tests.crash.killed_mirror", "--live", "0", str(root))
    own = ("unshare", "-rm", "sh", "-c", MOUNT, str(root), *relays)
    around_it = surroundings(tmp_path, faults={"artifact_bytes": FILM_BYTES})
    storage = {"artifacts": f"file://{root}"}
    async with around_it as around, serving(around, free_port(), command=own, **storage) as relay:
        # The way in from outside: the file system is one that only the relay sees.
        inside = Path(f"/proc/{relay.process.pid}/root{root}")
        fill(inside / "ballast")
        job_id = await relay.submit()
        told = await relay.told(job_id, "job.succeeded")
        refused = await artifact_that(relay, job_id, "notKept")
        (inside / "ballast").unlink()
        kept = await artifact_that(relay, job_id, "keptUntil")
        second = await relay.submit()
        await relay.told(second, "job.succeeded")
        also = await artifact_that(relay, second, "notKept")
        async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S) as stranger:
            bodies = [(await stranger.get(artifact["url"])).content for artifact in (refused, kept, also)]
        row = (await relay.client.get(f"/v1/artifacts?job={job_id}&state=kept")).json()["data"][-1]
        left = os.listdir(inside / "incoming")

    assert told[-1].event == "job.succeeded"
    assert refused["notKept"] == also["notKept"] == "the storage is full"
    assert (refused["keptUntil"], kept.get("notKept")) == (None, None)
    assert [len(body) for body in bodies] == [FILM_BYTES] * 3, "what is not kept is passed on"
    assert row["sha256"] == hashlib.sha256(bodies[0]).hexdigest()
    assert row["attempts"] > 1
    assert {name.partition(".")[0] for name in left} <= {"boot", f"{second}-0"}
