"""The store on a real SQLite file: durable, grouped, alone on its file, and of one mind with the ledger."""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from relay.core.ledger import Happening
from relay.errors import ConfigurationError, Unavailable
from relay.store import sqlite
from relay.store.contract import JobFilter
from relay.store.driver import sqlite3
from relay.store.rows import TABLES
from relay.store.sqlite import SqliteStore
from tests.core.builders import (
    SECRET,
    accepted,
    answered,
    asked,
    callback,
    report,
    started,
    submitted,
    task_body,
)
from tests.store.serving import Breaks, Raises, apply_all, new_hex, opened, pragma, queued

pytestmark = pytest.mark.anyio


async def everything(store: SqliteStore) -> list[list[Any]]:
    """Every row of every table."""
    return [await store._list(kind, "", {}) for kind in TABLES]


def bytes_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def open_files_in(folder: Path) -> list[str]:
    """The files in `folder` that this process holds open."""
    names = []
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            names.append(os.readlink(f"/proc/self/fd/{entry}"))
    return [name for name in names if name.startswith(str(folder))]


def modes_in(folder: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in folder.iterdir()}


# Durability


async def test_a_commit_is_on_disk_before_anybody_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        assert await pragma(store, "synchronous") == 2  # FULL
        assert await pragma(store, "journal_mode") == "wal"


async def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await store.apply(submitted())
        assert modes_in(tmp_path) == {0o600}


async def test_no_secret_stands_in_the_files_bytes(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, submitted(), started(), answered(accepted()))
        await apply_all(store, callback(task_body("RUNNING")), callback(task_body(replyRef="another")))
        await store.apply(asked(report("RUNNING", "0.9", error=f"POST https://r/callbacks/{SECRET} answered 500")))
        written = bytes_in(tmp_path)
    assert b"A coast" in written
    assert SECRET.encode() not in written


async def test_a_log_that_another_program_checkpoints_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "is_current", lambda: True)
    checkpoints: list[tuple[Literal["own", "external"], int]] = [("own", sqlite.WAL_PAGES), ("external", 0)]
    for checkpoint, pages in checkpoints:
        store = await sqlite.open_store(
            tmp_path / "relay.db", new_hex=new_hex, committed=lambda head, events: None, checkpoint=checkpoint
        )
        try:
            assert await pragma(store, "wal_autocheckpoint") == pages
        finally:
            await store.close()


async def test_no_other_program_may_checkpoint_with_a_library_that_could_corrupt_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "is_current", lambda: False)
    with pytest.raises(
        ConfigurationError, match=r"needs SQLite 3\.51\.3 .* pip install 'video-callback-relay\[sqlite\]'"
    ):
        await sqlite.open_store(
            tmp_path / "relay.db", new_hex=new_hex, committed=lambda head, events: None, checkpoint="external"
        )
    assert os.listdir(tmp_path) == []


# Groups


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), sqlite3.DatabaseError("malformed")])
async def test_an_error_of_the_file_fails_the_whole_group_and_the_next_one_works(
    tmp_path: Path, error: sqlite3.Error
) -> None:
    heads: list[int] = []
    async with opened(tmp_path / "relay.db", lambda head, events: heads.append(head)) as store:
        group: list[Happening[Any]] = [queued("a"), Breaks(error), queued("b")]
        results = await asyncio.gather(*map(store.apply, group), return_exceptions=True)
        assert [type(result) for result in results] == [Unavailable] * 3
        assert (await store.jobs(JobFilter(), None, 9), await store.head(), heads) == ([], 0, [])
        await store.apply(queued("a"))
        assert (await store.head(), heads) == (1, [1])


async def test_a_crash_in_the_middle_of_a_group_writes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        with pytest.raises(MemoryError):
            await asyncio.gather(store.apply(queued("a")), store.apply(Raises(MemoryError())))
        assert await store.jobs(JobFilter(), None, 9) == []
        assert (await store.apply(queued("b"))).id == "b"


async def test_a_full_disk_is_unavailable_reading_goes_on_and_writing_comes_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await store.apply(queued("before"))
        await pragma(store, f"max_page_count = {await pragma(store, 'page_count')}")
        with pytest.raises(Unavailable, match="full") as refused:
            await asyncio.gather(*(store.apply(queued(f"job-{n}", model="m" * 2_000)) for n in range(20)))
        assert refused.value.retry_after_s
        assert [job.id for job in await store.jobs(JobFilter(), None, 99)] == ["before"]
        await pragma(store, "max_page_count = 1000000")
        await store.apply(queued("after"))
        assert await store.head() == 2


async def test_a_file_that_another_program_holds_is_unavailable_everywhere_that_writes(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await pragma(store, "busy_timeout = 0")
        other = sqlite3.connect(tmp_path / "relay.db", isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            for attempt in (store.apply(queued("a")), store.check(), store.trim_quarantine(1, 1, 1)):
                with pytest.raises(Unavailable, match="locked"):
                    await attempt
        finally:
            other.close()
        await store.check()


# One process a file


async def test_a_second_store_on_the_same_file_is_refused_in_words_also_through_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "relay.db", tmp_path / "link.db"
    async with opened(path) as store:
        link.symlink_to(path)
        for name in (path, link):
            with pytest.raises(ConfigurationError, match="another relay already uses"):
                async with opened(name):
                    pass
        await store.apply(submitted())
    async with opened(link) as store:
        assert await store.head() == 1


async def test_a_second_process_is_refused_in_words(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from relay.errors import ConfigurationError\n"
        "from relay.store.sqlite import open_store\n"
        "try: asyncio.run(open_store(Path(sys.argv[1]), new_hex=lambda n: '0' * n, committed=print))\n"
        "except ConfigurationError as error: print(error)"
    )
    async with opened(tmp_path / "relay.db"):
        command = [sys.executable, "-c", code, str(tmp_path / "relay.db")]
        said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert "one SQLite file serves one process" in said.stdout


async def test_readers_cannot_write(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await store.apply(submitted())
        for reader in store._readers:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await reader.execute_fetchall("DELETE FROM jobs")


@pytest.mark.parametrize("kind", ["not a database", "a directory", "no such folder"])
async def test_a_file_that_cannot_be_used_is_refused_in_words_and_let_go(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "relay.db"
    match kind:
        case "not a database":
            path.write_bytes(b"this is not a database" * 100)
        case "a directory":
            path.mkdir()
        case _:
            path = tmp_path / "nowhere" / "relay.db"
    for _ in range(2):  # the second time shows that the lock was let go
        with pytest.raises(ConfigurationError, match="cannot be opened: "):
            async with opened(path):
                pass


async def test_a_store_whose_readers_cannot_be_opened_closes_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(connection: object) -> None:
        raise sqlite3.OperationalError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(sqlite, "_only_read", refuse)
        with pytest.raises(ConfigurationError, match="out of memory"):
            async with opened(tmp_path / "relay.db"):
                pass
    assert open_files_in(tmp_path) == []
    async with opened(tmp_path / "relay.db") as store:
        await store.apply(submitted())
