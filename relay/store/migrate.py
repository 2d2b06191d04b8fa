"""Numbered SQL files, applied once each and in order; a database that is newer than the program is refused in words."""

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from relay.errors import ConfigurationError

_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema; `version` counts from 1 without a gap."""

    version: int
    name: str
    sql: str


def migrations(engine: str) -> list[Migration]:
    """All steps for `engine` (`sqlite`, `postgres`), oldest first."""
    found = []
    for file in sorted(files("relay.store").joinpath("migrations", engine).iterdir(), key=lambda file: file.name):
        match = _NAME.fullmatch(file.name)
        if match:
            found.append(Migration(int(match[1]), file.name, file.read_text("utf-8")))
    if [step.version for step in found] != list(range(1, len(found) + 1)):
        raise AssertionError(f"the migrations of {engine} are not numbered 1, 2, 3, …")
    return found


def pending(engine: str, version: int) -> list[Migration]:
    """The steps that a database at `version` (0 for an empty one) still lacks."""
    steps = migrations(engine)
    if version > len(steps):
        raise ConfigurationError(
            f"the database has schema {version}, and this relay knows up to {len(steps)}: "
            "it was written by a newer relay; install that one, or restore a backup"
        )
    return steps[version:]
