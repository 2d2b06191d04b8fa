"""Clocks that disagree: the machine's own that jumped, the upstream's that shows another time than ours."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs
from relay.core.retry import http_date_s

# A smaller difference is followed without a word: clocks drift, and no wait of ours is that exact.
JUMP_MS: Final = 2_000
OFF_MS: Final = 30_000
OFF_IN_A_ROW: Final = 3


@dataclass(frozen=True, slots=True)
class ClockSkewed(Happening[None]):
    """The operator is told, and every open wait is moved by `shift_ms` in the same transaction.

    All that is decided behind it is decided by the new time, with waits that are as long as they were.
    """

    subject: str
    reason: str
    at_ms: int
    shift_ms: int = 0

    def needs(self) -> Needs:
        return Needs(subscriptions=True)

    def decide(self, loaded: Loaded) -> Changes[None]:
        draft = Draft(loaded)
        draft.warn("clock.skewed", self.subject, self.reason, self.at_ms)
        return replace(draft.changes(None), shift_ms=self.shift_ms)


def jumped(by_ms: int, at_ms: int) -> ClockSkewed:
    """This machine's clock was set, forward or back, or the machine was asleep."""
    reason = (
        f"the wall clock moved {_way(by_ms, 'ahead', 'back')} against monotonic time (it was set, or the machine was "
        "suspended); every open wait was moved by as much"
    )
    return ClockSkewed("this relay's clock", reason, at_ms, by_ms)


def upstream_off(off_ms: int, at_ms: int) -> ClockSkewed:
    """The upstream's answers are dated `off_ms` later (earlier, if negative) than they came."""
    reason = (
        f"the upstream's answers are dated {_way(off_ms, 'ahead of', 'behind')} this relay's clock; "
        "if that one is wrong, webhooks are signed and addresses expire by the wrong time"
    )
    return ClockSkewed("the upstream's clock", reason, at_ms)


def off_ms(date: str, sent_ms: int, got_ms: int) -> int | None:
    """How far a `Date` lies outside of the time in which the answer must have been made; None for no date at all."""
    at_s = http_date_s(date)
    if at_s is None:
        return None
    # A date has no fraction of its second.
    return round(max(0.0, at_s * 1000 - got_ms) + min(0.0, at_s * 1000 + 1_000 - sent_ms))


def off_in_a_row(last_ms: Sequence[int]) -> int | None:
    """What the last answers agree on, when each of them was far off, and to the same side: the least of it."""
    if len(last_ms) < OFF_IN_A_ROW or not (min(last_ms) > OFF_MS or max(last_ms) < -OFF_MS):
        return None
    return min(last_ms, key=abs)


def _way(by_ms: int, ahead: str, back: str) -> str:
    return f"{abs(by_ms) / 1000:,.1f} s {ahead if by_ms > 0 else back}"
