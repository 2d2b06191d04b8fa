"""Copies of a SQLite database: made while the relay writes, looked through before anybody relies on them."""

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from relay.errors import ConfigurationError, Unavailable
from relay.store.driver import sqlite3
from relay.store.migrate import pending

RETRY_AFTER_S: Final = 60
_COPY: Final = ".backup-"


def copied(path: Path) -> Path:
    """A copy of all that is committed, beside the database and as private; `Unavailable` when there is no room."""
    copy = path.with_name(f".{path.name}{_COPY}{os.getpid()}")
    copy.unlink(missing_ok=True)
    try:
        # The file is made first: SQLite would make it as the umask says, and it takes an empty one.
        os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
        try:
            # One reading transaction: whatever is written meanwhile is not in it, and waits for nothing.
            connection.execute("VACUUM INTO ?", (str(copy),))
        finally:
            connection.close()
        examined(copy)
        sync(copy)
    except (OSError, sqlite3.Error) as error:
        copy.unlink(missing_ok=True)
        raise Unavailable(f"the database cannot be copied: {error}", retry_after_s=RETRY_AFTER_S) from error
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    return copy


def forget_copies(path: Path) -> None:
    """Remove what a relay left that was killed while it made a copy."""
    for left in path.parent.glob(f".{path.name}{_COPY}*"):
        left.unlink(missing_ok=True)


def examined(path: Path) -> dict[str, str]:
    """What the database says of itself; `ConfigurationError` when it is damaged, no relay's, or a newer one's."""
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            known = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ConfigurationError(f"{path} is no database of a relay: {error}") from error
    if verdict != "ok":
        raise ConfigurationError(f"{path} is damaged: {verdict}")
    pending("sqlite", version)
    if not known.keys() >= {"instance", "epoch", "head"}:
        raise ConfigurationError(f"{path} is no database of a relay")
    return known


def settled(path: Path) -> bool:
    """Move the log into a database that nobody uses, so that it is one file; False when that cannot be done."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return not Path(f"{path}-wal").exists()


def sealed_with(path: Path) -> str | None:
    """The id of the key that secrets in this database were sealed with; None when there are none."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        row = connection.execute("SELECT url_sealed FROM subscriptions LIMIT 1").fetchone()
    finally:
        connection.close()
    return str(row[0]).split(".")[1] if row and str(row[0]).count(".") == 2 else None


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
