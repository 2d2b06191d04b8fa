"""When the upstream is asked, by arithmetic over an attempt and the time."""

from itertools import accumulate
from typing import Any

import pytest

from relay.core import watch
from tests.core.builders import HOUR_MS, LIMIT_MS, NOW_MS, attempt


def waits_s(first: int, count: int, *, hinted: bool) -> list[float]:
    """The waits between `count` asks, if none of them finds the end."""
    at = [attempt(asked=first + n, hinted_at_ms=NOW_MS if hinted else None) for n in range(count)]
    return [(watch.next_ask_ms(one, NOW_MS) - NOW_MS) / 1000 for one in at]


def test_after_a_hint_the_upstream_is_asked_at_once_and_after_2_5_15_60_seconds() -> None:
    assert waits_s(0, 7, hinted=True) == [0, 2, 5, 15, 60, 30, 30]


def test_without_a_hint_a_running_task_is_asked_after_every_30_seconds() -> None:
    assert waits_s(0, 3, hinted=False) == [30, 30, 30]


def ask_s(age_s: int, expected_s: int = 600, *, throttled: bool = False, **changes: Any) -> float:
    """The wait until the next ask about a task of this age."""
    running = attempt(sent_at_ms=NOW_MS - age_s * 1000, expected_ms=expected_s * 1000, **changes)
    return (watch.next_ask_ms(running, NOW_MS, throttled=throttled) - NOW_MS) / 1000


@pytest.mark.parametrize(
    ("age_s", "expected_s", "wait_s"),
    [(0, 600, 30), (220, 600, 20), (240, 600, 15), (1_700, 600, 15), (1_801, 600, 60), (0, 90, 30), (40, 90, 5)],
)
def test_a_silent_task_is_asked_about_rarely_at_first_and_often_near_its_end(
    age_s: int, expected_s: int, wait_s: int
) -> None:
    assert ask_s(age_s, expected_s) == wait_s


def test_a_task_that_will_say_itself_when_it_ends_or_that_is_held_up_is_asked_about_once_a_minute() -> None:
    assert [ask_s(400, throttled=True), ask_s(400, heralded=True), ask_s(400, callbacks=1)] == [60, 60, 60]


def test_an_unknown_attempt_is_looked_for_after_1_5_15_30_60_seconds_then_every_5_minutes() -> None:
    waits = [(watch.next_look_ms(attempt(asked=n), NOW_MS) - NOW_MS) / 1000 for n in range(8)]
    assert waits == [1, 5, 15, 30, 60, 300, 300, 300]
    assert list(accumulate(waits))[-1] == 1_011


@pytest.mark.parametrize(("after_ms", "too_long"), [(LIMIT_MS - 1, False), (LIMIT_MS, True), (-HOUR_MS, False)])
def test_doubt_ends_when_its_time_is_over(after_ms: int, too_long: bool) -> None:
    assert watch.in_doubt_too_long(attempt(), NOW_MS + after_ms, LIMIT_MS) is too_long


@pytest.mark.parametrize(
    ("missing", "since_ms", "lost"),
    [(5, 600_000, True), (4, 600_000, False), (5, 599_999, False), (0, None, False)],
)
def test_a_task_is_lost_when_it_was_denied_often_and_long(missing: int, since_ms: int | None, lost: bool) -> None:
    missing_since_ms = None if since_ms is None else NOW_MS - since_ms
    assert watch.lost(attempt(missing=missing, missing_since_ms=missing_since_ms), NOW_MS) is lost


@pytest.mark.parametrize(("since_ms", "too_long"), [(None, False), (599_999, False), (600_000, True)])
def test_a_success_without_a_file_gets_ten_minutes(since_ms: int | None, too_long: bool) -> None:
    empty_since_ms = None if since_ms is None else NOW_MS - since_ms
    assert watch.without_artifact_too_long(attempt(empty_since_ms=empty_since_ms), NOW_MS) is too_long
