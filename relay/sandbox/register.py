"""The sandbox's tasks: kept, found again, and counted against their accounts' slots."""

from collections.abc import Iterable, Iterator
from typing import Final

from relay.sandbox.shapes import Task

TASKS_MAX: Final = 10_000


class Register:
    """Tasks by age; the oldest is forgotten when there are too many."""

    def __init__(self, emails: Iterable[str]) -> None:
        self._tasks: dict[str, Task] = {}
        self._artifacts: dict[str, Task] = {}
        self._running: dict[str, list[Task]] = {email: [] for email in emails}

    def add(self, task: Task) -> None:
        self._tasks[task.task_id] = task
        self._artifacts[task.artifact_id] = task
        self._running[task.account].append(task)
        if len(self._tasks) > TASKS_MAX:
            oldest = self._tasks.pop(next(iter(self._tasks)))
            del self._artifacts[oldest.artifact_id]

    def find(self, task_id: str) -> Task | None:
        return self._tasks.get(task_id)

    def made(self, artifact_id: str, now_ms: int) -> Task | None:
        """The task whose artifact this is, once it has succeeded."""
        task = self._artifacts.get(artifact_id)
        return task if task and task.course.ended(now_ms) and task.course.ending.status == "SUCCEEDED" else None

    def running(self, email: str, now_ms: int) -> list[Task]:
        """What holds a slot of this account: everything that has not ended, seen or not."""
        self._running[email] = [task for task in self._running[email] if not task.course.ended(now_ms)]
        return self._running[email]

    def newest_first(self) -> Iterator[Task]:
        return reversed(self._tasks.values())

    def oldest_first(self) -> Iterator[Task]:
        return iter(self._tasks.values())
