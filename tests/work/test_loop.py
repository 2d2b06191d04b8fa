"""A worker steps when something was committed, when its time has come, and when its work has ended; and stops."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

import pytest

from relay.clock import ManualClock, wait_at_most
from relay.core.ledger import Happening
from relay.errors import Unavailable
from relay.feed import Feed
from relay.store.contract import Store
from relay.work import loop
from relay.work.loop import AFTER_FAILURE_S, IDLE_MAX_S, Worker
from tests.journeys import eventually

pytestmark = pytest.mark.anyio


class Counting(Worker):
    """Counts its steps; what a step does, and when the next is due, can be told."""

    name = "counting"

    def __init__(self, store: Any = None) -> None:
        self.feed, self.clock = Feed(), ManualClock()
        super().__init__(cast("Store", store), self.feed, self.clock)
        self.steps = 0
        self.act: Callable[[], int | None] = lambda: None

    async def step(self) -> int | None:
        self.steps += 1
        return self.act()

    async def asleep(self) -> None:
        """Once it waits for something."""
        await eventually(lambda: any(not future.done() for _, _, future in self.clock._sleepers))


@pytest.fixture
async def worker() -> AsyncGenerator[Counting]:
    made = Counting()
    yield made
    await made.stop()


async def test_it_steps_at_once_and_after_every_commit(worker: Counting) -> None:
    worker.start()
    await worker.asleep()
    assert worker.steps == 1
    worker.feed.committed(1)
    await eventually(lambda: worker.steps == 2)


async def test_it_steps_when_its_time_has_come(worker: Counting) -> None:
    worker.act = lambda: 1_767_225_600_000 + 5_000 if worker.steps == 1 else None
    worker.start()
    await worker.asleep()
    worker.clock.advance(4.9)
    await asyncio.sleep(0)
    assert worker.steps == 1
    worker.clock.advance(0.1)
    await eventually(lambda: worker.steps == 2)


async def test_a_wall_clock_that_jumps_back_delays_it_by_no_more_than_a_minute(worker: Counting) -> None:
    worker.act = lambda: worker.clock.now_ms() + 7 * 86_400_000
    worker.start()
    await worker.asleep()
    worker.clock.jump_wall(-86_400)
    worker.clock.advance(IDLE_MAX_S)
    await eventually(lambda: worker.steps == 2)


async def test_a_wait_counts_from_when_it_was_begun() -> None:
    clock = ManualClock()
    waiting = asyncio.create_task(wait_at_most(clock, asyncio.Event().wait(), 5))
    await asyncio.sleep(0)  # it has begun, and its timer has not yet taken a step
    clock.advance(5)

    assert await asyncio.wait_for(waiting, 10) is False


async def test_it_steps_when_work_under_way_has_ended(worker: Counting) -> None:
    worker.start()
    await worker.asleep()
    going = asyncio.Event()

    async def work() -> None:
        await going.wait()

    worker.spawn(work())
    going.set()
    await eventually(lambda: worker.steps == 2)


@pytest.mark.parametrize("error", [ValueError("a defect"), Unavailable("the disk is full")])
async def test_a_step_that_fails_is_followed_by_another_after_a_pause(worker: Counting, error: Exception) -> None:
    def fail() -> None:
        worker.act = lambda: None
        raise error

    worker.act = fail
    worker.start()
    await worker.asleep()
    assert worker.steps == 1
    worker.clock.advance(AFTER_FAILURE_S)
    await eventually(lambda: worker.steps == 2)


async def test_a_closing_feed_does_not_make_it_spin(worker: Counting) -> None:
    worker.start()
    await worker.asleep()
    worker.feed.close()
    await eventually(lambda: worker.steps == 2)
    for _ in range(50):
        await asyncio.sleep(0)

    assert worker.steps == 2


async def test_a_stop_waits_for_the_step_and_for_all_that_it_began(worker: Counting) -> None:
    done: list[str] = []

    async def second() -> None:
        await asyncio.sleep(0)
        done.append("second")

    async def first() -> None:
        await asyncio.sleep(0)
        worker.spawn(second())
        done.append("first")

    worker.act = lambda: worker.spawn(first()) if worker.steps == 1 else None
    worker.start()
    await eventually(lambda: worker.steps > 0)
    await worker.stop()

    assert done == ["first", "second"]
    assert worker._under_way == set()


async def test_a_stop_cancels_what_does_not_end(worker: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STOP_S", 0.02)
    ended: list[bool] = []

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    worker.start()
    worker.spawn(for_ever())
    await worker.asleep()
    await worker.stop()

    assert ended == [True]


async def test_what_has_taken_place_is_written_as_soon_as_the_store_can() -> None:
    class Full:
        tries = 0

        async def apply(self, happening: object) -> str:
            self.tries += 1
            if self.tries < 3:
                raise Unavailable("the disk is full")
            return "written"

    store = Full()
    worker = Counting(store)
    writing = asyncio.create_task(worker.surely(cast("Happening[str]", object())))
    for tries in (1, 2):
        await eventually(lambda tries=tries: store.tries == tries and bool(worker.clock._sleepers))  # type: ignore[misc]
        worker.clock.advance(AFTER_FAILURE_S)

    assert await writing == "written"
    assert store.tries == 3
