"""A shift of the waits on a real file: each open one once, nothing else, and in the order of the writer."""

import asyncio
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from relay.core.artifacts import StoredFile
from relay.core.delivery import OPEN, Delivery
from relay.core.dispatch import Account
from relay.core.job import Attempt, Job
from relay.core.ledger import Adoption, Record
from relay.core.skew import jumped
from relay.errors import Unavailable
from relay.store.contract import EventFilter
from relay.store.driver import sqlite3
from relay.store.rows import TABLES
from relay.store.sqlite import SqliteStore
from relay.store.waits import _OPEN
from tests.core.builders import HOUR_MS, JOB_ID, NOW_MS, account, attempt, callback, job, subscription, task_body
from tests.core.memory import begun
from tests.store.serving import Writes, opened

pytestmark = pytest.mark.anyio

DAYS_MS = 4 * 24 * HOUR_MS
TIMES = {name: NOW_MS + number for number, name in enumerate(("ask_at_ms", "hinted_at_ms", "missing_since_ms"))}

# What has been, for people to read and to count.
HISTORY = {
    ("attempts", "reported_at_ms"),
    ("attempts", "answered_at_ms"),
    ("attempts", "ended_at_ms"),
    ("attempts", "unconfirmed_at_ms"),
    ("deliveries", "created_at_ms"),
    ("deliveries", "finished_at_ms"),
    ("accounts", "moderated_at_ms"),
    ("accounts", "updated_at_ms"),
    ("artifacts", "created_at_ms"),
    ("artifacts", "kept_at_ms"),
}


def delivery(state: Any, **changes: Any) -> Delivery:
    values: dict[str, Any] = {
        "id": f"delivery-{state}",
        "subscription_id": "sub-1",
        "event_seq": 1,
        "event_id": "0000cafe-1",
        "event_type": "job.queued",
        "job_id": JOB_ID,
        "state": state,
        "due_at_ms": NOW_MS,
        "created_at_ms": NOW_MS,
    }
    return Delivery(**values | changes)


def file(state: Any, **changes: Any) -> StoredFile:
    times: dict[str, Any] = {"next_at_ms": NOW_MS, "created_at_ms": NOW_MS} | changes
    return StoredFile(id=f"file-{state}", job_id=JOB_ID, position=0, state=state, **times)


def records() -> tuple[Record, ...]:
    states: tuple[Any, ...] = ("waiting", "due", "sending", "delivered", "dead", "superseded")
    return (
        job(state="running", deadline_ms=NOW_MS, submitted_at_ms=NOW_MS, started_at_ms=NOW_MS),
        attempt(1, state="not_created", ended_at_ms=NOW_MS),
        attempt(2, state="created", answered_at_ms=NOW_MS, empty_since_ms=NOW_MS, **TIMES),
        attempt(3, state="unknown", ask_at_ms=NOW_MS),
        attempt(4, state="sending"),
        attempt(5, state="ended", ended_at_ms=NOW_MS, empty_since_ms=NOW_MS, hinted_at_ms=NOW_MS),
        *(delivery(state, lease_until_ms=NOW_MS if state == "sending" else None) for state in states),
        account(retry_at_ms=0),
        account("parked@example.com", retry_at_ms=NOW_MS, parked="broken"),
        Adoption(task_id="a", job_id="b", first_at_ms=NOW_MS, ask_at_ms=NOW_MS),
        file("wanted", held_until_ms=NOW_MS),
        file("kept", kept_at_ms=NOW_MS),
    )


async def rows(store: SqliteStore) -> list[dict[str, Any]]:
    found: list[Any] = []
    for kind in (Job, Attempt, Delivery, Account, Adoption, StoredFile):
        found += await store._list(kind, "", {})
    return [{field.name: getattr(row, field.name) for field in fields(row)} for row in found]


def is_open(row: dict[str, Any]) -> bool:
    return (
        row.get("state") in ("sending", "created", "unknown", "wanted", *OPEN) or "email" in row or "first_at_ms" in row
    )


@pytest.mark.parametrize("by_ms", [-HOUR_MS, DAYS_MS])
async def test_each_open_wait_moves_once_and_nothing_else_changes(tmp_path: Path, by_ms: int) -> None:
    moving = {name for _, _, names in _OPEN for name in names}
    async with opened(tmp_path / "relay.db") as store:
        await store.apply(Writes(records()))
        before = await rows(store)
        await store.apply(jumped(by_ms, NOW_MS + by_ms))
        after = await rows(store)

    for was, now in zip(before, after, strict=True):
        expected = {
            name: value + by_ms if name in moving and value and is_open(was) else value for name, value in was.items()
        }
        assert now == expected
    assert sum(was != now for was, now in zip(before, after, strict=True)) == 9


def test_of_every_time_it_is_said_whether_it_moves() -> None:
    times = {
        (table, field.name)
        for kind in (Attempt, Delivery, Account, Adoption, StoredFile)
        for table in (TABLES[kind],)
        for field in fields(kind)
        if field.name.endswith(("_at_ms", "_since_ms", "_until_ms"))
    }
    moving = {(table, name) for table, _, names in _OPEN for name in names}
    assert times - moving == HISTORY


async def test_jumps_there_and_back_leave_the_waits_as_they_were(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await store.apply(Writes(records()))
        before = await rows(store)
        for by_ms in (-HOUR_MS, DAYS_MS, HOUR_MS, -DAYS_MS):
            await store.apply(jumped(by_ms, NOW_MS))
        assert await rows(store) == before
        assert [event.type for event in await store.events_after(0, EventFilter(), 10)] == ["clock.skewed"] * 4


async def test_in_one_group_each_happening_sees_the_waits_of_its_own_time(tmp_path: Path) -> None:
    """Callbacks of a job that the writer remembers, before the shift and behind it, all in one transaction."""
    async with opened(tmp_path / "relay.db") as store:
        await store.apply(Writes((*begun(subscription()).all(Job), *begun(subscription()).all(Attempt), account())))
        await store.apply(callback(task_body("RUNNING", "0.1")))
        final = task_body("SUCCEEDED", "1")
        await asyncio.gather(
            store.apply(callback(final, NOW_MS + 1)),
            store.apply(jumped(DAYS_MS, NOW_MS + DAYS_MS)),
            store.apply(callback(task_body("RUNNING", "0.2"), NOW_MS + DAYS_MS + 1)),
        )
        (now,) = await store.attempts(JOB_ID)
        held = store._file.held.find(callback(final).needs(), store.epoch, 1)

    assert held is not None
    assert held.attempts == (now,)
    assert now.hinted_at_ms == NOW_MS + 1 + DAYS_MS
    assert now.ask_at_ms == NOW_MS + 1 + DAYS_MS
    assert now.sent_at_ms == NOW_MS + DAYS_MS


async def test_a_shift_that_cannot_be_written_has_moved_nothing_and_told_nobody(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    async with opened(path) as store:
        await store.apply(Writes(records()))
        before = await rows(store)
        await store._in_thread(lambda: store._file._sql.execute("PRAGMA busy_timeout = 1"))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await store.apply(jumped(DAYS_MS, NOW_MS))
        other.close()
        assert await rows(store) == before
        assert await store.head() == 0
