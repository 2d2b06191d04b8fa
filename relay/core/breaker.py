"""Keeps a subscriber that fails again and again from being tried for nothing: a breaker that closes by itself.

A breaker exists from the first failure to the next success. After `OPENS_AFTER` failures in a row, of whatever jobs, it
opens: nothing is tried for a while, and no attempts are used up. Then one delivery goes as a trial. If it arrives the
breaker is gone, and everything that is due follows; if not, the next wait is twice as long.

It is a row and not a memory, so that a restart changes nothing.
"""

from dataclasses import dataclass, replace
from typing import Final

from relay.core.delivery import Delivery
from relay.core.retry import SPREAD

OPENS_AFTER: Final = 5
FIRST_WAIT_MS: Final = 5_000
LONGEST_WAIT_MS: Final = 300_000
PAUSES_AFTER_MS: Final = 5 * 24 * 3_600_000
# Under way to one place at a time, whoever sends them.
AT_ONCE_EACH: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """`failures` in a row since `since_ms`; `opened` so often, 0 while it is closed; `trial` is what is being tried.

    Nothing goes to `place` (see `Subscription.place`) before `open_until_ms`.
    """

    place: str
    since_ms: int
    failures: int = 0
    opened: int = 0
    open_until_ms: int = 0
    trial: str | None = None


def lets_through(breaker: Breaker | None, at_ms: int) -> bool:
    """Whether a delivery may go now."""
    return breaker is None or at_ms >= breaker.open_until_ms


def room(breaker: Breaker | None) -> int:
    """How many deliveries may be under way to a place: one while it is failing."""
    return AT_ONCE_EACH if breaker is None else 1


def tried(breaker: Breaker, delivery: Delivery, until_ms: int) -> Breaker:
    """The breaker once this delivery goes: an open one lets nothing else through until the outcome, or `until_ms`."""
    return replace(breaker, trial=delivery.id, open_until_ms=until_ms) if breaker.opened else breaker


def given_up(breaker: Breaker | None, delivery: Delivery, at_ms: int) -> Breaker | None:
    """The breaker when whoever made the trial is gone without an outcome: another may go."""
    if breaker is None or breaker.trial != delivery.id:
        return None
    return replace(breaker, trial=None, open_until_ms=at_ms)


def failed(breaker: Breaker | None, place: str, delivery: Delivery, at_ms: int, jitter: float) -> Breaker:
    """The breaker after a failed attempt; `jitter` is 0 to 1, by chance.

    What was already under way when it opened is counted, and moves nothing.
    """
    breaker = breaker or Breaker(place=place, since_ms=at_ms)
    breaker = replace(breaker, failures=breaker.failures + 1)
    opens = breaker.trial == delivery.id if breaker.opened else breaker.failures >= OPENS_AFTER
    if not opens:
        return breaker
    wait_ms = min(LONGEST_WAIT_MS, FIRST_WAIT_MS << min(breaker.opened, 10))
    until_ms = at_ms + round(wait_ms * (1 - SPREAD * jitter))
    return replace(breaker, opened=breaker.opened + 1, open_until_ms=until_ms, trial=None)


def pauses(breaker: Breaker, at_ms: int) -> bool:
    """Whether there have been nothing but failures for so long that a person should look."""
    return breaker.failures >= OPENS_AFTER and at_ms - breaker.since_ms >= PAUSES_AFTER_MS
