"""Wakes whoever waits for a commit; never carries what was committed.

A stream or a worker reads the store, and when there is nothing for it, waits here for the next commit. So there is no
hand-over from history to live, and nothing can be seen before it is durable.
"""

import asyncio


class Feed:
    """One shared future a commit. `generation` counts commits, `head` is the number of the newest event."""

    def __init__(self) -> None:
        self.head = 0
        self.generation = 0
        self.closing = False
        self._next: asyncio.Future[None] | None = None

    def committed(self, head: int) -> None:
        """A transaction is durable, and `head` the number of the newest event."""
        self.head = max(self.head, head)
        self._turn()

    def close(self) -> None:
        """Wake everybody for the last time; who waits later returns at once."""
        self.closing = True
        self._turn()

    async def changed(self, since: int) -> None:
        """Return when `generation` is no longer `since`, or when the feed is closing."""
        while self.generation == since and not self.closing:
            if self._next is None or self._next.done():
                self._next = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._next)

    def _turn(self) -> None:
        self.generation += 1
        if self._next is not None and not self._next.done():
            self._next.set_result(None)
