"""The mark beside a database: how far it had come when something was last sent, so that an older copy is known as one.

Whoever puts yesterday's file in the place of today's would have the relay send, and pay for, today's jobs once more.
"""

import asyncio
import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from relay.core.job import Attempt
from relay.observe import logger
from relay.store.backup import sync
from relay.store.contract import Store

SUFFIX: Final = ".mark"
_log = logger("mark")


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest event's id, and the attempt that was about to be sent."""

    epoch: str
    head: int
    job: str = ""
    attempt: int = 0


class Mark:
    """The file `<database>.mark`. It says nothing secret, and is of no use to another database."""

    def __init__(self, database: Path) -> None:
        self._path = Path(f"{database}{SUFFIX}")
        self._writing = asyncio.Lock()

    async def sent(self, attempt: Attempt, epoch: str, head: int) -> None:
        """Before the request of `attempt` goes out. A disk that cannot take the mark does not keep it back."""
        seen = Seen(epoch, head, attempt.job_id, attempt.number)
        try:
            async with self._writing:
                await asyncio.to_thread(self.write, seen)
        except OSError as error:
            _log.warning("mark.not_written", reason=str(error.strerror or error))

    async def older(self, store: Store) -> str | None:
        """A sentence when the database has forgotten something that was sent; `made` when that is known to it."""
        seen = await asyncio.to_thread(self._read)
        if seen is None:
            if await store.knows_attempts():
                return f"the database has no {self._path.name} beside it, so it may be an older copy of another"
            return None
        job = await store.job(seen.job) if seen.job else None
        # Of another epoch: a copy from before a restore, put back over what the restored database has sent since.
        behind = seen.epoch != store.epoch or await store.head() < seen.head
        if behind or (job is not None and job.attempts < seen.attempt):
            return f"the database is older than what was last sent, as {self._path.name} beside it says"
        return None

    async def made(self, store: Store) -> None:
        """At start, once the store itself knows whether it is an older one."""
        await asyncio.to_thread(self.write, Seen(store.epoch, await store.head()))

    def write(self, seen: Seen) -> None:
        """Whole or not at all, and on disk when this returns."""
        draft = self._path.with_name(f".{self._path.name}.new")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, json.dumps(asdict(seen)).encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(draft, self._path)
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            sync(self._path.parent)

    def _read(self) -> Seen | None:
        try:
            return Seen(**json.loads(self._path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
