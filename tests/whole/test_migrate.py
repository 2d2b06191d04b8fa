"""All of a relay is carried from SQLite to PostgreSQL, and it goes on there as if nothing had been."""

from pathlib import Path
from typing import Any

import pytest

from relay import migrate
from relay.clock import ManualClock
from relay.errors import ConfigurationError
from relay.store.link import Link
from relay.store.sqlite import WritingFile
from relay.vault import new_hex
from tests.cli.test_commands import relay as command
from tests.journeys import surroundings, while_time_passes
from tests.postgres import Cluster
from tests.whole.test_replicas import LONG_S, SECRET_KEY

pytestmark = pytest.mark.anyio


async def moved(database: Path, url: str) -> tuple[int, str, str]:
    return await command("migrate", "--from", f"sqlite:///{database}", "--to", url)


async def test_jobs_events_cursors_and_secrets_are_there_and_what_ran_ends(tmp_path: Path, postgres: Cluster) -> None:
    url, clock = await postgres.database(str(tmp_path)), ManualClock()
    async with surroundings(tmp_path, sandbox_clock=clock, times_s=LONG_S) as around:
        async with around.relay(clock=clock, secret_key=SECRET_KEY) as here:
            made = await here.subscribe()
            ended = await while_time_passes(clock, here.ended((await here.submit(replyRef="ünï-7"))["id"]))
            running = await here.job_in((await here.submit())["id"], "running")
            before = (await here.get("/v1/events?since=earliest&limit=500"))["data"]
            stats = await here.get("/v1/stats")
        code, out, err = await moved(around.database, url)
        again = await moved(around.database, url)
        refused = await command(
            "migrate", env={"RELAY_DATABASE_URL": f"sqlite:///{around.database}"} | TOKENS, folder=tmp_path
        )
        async with around.relay(clock=clock, database_url=url, secret_key=SECRET_KEY) as here:
            same = await here.job(ended["id"])
            after = (await here.get("/v1/events?since=earliest&limit=500"))["data"]
            behind = (await here.get(f"/v1/events?last_event_id={before[-3]['id']}"))["data"]
            last = await while_time_passes(clock, here.ended(running["id"]))
            told = await here.subscriber.wait_for(2)
            listed = await here.get("/v1/subscriptions")
            counted = await here.get("/v1/stats")

    assert code == 0, err
    assert "events" in out
    assert "verified" in out
    assert f"{around.database}.key" in out
    assert (again[0], "not used any more" in again[2]) == (1, True)
    assert (refused[0], "not used any more" in refused[2]) == (1, True)
    assert (same["state"], same["replyRef"], last["state"]) == ("succeeded", "ünï-7", "succeeded")
    assert [event["id"] for event in after[: len(before)]] == [event["id"] for event in before]
    assert [event["id"] for event in behind[:2]] == [event["id"] for event in before[-2:]]
    assert [body["type"] for body in told] == ["job.succeeded"] * 2
    assert listed["data"][0]["id"] == made["id"]
    assert counted["jobs"]["succeeded"] == stats["jobs"]["succeeded"] + 1
    assert around.vendor.submits == 2


async def test_a_database_that_is_in_use_is_no_place_to_move_to(tmp_path: Path, postgres: Cluster) -> None:
    url = await postgres.database(str(tmp_path))
    async with surroundings(tmp_path) as around:
        async with around.relay(database_url=url, secret_key=SECRET_KEY) as here:
            await here.ended((await here.submit())["id"])
        async with around.relay(secret_key=SECRET_KEY) as here:
            await here.ended((await here.submit())["id"])
            while_used = await moved(around.database, url)
        code, _, err = await moved(around.database, url)
        async with around.relay(secret_key=SECRET_KEY) as here:
            jobs = (await here.get("/v1/jobs"))["data"]

    assert (while_used[0], "already uses" in while_used[2]) == (1, True)
    assert (code, "in use already" in err) == (1, True)
    assert len(jobs) == 1, "a move that failed leaves the old one as it was"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://nobody@127.0.0.1:1/x", "onnect"),
        ("postgresql://u:s3cret/pw@127.0.0.1/x", "%XX"),
        (None, "does not exist"),
    ],
    ids=["nobody there", "a password with a slash", "no such database"],
)
async def test_a_database_that_cannot_be_opened_is_told_in_one_line_without_its_password(
    tmp_path: Path, postgres: Cluster, url: str | None, said: str
) -> None:
    url = url or postgres.url("not-there")
    async with surroundings(tmp_path) as around:
        async with around.relay():
            pass
        settings = {"RELAY_DATABASE_URL": url, "RELAY_SECRET_KEY": SECRET_KEY} | TOKENS
        answers = [await moved(around.database, url), await command("migrate", env=settings, folder=tmp_path)]

    for code, _, err in answers:
        assert (code, said in err, err.count("\n")) == (1, True, 1), err
        assert "s3cret" not in err


TOKENS: dict[str, str] = {"RELAY_UPSTREAM_TOKEN": "t", "RELAY_ADMIN_TOKEN": "a" * 24}


@pytest.mark.parametrize("step", ["leave", "_open_for_all"])
async def test_a_move_that_is_cut_at_its_end_leaves_one_side_to_start_on_and_goes_on(
    tmp_path: Path, postgres: Cluster, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    url = await postgres.database(str(tmp_path))
    async with surroundings(tmp_path) as around:
        async with around.relay(secret_key=SECRET_KEY) as here:
            job = await here.ended((await here.submit())["id"])

        def cut(*given: Any) -> None:
            raise InterruptedError("cut")

        with monkeypatch.context() as patched:
            patched.setattr(WritingFile if step == "leave" else migrate, step, cut)
            with pytest.raises(ConfigurationError, match="could not be moved"):
                await migrate.move(around.database, url, at_ms=0, moved=lambda one: None)
        with pytest.raises(ConfigurationError, match="was not finished"):
            await Link(url).open(new_hex)
        if step == "leave":
            WritingFile(around.database, new_hex).close()
        else:
            with pytest.raises(ConfigurationError, match="not used any more"):
                WritingFile(around.database, new_hex)
        code, _, err = await moved(around.database, url)
        async with around.relay(database_url=url, secret_key=SECRET_KEY) as here:
            there = await here.job(job["id"])

    assert code == 0, err
    assert there["state"] == "succeeded"


async def test_what_was_moved_is_not_moved_to_a_second_place(tmp_path: Path, postgres: Cluster) -> None:
    first, second = await postgres.database(f"{tmp_path} 1"), await postgres.database(f"{tmp_path} 2")
    async with surroundings(tmp_path) as around:
        async with around.relay(secret_key=SECRET_KEY) as here:
            await here.ended((await here.submit())["id"])
        done, again = await moved(around.database, first), await moved(around.database, second)

    assert done[0] == 0, done[2]
    assert (again[0], "not used any more" in again[2]) == (1, True)
