"""What a job asks of the relay and not of the upstream: its place among its token's jobs, and its latest start."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from relay.core.wording import said, shown
from relay.errors import Problem

PRIORITY_MAX: Final = 10
DEADLINE_MAX_S: Final = 366 * 24 * 3600
_FORMS: Final = f"an ISO 8601 time, or a number of seconds from now up to {DEADLINE_MAX_S}"


@dataclass(frozen=True, slots=True)
class Terms:
    """`priority` orders one token's jobs, the highest first; what has not started by `deadline_ms` fails."""

    priority: int = 0
    deadline_ms: int | None = None
    problems: tuple[Problem, ...] = ()


def take_terms(fields: Mapping[str, object], now_ms: int) -> tuple[dict[str, object], Terms]:
    """The fields that are the upstream's, and the terms; each one that is wrong is a problem."""
    problems = []
    priority, deadline = fields.get("priority"), fields.get("deadline")
    if isinstance(priority, float) and priority.is_integer():
        priority = int(priority)
    if priority is None:
        priority = 0
    elif not isinstance(priority, int) or isinstance(priority, bool) or abs(priority) > PRIORITY_MAX:
        allowed = {"from": -PRIORITY_MAX, "to": PRIORITY_MAX}
        sentence = f"priority must be a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}, not {said(priority)}"
        problems.append(Problem("priority", "range", sentence, shown(priority), allowed))
        priority = 0
    deadline_ms = None if deadline is None else _instant_ms(deadline, now_ms)
    if deadline is not None and deadline_ms is None:
        sentence = f"deadline must be {_FORMS}, not {said(deadline)}"
        problems.append(Problem("deadline", "time", sentence, shown(deadline), _FORMS))
    elif deadline_ms is not None and not now_ms < deadline_ms <= now_ms + DEADLINE_MAX_S * 1000:
        sentence = f"deadline {said(deadline)} must lie ahead, within {DEADLINE_MAX_S} s from now"
        problems.append(Problem("deadline", "ahead", sentence, shown(deadline), _FORMS))
    others = {name: value for name, value in fields.items() if name not in ("priority", "deadline")}
    return others, Terms(priority, deadline_ms, tuple(problems))


def _instant_ms(deadline: object, now_ms: int) -> int | None:
    """Unix ms; a time without a zone is UTC, as all times of the relay are."""
    if isinstance(deadline, bool):
        return None
    if isinstance(deadline, int | float):
        return now_ms + int(deadline * 1000) if abs(deadline) <= DEADLINE_MAX_S else None
    if not isinstance(deadline, str):
        return None
    try:
        instant = datetime.fromisoformat(deadline)
        return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
