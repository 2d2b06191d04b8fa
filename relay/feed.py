"""Wakes whoever waits for committed events, and remembers the newest ones; never carries one that is not yet durable.

A stream or a worker reads, and when there is nothing for it, waits here for the next commit. So there is no hand-over
from history to live. The newest events are kept, so that those who follow closely need not ask the store, each for
itself, for what has just passed through it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from relay.core.event import Event

KEPT_EVENTS: Final = 2_000
# The key of those who want to know of every commit.
ALL: Final = ""


class Feed:
    """`generation` counts commits, `head` is the number of the newest event."""

    def __init__(self) -> None:
        self.head = 0
        self.generation = 0
        self.closing = False
        self._waits: dict[str, set[asyncio.Future[None]]] = {}
        self._newest: deque[Event] = deque(maxlen=KEPT_EVENTS)

    def committed(self, head: int, events: Sequence[Event] = ()) -> None:
        """A transaction is durable: `head` is the number of the newest event, `events` those that it wrote."""
        if [event.seq for event in events] != list(range(self.head + 1, max(self.head, head) + 1)):
            # Some are unknown, or old ones were written anew: only the store has them all.
            self._newest.clear()
            keys = set(self._waits)
        else:
            self._newest.extend(events)
            keys = {ALL, *(event.job_id or ALL for event in events)}
        self.head = max(self.head, head)
        self._turn(keys)

    def after(self, seq: int) -> list[Event] | None:
        """The events behind `seq`, in order; None when not all of them are kept here any more."""
        if seq >= self.head:
            return []
        if not self._newest or self._newest[0].seq > seq + 1:
            return None
        # From the right: a deque finds at once what is near its ends, and goes through all that lies before the rest.
        return [self._newest[place] for place in range(seq - self.head, 0)]

    def close(self) -> None:
        """Wake everybody for the last time; who waits later returns at once."""
        self.closing = True
        self._turn(set(self._waits))

    async def changed(self, since: int, job_id: str = ALL) -> None:
        """Return when `generation` is no longer `since`, or when the feed is closing.

        With a `job_id`, sleep through all commits that write no event of that job.
        """
        future = self.next(since, job_id)
        try:
            await future
        finally:
            self.forget(job_id, future)

    def next(self, since: int, job_id: str = ALL) -> asyncio.Future[None]:
        """The same as a future, for whoever may also be woken by something else; to be given to `forget` afterwards."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.generation != since or self.closing:
            future.set_result(None)
        else:
            self._waits.setdefault(job_id, set()).add(future)
        return future

    def forget(self, job_id: str, future: asyncio.Future[None]) -> None:
        """Nobody waits for it any more."""
        if (waits := self._waits.get(job_id)) is not None:
            waits.discard(future)
            if not waits:
                del self._waits[job_id]

    def _turn(self, keys: set[str]) -> None:
        self.generation += 1
        for key in keys:
            for future in self._waits.pop(key, ()):
                if not future.done():
                    future.set_result(None)
