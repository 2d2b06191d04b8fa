"""Goes through every sealed text at rest, page by page, and puts another in its place: for a change of the key."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from relay.core.delivery import SECRET_SEAL, URL_SEAL
from relay.errors import ConfigurationError
from relay.store.driver import sqlite3

PAGE: Final = 500
# Where sealed texts are, and the purpose that each was sealed for; `secrets` is JSON with them in it.
COLUMNS: Final = (
    ("subscriptions", "url_sealed", URL_SEAL),
    ("subscriptions", "secrets", SECRET_SEAL),
    ("jobs", "reply_url_sealed", URL_SEAL),
)
Again = Callable[[str, str], str]


def in_file(path: Path, again: Again) -> int:
    """Replace each text of a SQLite database that nobody uses by `again(text, purpose)`; how many became another."""
    changed = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute("PRAGMA synchronous = FULL")
        sql.execute("PRAGMA secure_delete = ON")  # what stood there is overwritten, too
        for table, column, purpose in COLUMNS:
            page, update, after = _page(table, column, "?"), f"UPDATE {table} SET {column} = ? WHERE seq = ?", 0
            while rows := sql.execute(page, (after,)).fetchall():
                after = rows[-1][0]
                new = [(text, seq) for seq, old in rows if (text := again(old, purpose)) != old]
                changed += len(new)
                sql.execute("BEGIN IMMEDIATE")
                sql.executemany(update, new)
                sql.execute("COMMIT")
        sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return changed


async def in_server(url: str, again: Again) -> int:
    """The same on PostgreSQL, where relays may be at work: what one of them has changed meanwhile stays as it is."""
    try:
        import asyncpg
    except ImportError as error:
        message = "PostgreSQL needs the extra: pip install 'video-callback-relay[postgres]'"
        raise ConfigurationError(message) from error
    changed = 0
    sql = await asyncpg.connect(url)
    try:
        for table, column, purpose in COLUMNS:
            update, after = f"UPDATE {table} SET {column} = $1 WHERE seq = $2 AND {column} = $3", 0
            while rows := await sql.fetch(_page(table, column, "$1"), after):
                after = rows[-1]["seq"]
                new = [(text, seq, old) for seq, old in rows if (text := again(old, purpose)) != old]
                changed += len(new)
                await sql.executemany(update, new)
    finally:
        await sql.close()
    return changed


def _page(table: str, column: str, mark: str) -> str:
    return f"SELECT seq, {column} FROM {table} WHERE seq > {mark} AND {column} IS NOT NULL ORDER BY seq LIMIT {PAGE}"
