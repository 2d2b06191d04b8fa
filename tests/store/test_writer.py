"""Group commit, in front of a commit that the test holds and lets go."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from relay.core.ledger import Happening
from relay.errors import Unavailable
from relay.store import writer
from relay.store.writer import Writer, Written
from tests.store.serving import queued

pytestmark = pytest.mark.anyio


class Held:
    """A commit that waits to be let go; the result of each happening is its place in its group."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.groups: list[int] = []
        self.told: list[int] = []

    async def __call__(self, group: Sequence[Happening[Any]]) -> Written:
        self.begun.set()
        await self.go.wait()
        self.groups.append(len(group))
        return Written(len(group), list(range(len(group))))

    def hear(self, written: Written) -> None:
        self.told.append(written.head)


def begin(one: Writer, *names: str) -> list["asyncio.Future[Any]"]:
    return [one.begin(queued(name)) for name in names]


async def test_while_a_group_is_written_the_next_one_gathers() -> None:
    held = Held()
    one = Writer(held, held.hear)
    first = begin(one, "first")
    await held.begun.wait()
    rest = begin(one, *"abcde")
    held.go.set()
    assert await asyncio.gather(*first, *rest) == [0, 0, 1, 2, 3, 4]
    assert (held.groups, held.told) == ([1, 5], [1, 5])
    await one.close()


async def test_a_group_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GROUP_MAX", 2)
    held = Held()
    one = Writer(held, held.hear)
    held.go.set()
    await asyncio.gather(*begin(one, *"abcde"))
    assert held.groups == [2, 2, 1]
    await one.close()


async def test_too_much_that_waits_is_unavailable_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "QUEUE_MAX", 2)
    held = Held()
    one = Writer(held, held.hear)
    waiting = begin(one, "a", "b")
    with pytest.raises(Unavailable, match="too much waits") as refused:
        one.begin(queued("more"))
    assert refused.value.retry_after_s
    held.go.set()
    await asyncio.gather(*waiting)
    await one.close()


async def test_a_caller_that_goes_away_does_not_undo_what_it_asked_for() -> None:
    held = Held()
    one = Writer(held, held.hear)
    (task,) = begin(one, "a")
    await held.begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    held.go.set()
    await one.close()
    assert (held.groups, held.told) == ([1], [1])


async def test_when_a_commit_fails_all_of_its_group_hear_of_it_and_nobody_is_told_of_a_commit() -> None:
    async def refuse(group: Sequence[Happening[Any]]) -> Written:
        raise Unavailable("the disk is full")

    told: list[Written] = []
    one = Writer(refuse, told.append)
    results = await asyncio.gather(*begin(one, "a", "b"), return_exceptions=True)
    assert [str(result) for result in results] == ["the disk is full"] * 2
    assert told == []
    await one.close()


async def test_closing_writes_what_waits_and_takes_nothing_more() -> None:
    held = Held()
    one = Writer(held, held.hear)
    (waiting,) = begin(one, "a")
    await held.begun.wait()
    closing = asyncio.create_task(one.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="shutting down"):
        one.begin(queued("b"))
    held.go.set()
    await closing
    assert await waiting == 0


async def test_a_defect_in_whoever_is_told_does_not_end_the_writing() -> None:
    def stumble(written: Written) -> None:
        raise LookupError("a defect")

    held = Held()
    held.go.set()
    one = Writer(held, stumble)
    for name in "ab":
        await one.begin(queued(name))
    assert held.groups == [1, 1]
    await one.close()
