"""The soak, short and gentle; `python -m tests.soak` is the long one. Other programs may make a loop late here."""

from pathlib import Path

import pytest

from tests.soak import Rates, soak

pytestmark = pytest.mark.anyio


async def test_a_relay_under_load_from_all_sides_loses_nothing(tmp_path: Path) -> None:
    running, wrong = await soak(tmp_path, Rates(callbacks=40, streams=40, deliveries=20), 12)

    assert [sentence for sentence in wrong if "late" not in sentence and "memory" not in sentence] == []
    assert running.jobs
    assert running.counts["failed deliveries"] > 0


@pytest.mark.long
async def test_a_relay_under_load_for_ten_minutes_stays_as_it_is(tmp_path: Path) -> None:
    _, wrong = await soak(tmp_path, Rates(), 600)

    assert wrong == []
