"""A disk that keeps what it was told to keep: files as they are after the power has gone.

The rules are POSIX's, read by somebody who means harm: bytes are safe once an fsync or fdatasync of their file has
returned, and a name once its directory has been synced. Of what came later nothing is sure: all of it may be gone, or
any sectors of it may be there.
"""

from dataclasses import dataclass, field
from pathlib import Path, PurePath
from random import Random

from tests.crash.trace import SYNCS, Call

SECTOR = 512


@dataclass(eq=False)
class Inode:
    """A file's bytes: `safe` ones, and what was done to it since its last sync (offset and bytes, or a new size)."""

    safe: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes] | int] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.since:
            _apply(self.safe, change)
        self.since.clear()

    def after_power_loss(self, chance: Random | None) -> bytes:
        """Nothing of what was not synced, or by chance some sectors of it."""
        left = bytearray(self.safe)
        for change in self.since if chance else ():
            assert chance is not None
            if isinstance(change, int):
                if chance.random() < 0.5:
                    _apply(left, change)
                continue
            offset, data = change
            for start in range(0, len(data), SECTOR):
                if chance.random() < 0.5:
                    _apply(left, (offset + start, data[start : start + SECTOR]))
        return bytes(left)


def _apply(content: bytearray, change: tuple[int, bytes] | int) -> None:
    size = change if isinstance(change, int) else change[0] + len(change[1])
    content.extend(bytes(max(0, size - len(content))))
    if isinstance(change, int):
        del content[change:]
    else:
        content[change[0] : size] = change[1]


class Disk:
    """Replays system calls. Shared memory (`-shm`) is none of a disk's business: SQLite makes it anew."""

    def __init__(self) -> None:
        self._names: dict[str, Inode] = {}
        self._safe_names: dict[str, Inode] = {}
        self._ends: dict[str, int] = {}

    def take(self, call: Call) -> None:
        match call.name:
            case "openat":
                self._open(call)
            case "pwrite64":
                (offset,) = call.numbers[-1:]
                self._write(call.path, offset, call.data[: call.result])
            case "write":
                self._write(call.path, self._ends.get(call.path, 0), call.data[: call.result])
            case "ftruncate":
                self._names[call.path].since.append(call.numbers[-1])
            case name if name in SYNCS:
                self._sync(call.path)
            case "unlink":
                self._names.pop(call.texts[0].decode(), None)
            case "link":
                self._names[call.texts[1].decode()] = self._names[call.texts[0].decode()]
            case "rename":
                old, new = (text.decode() for text in call.texts[:2])
                self._names[new] = self._names.pop(old)
            case "read":
                pass
            case other:
                raise NotImplementedError(f"{other} of {call.path}")

    def after_power_loss(self, folder: Path, chance: Random | None = None) -> None:
        """Write down what is left, in an empty folder."""
        for name, inode in self._safe_names.items():
            if not name.endswith("-shm"):
                (folder / PurePath(name).name).write_bytes(inode.after_power_loss(chance))

    def _open(self, call: Call) -> None:
        path = call.texts[0].decode()
        if "O_CREAT" in call.flags and path not in self._names:
            self._names[path] = Inode()
        elif "O_TRUNC" in call.flags:
            self._names[path].since.append(0)
        self._ends[path] = 0

    def _write(self, path: str, offset: int, data: bytes) -> None:
        self._names[path].since.append((offset, data))
        self._ends[path] = offset + len(data)

    def _sync(self, path: str) -> None:
        if path in self._names:
            self._names[path].sync()
            return
        for name in {*self._safe_names, *self._names}:
            if str(PurePath(name).parent) == path:
                if name in self._names:
                    self._safe_names[name] = self._names[name]
                else:
                    del self._safe_names[name]
