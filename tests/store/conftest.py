"""The engines that tests of the store's contract run on."""

from collections.abc import Iterator

import pytest

from tests.postgres import Cluster
from tests.store.serving import server


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """`opened` opens stores of this engine."""
    name: str = request.param
    cluster: Cluster | None = request.getfixturevalue("postgres") if name == "postgres" else None
    before = server.set(cluster)
    yield name
    server.reset(before)
