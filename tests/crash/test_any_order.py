"""One task's reports in any order, lost and doubled, with kills in between: the job ends the same, on a real file.

`tests/core/test_ledger` does this for callbacks alone and in memory. Here everything that the upstream says of a task
comes in any order: the answer to its create, its callbacks, and what it answers when asked or searched.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.accounts import AccountsListed, SeenAccount
from relay.core.delivering import SubscriptionSaved
from relay.core.event import Event
from relay.core.job import Attempt, Job, iso
from relay.core.ledger import Happening
from relay.core.outcome import Accepted, Outcome, Unanswered, Unknown
from relay.core.receiving import CallbackReceived
from relay.core.task import Report
from relay.store.rows import TABLES, columns, from_row
from relay.store.sqlite import WritingFile
from tests.core.builders import (
    EMAIL,
    NOW_MS,
    answered,
    asked,
    callback,
    looked,
    report,
    started,
    submitted,
    subscription,
    task_body,
)
from tests.crash import audit
from tests.store.serving import new_hex

ENDS: dict[str, dict[str, Any]] = {
    "SUCCEEDED": {},
    "FAILED": {"error": {"errorMessage": "it broke", "reason": "INTERNAL.BAD_OUTPUT.CODE01"}},
    "CANCELLED": {},
}
COURSE = [("PENDING", "0"), ("RUNNING", "0.1"), ("RUNNING", "0.5"), ("RUNNING", "0.9")]
MINUTE_MS = 60_000

places = st.integers(0, len(COURSE))
steps = st.one_of(
    st.tuples(st.just("callback"), places),
    st.tuples(st.just("contradiction"), st.sampled_from(sorted(ENDS))),
    st.tuples(st.just("goes on"), st.integers(1, len(COURSE))),
    st.tuples(st.sampled_from(["created", "created", "create lost", "found", "found", "searched"])),
    st.tuples(st.sampled_from(["asked", "asked", "unanswered", "time", "killed"])),
)


@dataclass
class Life:
    """One job on a real file, and the task that the upstream runs for it."""

    folder: Path
    end: str
    database: Path
    file: WritingFile
    at_ms: int = NOW_MS
    place: int = 0
    doors: set[bytes] = field(default_factory=set)
    kills: Iterator[int] = field(default_factory=lambda: count(1))

    def say(self, place: int, end: str | None = None) -> dict[str, Any]:
        """The task as the upstream shows it at a place on its course, the last being this end or its own."""
        end = end or self.end
        status, progress = [*COURSE, (end, "1")][place]
        more = ENDS[end] if place == len(COURSE) else {}
        return task_body(status, progress, updatedAt=iso(NOW_MS + place), **more)

    @property
    def now(self) -> Report:
        body = self.say(self.place)
        return report(body.pop("status"), body.pop("progressRatio"), **body)

    def one(self, kind: type[Any]) -> Any:
        """The newest row of a table."""
        return self.all(kind)[-1]

    def all(self, kind: type[Any]) -> list[Any]:
        found = self.file._sql.execute(f"SELECT {columns(kind)} FROM {TABLES[kind]}")  # noqa: S608 # names of ours
        return [from_row(kind, row) for row in found]

    def apply(self, happening: Happening[Any]) -> Any:
        (result,) = self.file.commit([happening]).results
        assert not isinstance(result, BaseException), result
        return result

    def create(self, outcome: Outcome) -> None:
        self.apply(answered(outcome, self.at_ms))

    def call_back(self, place: int, end: str | None = None) -> None:
        body = json.dumps(self.say(place, end)).encode()
        happening: CallbackReceived = callback(body, self.at_ms)
        assert self.apply(happening) in ("stored", "duplicate")
        self.doors.add(body)

    def die(self) -> None:
        """Go on with the files as a kill leaves them: copied under an open connection, shared memory left out."""
        (home := self.folder / f"life-{next(self.kills)}").mkdir()
        for name in ("relay.db", "relay.db-wal"):
            shutil.copy(self.database.with_name(name), home / name)
        self.file.close()
        self.database = home / "relay.db"
        self.file = opened(self.database)

    def take(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("callback", int(place)):
                self.call_back(place)
            case ("contradiction", str(end)):
                self.call_back(len(COURSE), end)
            case ("created",):
                self.create(Accepted(self.now))
            case ("create lost",):
                self.create(Unknown("cut"))
            case ("asked",):
                self.apply(asked(self.now, self.at_ms))
            case ("unanswered",):
                self.apply(asked(Unanswered("522"), self.at_ms))
            case ("found",):
                self.apply(looked(self.now, self.at_ms))
            case ("searched",):
                self.apply(looked(None, self.at_ms))
            case ("goes on", int(places)):
                self.place = min(self.place + places, len(COURSE))
            case ("time",):
                self.at_ms += MINUTE_MS
            case ("killed",):
                self.die()

    def come_to_an_end(self) -> Job:
        """The task ends, and the relay does what the ledger says, until the job has ended."""
        self.place = len(COURSE)
        if self.one(Attempt).state == "sending":
            self.create(Unknown("the relay was killed"))
        for _ in range(3):
            attempt: Attempt = self.one(Attempt)
            if attempt.ask_at_ms is None:
                break
            self.at_ms = max(self.at_ms, attempt.ask_at_ms)
            happening = looked if attempt.state == "unknown" else asked
            self.apply(happening(self.now, self.at_ms))
        job: Job = self.one(Job)
        return job


def opened(database: Path) -> WritingFile:
    file = WritingFile(database, new_hex)
    # The copies are made of what was written, synced or not; `test_sync` is about that.
    file._sql.execute("PRAGMA synchronous = OFF")
    return file


@contextmanager
def life(end: str) -> Iterator[Life]:
    with TemporaryDirectory() as folder:
        database = Path(folder) / "relay.db"
        made = Life(Path(folder), end, database, opened(database))
        try:
            made.apply(SubscriptionSaved(subscription()))
            made.apply(AccountsListed((SeenAccount(EMAIL, 2),), NOW_MS))
            made.apply(submitted(created_at_ms=NOW_MS + 1))
            made.apply(started(NOW_MS + 1))
            yield made
        finally:
            made.file.close()


def essence(job: Job) -> dict[str, Any]:
    """What must not depend on the order in which it became known."""
    names = ("state", "error", "artifacts", "task", "account", "task_id", "upstream_task_id", "attempts", "request")
    return {name: getattr(job, name) for name in names}


@cache
def plain(end: str) -> dict[str, Any]:
    """What becomes of the job when nothing is heard of it but its end."""
    with life(end) as alone:
        return essence(alone.come_to_an_end())


@pytest.mark.parametrize("end", ENDS)
@settings(max_examples=50, deadline=None)
@given(st.lists(steps, max_size=20))
def test_the_final_job_is_the_same_whatever_order_one_tasks_reports_come_in(
    end: str, some: list[tuple[Any, ...]]
) -> None:
    with life(end) as here:
        for step in some:
            here.take(step)
        job = here.come_to_an_end()
        events: list[Event] = here.all(Event)
        kept = here.file._sql.execute("SELECT count(*) FROM callbacks").fetchone()[0]
        faults = audit.faults_of(here.database)

    assert essence(job) == plain(end)
    assert job.state == ("succeeded" if end == "SUCCEEDED" else "failed")
    assert [event.type for event in events if event.final] == [f"job.{job.state}"]
    assert events[-1].final
    assert kept == len(here.doors)
    assert faults == []
