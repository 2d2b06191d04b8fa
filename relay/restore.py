"""Puts a backup into the place of a database, so that the relay that starts on it sends nothing before it has searched.

What was sent after the backup was made is unknown to it. Its events go on in a new epoch, for numbers that were given
out since would be given out again.
"""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from relay.core.holding import SubmittingHeld
from relay.core.job import iso
from relay.errors import ConfigurationError
from relay.settings import Settings
from relay.store.backup import examined, sealed_with, settled, sync
from relay.store.mark import SUFFIX, Mark, Seen
from relay.store.sqlite import WritingFile, lock
from relay.vault import Vault, load_keys, new_hex

_PARTS: Final = ("", "-wal", "-shm", SUFFIX)


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put into place. `key_id` names the key that its secrets are sealed with, `opens` says whether that is
    the one here, `aside` where the old database is."""

    target: Path
    epoch: str
    key_id: str | None
    opens: bool = True
    aside: Path | None = None


def restore(source: Path, settings: Settings, now_ms: int, *, put_aside: bool) -> Restored:
    """Restore `source` as the settings' database; one that is there is put aside, or else refuses it.

    `ConfigurationError` with the reason when `source` cannot be used or the database is in use.
    """
    if settings.on_postgres:
        raise ConfigurationError(
            "RELAY_DATABASE_URL is PostgreSQL: restore it with its own tools (pg_restore, or a base backup and its "
            "log), then call `relay restore --after-failover`"
        )
    target = settings.database_path
    if not source.is_file():
        raise ConfigurationError(f"{source} is no file")
    draft = target.with_name(f".{target.name}.restore")
    held = lock(target)
    try:
        if target.exists() and not put_aside:
            raise ConfigurationError(f"there is a database at {target}: --replace puts it aside under another name")
        _forget(draft)
        _copy(source, draft)
        examined(draft)
        made = Restored(target, new_hex(8), sealed_with(draft))
        file = WritingFile(draft, new_hex)
        try:
            file.begin_epoch(made.epoch)
            head = file.commit([SubmittingHeld(f"restored from {source.name} at {iso(now_ms)}", now_ms)]).head
            file.settle()
        finally:
            file.close()
        aside = _kept_aside(target, now_ms) if target.exists() else None
        if aside is None:
            _forget(target)
        # Whenever this is killed: the old database is here before this line, and the new one behind it.
        os.replace(draft, target)
        sync(target.resolve().parent)
        Mark(target).write(Seen(made.epoch, head))
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be restored: {error}") from error
    finally:
        _forget(draft)
        os.close(held)
    return replace(made, opens=made.key_id in (None, *_key_ids(settings)), aside=aside)


async def failed_over(settings: Settings, now_ms: int) -> str:
    """What the PostgreSQL that is there now may lack is searched for before anything is sent; the new epoch.

    `ConfigurationError` while a relay runs on it, or when it cannot be used.
    """
    if not settings.on_postgres:
        raise ConfigurationError("--after-failover is for PostgreSQL: `relay restore FILE` does the same for SQLite")
    try:
        from relay.store import postgres
    except ImportError as error:
        message = "PostgreSQL needs the extra: pip install 'video-callback-relay[postgres]'"
        raise ConfigurationError(message) from error
    epoch = new_hex(8)
    reason = f"the database was restored, or failed over, before {iso(now_ms)}"
    await postgres.part(settings.database_url.get_secret_value(), epoch, SubmittingHeld(reason, now_ms), new_hex)
    return epoch


def _key_ids(settings: Settings) -> list[str]:
    """The ids of the keys that the relay would start with; none where it would make a new one."""
    given = settings.given_keys
    there = given is not None or settings.key_path.exists()
    return [Vault(key).key_id for key in load_keys(settings.key_path, given)] if there else []


def _name(path: str, other: str) -> None:
    """Give a file another name as well; a copy has it where a file system knows but one."""
    try:
        os.link(path, other)
    except OSError:
        _copy_file(path, other)


def _copy(source: Path, draft: Path) -> None:
    """The file, and the log beside it where it is the plain copy of a database that was in use."""
    for part in ("", "-wal"):
        if part == "" or Path(f"{source}{part}").exists():
            _copy_file(f"{source}{part}", f"{draft}{part}")


def _copy_file(path: str, to: str) -> None:
    os.close(os.open(to, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    shutil.copyfile(path, to)
    sync(Path(to))


def _kept_aside(target: Path, now_ms: int) -> Path:
    """Give the old database, and its mark, another name beside the one that it has."""
    aside = target.with_name(f"{target.name}.before-{now_ms}")
    is_whole = settled(target)
    for part in ("", SUFFIX):
        if Path(f"{target}{part}").exists():
            _name(f"{target}{part}", f"{aside}{part}")
    for part in () if is_whole else ("-wal", "-shm"):
        # Of one that cannot be opened: another database would take this log for its own.
        if Path(f"{target}{part}").exists():
            os.replace(f"{target}{part}", f"{aside}{part}")
    sync(target.resolve().parent)
    return aside


def _forget(path: Path) -> None:
    for part in _PARTS:
        Path(f"{path}{part}").unlink(missing_ok=True)
