"""Group commit: everything that waits is decided and committed in one transaction, then all who wait are told.

A caller's happening is durable when its future resolves. While one group is being written the next one gathers, so the
cost of a sync is shared by as many as came in the meantime, and nobody waits for a timer.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from relay.core.ledger import Happening
from relay.errors import Unavailable

R = TypeVar("R")

GROUP_MAX: Final = 256
QUEUE_MAX: Final = 4_096
RETRY_AFTER_S: Final = 2

# Takes a group, commits it, and returns for each happening its result or the exception that concerns it alone,
# together with the number of the newest event.
Commit = Callable[[Sequence[Happening[Any]]], Awaitable[tuple[list[Any], int]]]
Committed = Callable[[int], None]


class Writer:
    """One task that hands groups to an engine's `commit` and resolves the callers' futures."""

    def __init__(self, commit: Commit, committed: Committed) -> None:
        self._commit = commit
        self._committed = committed
        self._waiting: deque[tuple[Happening[Any], asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="writer")

    async def apply(self, happening: Happening[R]) -> R:
        """Decide and commit; raises `Unavailable` when too much waits, or when the engine cannot write."""
        if self._closing:
            raise Unavailable("the relay is shutting down", retry_after_s=RETRY_AFTER_S)
        if len(self._waiting) >= QUEUE_MAX:
            raise Unavailable("too much waits to be written; try again", retry_after_s=RETRY_AFTER_S)
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((happening, future))
        self._wake.set()
        # A caller that is cancelled (its client went away) does not undo what it asked for.
        return await asyncio.shield(future)

    async def close(self) -> None:
        """Write what waits, then end."""
        self._closing = True
        self._wake.set()
        await self._task

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if not self._waiting:
                if self._closing:
                    return
                self._wake.clear()
                continue
            group = [self._waiting.popleft() for _ in range(min(GROUP_MAX, len(self._waiting)))]
            await self._write(group)

    async def _write(self, group: list[tuple[Happening[Any], asyncio.Future[Any]]]) -> None:
        try:
            results, head = await self._commit([happening for happening, _ in group])
        except Exception as error:  # whatever the engine raised, nobody of this group may wait for ever
            for _, future in group:
                _resolve(future, error)
            return
        for (_, future), result in zip(group, results, strict=True):
            _resolve(future, result)
        self._committed(head)


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
        # A caller that went away does not read its exception; that is not worth a line in the log.
        future.exception()
    else:
        future.set_result(result)
