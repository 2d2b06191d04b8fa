"""What the writer holds of jobs is what the database has of them, and is forgotten when the two could differ."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.accounts import AccountsListed, SeenAccount
from relay.core.delivering import SubscriptionSaved
from relay.core.event import Event
from relay.core.ledger import Happening, Loaded, Needs
from relay.errors import Unavailable
from relay.store import held
from relay.store.driver import sqlite3
from relay.store.sqlite import WritingFile
from relay.store.statements import loaded, queries
from tests.core.builders import EMAIL, NOW_MS, accepted, answered, callback, started, submitted, subscription, task_body
from tests.store.serving import Breaks, new_hex
from tests.store.test_contract import happenings, with_own_doors

BEFORE: list[Happening[Any]] = [
    SubscriptionSaved(subscription(types=["job.progress", "job.succeeded"])),
    AccountsListed((SeenAccount(EMAIL, 2),), NOW_MS),
    submitted(),
    started(),
    answered(accepted()),
]


@contextmanager
def written(*steps: Happening[Any]) -> Generator[WritingFile]:
    with TemporaryDirectory() as folder:
        file = WritingFile(Path(folder) / "relay.db", new_hex)
        try:
            file.commit(list(steps))
            yield file
        finally:
            file.close()


def plain(value: Any) -> Any:
    """The same without the numbers that tables give: what is held was written before it had one."""
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    numbered = is_dataclass(value) and hasattr(value, "seq") and not isinstance(value, Event | type)
    return replace(value, seq=0) if numbered else value


def seen(loaded: Loaded | None) -> dict[str, Any]:
    assert loaded is not None
    return {field.name: plain(getattr(loaded, field.name)) for field in fields(loaded)}


def from_the_file(file: WritingFile, needs: Needs, head: int) -> Loaded:
    rows = {name: file._sql.execute(sql, values).fetchall() for name, sql, values in queries(needs)}
    return loaded(rows, epoch=file.epoch, next_seq=head + 1)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(happenings, max_size=8), max_size=5))
def test_what_is_held_is_what_the_file_has(groups: list[list[Happening[Any]]]) -> None:
    steps = with_own_doors([step for group in groups for step in group])
    with written(*BEFORE) as file:
        for group in groups:
            file.commit([steps.pop(0) for _ in group])
        head = int(file._meta("head"))
        for number in range(1, 4):
            for body in (callback(task_body("RUNNING", "0.5")), callback(b"no task")):
                needs = replace(body, token_hash=f"hash-{number}").needs()
                found = file.held.find(needs, file.epoch, head + 1)
                if found is not None:
                    assert seen(found) == seen(from_the_file(file, needs, head))


def test_progress_takes_the_place_of_the_progress_that_is_still_owed() -> None:
    bodies = [callback(task_body("RUNNING", f"0.{n}")) for n in range(1, 4)]
    with written(*BEFORE, bodies[0]) as file:
        file.commit([bodies[1]])
        file.commit([bodies[2]])
        states = file._sql.execute("SELECT state FROM deliveries ORDER BY event_seq").fetchall()
    assert [row["state"] for row in states] == ["superseded", "superseded", "due"]


def test_a_body_that_comes_again_is_known_without_a_look_into_the_file() -> None:
    body = callback(task_body("RUNNING", "0.5"))
    with written(*BEFORE, body) as file:
        statements: list[str] = []
        file._sql.set_trace_callback(statements.append)
        assert file.commit([body, body]).results == ["duplicate", "duplicate"]
        assert not any("SELECT" in statement and "meta" not in statement for statement in statements)


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), MemoryError()])
def test_what_a_failed_group_would_have_changed_is_held_no_more(error: Exception) -> None:
    first, second = callback(task_body("RUNNING", "0.4")), callback(task_body("RUNNING", "0.5"))
    with written(*BEFORE, first) as file:
        with pytest.raises((Unavailable, MemoryError)):
            file.commit([second, Breaks(error)])
        assert file.commit([second]).results == ["stored"], "it was not answered 200, and the next one is"


def test_the_oldest_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "HELD_MAX", 1)
    with written(*BEFORE, callback(task_body("RUNNING", "0.4"))) as file:
        body = callback(task_body("RUNNING", "0.5"))
        other = replace(submitted().job, id="another", task_id="another")
        file.commit([replace(submitted(), job=other), replace(started(door="hash-2"), job_id="another")])
        assert file.held.find(body.needs(), file.epoch, 1) is not None
        file.commit([replace(body, token_hash="hash-2")])
        assert file.held.find(body.needs(), file.epoch, 1) is None
