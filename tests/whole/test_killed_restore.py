"""A restore that is killed leaves the old database or the new one, whichever step it was at, and can be done again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relay.restore import restore
from relay.store.driver import sqlite3
from relay.store.mark import Mark, Seen
from relay.store.sqlite import WritingFile
from tests.store.serving import new_hex, queued
from tests.whole.killed_restore import NOW_MS, settings

OLD, NEW = ["backed up", "in the file", "in the log"], ["backed up"]


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A relay's folder after a crash, the newest job in the log alone, and an older backup of it."""
    busy, folder = tmp_path / "busy", tmp_path / "template"
    busy.mkdir()
    folder.mkdir()
    file = WritingFile(busy / "relay.db", new_hex)
    try:
        file.commit([queued("backed up")])
        file.settle()
        shutil.copyfile(busy / "relay.db", folder / "copy.db")
        file.commit([queued("in the file")])
        file.settle()
        file.commit([queued("in the log")])
        for part in ("", "-wal"):
            shutil.copyfile(busy / f"relay.db{part}", folder / f"relay.db{part}")
    finally:
        file.close()
    Mark(folder / "relay.db").write(Seen("0a1b2c3d", 3))
    return folder


def jobs(database: Path) -> list[str]:
    """What is in a database, by whoever opens it next; it must be there, and sound."""
    connection = sqlite3.connect(f"file:{database}?mode=rw", uri=True)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [name for (name,) in connection.execute("SELECT id FROM jobs ORDER BY seq")]
    finally:
        connection.close()


def is_held(database: Path) -> bool:
    connection = sqlite3.connect(database)
    try:
        return bool(connection.execute("SELECT count(*) FROM holds").fetchone()[0])
    finally:
        connection.close()


def asides(folder: Path) -> list[Path]:
    return [path for path in folder.glob("relay.db.before-*") if path.suffix not in (".mark", "-wal", "-shm")]


def test_killed_at_any_step_it_leaves_the_old_database_or_the_new_one(template: Path, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    command = [sys.executable, "-m", "tests.whole.killed_restore", str(template), str(tries)]
    subprocess.run(command, check=True, timeout=120, cwd=Path(__file__).parents[2])
    seen = []
    for place in sorted(tries.iterdir()):
        database = place / "relay.db"
        left = jobs(database)
        assert left in (OLD, NEW), place
        assert is_held(database) == (left == NEW)
        assert Mark(database)._path.exists()
        seen.append(left)
        # The same once more, by somebody who saw that it was killed.
        restore(place / "copy.db", settings(place), NOW_MS + 1, put_aside=True)
        assert jobs(database) == NEW
        kept = [jobs(aside) for aside in asides(place)]
        assert OLD in kept, "nothing of what was there is lost"

    assert seen == sorted(seen, key=len, reverse=True), "once the new one is there it stays"
    assert seen[0] == OLD
    assert seen[-1] == NEW
    assert seen.count(NEW) > 1, "it was killed behind the change as well"


def test_a_database_that_cannot_be_opened_is_put_aside_with_its_log(template: Path) -> None:
    (template / "relay.db").write_bytes(b"no database" * 1_000)
    made = restore(template / "copy.db", settings(template), NOW_MS, put_aside=True)

    assert jobs(template / "relay.db") == NEW
    assert made.aside is not None
    assert made.aside.read_bytes().startswith(b"no database")
    assert Path(f"{made.aside}-wal").exists()


def test_where_a_file_can_have_but_one_name_a_copy_is_put_aside(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    made = restore(template / "copy.db", settings(template), NOW_MS, put_aside=True)

    assert (jobs(template / "relay.db"), jobs(made.aside or template)) == (NEW, OLD)
    assert (made.aside or template).stat().st_mode & 0o777 == 0o600
