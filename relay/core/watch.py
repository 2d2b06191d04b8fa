"""When to ask the upstream: about a running task, after a hint that it has ended, and for one that may not exist.

Pure arithmetic over an attempt and the time, so that a test drives it without a clock.
"""

from typing import Final

from relay.core.job import Attempt

ASK_EVERY_MS: Final = 30_000
# After a callback said "final": at once, then again while the answer is not final.
HINT_STEPS_MS: Final = (0, 2_000, 5_000, 15_000, 60_000)
# An attempt that nobody knows about is looked for at these distances from each other.
LOOK_STEPS_MS: Final = (1_000, 5_000, 15_000, 30_000, 60_000)
LOOK_EVERY_MS: Final = 300_000
THROTTLED_MS: Final = 60_000
UNCONFIRMED_AFTER_MS: Final = 300_000
NO_ARTIFACT_AFTER_MS: Final = 600_000
LOST_AFTER_MS: Final = 600_000
LOST_AFTER_ASKS: Final = 5


def next_ask_ms(attempt: Attempt, now_ms: int) -> int:
    """When to ask again about a task that has not ended; `attempt.asked` counts the asks since the last hint."""
    if attempt.hinted_at_ms is not None and attempt.asked < len(HINT_STEPS_MS):
        return now_ms + HINT_STEPS_MS[attempt.asked]
    return now_ms + ASK_EVERY_MS


def next_look_ms(attempt: Attempt, now_ms: int) -> int:
    """When to look again for an attempt whose outcome is unknown; `attempt.asked` counts the looks so far."""
    step_ms = LOOK_STEPS_MS[attempt.asked] if attempt.asked < len(LOOK_STEPS_MS) else LOOK_EVERY_MS
    return now_ms + step_ms


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
