"""Relays and PostgreSQL break at random: all that was promised is kept, and a relay with a defect is found out."""

from pathlib import Path

import pytest

from tests.chaos.storm import SHORT, Size, run
from tests.postgres import needed

pytestmark = [pytest.mark.anyio, needed]


async def test_relays_and_the_database_break_and_every_promise_is_kept(tmp_path: Path) -> None:
    outcome = await run(tmp_path, SHORT, seed=1)

    assert not outcome.wrong, outcome
    assert outcome.counts["acknowledged callbacks"] > 0
    assert outcome.counts["jobs"] > 0
    assert outcome.verdict.told > 0


@pytest.mark.long
async def test_relays_that_acknowledge_what_they_cannot_write_are_found_out(tmp_path: Path) -> None:
    """The test above can fail."""
    outcome = await run(tmp_path, SHORT, seed=1, defect="careless")
    assert any("acknowledged callbacks are not stored" in what for what in outcome.wrong), outcome


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_after_minutes_every_promise_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = await run(tmp_path, Size(seconds=300), seed=5)
    with capsys.disabled():
        print(f"\n{outcome}")
    assert not outcome.wrong
