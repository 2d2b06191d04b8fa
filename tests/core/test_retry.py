"""What follows an attempt to deliver, by table and by property."""

from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.core.retry import (
    RETRY_AFTER_MAX_S,
    SCHEDULE_S,
    Answer,
    AnswerKind,
    Dead,
    Delivered,
    Disable,
    RetryAt,
    decide,
    excerpt_of,
    http_date_s,
    parse_retry_after,
    shown,
)

NOW_MS = 1_767_225_600_000
NOW_S = NOW_MS / 1000
FAILURES: list[AnswerKind] = [
    "target_refused",
    "resolve_failed",
    "connect_failed",
    "tls_failed",
    "timeout",
    "protocol_error",
    "too_large",
]

chances = st.floats(0, 1)
failed_attempts = st.integers(1, len(SCHEDULE_S) - 1)


def answered(status: int, retry_after_s: float | None = None) -> Answer:
    return Answer("answered", status, retry_after_s, f"answered {status}", "", 12)


def failed(kind: AnswerKind) -> Answer:
    return Answer(kind, None, None, f"{kind} happened", "", 12)


def wait_s_after(answer: Answer, attempts_made: int, jitter: float) -> float:
    decision = decide(answer, attempts_made, NOW_MS, jitter)
    assert isinstance(decision, RetryAt)
    return (decision.due_at_ms - NOW_MS) / 1000


def test_the_schedule_is_the_contracts_and_spans_75_hours() -> None:
    assert SCHEDULE_S == (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    assert list(accumulate(SCHEDULE_S))[-1] == 75 * 3600 + 35 * 60 + 5


@given(status=st.integers(200, 299), attempts_made=st.integers(1, 20), jitter=chances)
@example(status=200, attempts_made=1, jitter=0.5)
@example(status=299, attempts_made=11, jitter=0.5)
def test_every_2xx_is_success_at_every_attempt(status: int, attempts_made: int, jitter: float) -> None:
    assert decide(answered(status), attempts_made, NOW_MS, jitter) == Delivered()


@pytest.mark.parametrize("attempts_made", [1, 10, 11])
def test_410_disables_at_every_attempt(attempts_made: int) -> None:
    decision = decide(answered(410), attempts_made, NOW_MS, 0.5)
    assert isinstance(decision, Disable)
    assert "410" in decision.why


@pytest.mark.parametrize("status", [100, 199, 300, 301, 302, 307, 308, 400, 401, 404, 409, 411, 429, 500, 503, 599])
def test_every_other_status_is_tried_again_and_named(status: int) -> None:
    decision = decide(answered(status), 1, NOW_MS, 0.5)
    assert isinstance(decision, RetryAt)
    assert decision.due_at_ms == NOW_MS + 5000
    assert str(status) in decision.why


@pytest.mark.parametrize(("status", "is_redirect"), [(199, False), (300, True), (301, True), (399, True), (400, False)])
def test_a_redirect_is_a_failure_that_says_so(status: int, is_redirect: bool) -> None:
    decision = decide(answered(status), 1, NOW_MS, 0.5)
    assert isinstance(decision, RetryAt)
    assert ("redirects are not followed" in decision.why) == is_redirect


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_without_an_answer_is_tried_again_with_its_own_sentence(kind: AnswerKind) -> None:
    assert decide(failed(kind), 2, NOW_MS, 0.5) == RetryAt(NOW_MS + 300_000, f"{kind} happened")


def test_a_status_beside_a_failure_does_not_make_it_a_success() -> None:
    cut = Answer("protocol_error", 200, None, "the body was cut", "", 12)
    assert isinstance(decide(cut, 1, NOW_MS, 0.5), RetryAt)
    gone = Answer("timeout", 410, None, "the body dripped", "", 12)
    assert isinstance(decide(gone, 1, NOW_MS, 0.5), RetryAt)


@pytest.mark.parametrize("kind", FAILURES)
def test_after_the_tenth_attempt_a_delivery_is_dead(kind: AnswerKind) -> None:
    decision = decide(failed(kind), 10, NOW_MS, 0.5)
    assert isinstance(decision, Dead)
    assert decision.why == f"{kind} happened; that was attempt 10 of 10"
    assert isinstance(decide(failed(kind), 9, NOW_MS, 0.5), RetryAt)
    assert isinstance(decide(failed(kind), 11, NOW_MS, 0.5), Dead)


@given(attempts_made=failed_attempts, jitter=chances)
def test_a_wait_is_within_a_fifth_of_its_step(attempts_made: int, jitter: float) -> None:
    wait_s = wait_s_after(answered(500), attempts_made, jitter)
    step_s = SCHEDULE_S[attempts_made]
    assert 0.8 * step_s - 0.001 <= wait_s <= 1.2 * step_s + 0.001


@pytest.mark.parametrize(("jitter", "wait_s"), [(0.0, 4.0), (0.5, 5.0), (1.0, 6.0), (-3.0, 4.0), (7.0, 6.0)])
def test_chance_moves_a_wait_from_four_to_six_fifths(jitter: float, wait_s: float) -> None:
    assert wait_s_after(answered(500), 1, jitter) == wait_s


@given(attempts_made=failed_attempts, jitter=chances, retry_after_s=st.floats(0, 1e9))
def test_a_retry_after_is_heard_between_the_step_and_twice_the_step_and_a_day(
    attempts_made: int, jitter: float, retry_after_s: float
) -> None:
    wait_s = wait_s_after(answered(503, retry_after_s), attempts_made, jitter)
    step_s = SCHEDULE_S[attempts_made]
    assert step_s <= wait_s <= min(2 * step_s, RETRY_AFTER_MAX_S)


@given(attempts_made=failed_attempts, jitter=chances, share=st.floats(1, 2))
def test_a_subscriber_is_not_called_before_the_time_that_it_named(
    attempts_made: int, jitter: float, share: float
) -> None:
    asked_s = min(SCHEDULE_S[attempts_made] * share, RETRY_AFTER_MAX_S)
    assert wait_s_after(answered(429, asked_s), attempts_made, jitter) >= asked_s - 0.001


@pytest.mark.parametrize(
    ("attempts_made", "retry_after_s", "jitter", "wait_s"),
    [(1, 0, 0.0, 5), (1, 8, 0.0, 8), (1, 3600, 0.0, 10), (2, 400, 0.5, 440), (2, 590, 1.0, 600), (9, 1e9, 1.0, 86400)],
)
def test_a_retry_after_by_example(attempts_made: int, retry_after_s: float, jitter: float, wait_s: float) -> None:
    assert wait_s_after(answered(503, retry_after_s), attempts_made, jitter) == wait_s


def test_a_decision_before_any_attempt_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one"):
        decide(answered(500), 0, NOW_MS, 0.5)


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("0", 0),
        ("120", 120),
        (" 120\t", 120),
        ("Thu, 01 Jan 2026 00:02:00 GMT", 120),
        ("Thursday, 01-Jan-26 00:02:00 GMT", 120),
        ("Thu Jan  1 00:02:00 2026", 120),
        ("Thu, 01 Jan 2026 01:02:00 +0100", 120),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0),
        ("9" * 20, 315_360_000),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("1 2", None),
        ("9" * 5000, None),
        ("Thu, 01 Jan 2026 00:02:00 GMT (" + "x" * 32 + ")", 120),
        ("Thu, 01 Jan 2026 00:02:00 GMT (" + "x" * 33 + ")", None),
        ("Thu, 01 Jan 2026 00:02:00 GMT (é)", None),
        ("Thu, 99 Jan 2026 00:02:00 GMT", None),
        ("Thu, 01 Jan 99999 00:02:00 GMT", None),
    ],
)
def test_a_retry_after_header_is_seconds_or_a_date_or_nothing(text: str, wait_s: float | None) -> None:
    assert parse_retry_after(text, NOW_S) == wait_s


