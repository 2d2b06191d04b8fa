"""A relay that goes on from a backup sends nothing before it has searched, and pays for nothing a second time."""

import shutil
import sqlite3
from pathlib import Path
from random import Random
from typing import Any

import pytest

from relay.clock import ManualClock
from relay.sandbox.vendor import Vendor
from tests.cli.test_commands import at
from tests.cli.test_commands import relay as command
from tests.journeys import Journey, Surroundings, surroundings, while_time_passes
from tests.whole.processes import environment, free_port

# ruff: noqa: ASYNC240 - a test may look at its files
pytestmark = pytest.mark.anyio

LONG_S = (10.0, 50.0)


def vendor() -> Vendor:
    return Vendor(Random(1), times_s=LONG_S)  # noqa: S311 - chance, not a secret


async def backed_up(here: Journey, file: Path) -> None:
    code, out, err = await command("backup", str(file), env=at(here))
    assert code == 0, err
    assert "is not in it" in out


async def restored(around: Surroundings, file: Path, *options: str) -> tuple[int, str, str]:
    return await command("restore", str(file), *options, env=environment(around, free_port()), folder=around.folder)


async def hold(here: Journey) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (await here.get("/readyz"))["hold"]
    return found


async def searched(here: Journey) -> dict[str, Any]:
    """The hold, once the search has come to its end."""
    return await here.until(lambda: hold(here), lambda hold: bool(hold and hold["searchedAt"])) or {}


async def test_what_was_sent_after_the_backup_ends_once_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    clock, file = ManualClock(), tmp_path / "copy.db"
    async with surroundings(tmp_path, sandbox_clock=clock, vendor=vendor()) as around:
        sent = around.vendor
        async with around.relay(clock=clock) as here:
            await here.subscribe()
            known = [(await here.submit(replyRef=f"before-{n}"))["id"] for n in range(8)]
            for job_id in known[:2]:
                await here.job_in(job_id, "running")
            await backed_up(here, file)
            lost = [(await here.submit(replyRef=f"after-{n}"))["id"] for n in range(4)]
            for job_id in lost:
                await while_time_passes(clock, here.job_in(job_id, "running"))
        before = sent.submits
        code, out, err = await restored(around, file, "--replace")
        assert (code, "Submitting is held" in out) == (0, True), err
        async with around.relay(clock=clock) as here:
            held = await searched(here)
            queued = (await here.submit(replyRef="while-held"))["id"]
            ends = [await while_time_passes(clock, here.ended(job_id)) for job_id in (*known, *lost)]
            waiting, why = await here.job(queued), await here.get(f"/v1/jobs/{queued}/why")
            while_held = sent.submits
            code, out, _ = await command("resume", env=at(here))
            last = await while_time_passes(clock, here.ended(queued))
            operator = (await here.get("/v1/events?since=earliest&type=restore.held"))["data"]
            ready = await here.get("/readyz")

    assert (before, while_held, sent.submits) == (12, 12, 13)
    assert {job["state"] for job in (*ends, last)} == {"succeeded"}
    assert [job["id"] for job in ends] == [*known, *lost]
    assert (held["found"], held["reason"].startswith("restored from copy.db")) == (10, True)
    assert (waiting["state"], waiting["queuePosition"], waiting["startsAt"]) == ("queued", 1, None)
    assert any("held" in sentence for sentence in why["sentences"])
    assert (code, "found again: 10" in out) == (0, True)
    assert [job["replyRef"] for job in ends[:8]] == [f"before-{n}" for n in range(8)]
    assert [event["data"]["subject"] for event in operator] == ["submitting"]
    assert ready["hold"] is None


async def test_nobody_resumes_before_the_search_has_ended_but_by_force(tmp_path: Path) -> None:
    file = tmp_path / "copy.db"
    async with surroundings(tmp_path, vendor=vendor()) as around:
        async with around.relay() as here:
            await backed_up(here, file)
        assert (await restored(around, file, "--replace"))[0] == 0
        around.vendor.faults.replace({"lists_fail": "429"})
        async with around.relay() as here:
            job_id = (await here.submit())["id"]
            early = await here.client.post("/v1/resume", json={})
            before = around.vendor.submits
            forced = await here.client.post("/v1/resume", json={"force": True})
            await here.job_in(job_id, "running")
            again = await here.client.post("/v1/resume", json={})

    assert (early.status_code, early.json()["code"]) == (409, "conflict")
    assert before == 0
    assert (forced.status_code, forced.json()["hold"]["searchedAt"]) == (200, None)
    assert again.json() == {"held": False, "hold": None}


