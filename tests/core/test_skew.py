"""Clocks that disagree: what is measured, when it is worth a word, and which waits move with a jump."""

from typing import Any

import pytest

from relay.core.delivery import Delivery
from relay.core.skew import OFF_MS, jumped, off_in_a_row, off_ms, upstream_off
from tests.core.builders import HOUR_MS, NOW_MS, account, subscription
from tests.core.memory import Memory, begun

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"  # NOW_MS


@pytest.mark.parametrize(
    ("sent_ms", "got_ms", "expected"),
    [
        (0, 0, 0),
        (999, 5_000, 0),
        (-4_000, 0, 0),
        (-5_000, 5_000, 0),
        (-9_000, -2_000, 2_000),
        (3_000, 9_000, -2_000),
        (HOUR_MS, HOUR_MS + 100, 1_000 - HOUR_MS),
    ],
)
def test_only_what_lies_outside_of_the_round_trip_is_a_difference(sent_ms: int, got_ms: int, expected: int) -> None:
    assert off_ms(DATE, NOW_MS + sent_ms, NOW_MS + got_ms) == expected


@pytest.mark.parametrize("odd", ["", "now", "1767225600", "Thu, 99 Jan 2026 00:00:00 GMT", "Thu, 01 Jan", "\x00", "é"])
def test_what_is_no_date_says_nothing(odd: str) -> None:
    assert off_ms(odd, NOW_MS, NOW_MS) is None


@pytest.mark.parametrize(
    ("last_ms", "expected"),
    [
        ([], None),
        ([60_000, 60_000], None),
        ([60_000, 40_000, 50_000], 40_000),
        ([-60_000, -40_000, -50_000], -40_000),
        ([60_000, 0, 60_000], None),
        ([60_000, -60_000, 60_000], None),
        ([OFF_MS, OFF_MS + 1, OFF_MS + 1], None),
    ],
)
def test_it_takes_several_answers_in_a_row_that_agree(last_ms: list[int], expected: int | None) -> None:
    assert off_in_a_row(last_ms) == expected


@pytest.mark.parametrize("by_ms", [HOUR_MS, -HOUR_MS])
def test_the_jump_is_told_in_words_and_to_who_wants_to_know(by_ms: int) -> None:
    memory = Memory(subscription("operator", types=["clock.skewed"]), subscription("jobs"))
    memory.apply(jumped(by_ms, NOW_MS))
    (event,) = memory.events
    assert (event.type, event.job_id, event.at_ms) == ("clock.skewed", None, NOW_MS)
    assert event.data["subject"] == "this relay's clock"
    assert f"moved 3,600.0 s {'ahead' if by_ms > 0 else 'back'}" in event.data["reason"]
    (delivery,) = memory.deliveries
    assert (delivery.subscription_id, delivery.due_at_ms) == ("operator", NOW_MS)


def test_the_upstreams_clock_is_told_of_and_moves_nothing() -> None:
    memory = begun(subscription())
    before = memory.all(Delivery), memory.attempt
    memory.apply(upstream_off(-45_000, NOW_MS))
    assert memory.events[-1].data["subject"] == "the upstream's clock"
    assert "45.0 s behind this relay's" in memory.events[-1].data["reason"]
    assert (memory.all(Delivery), memory.attempt) == before


def test_every_open_wait_moves_and_what_has_been_stays() -> None:
    memory = begun(subscription(), account("other@example.com", retry_at_ms=NOW_MS + 1))
    attempt, job, (first, *_) = memory.attempt, memory.job, memory.deliveries
    memory.apply(jumped(HOUR_MS, NOW_MS + HOUR_MS))
    moved: dict[str, Any] = {row.email: row.retry_at_ms for row in memory.all(type(account()))}
    assert moved == {"me@example.com": 0, "other@example.com": NOW_MS + HOUR_MS + 1}
    assert memory.attempt.ask_at_ms == (attempt.ask_at_ms or 0) + HOUR_MS
    assert memory.attempt.sent_at_ms == attempt.sent_at_ms + HOUR_MS
    assert memory.attempt.empty_since_ms is None
    assert memory.deliveries[0].due_at_ms == first.due_at_ms + HOUR_MS
    assert memory.job == job
