"""What must hold in a relay's files whenever it is dead: contract section 1, in SQL, and SQLite's own check."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from relay.core.delivery import Subscription, wants
from relay.core.event import Event
from relay.core.job import FINAL, OCCUPYING, WAYS, Attempt, Job
from relay.sandbox.vendor import Vendor
from relay.store.driver import sqlite3
from relay.store.rows import TABLES, columns, from_row
from tests.crash.load import Promises, heard, job_of
from tests.journeys import Subscriber

T = TypeVar("T")

# What an attempt is while its job is in a state; a job in `queued` has none that occupies a slot.
NEWEST = {"submitting": {"sending"}, "in_doubt": {"unknown"}, "running": {"created"}, "succeeded": {"ended"}}


def faults_of(database: Path, *, settled: bool = False) -> list[str]:
    """Everything that is wrong with a database, in words; `settled`: nothing may be under way any more."""
    with closing(sqlite3.connect(database, isolation_level=None)) as sql:
        sql.row_factory = sqlite3.Row
        checked = [row[0] for row in sql.execute("PRAGMA integrity_check")]
        if checked != ["ok"]:
            return checked
        return [*_of_log(sql), *_of_jobs(sql, settled), *_of_deliveries(sql, settled)]


def lost(database: Path, promises: Promises) -> set[object]:
    """The promises that a database does not hold."""
    with closing(sqlite3.connect(database, isolation_level=None)) as sql:
        jobs = {row[0] for row in sql.execute("SELECT id FROM jobs")}
        kept = set(sql.execute("SELECT job_id, sha256 FROM callbacks UNION SELECT job_id, sha256 FROM quarantine"))
    return (promises.jobs - jobs) | (promises.callbacks - kept)


def _of_log(sql: sqlite3.Connection) -> Iterator[str]:
    """The event log has no gap and ends where the head says."""
    head = int(sql.execute("SELECT value FROM meta WHERE name = 'head'").fetchone()[0])
    numbers = [row[0] for row in sql.execute("SELECT seq FROM events ORDER BY seq")]
    if numbers != list(range(1, head + 1)):
        yield f"the log's numbers are {numbers[:5]}…{numbers[-5:]}, its head {head}"
    if sql.execute("SELECT count(DISTINCT epoch) FROM events").fetchone()[0] > 1:
        yield "there is more than one epoch"


def _of_jobs(sql: sqlite3.Connection, settled: bool) -> Iterator[str]:
    for job in _rows(sql, Job, "ORDER BY seq"):
        events = _rows(sql, Event, "WHERE job_id = ? ORDER BY seq", job.id)
        attempts = _rows(sql, Attempt, "WHERE job_id = ? ORDER BY number", job.id)
        for fault in (*_of_way(job, events), *_of_attempts(job, attempts), *_of_counts(sql, job, attempts)):
            yield f"job {job.id} ({job.state}): {fault}"
        if settled and not job.final:
            yield f"job {job.id} is still {job.state}"


def _of_way(job: Job, events: list[Event]) -> Iterator[str]:
    """Its events tell a way through the table of states, and exactly one of them is final, the last."""
    types = [event.type for event in events]
    finals = [event.type for event in events if event.final]
    if finals != ([f"job.{job.state}"] if job.final else []):
        yield f"its final events are {finals}"
    if types[:1] != ["job.queued"] or (finals and types[-1:] != finals):
        yield f"its events are {types}"
    if (job.finished_at_ms is not None) is not job.final:
        yield f"it finished at {job.finished_at_ms}"
    told = [event.data["job"]["state"] for event in events]
    for before, after in pairwise(told):
        if before != after and not _leads(before, after):
            yield f"it went from {before} to {after}"


def _leads(before: str, after: str) -> bool:
    """By one way of the table, or by way of a state that writes no event."""
    ways: dict[str, frozenset[str]] = {state: frozenset(to) for state, to in WAYS.items()}
    through = ways[before] & {"submitting", "queued", "running"}
    return after in ways[before] or any(after in ways[state] for state in through)


def _of_attempts(job: Job, attempts: list[Attempt]) -> Iterator[str]:
    """At most one attempt may be paid for, and the newest fits the job's state."""
    states = [attempt.state for attempt in attempts]
    if [attempt.number for attempt in attempts] != list(range(1, job.attempts + 1)):
        yield f"it has {job.attempts} attempts, and these are there: {states}"
    if sum(state != "not_created" for state in states) > 1:
        yield f"more than one attempt may be paid for: {states}"
    occupying = [state for state in states if state in OCCUPYING]
    if job.state in NEWEST and not (states and states[-1] in NEWEST[job.state]):
        yield f"its attempts are {states}"
    if job.state in FINAL | {"queued"} and occupying:
        yield f"its attempts are {states}"
    if job.state in ("running", "in_doubt") and attempts[-1].ask_at_ms is None:
        yield "nobody will ask about it"


