"""What one reader was told, held against what the log has for it."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from relay.core.event import Event
from relay.store.driver import sqlite3
from relay.store.rows import columns, from_row

Wants = Callable[[Event], bool]
EXAMPLES_MAX = 20


class Told(NamedTuple):
    """An event as a reader has to get it: the number decides on the order, the rest must be that of the log."""

    seq: int
    id: str
    type: str
    job_id: str | None
    state: str | None
    progress: float | None

    @classmethod
    def of(cls, event_id: str, event_type: str, data: dict[str, Any]) -> "Told":
        job = data.get("job") or {}
        return cls(seq_of(event_id), event_id, event_type, job.get("id"), job.get("state"), job.get("progress"))


def seq_of(position: str) -> int:
    return int(position.rpartition("-")[2])


@dataclass
class Course:
    """One reader's way through the log: all that it wants behind the number `base`."""

    name: str
    wants: Wants
    base: int = 0
    last: str | None = None
    told: list[Told] = field(default_factory=list)
    gaps: int = 0

    @property
    def seen(self) -> int:
        """The number up to which this reader knows to have everything."""
        return seq_of(self.last) if self.last else self.base

    def take(self, event_id: str, event_type: str, data: dict[str, Any]) -> None:
        self.told.append(Told.of(event_id, event_type, data))
        self.last = event_id

    @classmethod
    def of_job(cls, name: str, job_id: str) -> "Course":
        return cls(f"{name} {job_id}", lambda event: event.job_id == job_id)

    def expected(self, log: Iterable[Event]) -> list[Event]:
        return [event for event in log if event.seq > self.base and self.wants(event)]


@dataclass
class Verdict:
    """What was wrong with a number of courses; `strange`: told of what the log does not have, or has otherwise."""

    courses: int = 0
    told: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    strange: int = 0
    gaps: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        return self.lost + self.doubled + self.out_of_order + self.strange + self.gaps

    def judge(self, course: Course, log: list[Event], head: int) -> None:
        """Count what is wrong; the log is that of the end, and what came behind `head` is left out."""
        told = [one for one in course.told if one.seq <= head]
        due = {Told.of(event.id, event.type, event.data) for event in course.expected(log) if event.seq <= head}
        ids = {one.id for one in told}
        found: dict[str, list[Any]] = {
            "lost": sorted({one.id for one in due} - ids),
            "strange": sorted(set(told) - due, key=str),
            "doubled": [one_id for one_id, count in Counter(one.id for one in told).items() for _ in range(count - 1)],
            "out_of_order": [later.id for earlier, later in pairwise(told) if later.seq < earlier.seq],
            "gaps": [course.last] * course.gaps,
        }
        self.courses += 1
        self.told += len(told)
        for name, what in found.items():
            setattr(self, name, getattr(self, name) + len(what))
            if what and len(self.examples) < EXAMPLES_MAX:
                self.examples.append(f"{course.name}: {name} {what[:3]}")


def log_of(database: Path) -> list[Event]:
    """All events, straight from the file."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as sql:
        sql.row_factory = sqlite3.Row
        found = sql.execute(f"SELECT {columns(Event)} FROM events ORDER BY seq")  # noqa: S608 # names of ours
        return [from_row(Event, row) for row in found]
