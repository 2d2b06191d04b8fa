"""Looks at what a relay needs from this machine: settings, database, key, disk, storage; each with a remedy."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from relay import settings as config
from relay.doctor.finding import Finding
from relay.errors import ConfigurationError, RelayError
from relay.settings import Settings
from relay.store import bucket, sqlite
from relay.store.driver import WAL_RESET_FIXED, is_current, sqlite3
from relay.vault import load_keys

FREE_LOW_BYTES: Final = 1024**3
FREE_NONE_BYTES: Final = 100 * 1024**2
# More than a program that checkpoints leaves.
LOG_LONG_BYTES: Final = 64 * 1024**2
REQUIRED: Final = {"RELAY_UPSTREAM_TOKEN", "RELAY_ADMIN_TOKEN"}


def configured(*, elsewhere: bool) -> tuple[Settings | None, Finding]:
    """The settings of this place, None where no relay could start with them. `elsewhere`: nobody said one runs here."""
    try:
        settings = config.load()
        config.load_catalogue(settings.catalogue)
    except ConfigurationError as error:
        if elsewhere and {problem.field for problem in error.problems} == REQUIRED:
            said = "there are none of a relay here; this machine, its database and the upstream were not looked at"
            return None, Finding("settings", "skipped", said)
        return None, Finding("settings", "failure", error.message, "mend them; deploy/README.md lists all settings")
    return settings, Finding("settings", "ok", "all are well-formed")


def examine(settings: Settings) -> list[Finding]:
    """Everything that can be seen from this machine, without a running relay, and without a database's server."""
    without = "the relay answers 503 when it cannot write"
    return [
        *_address(settings),
        *(() if settings.on_postgres else _sqlite(settings)),
        *_key(settings),
        *_disk("disk", settings.database_path.resolve().parent, without),
        *_artifacts(settings),
    ]


def _address(settings: Settings) -> Iterator[Finding]:
    if settings.public_url is None:
        remedy = "set RELAY_PUBLIC_URL to the address at which the upstream reaches this relay"
        yield Finding("callbacks", "warning", "without RELAY_PUBLIC_URL every end is found by asking alone", remedy)
    else:
        yield Finding("callbacks", "ok", f"the upstream is told to call {settings.public_url}/callbacks/…")


def _sqlite(settings: Settings) -> Iterator[Finding]:
    external = settings.sqlite_checkpoint == "external"
    yield from _library(external=external)
    yield from _database(settings.database_path)
    if external:
        yield _log(Path(f"{settings.database_path.resolve()}-wal"))


def _log(path: Path) -> Finding:
    """Whether the other program moves the log into the database, which it then begins anew."""
    size_bytes = path.stat().st_size if path.exists() else 0
    sentence = f"the log, which another program is to checkpoint, has {size_bytes / 1024**2:.1f} MiB"
    if size_bytes <= LOG_LONG_BYTES:
        return Finding("log", "ok", sentence)
    remedy = "nobody seems to: start that program (deploy/litestream.yml), or set RELAY_SQLITE_CHECKPOINT to own"
    return Finding("log", "warning", sentence, remedy)


def _library(*, external: bool) -> Iterator[Finding]:
    version = sqlite3.sqlite_version
    if is_current():
        yield Finding("sqlite", "ok", f"SQLite {version}")
        return
    fixed = ".".join(map(str, WAL_RESET_FIXED))
    if external:
        sentence = f"RELAY_SQLITE_CHECKPOINT=external needs SQLite {fixed}, and {version} is here: no relay starts so"
        yield Finding("sqlite", "failure", sentence, "install the extra: pip install '.[sqlite]'")
        return
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
    if not os.access(path, os.W_OK):
        remedy = f"give it to whoever runs the relay, with the folder {path.resolve().parent}"
        yield Finding("database", "failure", f"{path} cannot be written", remedy)
        return
    try:
        yield Finding("database", "ok", sqlite.look(path))
    except RelayError as error:
        yield Finding("database", "failure", error.message, "restore a backup, or correct RELAY_DATABASE_URL")


def _key(settings: Settings) -> Iterator[Finding]:
    path = settings.key_path
    try:
        if settings.secret_key is not None:
            load_keys(path, settings.given_keys)
            yield Finding("key", "ok", "RELAY_SECRET_KEY is well-formed")
        elif path.exists():
            load_keys(path)
            yield Finding("key", "ok", f"{path} is readable by its owner alone")
        else:
            yield Finding("key", "ok", f"{path} will be made at the first start")
    except RelayError as error:
        yield Finding("key", "failure", error.message, "without the right key sealed addresses and secrets are lost")


def _artifacts(settings: Settings) -> Iterator[Finding]:
    """The folder where files are kept, or wait to be put into the bucket; and the bucket."""
    if settings.artifacts == "none":
        yield Finding("artifacts", "ok", "no files are kept; their addresses work while the upstream has the task")
        return
    folder = settings.artifacts_path.resolve()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        remedy = f"make the folder {folder}, writable for the relay, or correct RELAY_ARTIFACTS"
        yield Finding("artifacts", "failure", f"{folder} cannot be written: {error.strerror}", remedy)
    else:
        yield from _disk("artifacts", there, "jobs go on, but their files wait; RELAY_ARTIFACTS_MAX_GB bounds them")
    if settings.artifacts.startswith("s3://"):
        try:
            bucket.look(settings.artifacts)
            yield Finding("bucket", "ok", f"{settings.artifacts} takes a file, gives it back and removes it")
        except RelayError as error:
            remedy = "correct it, or the AWS_ variables; the credentials must allow to get, put, list and delete"
            yield Finding("bucket", "failure", error.message, remedy)


def _disk(name: str, folder: Path, without: str) -> Iterator[Finding]:
    """How much room `folder` has left; `without`: what comes of it when it has none."""
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    sentence = f"{free / 1024**3:.1f} GiB free at {folder}"
    if free < FREE_NONE_BYTES:
        yield Finding(name, "failure", sentence, f"make room: {without}")
    elif free < FREE_LOW_BYTES:
        yield Finding(name, "warning", sentence, f"make room before it runs out: {without}")
    else:
        yield Finding(name, "ok", sentence)
