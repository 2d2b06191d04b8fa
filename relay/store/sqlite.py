"""The store on one SQLite file: one writing connection in a thread of its own, readers that can only read.

SQLite before 3.51.3 can corrupt the WAL when two connections write or checkpoint at once. Here only the writer does
either: readers are `query_only`, and a lock beside the file keeps a second process out.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import aiosqlite

from relay.core.artifacts import Keeping
from relay.core.ledger import Happening
from relay.errors import ConfigurationError, Conflict, Unavailable
from relay.observe import Metrics
from relay.store import backup
from relay.store.driver import WAL_RESET_FIXED, is_current, sqlite3
from relay.store.group import Ask, together
from relay.store.held import Held
from relay.store.migrate import pending
from relay.store.reads import Reads
from relay.store.rows import for_many
from relay.store.trimming import BITES, QUARANTINE_BITE, Kind
from relay.store.writer import RETRY_AFTER_S, Committed, Writer, Written

R = TypeVar("R")
_Decide = Callable[[Sequence[Happening[Any]], int], Written]

READERS: Final = 2
CACHE_KIB: Final = 16 * 1024
# A longer log is copied back more rarely, and whoever waits meanwhile waits longer; it saves no time in all.
WAL_PAGES: Final = 1_000
ITER_CHUNK_SIZE: Final = 64
ROWS_AT_ONCE: Final = 64
# Errors that the values of one happening cause; SQLite's other ones concern the file, and so the whole group.
_OF_ONE: Final = (
    *(sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError),
    *(ValueError, TypeError, LookupError, ArithmeticError),
)


class SqliteStore(Reads):
    """Implements `relay.store.contract.Store`; made by `open_store`."""

    shared = False

    def __init__(
        self,
        file: "WritingFile",
        thread: ThreadPoolExecutor,
        readers: list[aiosqlite.Connection],
        committed: Committed,
        for_workers: Callable[[], None],
        closing: AsyncExitStack,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__(self._fetch_rows)
        self._file = file
        self._thread = thread
        self._readers = readers
        self._turn = 0
        self._copying = asyncio.Lock()
        self._closing = closing
        self._committed = committed
        self._for_workers = for_workers
        self._writer = Writer(self._commit, self._told, metrics)

    @property
    def instance(self) -> str:
        return self._file.instance

    @property
    def epoch(self) -> str:
        return self._file.epoch

    async def apply(self, happening: Happening[R]) -> R:
        return await self.begin(happening)

    def begin(self, happening: Happening[R]) -> asyncio.Future[R]:
        return self._writer.begin(happening)

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[asyncio.Event]:
        """At once and for ever: nobody else can open the file."""
        yield asyncio.Event()

    async def trim_quarantine(self, max_entries: int, max_bytes: int, rows: int) -> int:
        values = {"entries": max_entries, "bytes": max_bytes, "rows": rows}
        return await self._in_thread(lambda: self._file.delete(QUARANTINE_BITE, values))

    async def trim(self, kind: Kind, before_ms: int, rows: int) -> int:
        return await self._in_thread(lambda: self._file.delete(BITES[kind], {"before_ms": before_ms, "rows": rows}))

    async def check(self) -> None:
        await self._in_thread(self._file.touch)
        await self.head()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Path]:
        if self._copying.locked():
            raise Conflict("a backup is already being made")
        async with self._copying:
            copy = await asyncio.to_thread(backup.copied, self._file.path)
            try:
                yield copy
            finally:
                copy.unlink(missing_ok=True)

    async def close(self) -> None:
        """Write what waits; then the readers, the writing connection, its thread and the lock go, in this order."""
        await self._writer.close()
        await self._closing.aclose()

    async def _commit(self, group: Sequence[Happening[Any]]) -> Written:
        return await self._in_thread(lambda: self._file.commit(group))

    def _told(self, written: Written) -> None:
        self._committed(written.head, written.events)
        if written.for_workers:
            self._for_workers()

    async def _in_thread(self, work: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _fetch_rows(self, sql: str, values: dict[str, Any]) -> Sequence[Mapping[str, Any]]:
        self._turn = (self._turn + 1) % len(self._readers)
        try:
            return list(await self._readers[self._turn].execute_fetchall(sql, values))  # type: ignore[arg-type]
        except sqlite3.OperationalError as error:
            raise Unavailable(f"the database cannot be read: {error}", retry_after_s=RETRY_AFTER_S) from error


async def open_store(
    path: Path,
    *,
    new_hex: Callable[[int], str],
    committed: Committed,
    for_workers: Callable[[], None] = lambda: None,
    keeping: Keeping | None = None,
    metrics: Metrics | None = None,
    checkpoint: Literal["own", "external"] = "own",
) -> SqliteStore:
    """Open the file (made if absent), bring its schema up to date, and keep every other process out.

    `new_hex(n)` gives n random hex digits; `committed(head, events)` is told of each commit,
    and `for_workers()` is called behind it when one of the workers may have something to do.
    `keeping`: whether the relay keeps the files of jobs. `checkpoint`: with `external` another program, which copies
    the log first, moves it into the file, and the relay never does.
    Raises `ConfigurationError` when the file cannot be used, with the reason.
    """
    external = checkpoint == "external"
    if external and not is_current():
        needed, here = ".".join(map(str, WAL_RESET_FIXED)), sqlite3.sqlite_version
        raise ConfigurationError(
            f"RELAY_SQLITE_CHECKPOINT: external needs SQLite {needed} or later: {here}, which is here, can corrupt "
            "a log that two programs checkpoint; pip install 'video-callback-relay[sqlite]'"
        )
    async with AsyncExitStack() as stack:
        held = lock(path)
        stack.callback(os.close, held)
        await asyncio.to_thread(backup.forget_copies, path)
        thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite-writer")
        stack.callback(thread.shutdown)
        loop = asyncio.get_running_loop()
        opened = partial(WritingFile, wal_pages=0 if external else WAL_PAGES)
        try:
            file = await loop.run_in_executor(thread, lambda: opened(path, new_hex, keeping))
            stack.push_async_callback(loop.run_in_executor, thread, file.close)
            readers = [await stack.enter_async_context(_reader(path)) for _ in range(READERS)]
            for reader in readers:
                await _only_read(reader)
        except (OSError, sqlite3.Error) as error:
            raise _cannot_open(path, error) from error
        return SqliteStore(file, thread, readers, committed, for_workers, stack.pop_all(), metrics)


def look(path: Path) -> str:
    """A sentence about an existing database, read only; `ConfigurationError` when no relay could use it."""
    try:
        held = lock(path)
    except ConfigurationError as error:
        if isinstance(error.__cause__, BlockingIOError):
            return f"{path} is in use by a running relay"
        raise
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            sound = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise _cannot_open(path, error) from error
    finally:
        os.close(held)
    if sound != "ok":
        raise ConfigurationError(f"the database {path} is damaged: {sound}")
    missing = len(pending("sqlite", version))
    return f"{path} is sound, schema {version}{f', {missing} steps to come at the next start' if missing else ''}"


def _reader(path: Path) -> aiosqlite.Connection:
    # Not `aiosqlite.connect`, which knows Python's own library only.
    return aiosqlite.Connection(
        lambda: sqlite3.connect(path, isolation_level=None, cached_statements=256), iter_chunk_size=ITER_CHUNK_SIZE
    )


async def _only_read(connection: aiosqlite.Connection) -> None:
    connection.row_factory = sqlite3.Row
    await connection.execute_fetchall("PRAGMA query_only = ON")
    await connection.execute_fetchall("PRAGMA busy_timeout = 5000")


def lock(path: Path) -> int:
    """Hold `<file>-lock` for as long as this process lives; the kernel lets go of it when the process dies."""
    try:
        # By its real name: a link to the same file must find the same lock.
        handle = os.open(f"{os.path.realpath(path)}-lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _cannot_open(path, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if not isinstance(error, BlockingIOError):
            raise _cannot_open(path, error) from error
        raise ConfigurationError(
            f"another relay already uses {path}; one SQLite file serves one process: stop the other one, "
            "or give each its own database"
        ) from error
    return handle


def _cannot_open(path: Path, error: OSError | sqlite3.Error) -> ConfigurationError:
    reason = error.strerror if isinstance(error, OSError) else error
    return ConfigurationError(f"the database {path} cannot be opened: {reason}")


class WritingFile:
    """The writing connection; every method runs in one thread, the writer's."""

    def __init__(
        self,
        path: Path,
        new_hex: Callable[[int], str],
        keeping: Keeping | None = None,
        *,
        wal_pages: int = WAL_PAGES,
        leaving: bool = False,
    ) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        self.path = path
        self.held = Held()
        self._keeping = keeping
        self._sql = sqlite3.connect(path, isolation_level=None, cached_statements=512)
        try:
            self._sql.row_factory = sqlite3.Row
            self._prepare(wal_pages)
            self._migrate(new_hex)
            # What a statement of many rows would need to be undone is no business of a disk; a migration is.
            self._sql.execute("PRAGMA temp_store = MEMORY")
            left = self._sql.execute("SELECT value FROM meta WHERE name = 'left'").fetchone()
            # Why no relay starts on this file any more.
            self.left: str | None = left and left["value"]
            if self.left is not None and not leaving:
                raise ConfigurationError(f"{path} is not used any more: {self.left}; set RELAY_DATABASE_URL")
            self.instance = self._meta("instance")
            self.epoch = self._meta("epoch")
        except BaseException:
            self._sql.close()
            raise

    def _prepare(self, wal_pages: int) -> None:
        mode = self._sql.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise ConfigurationError("the database's file system cannot hold a write-ahead log; put it on a local disk")
        # FULL: a commit has reached the disk before anybody is told of it. NORMAL would lose the last ones with power.
        self._sql.execute("PRAGMA synchronous = FULL")
        self._sql.execute("PRAGMA busy_timeout = 5000")
        self._sql.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._sql.execute(f"PRAGMA wal_autocheckpoint = {wal_pages}")

    def _migrate(self, new_hex: Callable[[int], str]) -> None:
        version = self._sql.execute("PRAGMA user_version").fetchone()[0]
        for step in pending("sqlite", version):
            # executescript commits what is open, so the transaction is part of the script.
            self._sql.executescript(f"BEGIN IMMEDIATE;\n{step.sql}\nPRAGMA user_version = {step.version};\nCOMMIT;")
        for name, value in (("instance", new_hex(8)), ("epoch", new_hex(8)), ("head", "0"), ("touched", "0")):
            self._sql.execute("INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))

    def _meta(self, name: str) -> str:
        return str(self._sql.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()["value"])

    def commit(self, group: Sequence[Happening[Any]]) -> Written:
        """One durable transaction for all; a happening that fails does not fail its neighbours."""
        try:
            return self._transaction(group, self._together)
        except _OF_ONE:
            # One of them cannot be written. Which one is found out by a savepoint each.
            return self._transaction(group, self._apart)

    def _transaction(self, group: Sequence[Happening[Any]], decide: _Decide) -> Written:
        try:
            self._sql.execute("BEGIN IMMEDIATE")
            head = int(self._meta("head"))
            written = decide(group, head)
            if written.head != head:
                self._sql.execute("UPDATE meta SET value = ? WHERE name = 'head'", (str(written.head),))
            self._sql.execute("COMMIT")
        except BaseException as error:
            self.held.forget()
            self._roll_back()
            if isinstance(error, sqlite3.Error) and not isinstance(error, _OF_ONE):
                raise _cannot_write(error) from error
            raise
        return written

    def _together(self, group: Sequence[Happening[Any]], head: int) -> Written:
        steps = together(group, head, self.epoch, held=self.held, keeping=self._keeping)
        answers: list[dict[str, Any]] = []
        step = next(steps)
        while True:
            if isinstance(step, Ask):
                answers = [
                    {name: self._sql.execute(sql, values).fetchall() for name, sql, values in queries}
                    for queries in step.each
                ]
            else:
                self._write(step.statements)
            try:
                step = steps.send(answers)
            except StopIteration as end:
                written: Written = end.value
                return written

    def _apart(self, group: Sequence[Happening[Any]], head: int) -> Written:
        written = Written(head)
        for happening in group:
            self._sql.execute("SAVEPOINT one")
            try:
                one = self._together([happening], written.head)
            except _OF_ONE as error:
                self.held.forget()
                self._sql.execute("ROLLBACK TO one")
                one = Written(written.head, [error])
            self._sql.execute("RELEASE one")
            written.take(one)
        return written

    def _write(self, statements: Iterable[tuple[str, list[tuple[Any, ...]]]]) -> None:
        """Many rows by one call where they are many: between calls this thread may wait for the others' Python."""
        for sql, rows in statements:
            done = 0
            while done < len(rows):
                n = 1 << min(ROWS_AT_ONCE, len(rows) - done).bit_length() - 1
                now = chain.from_iterable(rows[done : done + n])
                self._sql.execute(for_many(sql, len(rows[0]), n), tuple(now))
                done += n

    def _roll_back(self) -> None:
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")

    @property
    def head(self) -> int:
        return int(self._meta("head"))

    def rows(self, table: str, names: str, key: str) -> Iterator[Any]:
        """All rows of a table, in the order of its key."""
        yield from self._sql.execute(f"SELECT {names} FROM {table} ORDER BY {key}")

    def last_number(self, table: str) -> int | None:
        """The last number that the table has given, if it gives any and has given one."""
        row = self._sql.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        return int(row["seq"]) if row else None

    def leave(self, why: str) -> None:
        """From now on no relay starts on this file."""
        self._sql.execute(
            "INSERT INTO meta VALUES ('left', ?) ON CONFLICT DO UPDATE SET value = excluded.value", (why,)
        )

    def begin_epoch(self, epoch: str) -> None:
        """From now on events have ids of another epoch: this log and the one it was copied from have parted."""
        self._sql.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (epoch,))
        self.epoch = epoch

    def settle(self) -> None:
        """Move everything from the log into the file itself."""
        self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def touch(self) -> None:
        """Prove that a transaction can be written."""
        try:
            self._sql.execute("BEGIN IMMEDIATE")
            # Another value each time: SQLite writes nothing for one that stays the same, and a full disk looked well.
            self._sql.execute("UPDATE meta SET value = (CAST(value AS INTEGER) + 1) || '' WHERE name = 'touched'")
            self._sql.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise _cannot_write(error) from error

    def delete(self, sql: str, values: dict[str, int]) -> int:
        """How many rows went by this one statement."""
        try:
            return self._sql.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise _cannot_write(error) from error

    def close(self) -> None:
        self._sql.close()


def _cannot_write(error: sqlite3.Error) -> Unavailable:
    return Unavailable(f"the database cannot be written: {error}", retry_after_s=RETRY_AFTER_S)
