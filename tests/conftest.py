"""Fixtures that every test may use."""

import gc

import aiosqlite
import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_unconfigure() -> None:
    """A store that a failing test left open must not keep pytest from ending: its readers' threads are no daemons."""
    for left in gc.get_objects():
        if type(left) is aiosqlite.Connection:  # isinstance would look into whatever else lies about
            left.stop()