async def test_yesterdays_file_in_the_place_of_todays_is_known_by_the_mark_and_held(tmp_path: Path) -> None:
    clock, old = ManualClock(), tmp_path / "yesterday.db"
    async with surroundings(tmp_path, sandbox_clock=clock, vendor=vendor()) as around:
        async with around.relay(clock=clock) as here:
            await here.job_in((await here.submit())["id"], "running")
        shutil.copyfile(around.database, old)
        async with around.relay(clock=clock) as here:
            before = await hold(here)
            later = (await here.submit())["id"]
            await here.job_in(later, "running")
        shutil.copyfile(old, around.database)
        async with around.relay(clock=clock) as here:
            held = await searched(here)
            found = await while_time_passes(clock, here.ended(later))
        async with around.relay(clock=clock) as here:
            after_a_restart = await hold(here)

    assert before is None
    assert "older than what was last sent" in held["reason"]
    assert (held["found"], found["state"], around.vendor.submits) == (1, "succeeded", 2)
    assert after_a_restart is not None
    assert after_a_restart["reason"] == held["reason"]


async def test_the_file_from_before_a_restore_in_the_place_of_the_restored_one_is_held_too(tmp_path: Path) -> None:
    clock, file = ManualClock(), tmp_path / "copy.db"
    async with surroundings(tmp_path, sandbox_clock=clock, vendor=vendor()) as around:
        async with around.relay(clock=clock) as here:
            await here.job_in((await here.submit())["id"], "running")
            await backed_up(here, file)
        await restored(around, file, "--replace")
        async with around.relay(clock=clock) as here:
            await searched(here)
            await here.client.post("/v1/resume", json={})
            later = (await here.submit())["id"]
            await here.job_in(later, "running")
        shutil.copyfile(next(tmp_path.glob("relay.db.before-*[0-9]")), around.database)
        async with around.relay(clock=clock) as here:
            held = await searched(here)
            found = await while_time_passes(clock, here.ended(later))

    assert "older than what was last sent" in held["reason"]
    assert (held["found"], found["state"], around.vendor.submits) == (1, "succeeded", 2)


async def test_a_database_without_its_mark_is_held_unless_nothing_was_ever_sent(tmp_path: Path) -> None:
    clock = ManualClock()
    async with surroundings(tmp_path, sandbox_clock=clock, vendor=vendor()) as around:
        async with around.relay(clock=clock, upstream_url="http://127.0.0.1:9/v1/runwayml") as here:
            mark = Path(f"{around.database}.mark")
            assert await hold(here) is None
        mark.unlink()
        async with around.relay(clock=clock) as here:
            fresh = await hold(here)
            await here.job_in((await here.submit())["id"], "running")
        mark.unlink()
        async with around.relay(clock=clock) as here:
            moved = await searched(here)
            resumed = await here.client.post("/v1/resume", json={})
        async with around.relay(clock=clock) as here:
            after_a_restart = await hold(here)

    assert fresh is None
    assert (moved["found"], "has no relay.db.mark beside it" in moved["reason"]) == (0, True)
    assert (resumed.status_code, after_a_restart) == (200, None)


async def test_a_backup_is_whole_private_and_without_the_key(tmp_path: Path) -> None:
    file = tmp_path / "copy.db"
    async with surroundings(tmp_path) as around, around.relay() as here:
        made = await here.subscribe()
        job_id = (await here.ended((await here.submit())["id"]))["id"]
        await backed_up(here, file)
        second = await command("backup", str(file), env=at(here))
        left = sorted(path.name for path in tmp_path.iterdir() if "backup" in path.name or ".part" in path.name)

    copy = sqlite3.connect(file)
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert copy.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone() == ("succeeded",)
    copy.close()
    key = Path(f"{around.database}.key").read_bytes().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (key in file.read_bytes(), made["secret"].encode() in file.read_bytes()) == (False, False)
    assert (second[0], "exists already" in second[2]) == (1, True)
    assert left == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no database of a relay"),
        (b"SQLite format 3\x00" + b"\xff" * 4096, "is no database of a relay"),
        (None, "is no file"),
    ],
    ids=["empty", "damaged", "absent"],
)
async def test_what_is_no_backup_is_refused_and_the_database_stays(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "copy.db"
    if content is not None:
        file.write_bytes(content)
    async with surroundings(tmp_path) as around:
        async with around.relay() as here:
            job_id = (await here.ended((await here.submit())["id"]))["id"]
            in_use = await restored(around, around.database, "--replace")
        wrong = await restored(around, file, "--replace")
        there = await restored(around, around.database)
        async with around.relay() as here:
            job = await here.job(job_id)

    assert (wrong[0], said in wrong[2]) == (1, True), wrong[2]
    assert (in_use[0], "already uses" in in_use[2]) == (1, True), in_use[2]
    assert (there[0], "--replace" in there[2]) == (1, True), there[2]
    assert job["state"] == "succeeded"


async def test_a_key_that_does_not_open_the_backup_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "copy.db"
    async with surroundings(tmp_path) as around:
        async with around.relay() as here:
            await here.subscribe()
            await backed_up(here, file)
        around.folder = tmp_path / "elsewhere"
        around.folder.mkdir()
        code, out, err = await restored(around, file)

    assert (code, "sealed with the key" in err, "Submitting is held" in out) == (1, True, True)
