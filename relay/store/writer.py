"""Group commit: everything that waits is decided and committed in one transaction, then all who wait are told.

A caller's happening is durable when its future resolves. While one group is being written the next one gathers, so the
cost of a sync is shared by as many as came in the meantime, and nobody waits for a timer.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from relay.core.delivery import Delivery
from relay.core.event import Event
from relay.core.ledger import Changes, Happening
from relay.errors import Unavailable
from relay.observe import Metrics, logger

R = TypeVar("R")
_log = logger("store")

GROUP_MAX: Final = 256
QUEUE_MAX: Final = 4_096
RETRY_AFTER_S: Final = 2

# Told after each commit: the number of the newest event, and the events that were written.
Committed = Callable[[int, Sequence[Event]], None]


@dataclass(slots=True)
class Written:
    """What came of a group: for each happening its result, or the exception that concerns it alone."""

    head: int
    results: list[Any] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    # Whether a worker may have something to do because of it.
    for_workers: bool = False
    # How deliveries have ended.
    ended: list[str] = field(default_factory=list)

    def add(self, changes: Changes[Any]) -> None:
        """One more happening was decided."""
        self.results.append(changes.result)
        self.for_workers |= changes.concerns_workers
        for record in changes.puts:
            if isinstance(record, Event):
                self.events.append(record)
                self.head = max(self.head, record.seq)
            elif isinstance(record, Delivery) and record.finished_at_ms is not None:
                self.ended.append(record.state)

    def take(self, one: "Written") -> None:
        """What came of another part of the group, decided behind this one."""
        self.head = one.head
        self.results += one.results
        self.events += one.events
        self.for_workers |= one.for_workers
        self.ended += one.ended


Commit = Callable[[Sequence[Happening[Any]]], Awaitable[Written]]


class Writer:
    """One task that hands groups to an engine's `commit` and resolves the callers' futures."""

    def __init__(self, commit: Commit, committed: Callable[[Written], None], metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._commit = commit
        self._committed = committed
        self._waiting: deque[tuple[Happening[Any], asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="writer")

    def begin(self, happening: Happening[R]) -> asyncio.Future[R]:
        """To be decided and committed with those that wait; raises `Unavailable` when too much does.

        Whoever cancels it (a client went away) does not undo what was asked for. The engine may fail to write it.
        """
        if self._closing:
            raise Unavailable("the relay is shutting down", retry_after_s=RETRY_AFTER_S)
        if len(self._waiting) >= QUEUE_MAX:
            raise Unavailable("too much waits to be written; try again", retry_after_s=RETRY_AFTER_S)
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((happening, future))
        self._wake.set()
        return future

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
        time_s = asyncio.get_running_loop().time
        began_s = time_s()
        try:
            written = await self._commit([happening for happening, _ in group])
        except Exception as error:  # whatever the engine raised, nobody of this group may wait for ever
            self._metrics.uncommitted.inc()
            for _, future in group:
                _resolve(future, error)
            return
        for (_, future), result in zip(group, written.results, strict=True):
            _resolve(future, result)
        self._metrics.wrote(len(group), time_s() - began_s, (event.type for event in written.events), written.ended)
        try:
            self._committed(written)
        except Exception:  # a defect in a reader's wake must not end the writing
            _log.exception("committed.failed")


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
        # A caller that went away does not read its exception; that is not worth a line in the log.
        future.exception()
    else:
        future.set_result(result)
