"""One relay a module, for tests that only look at its doors, and one a test whose time stands still."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from relay.clock import ManualClock
from tests.journeys import Journey, journey


@pytest.fixture(scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Journey]:
    # Whatever the tests before have left in the queue, the drop-in door turns nobody away.
    async with journey(tmp_path_factory.mktemp("relay"), dropin_wait="off") as running:
        yield running


@pytest.fixture(scope="module")
async def ended(here: Journey) -> dict[str, Any]:
    """A job that has succeeded."""
    return await here.ended((await here.submit(replyRef="ended"))["id"])


@pytest.fixture
async def still(tmp_path: Path) -> AsyncGenerator[tuple[Journey, ManualClock]]:
    """A relay whose time stands still, and whose jobs wait for ever at the upstream."""
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, sandbox_clock=clock, times_s=(1e6, 1e6)) as running:
        yield running, clock
