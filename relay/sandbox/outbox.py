"""The callbacks that the sandbox owes: when each is due, and what faults make of it on its way."""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from relay.sandbox.faults import Faults
from relay.sandbox.shapes import Json, Task, encode, iso
from relay.sandbox.timeline import FINAL, Step

LOG_MAX: Final = 10_000
HELD_MAX: Final = 10_000
OWED_MAX: Final = 200_000


@dataclass(frozen=True, slots=True)
class Callback:
    """One POST that is due; `sequence` names the task whose callbacks are sent one after the other."""

    url: str
    body: bytes
    content_type: str
    sequence: str
    about: Json


@dataclass(frozen=True, slots=True)
class _Owed:
    task: Task
    step: Step
    moved: bool = False  # a fault has already made it late

    @property
    def final(self) -> bool:
        return self.step.status in FINAL

    def about(self) -> Json:
        status = {"taskStatus": self.step.status, "progress": self.step.progress}
        return {"taskId": self.task.task_id, "replyRef": self.task.reply_ref, **status}


class Outbox:
    """Callbacks by due time. `render(task, step, now_ms)` gives the flat JSON of a task."""

    def __init__(self, faults: Faults, rng: Random, render: Callable[[Task, Step, int], Json]) -> None:
        self._faults = faults
        self._rng = rng
        self._render = render
        self._heap: list[tuple[int, int, _Owed]] = []
        self._count = 0
        self._held: dict[str, _Owed] = {}
        self.log: deque[Json] = deque(maxlen=LOG_MAX)

    def add(self, task: Task, *, with_first: bool) -> None:
        """Owe the callbacks of a new task: one a step, but for PENDING, which is reported only `with_first`."""
        for step in task.course.steps[0 if with_first else 1 :] if task.reply_url else ():
            self._push(step.at_ms, _Owed(task, step))

    def next_due_ms(self) -> int | None:
        """When the next callback is due; None without one."""
        return self._heap[0][0] if self._heap else None

    def due(self, now_ms: int) -> list[Callback]:
        """Take what is due by `now_ms`, in the order in which it is to be sent."""
        callbacks: list[Callback] = []
        while self._heap and self._heap[0][0] <= now_ms:
            due_ms, _, owed = heapq.heappop(self._heap)
            if self._wanted(owed) and not self._delayed(due_ms, owed) and not self._dropped(owed, now_ms):
                for each in self._reordered(owed):
                    callbacks += self._copies(each, now_ms)
        return callbacks

    def record(self, callback: Callback, now_ms: int, *, status: int | None, error: str | None) -> None:
        """Note what became of a callback: the HTTP status that it was answered with, or why there is none."""
        self._note(callback.about, now_ms, callback.url, status, error)

    def _push(self, due_ms: int, owed: _Owed) -> None:
        if len(self._heap) < OWED_MAX:
            self._count += 1
            heapq.heappush(self._heap, (due_ms, self._count, owed))

    def _wanted(self, owed: _Owed) -> bool:
        which = self._faults.value("callbacks")
        return which in (None, "progress") or (which == "final" and owed.final)

    def _delayed(self, due_ms: int, owed: _Owed) -> bool:
        if owed.moved:
            return False
        late_ms = self._faults.take_wait_ms("callbacks_late")
        if owed.final:
            late_ms += self._faults.take_wait_ms("final_late")
        if late_ms:
            self._push(due_ms + late_ms, replace(owed, moved=True))
        return late_ms > 0

    def _dropped(self, owed: _Owed, now_ms: int) -> bool:
        dropped = self._faults.strikes("callbacks_dropped", self._rng)
        if dropped:
            self._note(owed.about(), now_ms, owed.task.reply_url, None, "dropped")
        return dropped

    def _reordered(self, owed: _Owed) -> list[_Owed]:
        held = self._held.pop(owed.task.task_id, None)
        if held is not None:
            return [owed, held]
        # The first progress callback goes as it is: so it is the last one before the end that is held, and overtaken.
        first_or_last = owed.final or owed.step.progress == 0
        if first_or_last or not self._faults.value("callbacks_reordered") or len(self._held) >= HELD_MAX:
            return [owed]
        self._held[owed.task.task_id] = owed
        return []

    def _copies(self, owed: _Owed, now_ms: int) -> list[Callback]:
        callback = self._made(owed, now_ms)
        copies = [callback] * (2 if self._faults.strikes("callbacks_doubled", self._rng) else 1)
        if self._faults.strikes("callbacks_stray", self._rng):
            copies.append(self._stray(owed.task, callback))
        return copies

    def _made(self, owed: _Owed, now_ms: int) -> Callback:
        without = self._faults.take("callbacks_without")
        left_out = ("taskId", "replyRef") if without == "ids" else (without,)
        whole = self._render(owed.task, owed.step, now_ms)
        body = {name: value for name, value in whole.items() if name not in left_out}
        if self._faults.value("callback_body") == "nested":
            body = {"task": body}
        content_type = self._faults.take("callback_content_type") or "application/json"
        return Callback(owed.task.reply_url or "", encode(body), content_type, owed.task.task_id, owed.about())

    def _stray(self, task: Task, callback: Callback) -> Callback:
        other = f"{self._rng.getrandbits(32):08x}"
        body = callback.body.replace(task.uuid[:8].encode(), other.encode())
        if task.reply_ref:
            # The reference of a program that shares the account, not a neighbour of ours.
            body = body.replace(encode(task.reply_ref), encode(f"stray-{other}"))
        about = {**callback.about, "taskId": task.task_id.replace(task.uuid[:8], other), "replyRef": f"stray-{other}"}
        return replace(callback, body=body, about=about)

    def _note(self, about: Json, now_ms: int, url: str | None, status: int | None, error: str | None) -> None:
        self.log.append({"url": url, "status": status, "error": error, "at": iso(now_ms), **about})
