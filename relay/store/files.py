"""A folder of kept files: each is there whole and safe under its name, or not at all, whenever the power goes.

A file is written beside the others, synced, and renamed to its name; the folder that got the name is synced, too. What
a cut leaves behind are files in `incoming`, and files that the database does not know. These are swept away at start,
and so are those, but for what the next try can go on with: bytes of one version of a file, written since this machine
was started. After a power failure nobody knows which of them had reached the disk.
"""

import asyncio
import hashlib
import os
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final, TypeVar, Union

from relay.core.artifacts import StoredFile
from relay.core.media import SNIFF_BYTES, part_of
from relay.errors import ConfigurationError

T = TypeVar("T")
F = TypeVar("F", bound=Union[BinaryIO, "Part"])

THREADS: Final = 8
WRITE_BYTES: Final = 1024 * 1024
READ_BYTES: Final = 256 * 1024
SWEPT_AT_ONCE: Final = 500
# Files that began to come and wait for their next try; of more than so many nothing is left for it.
PARTS_MAX: Final = 32
_INCOMING: Final = "incoming"
_NOTE: Final = ".version"
OWNER: Final = "instance"
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_SHELF: Final = re.compile(r"[0-9a-f]{2}")
PATH: Final = re.compile(r"[0-9a-f]{2}/[0-9a-f-]{36}-\d{1,3}(-preview-\d{1,3})?(\.[a-z0-9]{1,5})?")

Known = Callable[[Sequence[str]], Awaitable[Mapping[str, str]]]
"""From ids of files to the paths of those that are kept, `ANY` for those that are on their way."""
ANY: Final = ""


class Folder:
    """Files under `root`, made if absent, of the relay `instance` alone: it removes what it does not know.

    `ConfigurationError` when nothing can be written there, or when another relay's files are there.
    """

    def __init__(self, root: Path, instance: str) -> None:
        self._root = root
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="relay-files")
        try:
            (root / _INCOMING).mkdir(mode=0o700, parents=True, exist_ok=True)
            mark = root / OWNER
            if not mark.exists():
                mark.write_text(instance)
            probe = root / _INCOMING / "probe"
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)  # of several relays another one may have done it
            owner = mark.read_text()
        except OSError as error:
            raise ConfigurationError(f"RELAY_ARTIFACTS: nothing can be written in {root}: {error.strerror}") from error
        if owner != instance:
            raise ConfigurationError(f"RELAY_ARTIFACTS: {root} has files of another relay, with another database")

    async def aclose(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run what touches the disk in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncGenerator["Part"]:
        """A file that comes, from where it was left; at the end of the block it is kept, or left for the next try."""
        place = self._root / _INCOMING / name
        part = await self._surely_closed(lambda: Part(self, place))
        try:
            yield part
        finally:
            await asyncio.shield(self.run(part.close))

    async def discard(self, name: str) -> None:
        """Nobody goes on with this file: remove what has come of it."""
        await self.run(_remove, self._root / _INCOMING / name)

    @asynccontextmanager
    async def reading(self, file: StoredFile, wanted: Mapping[str, str]) -> AsyncGenerator["Kept"]:
        """A kept file for a reader with these `range` headers; `OSError` when it is not there as it was kept."""
        opened = await self._surely_closed(lambda: self._opened(file))
        try:
            yield Kept(self, opened, file, wanted)
        finally:
            await asyncio.shield(self.run(opened.close))

    async def remove(self, path: str) -> None:
        """Without effect where there is no such file."""
        await self.run(lambda: self._place(path).unlink(missing_ok=True))

    async def address(self, file: StoredFile, method: str) -> str | None:
        """Where the storage itself serves this file to whoever has the address; None where it is read from here."""
        return None

    async def check(self, file: StoredFile) -> str | None:
        """Read a kept file from end to end; what is wrong with it in words, None when it is as it was."""

        def digest() -> str:
            with self._opened(file) as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()

        return await self.verdict(file, digest)

    async def verdict(self, file: StoredFile, digest: Callable[[], str]) -> str | None:
        """What `digest`, which reads the file, says about it."""
        try:
            return None if await self.run(digest) == file.sha256 else "its bytes are not those that were kept"
        except OSError as error:
            return f"it cannot be read: {error.strerror}"

    async def unfinished(self) -> list[str]:
        """At start: the names of files that began to come and may go on; the rest of what a cut has left is removed."""
        incoming, boot = self._root / _INCOMING, _BOOT.read_text() if _BOOT.exists() else ""

        def look() -> list[str]:
            mark = incoming / "boot"
            same = mark.exists() and mark.read_text() == boot != ""
            there = {one.name for one in incoming.iterdir()} - {mark.name}
            good = [name for name in there if same and f"{name}{_NOTE}" in there]
            for name in there - {*good, *(f"{name}{_NOTE}" for name in good)}:
                (incoming / name).unlink()
            mark.write_text(boot)
            return good

        return await self.run(look)

    async def sweep(self, known: Known) -> int:
        """Remove what nobody knows; how many files they were."""
        gone = 0
        for shelf in await self.run(lambda: [one for one in self._root.iterdir() if _SHELF.fullmatch(one.name)]):
            names: list[str] = await self.run(os.listdir, shelf)
            for start in range(0, len(names), SWEPT_AT_ONCE):
                some = names[start : start + SWEPT_AT_ONCE]
                gone += await self._remove_strangers([f"{shelf.name}/{name}" for name in some], known)
        return gone

    async def _remove_strangers(self, paths: Sequence[str], known: Known) -> int:
        ids = {path: path[3:].partition(".")[0] for path in filter(PATH.fullmatch, paths)}
        of_us = await known([*ids.values()])
        strangers = [path for path, file_id in ids.items() if of_us.get(file_id) not in (path, ANY)]
        for path in strangers:
            await self.remove(path)
        return len(strangers)

    def put(self, part: Path, path: str, content_type: str) -> None:
        """Give a synced file its name, and make the name last."""
        place = self._place(path)
        if not place.parent.exists():
            place.parent.mkdir(mode=0o700, exist_ok=True)
            _sync(self._root)
        part.replace(place)
        _sync(place.parent)

    async def _surely_closed(self, work: Callable[[], F]) -> F:
        """An opened file. A reader may go away while it is being opened, and the thread goes on."""
        opening = asyncio.ensure_future(self.run(work))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda done: done.exception() or done.result().close())
            raise

    def _opened(self, file: StoredFile) -> BufferedReader:
        opened = self._place(file.path or "").open("rb")
        if os.fstat(opened.fileno()).st_size != file.size_bytes:
            opened.close()
            raise OSError(0, "it has another size")
        return opened

    def _place(self, path: str) -> Path:
        if not PATH.fullmatch(path):
            raise OSError(0, "no file has such a name")
        return self._root / path