@given(at=st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)))  # noqa: DTZ001 - hypothesis wants them naive
def test_a_date_is_counted_from_now(at: datetime) -> None:
    at = at.replace(microsecond=0, tzinfo=UTC)
    assert parse_retry_after(format_datetime(at, usegmt=True), NOW_S) == pytest.approx(at.timestamp() - NOW_S)


@given(text=st.one_of(st.text(), st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ \S*")))
def test_no_header_makes_the_parser_raise_or_answer_nonsense(text: str) -> None:
    wait_s = parse_retry_after(text, NOW_S)
    assert wait_s is None or 0 <= wait_s <= 315_360_000


@given(body=st.binary(max_size=3000))
def test_an_excerpt_is_short_and_has_no_control_characters(body: bytes) -> None:
    text = excerpt_of(body)
    assert len(text.encode()) <= 1024
    assert text.isprintable()


def test_an_excerpt_is_the_beginning_of_the_body_as_text() -> None:
    assert excerpt_of(b"not\r\n\tnow\x00\x1b[31m") == "not now[31m"
    assert excerpt_of(b"\xff\xfeok") == "\ufffd\ufffdok"
    assert excerpt_of(b"a" * 5000) == "a" * 1024
    assert excerpt_of("a\u202eb\u200bc\ue000d".encode()) == "abcd"


def test_a_character_that_the_cut_halves_is_left_out() -> None:
    assert excerpt_of("€".encode() * 400) == "€" * 341
    assert excerpt_of("€".encode()[:2]) == "\ufffd"


def test_an_excerpt_hides_what_it_is_told_to_hide() -> None:
    body = b"Cannot POST /hooks/s3cret/s3cret-longer?k=v"
    assert excerpt_of(body, ["s3cret", "s3cret-longer", ""]) == "Cannot POST /hooks/[hidden]/[hidden]?k=v"


def test_a_secret_that_lies_over_the_cut_is_hidden_as_well() -> None:
    for length in range(1010, 1030):
        assert "s3" not in excerpt_of(b"a" * length + b"s3cret" + b"b" * 100, ["s3cret"])


def test_an_attempt_is_shown_with_its_status_its_words_and_its_times() -> None:
    answer = Answer("answered", 503, 5.0, "hooks.example.com answered 503", "try later", 42, {"connect": 7})

    assert shown(answer) == {
        "kind": "answered",
        "status": 503,
        "detail": "hooks.example.com answered 503",
        "excerpt": "try later",
        "tookMs": 42,
        "phasesMs": {"connect": 7},
    }


@pytest.mark.parametrize(
    ("text", "at_s"),
    [
        ("Thu, 01 Jan 2026 00:02:00 -0000", NOW_S + 120),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("1 Jan 99999999999 0:0:0", None),
        ("", None),
    ],
)
def test_a_date_is_read_with_or_without_a_zone_and_beyond_all_time_it_is_none(text: str, at_s: float | None) -> None:
    assert http_date_s(text) == at_s
