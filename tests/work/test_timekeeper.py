"""The relay's time follows the wall clock's jumps once each, its waits with it, and the upstream's clock is watched."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.clock import ManualClock, SteadyClock
from relay.core.skew import ClockSkewed
from relay.errors import Unavailable
from relay.store.contract import EventFilter
from relay.work.timekeeper import LOOK_EVERY_MS, TOLD_AGAIN_S, Timekeeper
from tests.journeys import eventually
from tests.work.bench import Bench, bench

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000
BOTH_WAYS = pytest.mark.parametrize("by_ms", [-HOUR_MS, 96 * HOUR_MS, 600_000, -600_000])


@dataclass
class Era:
    """A timekeeper over a wall clock that a test moves, and what the upstream's client says of the other one."""

    here: Bench
    wall: ManualClock
    off_ms: int | None = None
    steady: SteadyClock = field(init=False)
    keeper: Timekeeper = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.steady = SteadyClock(self.wall)
        self.keeper = Timekeeper(self.here.store, self.here.feed, self.steady, lambda: self.off_ms)

    async def told(self) -> list[str]:
        """The subjects of the events, oldest first."""
        events = await self.here.store.events_after(0, EventFilter(type=("clock.skewed",)), 100)
        return [event.data["subject"] for event in events]


@asynccontextmanager
async def era(folder: Path) -> AsyncGenerator[Era]:
    wall = ManualClock()
    async with bench(folder, wall) as here:
        yield Era(here, wall)


@BOTH_WAYS
async def test_a_jump_moves_time_and_every_wait_by_as_much_and_is_told_once(tmp_path: Path, by_ms: int) -> None:
    async with era(tmp_path) as it:
        attempt = await it.here.running()
        (before,) = await it.here.store.attempts(attempt.job_id)
        it.wall.jump_wall(by_ms / 1000)
        assert it.steady.now_ms() == it.wall.now_ms() - by_ms, "nobody sees a jump before the waits have moved"
        for _ in range(3):
            assert await it.keeper.step() == it.wall.now_ms() + LOOK_EVERY_MS
        (after,) = await it.here.store.attempts(attempt.job_id)
        assert it.steady.now_ms() == it.wall.now_ms()
        assert (after.ask_at_ms or 0) - (before.ask_at_ms or 0) == by_ms
        assert await it.told() == ["this relay's clock"]


async def test_several_jumps_between_two_looks_are_one(tmp_path: Path) -> None:
    async with era(tmp_path) as it:
        for by_s in (-3_600, 86_400, -60):
            it.wall.jump_wall(by_s)
        await it.keeper.step()
        it.wall.jump_wall(-86_400)
        await it.keeper.step()
        assert it.steady.now_ms() == it.wall.now_ms()
        assert await it.told() == ["this relay's clock"] * 2


async def test_a_small_difference_is_followed_without_a_word(tmp_path: Path) -> None:
    async with era(tmp_path) as it:
        for _ in range(5):
            it.wall.jump_wall(1.9)
            await it.keeper.step()
        assert it.steady.now_ms() == it.wall.now_ms()
        assert await it.told() == []


async def test_a_night_without_a_jump_is_none(tmp_path: Path) -> None:
    async with era(tmp_path) as it:
        for _ in range(3):
            it.wall.advance(8 * 3_600)
            await it.keeper.step()
        assert await it.told() == []


@BOTH_WAYS
async def test_time_stays_what_it_was_while_the_waits_cannot_move(
    tmp_path: Path, by_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with era(tmp_path) as it:
        apply, full = it.here.store.apply, True

        async def apply_when_there_is_room(happening: ClockSkewed) -> None:
            if full:
                raise Unavailable("the disk is full")
            await apply(happening)

        monkeypatch.setattr(it.here.store, "apply", apply_when_there_is_room)
        it.wall.jump_wall(by_ms / 1000)
        with pytest.raises(Unavailable):
            await it.keeper.step()
        assert it.steady.now_ms() == it.wall.now_ms() - by_ms
        full = False
        await it.keeper.step()
        assert it.steady.now_ms() == it.wall.now_ms()
        assert await it.told() == ["this relay's clock"]


async def test_the_loop_looks_by_itself_whatever_the_wall_clock_does(tmp_path: Path) -> None:
    async with era(tmp_path) as it:
        it.keeper.start()
        for by_s in (-3_600.0, 4 * 86_400.0):
            await eventually(lambda: it.wall.until_next_s() is not None)
            it.wall.jump_wall(by_s)
            it.wall.advance(LOOK_EVERY_MS / 1000)
            await eventually(lambda: it.steady.now_ms() == it.wall.now_ms())
        await it.keeper.stop()
        assert await it.told() == ["this relay's clock"] * 2


async def test_a_clock_that_was_set_back_while_nobody_looked_is_seen_by_the_newest_event(tmp_path: Path) -> None:
    async with era(tmp_path) as it:
        attempt = await it.here.running()
        (before,) = await it.here.store.attempts(attempt.job_id)
        it.wall.jump_wall(-3_600)
        for _ in range(2):
            it.restart()
            await it.keeper.recover()
            await it.keeper.step()
        (after,) = await it.here.store.attempts(attempt.job_id)
        assert (after.ask_at_ms or 0) - (before.ask_at_ms or 0) == -HOUR_MS
        assert await it.told() == ["this relay's clock"]


async def test_days_without_a_relay_are_no_jump(tmp_path: Path) -> None:
    async with era(tmp_path) as it:
        attempt = await it.here.running()
        before = await it.here.store.attempts(attempt.job_id)
        it.wall.jump_wall(4 * 86_400)
        it.restart()
        await it.keeper.recover()
        await it.keeper.step()
        assert await it.here.store.attempts(attempt.job_id) == before
        assert await it.told() == []


async def test_the_upstreams_clock_is_told_of_once_and_again_after_it_was_right_or_a_day(tmp_path: Path) -> None:
    async with era(tmp_path) as it:
        counts = []
        for off_ms in (None, 45_000, 45_000, None, 45_000, 45_000):
            it.off_ms = off_ms
            await it.keeper.step()
            counts.append(len(await it.told()))
        it.wall.advance(TOLD_AGAIN_S)
        await it.keeper.step()
        assert counts == [0, 1, 1, 1, 2, 2]
        assert await it.told() == ["the upstream's clock"] * 3
