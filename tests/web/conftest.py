"""One relay a module, for tests that only look at its doors."""

from collections.abc import AsyncGenerator

import pytest

from tests.journeys import Journey, journey


@pytest.fixture(scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Journey]:
    async with journey(tmp_path_factory.mktemp("relay")) as running:
        yield running
