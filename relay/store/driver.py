"""The SQLite library in use: a current one where the `sqlite` extra is installed, else the one that Python came with.

Before 3.51.3 SQLite can corrupt a write-ahead log that two connections write or checkpoint at once ("WAL-reset bug").
The relay's one writer never does that; with an older library nobody else may either.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3
else:
    try:
        from pysqlite3 import dbapi2 as sqlite3
    except ImportError:
        import sqlite3

WAL_RESET_FIXED: Final = (3, 51, 3)


def is_current() -> bool:
    """Whether the library has the fix for the WAL-reset bug."""
    return sqlite3.sqlite_version_info >= WAL_RESET_FIXED


__all__ = ["WAL_RESET_FIXED", "is_current", "sqlite3"]
