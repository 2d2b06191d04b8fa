"""The drill with Litestream, where its program and a current SQLite are installed."""

from pathlib import Path

import pytest

from tests.drills.litestream import drill, missing

pytestmark = pytest.mark.anyio


@pytest.mark.long
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
async def test_a_lost_machine_is_restored_from_its_copy_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    report = await drill(tmp_path)

    assert report.is_well, str(report)
    assert report.found >= report.answered - report.in_copy - report.forgotten
