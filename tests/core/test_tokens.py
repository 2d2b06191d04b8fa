"""Named tokens in the ledger: names, bounds, and what a token may still submit."""

from typing import Any

import pytest

from relay.core.job import Job
from relay.core.ledger import Token
from relay.core.submitting import JobSubmitted
from relay.core.tokens import DAY_MS, RESERVED_NAMES, TOKENS_MAX, TokenCreated, TokenRevoked
from relay.errors import Conflict, LimitReached, NotFound, QuotaReached
from tests.core.builders import NOW_MS, account, job, started
from tests.core.memory import Memory


def token(name: str = "shop", **changes: Any) -> Token:
    values: dict[str, Any] = {
        "id": f"id of {name}",
        "name": name,
        "hash": f"hash of {name}",
        "scopes": ["submit"],
        "created_at_ms": NOW_MS,
    }
    return Token(**values | changes)


def submitted(number: int, at_ms: int = NOW_MS, *, by: str = "id of shop", queue_per_token: int = 100) -> JobSubmitted:
    made = job(number, token_id=by, created_at_ms=at_ms, updated_at_ms=at_ms)
    return JobSubmitted(made, queue_per_token, 1_000)


def test_a_name_is_taken_while_its_token_lives() -> None:
    memory = Memory(token())

    with pytest.raises(Conflict, match="shop"):
        memory.apply(TokenCreated(token(id="another", hash="another")))
    memory.apply(TokenRevoked("id of shop"))
    memory.apply(TokenCreated(token(id="another", hash="another")))

    assert [kept.id for kept in memory.all(Token)] == ["another"]


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_nobody_can_pass_for_the_admin_or_the_inbox(name: str) -> None:
    with pytest.raises(Conflict):
        Memory().apply(TokenCreated(token(name)))


def test_tokens_are_bounded() -> None:
    memory = Memory(*(token(f"token {n}") for n in range(TOKENS_MAX - 1)))
    memory.apply(TokenCreated(token("the last one")))

    with pytest.raises(Conflict, match="1000"):
        memory.apply(TokenCreated(token("one too many")))


def test_a_token_that_is_not_there_cannot_be_revoked() -> None:
    memory = Memory(token())

    with pytest.raises(NotFound):
        memory.apply(TokenRevoked("another"))

    assert len(memory.all(Token)) == 1


def test_a_token_has_no_more_jobs_waiting_than_it_may() -> None:
    memory = Memory(account(), token(max_waiting=2))
    memory.apply_all(submitted(1), submitted(2))

    with pytest.raises(QuotaReached, match="2 waiting jobs"):
        memory.apply(submitted(3))
    assert len(memory.all(Job)) == len(memory.events) == 2

    memory.apply(started())  # the first one waits no more
    memory.apply(submitted(3))
    assert len(memory.all(Job)) == 3


def test_a_day_is_the_last_24_hours_and_its_end_is_told() -> None:
    memory = Memory(token(max_per_day=2))
    memory.apply_all(submitted(1, NOW_MS), submitted(2, NOW_MS + 3_600_000))

    with pytest.raises(QuotaReached) as caught:
        memory.apply(submitted(3, NOW_MS + DAY_MS - 1_500))
    assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == ("quota", 429, 2)
    assert len(memory.all(Job)) == 2

    memory.apply(submitted(3, NOW_MS + DAY_MS))
    with pytest.raises(QuotaReached):
        memory.apply(submitted(4, NOW_MS + DAY_MS + 3_599_999))
    memory.apply(submitted(4, NOW_MS + DAY_MS + 3_600_000))


def test_a_clock_that_was_ahead_is_waited_for_no_longer_than_a_day() -> None:
    memory = Memory(token(max_per_day=1))
    memory.apply(submitted(1, NOW_MS + 4 * DAY_MS))

    with pytest.raises(QuotaReached) as caught:
        memory.apply(submitted(2, NOW_MS))

    assert caught.value.retry_after_s == DAY_MS // 1000


def test_others_jobs_count_for_nobody_else() -> None:
    memory = Memory(token(max_waiting=1, max_per_day=1), token("other", max_waiting=1, max_per_day=1))
    memory.apply_all(submitted(1, by="admin"), submitted(2, by="id of other"), submitted(3))

    with pytest.raises(QuotaReached):
        memory.apply(submitted(4))
    memory.apply(submitted(5, by="admin"))


def test_the_limit_for_all_tokens_holds_for_one_without_limits_too() -> None:
    memory = Memory(token())
    memory.apply(submitted(1, queue_per_token=1))

    with pytest.raises(LimitReached) as caught:
        memory.apply(submitted(2, queue_per_token=1))

    assert caught.value.code == "limit_reached"


def test_a_job_that_is_already_there_uses_nothing_up() -> None:
    memory = Memory(token(max_waiting=1, max_per_day=1))
    memory.apply(submitted(1))

    assert memory.apply(submitted(1)).id == job(1).id
