"""Figures of a span of time: how many jobs ended how, how long they waited and took, how often accounts were busy."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from relay.core.dispatch import Account
from relay.core.job import FINAL, STATES, Job, iso
from relay.core.ledger import Record

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
# More bars than this nobody tells apart.
HOURS_AT_MOST_MS: Final = 7 * DAY_MS
# Below so many seconds times are counted in steps of so many.
_SCALE: Final = ((10, 1), (60, 5), (600, 30), (3_600, 120))
_COARSE_S: Final = 1_200
ENDED: Final = tuple(state for state in STATES if state in FINAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How often something was counted: `figure` is a job's state, `busy` (429 answers), or `waited` or `rendered`.

    Of these two `bucket` is the time in seconds. A job that has no account yet has ''.
    """

    at_ms: int = 0
    figure: str
    model: str = ""
    account: str = ""
    bucket: int = 0
    counted: int


def tallied(before: Record | None, after: Record) -> Iterator[Tally]:
    """What is to be counted because this row became that one: a job's end, once, and answers of a busy account."""
    if isinstance(after, Job) and after.finished_at_ms is not None:
        if isinstance(before, Job) and before.finished_at_ms is not None:
            return
        at_ms, model, account = after.finished_at_ms, after.model, after.account or ""
        yield Tally(at_ms=at_ms // HOUR_MS * HOUR_MS, figure=after.state, model=model, account=account, counted=1)
        for figure, counts, took_ms in (
            ("waited", after.origin != "adopted", (after.submitted_at_ms or 0) - after.created_at_ms),
            ("rendered", after.state == "succeeded", at_ms - (after.submitted_at_ms or 0)),
        ):
            if counts and after.submitted_at_ms is not None:
                day_ms, bucket = at_ms // DAY_MS * DAY_MS, _nearest(took_ms)
                yield Tally(at_ms=day_ms, figure=figure, model=model, account=account, bucket=bucket, counted=1)
    elif isinstance(after, Account):
        more = after.busy_answers - (before.busy_answers if isinstance(before, Account) else 0)
        if more > 0:
            at_ms = after.updated_at_ms // HOUR_MS * HOUR_MS
            yield Tally(at_ms=at_ms, figure="busy", account=after.email, counted=more)


def _nearest(took_ms: int) -> int:
    """Seconds, the nearest ones of a scale that is as fine as its figures are used."""
    seconds = max(0, took_ms + 500) // 1000
    step = next((step for below, step in _SCALE if seconds < below), _COARSE_S)
    return (seconds + step // 2) // step * step


class _Counts(defaultdict[str, Counter[int]]):
    """How often something was counted: by figure and bucket."""

    def __init__(self) -> None:
        super().__init__(Counter)


def step_ms(since_ms: int, until_ms: int) -> int:
    """The width of a bar in a chart of this span: an hour, or a day."""
    return HOUR_MS if until_ms - since_ms <= HOURS_AT_MOST_MS else DAY_MS


def summary(
    tallies: Iterable[Tally], series: Iterable[Tally], accounts: Iterable[Account], since_ms: int, until_ms: int
) -> dict[str, Any]:
    """The whole answer: `tallies` are those of the span and of what has not ended, `series` has the ends by time."""
    known = {account.email: account for account in accounts}
    of_all = _Counts()
    by_model: defaultdict[str, _Counts] = defaultdict(_Counts)
    by_account: defaultdict[str, _Counts] = defaultdict(_Counts)
    for tally in tallies:
        for counts in (of_all, by_model[tally.model], by_account[tally.account]):
            counts[tally.figure][tally.bucket] += tally.counted
    models, emails = sorted(by_model.keys() - {""}), sorted((known.keys() | by_account.keys()) - {""})
    bars: dict[int, dict[str, Any]] = {}
    for tally in series:
        bar = bars.setdefault(tally.at_ms, {"at": iso(tally.at_ms), **dict.fromkeys(ENDED, 0)})
        bar[tally.figure] += tally.counted
    return {
        "since": iso(since_ms),
        "until": iso(until_ms),
        **_figures(of_all),
        "busyAnswers": of_all["busy"].total(),
        "models": [{"model": model, **_figures(by_model[model])} for model in models],
        "accounts": [
            {
                "account": email,
                **_figures(by_account[email]),
                "busyAnswers": by_account[email]["busy"].total(),
                "outOfCredits": email in known and known[email].parked == "no_credits",
            }
            for email in emails
        ],
        "stepS": step_ms(since_ms, until_ms) // 1000,
        "series": [bars[at_ms] for at_ms in sorted(bars)],
    }


def _figures(counts: _Counts) -> dict[str, Any]:
    # Who cancels a job says nothing of how well it would have gone.
    succeeded = counts["succeeded"].total()
    judged = succeeded + counts["failed"].total()
    return {
        "jobs": {state: counts[state].total() for state in STATES},
        "successRate": round(succeeded / judged, 4) if judged else None,
        "waitS": _times(counts["waited"]),
        "renderS": _times(counts["rendered"]),
    }


def _times(buckets: Counter[int]) -> dict[str, int | None]:
    """The median, and what nine of ten stayed below."""
    return {"p50": _percentile(buckets, 50), "p90": _percentile(buckets, 90)}


def _percentile(buckets: Counter[int], percent: int) -> int | None:
    """The nearest rank; None of nothing."""
    rank, passed = -(-buckets.total() * percent // 100), 0
    for bucket in sorted(buckets):
        passed += buckets[bucket]
        if passed >= rank:
            return bucket
    return None
