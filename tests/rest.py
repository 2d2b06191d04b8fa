"""When a test's process is at rest: nothing comes on its sockets, and no thread of it has anything to do.

A test that moves the clock moves it only then. Whatever could be done at the old time has been done, however slow the
machine is.
"""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import get_native_id
from typing import Any, Final

LOOK_S: Final = 0.0005
LOOKS: Final = 2
# Something that never rests, a browser that polls, must not stop the time.
LOOKS_MAX: Final = 400


async def at_rest(*until: asyncio.Future[Any], servers: Iterable[int] = ()) -> None:
    """Return once the process rests, or one of `until` is done; `servers` are processes whose children work for it."""
    counted, quiet = _counted(asyncio.get_running_loop()), 0
    for _ in range(LOOKS_MAX):
        before = counted.events
        await asyncio.sleep(LOOK_S)
        if any(one.done() for one in until):
            return
        quiet = quiet + 1 if counted.events == before and not counted.ready and not _working(servers) else 0
        if quiet == LOOKS:
            return


class _Counted:
    """The selector's events of a loop, counted."""

    def __init__(self, loop: Any) -> None:
        self.events, self.ready = 0, loop._ready
        self._select = loop._selector.select
        loop._selector.select = self

    def __call__(self, timeout: float | None = None) -> Any:
        found = self._select(timeout)
        self.events += len(found)
        return found


def _counted(loop: Any) -> _Counted:
    found = loop._selector.select
    return found if isinstance(found, _Counted) else _Counted(loop)


def _working(servers: Iterable[int]) -> bool:
    """Whether a thread of this process, or a child of a server, runs, wants to, or waits for the disk."""
    me = str(get_native_id())
    threads = (one for one in Path("/proc/self/task").iterdir() if one.name != me)
    return any(_state(one) in "RD" for one in (*threads, *_children(servers)))


def _children(servers: Iterable[int]) -> Iterator[Path]:
    for pid in servers:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield Path("/proc", child)


def _state(of: Path) -> str:
    """One letter, as in proc(5); empty is one that has ended meanwhile."""
    try:
        return (of / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
