"""One relay a module, for tests that only look at its doors."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.journeys import Journey, journey


@pytest.fixture(scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Journey]:
    async with journey(tmp_path_factory.mktemp("relay")) as running:
        yield running


@pytest.fixture(scope="module")
async def ended(here: Journey) -> dict[str, Any]:
    """A job that has succeeded."""
    return await here.ended((await here.submit(replyRef="ended"))["id"])