class Part:
    """A file that is being written: its size and first bytes so far, and what names its version at its host.

    It begins with what an earlier try has left of it. Made and closed in a thread.
    """

    def __init__(self, folder: Folder, place: Path) -> None:
        self._folder = folder
        self._place = place
        self._note = Path(f"{place}{_NOTE}")
        self._buffer = bytearray()
        # A caller that is cancelled leaves its thread behind.
        self._lock = threading.RLock()
        self._hash = hashlib.sha256()
        self.size_bytes, self.first = 0, b""
        self.version = self._note.read_text() if self._note.exists() else ""
        self._opened = place.open("a+b")
        if not self.version:
            self._opened.truncate(0)
        self._opened.seek(0)
        while piece := self._opened.read(WRITE_BYTES):
            self._hash.update(piece)
            self.first = self.first or piece[:SNIFF_BYTES]
            self.size_bytes += len(piece)

    async def begin(self, version: str) -> None:
        """Forget what was written: this version comes from its beginning. An empty one cannot be gone on with."""

        def anew() -> None:
            with self._lock:
                self._buffer.clear()
                self._opened.truncate(0)
                self._note.write_text(version)
                self._hash = hashlib.sha256()

        self.size_bytes, self.first, self.version = 0, b"", version
        await self._folder.run(anew)

    async def write(self, data: bytes) -> None:
        self.first += data[: max(0, SNIFF_BYTES - len(self.first))]
        self.size_bytes += len(data)
        self._buffer += data
        if len(self._buffer) >= WRITE_BYTES:
            await self._folder.run(self._flush)

    async def keep(self, path: str, content_type: str) -> str:
        """The whole file is there: make it last under `path`; its SHA-256."""

        def finish() -> str:
            with self._lock:
                self._flush()
                self._opened.flush()
                os.fsync(self._opened.fileno())
                self._folder.put(self._place, path, content_type)
                self.version = ""
                return self._hash.hexdigest()

        return await self._folder.run(finish)

    def close(self) -> None:
        """Leave what has come for the next try, unless it was kept, has no version, or there is too much of that."""
        with self._lock:
            with suppress(OSError):  # what was in its buffer may find no room
                self._flush()
                self._opened.flush()
            with suppress(OSError):
                self._opened.close()
            if not self.version or len(os.listdir(self._place.parent)) > 2 * PARTS_MAX:
                _remove(self._place)

    def _flush(self) -> None:
        with self._lock:
            data, self._buffer = self._buffer, bytearray()
            try:
                self._hash.update(data)
                self._opened.write(data)
            except OSError:
                self.version = ""  # what comes next would lie in the wrong place
                raise


class Kept:
    """A kept file that is being read: implements `relay.web.ports.OpenFile`."""

    def __init__(self, folder: Folder, opened: BinaryIO, file: StoredFile, wanted: Mapping[str, str]) -> None:
        size, etag = file.size_bytes or 0, f'"{(file.sha256 or "")[:32]}"'
        asked = part_of(wanted.get("range"), size) if wanted.get("if-range", etag) == etag else None
        self._folder = folder
        self._opened = opened
        self._part = range(size) if asked is None else asked
        self.status = 200 if asked is None else 206 if asked else 416
        self.headers: Mapping[str, str] = {
            "etag": etag,
            "content-length": str(len(self._part)),
            **({} if asked is None else {"content-range": _content_range(asked, size)}),
        }

    def chunks(self) -> AsyncIterator[bytes]:
        return self._read()

    async def _read(self) -> AsyncGenerator[bytes]:
        for at in range(self._part.start, self._part.stop, READ_BYTES):
            yield await self._folder.run(self._piece, at, min(READ_BYTES, self._part.stop - at))

    def _piece(self, at: int, size: int) -> bytes:
        self._opened.seek(at)
        return self._opened.read(size)


def _content_range(part: range, size: int) -> str:
    return f"bytes {part.start}-{part.stop - 1}/{size}" if part else f"bytes */{size}"


def _remove(place: Path) -> None:
    place.unlink(missing_ok=True)
    Path(f"{place}{_NOTE}").unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
