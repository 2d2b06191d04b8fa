"""When to ask the upstream: about a running task, after a hint that it has ended, and for one that may not exist.

Pure arithmetic over an attempt and the time, so that a test drives it without a clock.
"""

from typing import Final

from relay.core.job import Attempt

# A task is asked about rarely at first and often around the time at which it should end.
ASK_EVERY_MS: Final = 30_000
EARLY_SHARE: Final = 0.4
NEAR_MS: Final = 15_000
NEAR_MIN_MS: Final = 5_000
NEAR_SHARE: Final = 1 / 40
OVERDUE: Final = 3
LATE_MS: Final = 60_000
# After a callback said "final": at once, then again while the answer is not final.
HINT_STEPS_MS: Final = (0, 2_000, 5_000, 15_000, 60_000)
# An attempt that nobody knows about is looked for at these distances from each other.
LOOK_STEPS_MS: Final = (1_000, 5_000, 15_000, 30_000, 60_000)
LOOK_EVERY_MS: Final = 300_000
LATE_LOOKS_MS: Final = 1_800_000
THROTTLED_MS: Final = 60_000
UNCONFIRMED_AFTER_MS: Final = 300_000
NO_ARTIFACT_AFTER_MS: Final = 600_000
LOST_AFTER_MS: Final = 600_000
LOST_AFTER_ASKS: Final = 5


def next_ask_ms(attempt: Attempt, now_ms: int, *, throttled: bool = False) -> int:
    """When to ask again about a task that has not ended; `attempt.asked` counts the asks since the last hint.

    Where callbacks come, one will say when the task ends, and a task that the upstream has `throttled` waits for hours;
    the others are asked about more often as their end comes near.
    """
    if attempt.hinted_at_ms is not None and attempt.asked < len(HINT_STEPS_MS):
        return now_ms + HINT_STEPS_MS[attempt.asked]
    age_ms, expected_ms = now_ms - attempt.sent_at_ms, attempt.expected_ms
    if throttled or attempt.heralded or attempt.callbacks or age_ms > OVERDUE * expected_ms:
        return now_ms + LATE_MS
    near_ms = max(NEAR_MIN_MS, min(NEAR_MS, int(expected_ms * NEAR_SHARE)))
    until_near_ms = int(expected_ms * EARLY_SHARE) - age_ms
    return now_ms + min(ASK_EVERY_MS, max(near_ms, until_near_ms))


def next_look_ms(attempt: Attempt, now_ms: int) -> int:
    """When to look again for an attempt whose outcome is unknown; `attempt.asked` counts the looks so far."""
    step_ms = LOOK_STEPS_MS[attempt.asked] if attempt.asked < len(LOOK_STEPS_MS) else LOOK_EVERY_MS
    return now_ms + step_ms


def next_late_look_ms(attempt: Attempt, now_ms: int) -> int | None:
    """When to look again for the task of an attempt that has been given up, None for no more: a callback may tell."""
    since_ms = max(attempt.ended_at_ms or 0, attempt.hinted_at_ms or 0)
    return now_ms + LOOK_EVERY_MS if now_ms + LOOK_EVERY_MS - since_ms <= LATE_LOOKS_MS else None


def in_doubt_too_long(attempt: Attempt, now_ms: int, limit_ms: int) -> bool:
    """Whether the search for this attempt ends now."""
    return now_ms - attempt.sent_at_ms >= limit_ms


def lost(attempt: Attempt, now_ms: int) -> bool:
    """Whether the upstream has denied the task for so long and so often that it is gone."""
    return (
        attempt.missing >= LOST_AFTER_ASKS
        and attempt.missing_since_ms is not None
        and now_ms - attempt.missing_since_ms >= LOST_AFTER_MS
    )


def without_artifact_too_long(attempt: Attempt, now_ms: int) -> bool:
    """Whether a task that succeeded without any file has had its chance."""
    return attempt.empty_since_ms is not None and now_ms - attempt.empty_since_ms >= NO_ARTIFACT_AFTER_MS
