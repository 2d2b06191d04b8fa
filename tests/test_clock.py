"""The clock that is handed in: the system's, and the one that a test moves."""

import asyncio
import time

import pytest

from relay.clock import ManualClock, SteadyClock, SystemClock, wait_at_most

pytestmark = pytest.mark.anyio


async def asleep(clock: ManualClock, *seconds: float) -> tuple[list[float], list["asyncio.Task[None]"]]:
    """Sleepers by their seconds, and the list into which each writes itself when it wakes."""
    woken: list[float] = []

    async def sleeper(wait_s: float) -> None:
        await clock.sleep(wait_s)
        woken.append(wait_s)

    tasks = [asyncio.create_task(sleeper(wait_s)) for wait_s in seconds]
    await asyncio.sleep(0)
    return woken, tasks


async def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(1_000)
    assert (clock.now_ms(), clock.monotonic_s()) == (1_000, 0.0)
    clock.advance(1.5)
    assert (clock.now_ms(), clock.monotonic_s()) == (2_500, 1.5)


async def test_sleepers_wake_in_the_order_of_their_times_and_not_before() -> None:
    clock = ManualClock()
    woken, tasks = await asleep(clock, 3, 1, 2)
    clock.advance(0.999)
    await asyncio.sleep(0)
    assert woken == []
    clock.advance(1.5)
    await asyncio.gather(*tasks[1:])
    assert woken == [1, 2]
    clock.advance(1)
    await tasks[0]
    assert woken == [1, 2, 3]


async def test_many_small_steps_are_as_good_as_one() -> None:
    clock = ManualClock(0)
    woken, tasks = await asleep(clock, 0.8)
    for step_s in (0.1, 0.7):  # 0.1 + 0.7 is a little less than 0.8
        clock.advance(step_s)
    await asyncio.gather(*tasks)
    assert (woken, clock.now_ms()) == ([0.8], 800)


@pytest.mark.parametrize("ms", [1, 7, 29, 57, 58, 1_001, 86_399_999])
async def test_a_step_of_whole_milliseconds_is_exact(ms: int) -> None:
    for clock in (ManualClock(0), ManualClock()):
        before = clock.now_ms()
        clock.advance(ms / 1000)
        assert clock.now_ms() - before == ms


async def test_a_sleeper_that_was_cancelled_disturbs_nobody() -> None:
    clock = ManualClock()
    woken, (gone, stays) = await asleep(clock, 1, 1)
    gone.cancel()
    clock.advance(1)
    await asyncio.gather(gone, stays, return_exceptions=True)
    assert woken == [1]


async def test_a_jump_of_the_wall_clock_wakes_nobody() -> None:
    clock = ManualClock(0)
    woken, (task,) = await asleep(clock, 1)
    clock.jump_wall(3_600)
    await asyncio.sleep(0)
    assert (woken, clock.now_ms(), clock.monotonic_s()) == ([], 3_600_000, 0.0)
    task.cancel()


async def test_a_steady_clock_does_not_jump_until_it_is_moved() -> None:
    beneath = ManualClock(0)
    clock = SteadyClock(beneath)
    beneath.advance(1.5)
    beneath.jump_wall(3_600)
    assert (clock.now_ms(), clock.monotonic_s(), clock.behind_ms()) == (1_500, 1.5, 3_600_000)
    clock.move(clock.behind_ms())
    assert (clock.now_ms(), clock.behind_ms()) == (beneath.now_ms(), 0)
    beneath.jump_wall(-60)
    assert clock.behind_ms() == -60_000


async def test_a_steady_clock_sleeps_as_the_one_beneath() -> None:
    beneath = ManualClock(0)
    sleeping = asyncio.create_task(SteadyClock(beneath).sleep(1))
    await asyncio.sleep(0)
    assert beneath.until_next_s() == 1
    beneath.advance(1)
    await sleeping


@pytest.mark.parametrize("look", ["monotonic_s", "now_ms"])
async def test_a_process_that_was_stopped_between_two_looks_sees_no_jump(
    look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beneath = ManualClock(0)
    clock, told = SteadyClock(beneath), getattr(beneath, look)

    def stopped_behind_the_look() -> float:
        seen: float = told()
        beneath.advance(3_600)
        return seen

    monkeypatch.setattr(beneath, look, stopped_behind_the_look)
    assert clock.behind_ms() == 0


async def test_the_systems_clock_is_the_systems() -> None:
    clock = SystemClock()
    assert abs(clock.now_ms() - time.time() * 1000) < 5_000
    before = clock.monotonic_s()
    await clock.sleep(-1)
    assert clock.monotonic_s() >= before


async def test_what_is_done_in_time_is_waited_for() -> None:
    assert await wait_at_most(ManualClock(), asyncio.sleep(0), 1)


async def test_what_takes_too_long_is_cancelled() -> None:
    clock, work = ManualClock(), asyncio.Event()
    waiting = asyncio.create_task(wait_at_most(clock, work_that_waits(work), 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    clock.advance(1)
    assert not await waiting
    await work.wait()


async def work_that_waits(cancelled: asyncio.Event) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        cancelled.set()


async def test_an_error_of_the_work_is_raised_to_who_waits() -> None:
    async def fail() -> None:
        raise ValueError("work failed")

    with pytest.raises(ValueError, match="work failed"):
        await wait_at_most(ManualClock(), fail(), 1)


async def test_whoever_stops_waiting_stops_the_work() -> None:
    cancelled = asyncio.Event()
    waiting = asyncio.create_task(wait_at_most(ManualClock(), work_that_waits(cancelled), 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await cancelled.wait()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_sleeper_wakes_though_a_difference_of_two_wall_clock_times_is_a_little_less() -> None:
    clock = ManualClock(1_795_000_000_123)
    due_ms = clock.now_ms() + 5_371
    sleeper = asyncio.create_task(clock.sleep((due_ms - clock.now_ms()) / 1000))
    await asyncio.sleep(0)
    by_s = next(due_ms / 1000 - (due_ms - 5_371) / 1000 for due_ms in range(due_ms, due_ms + 100) if short_of(due_ms))
    clock.advance(by_s)
    await sleeper


def short_of(due_ms: int) -> bool:
    return due_ms / 1000 - (due_ms - 5_371) / 1000 < 5.371
