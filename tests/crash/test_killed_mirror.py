"""Killed at any step of keeping files, the relay keeps each of them whole in the end, and nothing else lies there."""

from pathlib import Path

import pytest

from tests.crash.killed_mirror import SHORT, STEPS, Tally, killed

pytestmark = pytest.mark.anyio


def check(tally: Tally) -> None:
    assert (tally.half, tally.orphans, tally.lacking, tally.early) == (set(), set(), set(), set()), str(tally)
    assert tally.kept > 0


async def test_killed_at_some_steps_of_keeping_files_it_leaves_none_half_and_none_over(tmp_path: Path) -> None:
    tally = await killed(tmp_path, SHORT)
    check(tally)
    assert tally.kills >= len(SHORT) - 2
    assert tally.before_final > 0


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_killed_at_every_step_of_keeping_files_it_leaves_none_half_and_none_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = await killed(tmp_path, range(1, STEPS))
    with capsys.disabled():
        print(f"\nfiles, step by step: {tally}")
    check(tally)
    assert tally.kills > STEPS / 2
