"""Tokens in the store: found by hash and by id, gone when they are revoked, and their jobs counted by an index."""

from pathlib import Path

import pytest

from relay.core.ledger import Needs
from relay.core.tokens import TokenCreated, TokenRevoked
from relay.store.statements import queries
from tests.core.test_tokens import token
from tests.store.serving import opened

pytestmark = pytest.mark.anyio


@pytest.mark.usefixtures("engine")
async def test_a_token_is_found_while_it_lives(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await store.apply(TokenCreated(token("shop", max_waiting=3)))
        await store.apply(TokenCreated(token("other", max_per_day=5)))

        found = await store.token("id of shop")
        assert found is not None
        assert await store.token_of_hash("hash of shop") == found
        assert (found.scopes, found.max_waiting, found.max_per_day) == (["submit"], 3, None)
        assert [one.name for one in await store.tokens()] == ["shop", "other"]
        await store.apply(TokenRevoked("id of shop"))

        assert await store.token("id of shop") is await store.token_of_hash("hash of shop") is None
        assert [one.name for one in await store.tokens()] == ["other"]


async def test_a_submission_counts_by_indexes(tmp_path: Path) -> None:
    def plan() -> str:
        steps = (
            row["detail"]
            for _, sql, values in queries(Needs(queue_of_token="shop", jobs_since_ms=1))
            for row in store._file._sql.execute(f"EXPLAIN QUERY PLAN {sql}", values)
        )
        return "\n".join(steps)

    async with opened(tmp_path / "relay.db") as store:
        found = await store._in_thread(plan)

    assert "COVERING INDEX jobs_of_day (token_id=? AND created_at_ms>?)" in found
    assert "INDEX jobs_queue (state=? AND token_id=?)" in found
    assert "SCAN" not in found
