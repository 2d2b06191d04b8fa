"""Fixtures that every test may use."""

import gc
from collections.abc import Iterator

import aiosqlite
import pytest

from tests.postgres import MISSING, Cluster, cluster, programs


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL for all tests that want one."""
    if programs() is None:
        pytest.skip(MISSING)
    with cluster() as running:
        yield running


def pytest_unconfigure() -> None:
    """A store that a failing test left open must not keep pytest from ending: its readers' threads are no daemons."""
    for left in gc.get_objects():
        if type(left) is aiosqlite.Connection:  # isinstance would look into whatever else lies about
            left.stop()
