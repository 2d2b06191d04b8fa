"""Brings a database up to date, or carries all of it from SQLite to PostgreSQL, verified row by row.

Nothing runs on either database meanwhile. A move that was interrupted is begun again, and goes on with the table that
it was at; ids, positions in the log and sealed secrets stay what they were.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.core.job import iso
from relay.core.ledger import KEYS
from relay.errors import ConfigurationError
from relay.store.rows import TABLES, columns
from relay.store.sqlite import WritingFile, lock
from relay.vault import new_hex

# Of each table its columns and its key, the records' and the store's own.
_TABLES: Final[tuple[tuple[str, str, str], ...]] = (
    *((table, columns(kind), ", ".join(KEYS[kind])) for kind, table in TABLES.items()),
    ("tallies", "at_ms, figure, model, account, bucket, counted", "at_ms, figure, model, account, bucket"),
)


@dataclass(frozen=True, slots=True)
class Moved:
    """A table that is on the other side as it was here; `sha256` is of all its rows in order."""

    table: str
    rows: int
    sha256: str


async def up_to_date(url: str) -> str:
    """Apply what is missing; a sentence about the schema. `ConfigurationError` when the database cannot be used."""
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        held = lock(path)
        try:
            WritingFile(path, new_hex).close()
        finally:
            os.close(held)
        return f"{path} is up to date"
    postgres = _postgres()
    try:
        await postgres.Link(url).open(new_hex)
    except postgres.CLOSED as error:
        raise ConfigurationError(f"the database cannot be opened: {postgres.sentence(error)}") from error
    return "the database is up to date"


async def move(source: Path, url: str, *, at_ms: int, moved: Callable[[Moved], None]) -> None:
    """Carry the SQLite database `source` into the empty PostgreSQL database at `url`; `moved` is told of each table.

    Afterwards no relay starts on `source` any more. `ConfigurationError` when that cannot be done, or when a table is
    not on the other side as it was here.
    """
    postgres, held = _postgres(), lock(source)
    try:
        if source.stat().st_size == 0:  # noqa: ASYNC240 - nothing else goes on meanwhile
            raise ConfigurationError(f"{source} is no database")
        file = WritingFile(source, new_hex, leaving=True)
        try:
            # One of the two can be started at any moment, never both, wherever this is killed.
            await _into(file, url, moved)
            file.leave(f"it was moved to PostgreSQL at {iso(at_ms)}")
            await _open_for_all(url)
        finally:
            file.close()
    except postgres.CLOSED as error:
        raise ConfigurationError(f"the database could not be moved: {postgres.sentence(error)}") from error
    finally:
        os.close(held)


def _postgres() -> Any:
    try:
        from relay.store import postgres
    except ImportError as error:
        message = "PostgreSQL needs the extra: pip install 'video-callback-relay[postgres]'"
        raise ConfigurationError(message) from error
    return postgres


async def _into(file: WritingFile, url: str, moved: Callable[[Moved], None]) -> None:
    link = _postgres().Link(url)
    await link.open(new_hex, moving=True)
    target = await link.connect()
    try:
        await _claim(target, file)
        for table, names, key in _TABLES:
            was = _digest(iter(file.rows(table, names, key)))
            if (is_ := await _target_digest(target, table, names, key)) != was:
                async with target.transaction():
                    await target.execute(f"TRUNCATE {table}")  # names of ours
                    await target.copy_records_to_table(
                        table, records=_each(file.rows(table, names, key)), columns=names.split(", ")
                    )
                is_ = await _target_digest(target, table, names, key)
            if is_ != was:
                raise ConfigurationError(
                    f"the table {table} is not the same on the other side: {is_[0]} of {was[0]} rows"
                )
            if (last := file.last_number(table)) is not None:
                await target.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'seq'), $1)", last)
            moved(Moved(table, *was))
        async with target.transaction():
            for name, value in (("instance", file.instance), ("epoch", file.epoch), ("head", str(file.head))):
                await target.execute("UPDATE meta SET value = $2 WHERE name = $1", name, value)
    finally:
        await target.close()


async def _claim(target: Any, file: WritingFile) -> None:
    """The database must be a new one, or the one that this very move was interrupted in; no relay starts on it now."""
    moving = await target.fetchval("SELECT value FROM meta WHERE name = 'moving'")
    if moving == file.instance:
        return
    if file.left is not None:
        raise ConfigurationError(f"{file.path} is not used any more: {file.left}")
    if moving is not None or await target.fetchval(
        "SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM events)"
    ):
        raise ConfigurationError("the database to move to is in use already: give the relay a new one")
    await target.execute("INSERT INTO meta VALUES ('moving', $1)", file.instance)


async def _open_for_all(url: str) -> None:
    target = await _postgres().Link(url).connect()
    try:
        await target.execute("DELETE FROM meta WHERE name = 'moving'")
    finally:
        await target.close()


async def _each(rows: Iterator[Any]) -> AsyncIterator[tuple[Any, ...]]:
    for row in rows:
        yield tuple(row)


async def _target_digest(target: Any, table: str, names: str, key: str) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    async with target.transaction():
        async for row in target.cursor(f"SELECT {names} FROM {table} ORDER BY {key}", prefetch=1_000):  # noqa: S608
            digest.update(repr(tuple(row)).encode("utf-8", "surrogatepass"))
            count += 1
    return count, digest.hexdigest()


def _digest(rows: Iterator[Any]) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    for row in rows:
        digest.update(repr(tuple(row)).encode("utf-8", "surrogatepass"))
        count += 1
    return count, digest.hexdigest()
