"""The disk under the database: what it has left, and what the database takes of it."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Disk:
    """Where the database at `path` lies."""

    path: Path

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path.resolve().parent).free

    def database_bytes(self) -> int:
        """The database with its write-ahead log, which is a part of it."""
        size = 0
        for name in (self.path, Path(f"{self.path}-wal")):
            with suppress(FileNotFoundError):
                size += name.stat().st_size
        return size
