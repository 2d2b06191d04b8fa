"""What every engine promises, on each: durable in groups, apart in failure, and of one mind with the ledger."""

import asyncio
from dataclasses import is_dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.core.accounts import AccountsListed, SeenAccount
from relay.core.delivering import DeliveriesClaimed, SubscriptionSaved
from relay.core.event import Event
from relay.core.job import Job
from relay.core.ledger import Happening
from relay.core.submitting import AttemptStarted
from relay.errors import LimitReached, Unavailable
from relay.store import writer
from relay.store.contract import EventFilter, JobFilter
from relay.store.rows import TABLES
from relay.store.sqlite import SqliteStore
from relay.vault import new_hex as by_chance
from tests.core.builders import (
    EMAIL,
    NOW_MS,
    accepted,
    answered,
    asked,
    callback,
    job,
    looked,
    report,
    sent,
    started,
    submitted,
    subscription,
    task_body,
)
from tests.core.memory import Memory
from tests.core.test_ledger import answers, bodies, outcome_for, reports
from tests.store.serving import Raises, Writes, apply_all, new_hex, opened, queued

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("engine")]


async def everything(store: SqliteStore) -> list[list[Any]]:
    """Every row of every table, in no order."""
    return [sorted(map(repr, await store._list(kind, "", {}))) for kind in TABLES]


async def test_many_at_once_share_few_commits_and_each_gets_its_own_result(tmp_path: Path) -> None:
    seen: list[int] = []
    told: list[tuple[int, int]] = []
    done = asyncio.Event()

    def committed(head: int, events: Any) -> None:
        told.append((head, len(events)))
        seen.extend(event.seq for event in events)
        if head == 600:
            done.set()

    async with opened(tmp_path / "relay.db", committed) as store:
        names = [f"job-{n}" for n in range(600)]
        jobs = await asyncio.gather(*(store.apply(queued(name, queue_per_token=1_000)) for name in names))
        assert [job.id for job in jobs] == names
        assert await store.head() == 600
        await asyncio.wait_for(done.wait(), 10)
    assert len([count for _, count in told if count]) <= 1 + 600 // writer.GROUP_MAX + 1
    assert seen == list(range(1, 601))


async def test_what_was_acknowledged_is_there_for_the_next_read(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        for n in range(20):
            await store.apply(queued(f"job-{n}"))
            assert await store.job(f"job-{n}") is not None


async def test_reopening_finds_everything_and_goes_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    async with opened(path) as store:
        await apply_all(store, SubscriptionSaved(subscription()), submitted(), started(), answered(accepted()))
        await apply_all(store, callback(task_body("RUNNING")), callback(b"spam"))
        before, who = await everything(store), (store.instance, store.epoch)
    async with opened(path) as store:
        assert (await everything(store), (store.instance, store.epoch)) == (before, who)
        head = await store.head()
        await store.apply(asked(report("SUCCEEDED", "1")))
        assert [event.seq for event in await store.events_after(head, EventFilter(), 9)] == [head + 1]


async def test_a_happening_that_fails_does_not_fail_its_neighbours_and_leaves_no_gap(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        group: list[Happening[Any]] = [
            queued("a"),
            queued("b", queue_max=1),
            queued("c", task_id="task of a"),
            Raises(KeyError("a defect of ours")),
            Raises(ValueError("not a value")),
            queued("d"),
        ]
        results = await asyncio.gather(*map(store.apply, group), return_exceptions=True)
        kinds = [type(result) for result in results]
        assert [*kinds[:2], *kinds[3:]] == [Job, LimitReached, KeyError, ValueError, Job]
        assert issubclass(kinds[2], Exception)
        assert [event.seq for event in await store.events_after(0, EventFilter(), 9)] == [1, 2]
        assert [job.id for job in await store.jobs(JobFilter(), None, 9)] == ["d", "a"]


async def test_callbacks_of_one_group_each_see_what_those_before_them_changed(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, submitted(), started(), answered(accepted()))
        for some in (("0.1", "0.5", "0.3"), ("0.6", "0.6", "0.7")):
            reported = [callback(task_body("RUNNING", progress)) for progress in some]
            await asyncio.gather(*map(store.apply, reported))
        (attempt,) = await store.attempts(submitted().job.id)
        effects = [one.effect for one in await store.callbacks(attempt.job_id, 0, 9)]
        assert (attempt.callbacks, len(effects)) == (5, 5)
        assert ["late" in effect for effect in effects] == [False, False, True, False, False]


async def test_of_a_happening_that_fails_half_way_nothing_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await store.apply(queued("a"))
        half = Writes((subscription(), job(id="b", task_id="task of a")))
        results = await asyncio.gather(store.apply(half), store.apply(queued("c")), return_exceptions=True)
        assert [isinstance(result, Exception) for result in results] == [True, False]
        assert await store.subscriptions() == []


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        pass
    with pytest.raises(Unavailable, match="shutting down"):
        await store.apply(submitted())


# Of one mind with the ledger

numbers = st.integers(1, 3)
moments = st.integers(NOW_MS, NOW_MS + 20_000_000)
happenings: st.SearchStrategy[Happening[Any]] = st.one_of(
    st.builds(started, moments),
    numbers.flatmap(lambda n: st.builds(answered, outcome_for(n), moments, number=st.just(n))),
    st.builds(callback, bodies, moments, door=numbers.map("hash-{}".format)),
    st.builds(asked, answers, moments, number=numbers),
    st.builds(looked, st.none() | reports, moments, number=numbers),
    st.builds(sent, st.integers(1, 6).map("0a1b2c3d-{}.sub-1".format), st.sampled_from([200, 500, 410, None]), moments),
    st.permutations([f"0a1b2c3d-{n}.sub-1" for n in range(1, 13)]).flatmap(
        lambda ids: st.integers(1, 12).map(lambda n: DeliveriesClaimed(tuple(ids[:n]), NOW_MS * 2, NOW_MS + 60_000))
    ),
)


def without_seq(record: Any) -> Any:
    """The record, or what is made of some, without the number that its table gave it; an event's is the ledger's."""
    if isinstance(record, list | tuple):
        return type(record)(map(without_seq, record))
    numbered = is_dataclass(record) and hasattr(record, "seq") and not isinstance(record, Event)
    return replace(record, seq=0) if numbered else record


def with_own_doors(steps: list[Happening[Any]]) -> list[Happening[Any]]:
    """Every attempt gets an address of its own, as those that chance makes are."""
    doors = count(1)
    return [replace(one, token_hash=f"hash-{next(doors)}") if isinstance(one, AttemptStarted) else one for one in steps]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(happenings, max_size=25))
async def test_it_comes_to_the_same_end_as_the_ledger_alone(tmp_path: Path, some: list[Happening[Any]]) -> None:
    listed = AccountsListed((SeenAccount(EMAIL, 2),), NOW_MS)
    first: list[Happening[Any]] = [SubscriptionSaved(subscription()), listed, submitted(2), submitted()]
    steps = first + with_own_doors(some)
    memory = Memory(epoch=new_hex(8))
    async with opened(tmp_path / by_chance(16)) as store:
        results = await asyncio.gather(*map(store.apply, steps))
        expected = [without_seq(memory.apply(step)) for step in steps]
        assert [without_seq(result) for result in results] == expected
        for kind in TABLES:
            kept = [repr(without_seq(row)) for row in await store._list(kind, "", {})]
            assert sorted(kept) == sorted(repr(without_seq(record)) for record in memory.all(kind))
        assert await store.head() == len(memory.events)
