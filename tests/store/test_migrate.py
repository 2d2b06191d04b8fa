"""The schema is brought up to date step by step, and never backwards."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from relay.errors import ConfigurationError
from relay.store import migrate, sqlite
from relay.store.driver import sqlite3
from relay.store.migrate import Migration, migrations, pending
from tests.bench.migrate import STEPS, another_step, filled, migrated
from tests.core.builders import submitted
from tests.store.serving import opened, queued

NEWEST = len(migrations("sqlite"))
pytestmark = pytest.mark.anyio


def ask(path: Path, sql: str) -> Any:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        return file.execute(sql).fetchall()


def test_the_steps_are_numbered_1_2_3_and_have_names() -> None:
    steps = migrations("sqlite")
    assert [step.version for step in steps] == list(range(1, NEWEST + 1))
    assert steps[0].name == "0001_start.sql"


def test_an_empty_database_lacks_all_steps_and_a_current_one_none() -> None:
    assert pending("sqlite", 0) == migrations("sqlite")
    assert pending("sqlite", NEWEST) == []


def test_a_gap_in_the_numbers_is_a_defect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "migrations" / "sqlite"
    folder.mkdir(parents=True)
    for name in ("0001_start.sql", "0003_more.sql", "notes.txt"):
        (folder / name).write_text("SELECT 1;")
    monkeypatch.setattr(migrate, "files", lambda package: tmp_path)
    with pytest.raises(AssertionError, match="not numbered"):
        migrations("sqlite")
    (folder / "0002_between.sql").write_text("SELECT 1;")
    assert [step.version for step in migrations("sqlite")] == [1, 2, 3]


async def test_a_new_file_has_the_newest_schema_and_opening_it_again_changes_nothing(tmp_path: Path) -> None:
    path, seen = tmp_path / "relay.db", []
    for _ in range(2):
        async with opened(path):
            pass
        seen.append((ask(path, "PRAGMA user_version"), ask(path, "SELECT sql FROM sqlite_schema ORDER BY name")))
    assert seen[0] == seen[1]
    assert seen[0][0] == [(NEWEST,)]


async def test_a_newer_schema_is_refused_in_words_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    async with opened(path) as store:
        await store.apply(submitted())
    ask(path, f"PRAGMA user_version = {NEWEST + 1}")
    with pytest.raises(ConfigurationError, match=f"schema {NEWEST + 1}, and this relay knows up to {NEWEST}"):
        async with opened(path):
            pass
    assert ask(path, "SELECT count(*) FROM jobs") == [(1,)]
    ask(path, f"PRAGMA user_version = {NEWEST}")
    async with opened(path) as store:
        assert await store.head() == 1


async def test_a_step_that_fails_leaves_nothing_behind_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, broken = tmp_path / "relay.db", Migration(NEWEST + 1, "broken.sql", "CREATE TABLE half (x); CREATE NONSENSE;")
    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "pending", lambda engine, version: [*migrations(engine), broken])
        with pytest.raises(ConfigurationError, match="syntax error"):
            async with opened(path):
                pass
    assert ask(path, "PRAGMA user_version") == [(NEWEST,)]
    assert ask(path, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'") == [(0,)]
    async with opened(path) as store:
        await store.apply(submitted())


async def test_a_file_of_an_earlier_schema_gets_only_the_steps_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, more = tmp_path / "relay.db", Migration(NEWEST + 1, "more.sql", "ALTER TABLE jobs ADD COLUMN more TEXT;")
    async with opened(path) as store:
        await store.apply(submitted())
    steps = [*migrations("sqlite"), more]
    monkeypatch.setattr(sqlite, "pending", lambda engine, version: steps[version:])
    async with opened(path) as store:
        assert await store.head() == 1
    assert ask(path, "SELECT more FROM jobs") == [(None,)]


@pytest.mark.parametrize("step", STEPS)
async def test_a_file_with_a_history_goes_forward_by_a_step_of_a_newer_relay_and_not_back(
    tmp_path: Path, step: str
) -> None:
    path = tmp_path / "relay.db"
    async with opened(path):
        pass
    jobs, events = filled(path, 2_000_000)
    with another_step(tmp_path, STEPS[step]) as version:
        _, schema = await migrated(path)
        async with opened(path) as store:
            await store.apply(queued("after"))
            head, found = await store.head(), await store.job("after")
    with pytest.raises(ConfigurationError, match=r"written by a newer relay; install that one, or restore a backup"):
        async with opened(path):
            pass

    assert schema == version == NEWEST + 1
    assert (head, found is not None) == (events + 1, True)
    assert ask(path, "SELECT count(*) FROM jobs") == [(jobs + 1,)]
