"""Decides what follows an attempt to deliver: delivered, once more and when, dead, or the subscription is disabled.

The schedule is the one that Standard Webhooks recommends: ten attempts over 75 hours. What the other side did is a
value, `Answer`; nothing here knows the time or throws dice, both are handed in.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal

SCHEDULE_S = (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
"""Seconds before the first, second, … attempt, each counted from the end of the one before."""
SPREAD = 0.2
"""How far a wait is moved by chance, up or down, so that many deliveries do not come back in one moment."""
RETRY_AFTER_MAX_S = 86400
EXCERPT_BYTES = 1024
HIDDEN = "[hidden]"
_LOOK_AHEAD_BYTES = 4096
_RETRY_AFTER_KNOWN_S = 10 * 365 * 86400.0
_SECONDS = re.compile(r"[0-9]{1,20}\Z")
_DATE_MAX_CHARACTERS = 64

AnswerKind = Literal[
    "answered",
    "target_refused",
    "resolve_failed",
    "connect_failed",
    "tls_failed",
    "timeout",
    "protocol_error",
    "too_large",
]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one attempt met.

    `answered` means that a whole answer head came (and the body as far as it was wanted), with `status` set; every
    other kind is a failure before that. `detail` is one sentence without secrets, `excerpt` the cleaned beginning of
    the body (see `excerpt_of`), `took_ms` the length of the whole attempt, `phases` that of its parts.
    """

    kind: AnswerKind
    status: int | None
    retry_after_s: float | None
    detail: str
    excerpt: str
    took_ms: int
    phases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivered:
    """The subscriber has it."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Try again at `due_at_ms`, Unix milliseconds."""

    due_at_ms: int
    why: str


@dataclass(frozen=True, slots=True)
class Dead:
    """The schedule is used up: a dead letter, which a person may replay."""

    why: str


@dataclass(frozen=True, slots=True)
class Disable:
    """The subscriber wants nothing any more (410): the subscription is disabled, what is owed is kept."""

    why: str


Decision = Delivered | RetryAt | Dead | Disable


def arrived(answer: Answer) -> bool:
    """Whether the subscriber has taken what it was sent."""
    return answer.kind == "answered" and answer.status is not None and 200 <= answer.status <= 299


def shown(answer: Answer) -> dict[str, Any]:
    """An attempt as the doors show it."""
    return {
        "kind": answer.kind,
        "status": answer.status,
        "detail": answer.detail,
        "excerpt": answer.excerpt,
        "tookMs": answer.took_ms,
        "phasesMs": dict(answer.phases),
    }


def decide(answer: Answer, attempts_made: int, now_ms: int, jitter: float) -> Decision:
    """What follows `answer`, the outcome of attempt number `attempts_made` (1 is the first).

    `now_ms`: Unix milliseconds at the end of the attempt; `jitter`: 0 to 1, by chance. 2xx is success and 410 disables;
    everything else is a failure, a redirect too, for redirects are not followed. A `Retry-After` is heard as far as it
    asks for at least the schedule's step and at most twice that, and never more than 24 hours.
    """
    if attempts_made < 1:
        raise ValueError("a decision follows at least one attempt")
    if arrived(answer):
        return Delivered()
    if answer.kind == "answered" and answer.status == 410:
        return Disable("the subscriber answered 410 Gone: it wants no more webhooks")
    why = _why(answer)
    if attempts_made >= len(SCHEDULE_S):
        return Dead(f"{why}; that was attempt {attempts_made} of {len(SCHEDULE_S)}")
    wait_s = _wait_s(SCHEDULE_S[attempts_made], answer.retry_after_s, min(1.0, max(0.0, jitter)))
    return RetryAt(now_ms + round(wait_s * 1000), why)


def _wait_s(step_s: float, retry_after_s: float | None, jitter: float) -> float:
    if retry_after_s is None:
        return step_s * (1 - SPREAD + 2 * SPREAD * jitter)
    # Whoever names a time is not called before it: here chance only adds, and never beyond the bound.
    longest_s = min(2 * step_s, RETRY_AFTER_MAX_S)
    asked_s = min(max(retry_after_s, step_s), longest_s)
    return min(asked_s * (1 + SPREAD * jitter), longest_s)


def _why(answer: Answer) -> str:
    if answer.kind != "answered":
        return answer.detail
    if answer.status is not None and 300 <= answer.status <= 399:
        return f"the subscriber answered {answer.status}, and redirects are not followed"
    return f"the subscriber answered {answer.status}"


def parse_retry_after(text: str, now_s: float) -> float | None:
    """Seconds from `now_s` (Unix seconds) that a `Retry-After` header asks for (RFC 9110, 10.2.3), never negative.

    The header is a whole number of seconds or an HTTP date; anything else is None.
    """
    text = text.strip(" \t")
    if _SECONDS.match(text):
        return min(float(text), _RETRY_AFTER_KNOWN_S)
    at_s = http_date_s(text)
    return None if at_s is None else min(max(0.0, at_s - now_s), _RETRY_AFTER_KNOWN_S)


def http_date_s(text: str) -> float | None:
    """Unix seconds of an HTTP date (RFC 9110, 5.6.7); None for what is none."""
    if len(text) > _DATE_MAX_CHARACTERS or not text.isascii():
        return None
    try:
        date = parsedate_to_datetime(text)
        # The old asctime form and the zone "-0000" come without a zone; in HTTP every date is GMT.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def excerpt_of(body: bytes, hide: Sequence[str] = ()) -> str:
    """The beginning of `body` as text that may be shown and stored, at most 1,024 bytes of UTF-8.

    Undecodable bytes become U+FFFD, whitespace becomes single spaces, and characters that control a terminal, the
    direction of writing or nothing at all (Unicode classes Cc, Cf, Cs, Co, Cn) are left out; PostgreSQL refuses NUL.
    Every text of `hide` is replaced by `HIDDEN`: error pages like to repeat the address that was called.
    """
    # More is read than shown, so that a secret over the cut is seen whole and hidden.
    words = " ".join(body[: EXCERPT_BYTES + _LOOK_AHEAD_BYTES].decode("utf-8", "replace").split())
    shown = "".join(character for character in words if unicodedata.category(character)[0] != "C")
    for secret in sorted(filter(None, hide), key=len, reverse=True):
        shown = shown.replace(secret, HIDDEN)
    return shown.encode()[:EXCERPT_BYTES].decode("utf-8", "ignore")
