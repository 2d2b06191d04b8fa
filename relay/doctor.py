"""Looks at what a relay needs from this machine: settings, database, SQLite, key, disk; each with a remedy."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from relay import settings as config
from relay.errors import RelayError
from relay.settings import Settings
from relay.store import sqlite
from relay.store.driver import WAL_RESET_FIXED, is_current, sqlite3
from relay.vault import load_key, parse_key

FREE_LOW_BYTES: Final = 1024**3
FREE_NONE_BYTES: Final = 100 * 1024**2

Verdict = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, a sentence, and what to do about it where something is to be done."""

    name: str
    verdict: Verdict
    sentence: str
    remedy: str | None = None


def examine() -> list[Finding]:
    """Everything that can be seen from this machine, without a running relay."""
    try:
        settings = config.load()
        config.load_catalogue(settings.catalogue)
    except RelayError as error:
        return [Finding("settings", "failure", error.message, "mend them; README.md lists all settings")]
    return [
        Finding("settings", "ok", "all are well-formed"),
        *_address(settings),
        *_library(),
        *_database(settings.database_path),
        *_key(settings),
        *_disk(settings.database_path),
    ]


def _address(settings: Settings) -> Iterator[Finding]:
    if settings.public_url is None:
        remedy = "set RELAY_PUBLIC_URL to the address at which the upstream reaches this relay"
        yield Finding("callbacks", "warning", "without RELAY_PUBLIC_URL every end is found by asking alone", remedy)
    else:
        yield Finding("callbacks", "ok", f"the upstream is told to call {settings.public_url}/callbacks/…")


def _library() -> Iterator[Finding]:
    version = sqlite3.sqlite_version
    if is_current():
        yield Finding("sqlite", "ok", f"SQLite {version}")
        return
    fixed = ".".join(map(str, WAL_RESET_FIXED))
    yield Finding(
        "sqlite",
        "warning",
        f"SQLite {version} can corrupt a database that two programs write at once (fixed in {fixed})",
        "let no other program open the database while the relay runs, or install the extra: pip install '.[sqlite]'",
    )


def _database(path: Path) -> Iterator[Finding]:
    if not path.exists():
        folder = path.resolve().parent
        if folder.is_dir() and os.access(folder, os.W_OK):
            yield Finding("database", "ok", f"{path} will be made at the first start")
        else:
            yield Finding(
                "database", "failure", f"{path} cannot be made", f"make the folder {folder}, writable for you"
            )
        return
    try:
        yield Finding("database", "ok", sqlite.look(path))
    except RelayError as error:
        yield Finding("database", "failure", error.message, "restore a backup, or correct RELAY_DATABASE_URL")


def _key(settings: Settings) -> Iterator[Finding]:
    path = settings.key_path
    try:
        if settings.secret_key is not None:
            parse_key(settings.secret_key.get_secret_value())
            yield Finding("key", "ok", "RELAY_SECRET_KEY is well-formed")
        elif path.exists():
            load_key(path)
            yield Finding("key", "ok", f"{path} is readable by its owner alone")
        else:
            yield Finding("key", "ok", f"{path} will be made at the first start")
    except RelayError as error:
        yield Finding("key", "failure", error.message, "without the right key sealed addresses and secrets are lost")


def _disk(path: Path) -> Iterator[Finding]:
    folder = path.resolve().parent
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    sentence = f"{free / 1024**3:.1f} GiB free at {folder}"
    if free < FREE_NONE_BYTES:
        yield Finding("disk", "failure", sentence, "make room: the relay answers 503 when it cannot write")
    elif free < FREE_LOW_BYTES:
        yield Finding("disk", "warning", sentence, "make room before it runs out")
    else:
        yield Finding("disk", "ok", sentence)
