"""`GET /v1/stats`: jobs of a span of time by model, by account and by state, in figures that are ready for charts.

    GET /v1/stats?since=7d        (30s … 366d ago, or a time; begins with a whole day of UTC; scope `read`)

    {
      "since": "2026-11-19T00:00:00.000Z", "until": "2026-11-26T02:10:00.000Z",

      "jobs": {"queued": 3, "submitting": 0, "in_doubt": 0, "running": 2,      the first four as they are now,
               "succeeded": 118, "failed": 9, "cancelled": 2},                 the last three: ended in the span
      "successRate": 0.9291,               succeeded of succeeded and failed; null where none has ended
      "waitS": {"p50": 12, "p90": 240},    seconds from createdAt to submittedAt (null: none); not of adopted jobs
      "renderS": {"p50": 390, "p90": 600}, seconds from submittedAt to finishedAt, of those that succeeded
      "busyAnswers": 14,                   429 answers of the upstream to creates

      "models":   [{"model": "gen4.5", "jobs": {…}, "successRate": …, "waitS": {…}, "renderS": {…}}],
      "accounts": [{"account": "me@example.com", "jobs": {…}, "successRate": …, "waitS": {…}, "renderS": {…},
                    "busyAnswers": 14, "outOfCredits": false}],

      "stepS": 3600,                       the width of a bar: an hour, or a day where the span is above 7 days
      "series": [{"at": "2026-11-26T01:00:00.000Z", "succeeded": 4, "failed": 1, "cancelled": 0}]
    }                                      (bars in which nothing ended are left out)

Counts are kept as jobs end, so that an answer costs the same however many jobs there are. Times are counted in buckets:
the figures are exact to 1 s below 10 s, 5 s below a minute, 30 s below ten minutes, 2 min below an hour, 20 min above.
The upstream tells no credits to a job, so there are none here but that an account has run out of them.
"""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.core.stats import DAY_MS, step_ms, summary
from relay.web.problem import Json, instant, read_query

SPAN_MS: Final = 7 * DAY_MS
SPAN_MAX_MS: Final = 366 * DAY_MS


async def show(request: Request) -> Response:
    """The figures since `?since=`, by default seven days ago."""
    state: Any = request.app.state
    now_ms = state.clock.now_ms()
    asked_ms = instant(read_query(request, one=("since",)), "since", now_ms)
    since_ms = min(now_ms, max(now_ms - SPAN_MAX_MS, now_ms - SPAN_MS if asked_ms is None else asked_ms))
    since_ms = since_ms // DAY_MS * DAY_MS
    tallies = await state.store.tallies(since_ms)
    series = await state.store.ends_by_time(since_ms, step_ms(since_ms, now_ms))
    return Json(summary(tallies, series, await state.store.accounts(), since_ms, now_ms))