def _of_counts(sql: sqlite3.Connection, job: Job, attempts: list[Attempt]) -> Iterator[str]:
    """Every callback that was counted is kept, in the quarantine or out of it."""
    kept = sum(
        sql.execute(f"SELECT count(*) FROM {table} WHERE job_id = ?", (job.id,)).fetchone()[0]  # noqa: S608 # names
        for table in ("callbacks", "quarantine")
    )
    if kept != sum(attempt.callbacks for attempt in attempts):
        yield f"{kept} callbacks are kept, {[attempt.callbacks for attempt in attempts]} were counted"


def _of_deliveries(sql: sqlite3.Connection, settled: bool) -> Iterator[str]:
    """Every final event is owed once to every subscription that wants it, and its end can be seen."""
    owed = Counter((row["event_seq"], row["subscription_id"]) for row in sql.execute("SELECT * FROM deliveries"))
    for subscription in _rows(sql, Subscription, "ORDER BY seq"):
        # An event from before the subscription was never owed to it.
        for event in _rows(sql, Event, "WHERE at_ms > ? ORDER BY seq", subscription.created_at_ms):
            count = owed[event.seq, subscription.id]
            if count != (1 if wants(subscription, event) else 0):
                yield f"event {event.seq} ({event.type}) is owed {count} times to {subscription.id}"
    for row in sql.execute("SELECT * FROM deliveries ORDER BY seq"):
        final = json.loads(sql.execute("SELECT data FROM events WHERE seq = ?", (row["event_seq"],)).fetchone()[0])
        if final["job"]["state"] in FINAL and row["state"] == "superseded":
            yield f"delivery {row['id']} of a final event was superseded"
        if settled and row["state"] not in ("delivered", "superseded"):
            yield f"delivery {row['id']} is {row['state']}"


def _rows(sql: sqlite3.Connection, kind: type[T], tail: str, *values: object) -> list[T]:
    table = TABLES[kind]
    found = sql.execute(f"SELECT {columns(kind)} FROM {table} {tail}", values)  # noqa: S608 # names of ours
    return [from_row(kind, row) for row in found]


def unheard(database: Path, subscriber: Subscriber) -> set[str]:
    """Events that the relay says it has delivered, and the subscriber has never got."""
    with closing(sqlite3.connect(database)) as sql:
        delivered = {row[0] for row in sql.execute("SELECT event_id FROM deliveries WHERE state = 'delivered'")}
    return delivered - heard(subscriber)


def unpaid_for(database: Path, vendor: Vendor) -> list[str]:
    """What is wrong between the upstream's tasks and the jobs that pay for them, once all have ended."""
    with closing(sqlite3.connect(database)) as sql:
        jobs = {row[0]: row for row in sql.execute("SELECT id, state, upstream_task_id, error FROM jobs")}
    tasks = Counter(job_of(task.reply_ref) for task in vendor.register.oldest_first())
    wrong = [f"job {job_id} was paid for {count} times" for job_id, count in tasks.items() if count > 1]
    for task in vendor.register.oldest_first():
        job = jobs.get(job_of(task.reply_ref))
        if job is None or job[1] != "succeeded" or job[2] != task.task_id:
            wrong.append(f"the film of task {task.task_id} was paid for, and its job is {tuple(job or ())}")
    succeeded = [job_id for job_id, row in jobs.items() if row[1] == "succeeded"]
    return wrong + [f"job {job_id} succeeded without a task" for job_id in succeeded if not tasks[job_id]]
