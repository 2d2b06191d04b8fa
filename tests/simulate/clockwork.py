"""Virtual time: a heap of timers, and coroutines that are driven without an event loop.

What a coroutine awaits here is a `Pause`, and nothing else; so the relay's real workers run as they are, a virtual year
takes as long as its decisions do, and the same seed gives the same run.
"""

import heapq
import random
from collections.abc import Callable, Coroutine, Generator
from typing import Any

START_MS = 1_767_225_600_000


class Crash(BaseException):
    """The relay's process ends here, between two of its steps."""


class Pause:
    """Awaited: goes on after `ms` of virtual time."""

    def __init__(self, ms: float) -> None:
        self.ms = ms

    def __await__(self) -> Generator["Pause", None, None]:
        yield self


class Life:
    """One run of the relay's process: what it has under way dies with it."""

    def __init__(self, died: Callable[["Life"], None]) -> None:
        self.alive = True
        self.coroutines: set[Coroutine[Any, Any, Any]] = set()
        self._died = died

    def end(self) -> None:
        if not self.alive:
            return
        self.alive = False
        for coroutine in list(self.coroutines):
            if not coroutine.cr_running:  # type: ignore[attr-defined]
                coroutine.close()
        self._died(self)


class World:
    """Now, and everything that is to come."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311
        self.elapsed_ms = 0.0
        self.wall_ms = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def now_ms(self) -> int:
        return int(START_MS + self.elapsed_ms + self.wall_ms)

    def monotonic_s(self) -> float:
        return self.elapsed_ms / 1000

    async def sleep(self, seconds: float) -> None:
        await Pause(max(0.0, seconds) * 1000)

    def after(self, ms: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.elapsed_ms + max(0.0, ms), self._count, what))

    def run(self, until: Callable[[], bool], limit_ms: float) -> bool:
        """Let time pass until that is so; False when nothing is left to happen, or when the time is over."""
        while not until():
            if not self._heap or self._heap[0][0] > limit_ms:
                return False
            self.elapsed_ms, _, what = heapq.heappop(self._heap)
            what()
        return True

    def drive(self, life: Life, work: Coroutine[Any, Any, Any], ended: Callable[[], None] = lambda: None) -> None:
        """Run a coroutine to its end, with its pauses, for as long as its process lives."""
        life.coroutines.add(work)

        def go() -> None:
            if not life.alive:
                return
            try:
                pause = work.send(None)
            except StopIteration:
                life.coroutines.discard(work)
                ended()
            except Crash:
                life.coroutines.discard(work)
                life.end()
            else:
                self.after(pause.ms, go)

        go()
