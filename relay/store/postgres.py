"""The store on PostgreSQL: one database, several relays.

Each relay has one connection that writes. A lock in its transaction lets one group at a time be written, whoever writes
it: so the numbers of events are the order in which readers see them, and each happening is decided on what is true.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import asyncpg

from relay.clock import SystemClock
from relay.core.artifacts import Keeping
from relay.core.ledger import Happening
from relay.errors import ConfigurationError, Conflict, Unavailable
from relay.observe import Metrics, logger
from relay.store.contract import EVENTS_PAGE, EventFilter
from relay.store.dialect import numbered
from relay.store.due import FIRST_DUE
from relay.store.link import CONNECT_S, IDLE_S, SHARE, TAKE_SHARE, WRITER, Link, closed
from relay.store.reads import Reads
from relay.store.refusals import AWAY, CLOSED, OF_ONE, cannot, sentence
from relay.store.transaction import apart, rolled_back, together
from relay.store.trimming import BITES, QUARANTINE_BITE, Kind
from relay.store.writer import RETRY_AFTER_S, Committed, Writer, Written

R = TypeVar("R")
_log = logger("store")
# What is waited for here is a server, which knows no other time.
_clock: Final = SystemClock()

AGAIN_S: Final = 1.0
FATE_S: Final = 20.0
SILENT_S: Final = 8.0
CHANNEL: Final = "relay"
PARTED: Final = (
    "the database has lost what it had committed, as a standby may that was promoted: stop all relays, call "
    "`relay restore --after-failover`, and start them again"
)


class PostgresStore(Reads):
    """Implements `relay.store.contract.Store`; made by `open_store`."""

    shared = True
    each_job = "JOIN jobs USING (seq)"
    newest_first = "ORDER BY seq DESC"
    # SQLite knows no LATERAL, and this engine would otherwise look at every delivery for each subscription.
    first_due = f"CROSS JOIN LATERAL (SELECT id, due_at_ms, seq {FIRST_DUE}) AS d"
    own = "mod(abs(hashtext(r.place)::bigint), :relays) = :relay"
    # SQLite's words are also found without their accents.
    by_words = (
        "SELECT seq FROM jobs WHERE prompt_words(request) @@ plainto_tsquery('simple', :words) "
        "AND seq < :before AND seq > :behind ORDER BY seq DESC LIMIT :looked_at"
    )

    def __init__(
        self,
        link: "Link",
        pool: asyncpg.Pool,
        committed: Committed,
        for_workers: Callable[[], None],
        keeping: Keeping | None,
        metrics: Metrics | None,
    ) -> None:
        super().__init__(self._fetch_rows)
        self._link = link
        self._pool = pool
        self._committed = committed
        self._for_workers = for_workers
        self._keeping = keeping
        self.instance = link.instance
        self.epoch = link.epoch
        # The newest event that is known to have been committed.
        self._head = link.head
        self._news = asyncio.Event()
        self.share = {"relay": 0, "relays": 1}
        # Whether the server was not heard of when it was asked: what asks it now would wait in vain.
        self.silent = False
        self._reading: set[Any] = set()
        self._work = False
        self._leading = asyncio.Event()
        self._lost = asyncio.Event()
        self._writing: asyncpg.Connection | None = None
        self._writer = Writer(self._commit, self._told, metrics)
        # Of its groups the last one that is written, in the database: an answer to COMMIT may be lost.
        self._name, self._written = f"{WRITER}{uuid4()}", 0
        self._tasks = [asyncio.create_task(self._follow(), name="follower")]
        self._tasks.append(asyncio.create_task(self._listen(), name="listener"))

    async def apply(self, happening: Happening[R]) -> R:
        return await self.begin(happening)

    def begin(self, happening: Happening[R]) -> asyncio.Future[R]:
        self._hears()
        return self._writer.begin(happening)

    async def check(self) -> None:
        """Prove that a transaction can be written; a standby that was not promoted refuses."""
        await self._execute("UPDATE meta SET value = (CAST(value AS BIGINT) + 1)::text WHERE name = 'touched'")

    async def trim_quarantine(self, max_entries: int, max_bytes: int, rows: int) -> int:
        return await self._delete(QUARANTINE_BITE, {"entries": max_entries, "bytes": max_bytes, "rows": rows})

    async def trim(self, kind: Kind, before_ms: int, rows: int) -> int:
        return await self._delete(BITES[kind], {"before_ms": before_ms, "rows": rows})

    async def _delete(self, sql: str, values: dict[str, int]) -> int:
        text, names = numbered(sql)
        return await self._execute(text, *(values[name] for name in names))

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Path]:
        raise Conflict("this relay's database is PostgreSQL: back it up with pg_dump, or with base backups and its log")
        yield Path()

    @asynccontextmanager
    async def leading(self) -> AsyncGenerator[asyncio.Event]:
        await self._leading.wait()
        yield self._lost

    async def close(self) -> None:
        """Write what waits; then every connection goes, and with them the locks."""
        await self._writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(Unavailable):
            await self._execute("DELETE FROM meta WHERE name = $1", self._name)
        if self._writing is not None:
            await closed(self._writing)
        with contextlib.suppress(*AWAY):
            await asyncio.wait_for(self._pool.close(), CONNECT_S)

    async def _commit(self, group: Sequence[Happening[Any]]) -> Written:
        self._hears()
        try:
            if self._writing is None or self._writing.is_closed():
                self._writing = await self._link.connect()
            try:
                return await self._transaction(self._writing, group, together)
            except OF_ONE:
                # One of them cannot be written. Which one is found out by a savepoint each.
                return await self._transaction(self._writing, group, apart)
        except AWAY as error:
            if self._writing is not None:
                self._writing.terminate()
                self._writing = None
            raise cannot("written", error) from error

    async def _transaction(self, sql: asyncpg.Connection, group: Sequence[Happening[Any]], decide: Any) -> Written:
        # Each trip to the server is waited for while this relay, and each other one, can write nothing: few are made.
        try:
            await sql.execute(f"BEGIN; SELECT pg_advisory_xact_lock({self._link.writing})")
            # A statement of its own: what this one sees was committed after the lock was had.
            row = await sql.fetchrow(
                "SELECT value, (SELECT value FROM meta WHERE name = 'epoch') AS epoch FROM meta WHERE name = 'head'"
            )
            head, self.epoch = int(row["value"]), row["epoch"]
            if head < self._head:
                raise Unavailable(PARTED, retry_after_s=RETRY_AFTER_S)
            written: Written = await decide(sql, group, head, self.epoch, self._keeping)
        except BaseException:
            await rolled_back(sql)
            raise
        self._written += 1
        now = f"'{self._written} ' || extract(epoch FROM now())::bigint"
        mark = f"INSERT INTO meta VALUES ('{self._name}', {now}) ON CONFLICT (name) DO UPDATE SET value = "
        moved = f"UPDATE meta SET value = '{written.head:d}' WHERE name = 'head'; " if written.head != head else ""
        work = "work" if written.for_workers else ""
        try:
            await sql.execute(f"{mark}excluded.value; {moved}SELECT pg_notify('{CHANNEL}', '{work}'); COMMIT")
        except AWAY:
            if not await self._is_written(self._written):
                raise
            _log.warning("commit.confirmed", meaning="the connection was lost while the commit was answered")
        except BaseException:
            await rolled_back(sql)
            raise
        self._head = max(self._head, written.head)
        return written

    async def _is_written(self, number: int) -> bool:
        """Whether a group is, whose COMMIT was not answered; no when nobody can say in time.

        Who has the lock sees what became of whoever had it before. A transaction's own number would say nothing: after
        a crash the server gives those again that it had not written down.
        """
        with contextlib.suppress(*AWAY):
            async with asyncio.timeout(FATE_S):
                while True:
                    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                        sql = await self._link.connect()
                        try:
                            await sql.execute(f"BEGIN; SELECT pg_advisory_xact_lock({self._link.writing})")
                            last = await sql.fetchval("SELECT value FROM meta WHERE name = $1", self._name)
                        finally:
                            await closed(sql)
                        return last is not None and int(last.partition(" ")[0]) == number
                    await _clock.sleep(AGAIN_S)
        return False

    def _told(self, written: Written) -> None:
        self._work |= written.for_workers
        self._news.set()

    async def _follow(self) -> None:
        """Tell of each commit, of whichever relay it is: what was written is read, in its order."""
        seen = self._link.head
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                while events := await self.events_after(seen, EventFilter(), EVENTS_PAGE):
                    seen = events[-1].seq
                    self._head = max(self._head, seen)
                    self._committed(seen, events)
                head = await self.head()
            except Unavailable:
                await _clock.sleep(AGAIN_S)
                self._news.set()
                continue
            except Exception:  # a defect in a reader's wake must not end the following
                _log.exception("committed.failed")
                await _clock.sleep(AGAIN_S)
                self._news.set()
                continue
            if head == seen:
                self._committed(head, ())
            if self._work:
                self._work = False
                self._for_workers()

    async def _listen(self) -> None:
        """Be woken by the other relays' commits, and lead where nobody else does; for as long as the store is open."""
        while True:
            try:
                sql = await self._link.connect()
            except (*AWAY, asyncpg.PostgresError) as error:
                self._cut(error)
                await _clock.sleep(AGAIN_S)
                continue
            gone = asyncio.Event()
            try:
                sql.add_termination_listener(partial(_tell, gone))
                await sql.execute(f"SET idle_session_timeout = '{IDLE_S}s'; {TAKE_SHARE}")
                self.silent = False
                await sql.add_listener(CHANNEL, self._heard)
                # What was committed while nobody listened.
                self._work = True
                self._news.set()
                await self._lead(sql, gone)
            except (*AWAY, asyncpg.PostgresError) as error:
                _log.warning("listening.again", reason=sentence(error))
                self._cut(error)
            finally:
                self._leading.clear()
                self._lost.set()
                await closed(sql)

    async def _lead(self, sql: asyncpg.Connection, gone: asyncio.Event) -> None:
        """Until the connection ends; it holds the lock, which another relay gets at once when this one dies."""
        while not gone.is_set():
            share = dict(await sql.fetchrow(SHARE, timeout=SILENT_S))
            if share != self.share:
                self.share, self._work = share, True
                self._news.set()
            if not self._leading.is_set() and await self._link.has_lead(sql):
                self._lost = asyncio.Event()
                self._leading.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), AGAIN_S)

    def _cut(self, error: BaseException) -> None:
        """When nothing was heard of the server in time: whoever waits for it now is told, and waits no longer."""
        if not isinstance(error, TimeoutError):
            return
        self.silent = True
        for connection in (self._writing, *self._reading):
            if connection is not None:
                connection.terminate()

    def _hears(self) -> None:
        if self.silent:
            raise Unavailable("the database cannot be reached: it does not answer", retry_after_s=RETRY_AFTER_S)

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[Any]:
        self._hears()
        async with self._pool.acquire(timeout=CONNECT_S) as connection:
            self._reading.add(connection)
            try:
                yield connection
            finally:
                self._reading.discard(connection)

    def _heard(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        self._work |= payload == "work"
        self._news.set()

    async def _fetch_rows(self, sql: str, values: dict[str, Any]) -> Sequence[Mapping[str, Any]]:
        text, names = numbered(sql)
        try:
            async with self._reader() as connection:
                found: Sequence[Mapping[str, Any]] = await connection.fetch(text, *(values[name] for name in names))
                return found
        except AWAY as error:
            raise cannot("read", error) from error

    async def _execute(self, sql: str, *values: Any) -> int:
        """How many rows were changed."""
        try:
            async with self._reader() as connection:
                return int((await connection.execute(sql, *values)).rpartition(" ")[2])
        except AWAY as error:
            raise cannot("written", error) from error


async def open_store(
    url: str,
    *,
    new_hex: Callable[[int], str],
    committed: Committed,
    for_workers: Callable[[], None] = lambda: None,
    keeping: Keeping | None = None,
    metrics: Metrics | None = None,
) -> PostgresStore:
    """Open the database (its tables are made if absent); the arguments are those of `relay.store.sqlite.open_store`.

    Raises `ConfigurationError` when the database cannot be used, with the reason.
    """
    link = Link(url)
    async with AsyncExitStack() as stack:
        try:
            await link.open(new_hex)
            pool = await link.pool()
            stack.push_async_callback(pool.close)
        except CLOSED as error:
            raise ConfigurationError(f"the database cannot be opened: {sentence(error)}") from error
        stack.pop_all()
        return PostgresStore(link, pool, committed, for_workers, keeping, metrics)


async def part(url: str, epoch: str, held: Happening[Any], new_hex: Callable[[int], str]) -> None:
    """This log and the one it is a copy of have parted: its events go on in `epoch`, and `held` is the first thing.

    `ConfigurationError` while a relay runs on the database, or when it cannot be used.
    """
    link = Link(url)
    try:
        await link.open(new_hex)
        sql = await link.connect()
        try:
            if not await link.has_lead(sql):
                raise ConfigurationError("a relay runs on this database: stop all of them first")
            await sql.execute("UPDATE meta SET value = $1 WHERE name = 'epoch'", epoch)
            store = await open_store(url, new_hex=new_hex, committed=lambda head, events: None)
            try:
                await store.apply(held)
            finally:
                await store.close()
        finally:
            await closed(sql)
    except (*CLOSED, Unavailable) as error:
        raise ConfigurationError(f"the database cannot be opened: {sentence(error)}") from error


def _tell(gone: asyncio.Event, connection: Any) -> None:
    gone.set()
