"""A store on a real file, opened and closed around a test."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.core.job import Job
from relay.core.ledger import Changes, Happening, Loaded, Needs, Record
from relay.store import postgres
from relay.store.sqlite import SqliteStore, open_store
from relay.store.writer import Committed
from tests.core.builders import submitted
from tests.postgres import Cluster


def new_hex(digits: int) -> str:
    return "0a1b2c3d4e5f6071"[:digits]


# The server that stores are opened on while a test of both engines runs on PostgreSQL.
server: ContextVar[Cluster | None] = ContextVar("server", default=None)


@asynccontextmanager
async def opened(path: Path, committed: Committed = lambda head, events: None) -> AsyncGenerator[SqliteStore]:
    """The store on the file `path`, or on tables of that name; `committed` is told of each commit.

    A test of both engines sees nothing but the contract of the store, whatever the type says.
    """
    store: Any
    if (cluster := server.get()) is not None:
        url = await cluster.database(str(path))
        store = await postgres.open_store(url, new_hex=new_hex, committed=committed)
    else:
        store = await open_store(path, new_hex=new_hex, committed=committed)
    try:
        yield store
    finally:
        await store.close()


async def pragma(store: SqliteStore, text: str) -> Any:
    """Ask, or set, a PRAGMA of the writing connection, in its own thread."""

    def ask() -> Any:
        row = store._file._sql.execute(f"PRAGMA {text}").fetchone()
        return row[0] if row else None

    return await store._in_thread(ask)


def queued(name: str, **changes: Any) -> Happening[Job]:
    """A job with an id of its own."""
    return submitted(**{"id": name, "task_id": f"task of {name}"} | changes)


async def apply_all(store: SqliteStore, *happenings: Happening[Any]) -> None:
    for happening in happenings:
        await store.apply(happening)


@dataclass(frozen=True, slots=True)
class Writes(Happening[None]):
    """A happening that writes just these records."""

    records: tuple[Record, ...]

    def needs(self) -> Needs:
        return Needs()

    def decide(self, loaded: Loaded) -> Changes[None]:
        return Changes(None, self.records)


@dataclass(frozen=True, slots=True)
class Breaks(Happening[None]):
    """In its place the engine fails with `error`, as its file may while a group is written."""

    error: BaseException

    def needs(self) -> Needs:
        raise self.error


@dataclass(frozen=True, slots=True)
class Raises(Happening[None]):
    """A happening whose decision raises `error`."""

    error: BaseException

    def needs(self) -> Needs:
        return Needs()

    def decide(self, loaded: Loaded) -> Changes[None]:
        raise self.error
