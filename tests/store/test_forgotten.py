"""A job that was kept for long enough goes with its rows, on each engine, and one of which something is owed stays."""

from pathlib import Path

import pytest

from relay.core.delivering import SubscriptionSaved
from relay.core.delivery import Delivery
from relay.core.event import Event
from relay.core.job import Attempt
from relay.core.keeping import JobForgotten
from relay.core.ledger import Callback
from relay.core.steering import JobCancelled
from relay.core.submitting import AttemptStarted
from tests.core.builders import (
    EMAIL,
    JOB_ID,
    NOW_MS,
    accepted,
    answered,
    asked,
    callback,
    report,
    started,
    submitted,
    subscription,
    task_body,
)
from tests.store.serving import apply_all, opened, queued

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("engine")]

LATER_MS = NOW_MS + 10_000


async def test_what_ended_long_ago_goes_with_all_but_its_events(tmp_path: Path) -> None:
    async with opened(tmp_path / "relay.db") as store:
        await apply_all(store, submitted(), started(), answered(accepted()), callback(task_body("RUNNING")))
        await apply_all(store, asked(report("SUCCEEDED", "1")), queued("waits"), queued("owed"))
        await apply_all(store, SubscriptionSaved(subscription()), JobCancelled("owed", NOW_MS))
        await apply_all(store, queued("runs"))
        await apply_all(
            store, AttemptStarted("runs", "00000001", EMAIL, "hash-9", NOW_MS), JobCancelled("runs", NOW_MS)
        )
        await store.apply(callback(task_body("RUNNING", "0.7")))
        running = [attempt.state for attempt in await store.attempts("runs")]
        early, found = await store.jobs_to_go(NOW_MS, 10), await store.jobs_to_go(LATER_MS, 10)
        went = [await store.apply(JobForgotten(name, LATER_MS)) for name in (JOB_ID, "waits", "owed", "runs", JOB_ID)]
        left = {
            kind: await store._list(kind, "WHERE job_id = :id", {"id": JOB_ID})
            for kind in (Attempt, Callback, Delivery, Event)
        }
        again = await store.apply(callback(task_body("RUNNING", "0.9")))
        jobs = [await store.job(name) for name in (JOB_ID, "waits", "owed", "runs")]

    assert running == ["sending"]
    assert (early, found) == ([], [JOB_ID])
    assert went == [True, False, False, False, False]
    assert [bool(job) for job in jobs] == [False, True, True, True]
    assert {kind.__name__ for kind, rows in left.items() if rows} == {"Event"}
    assert again == "unknown", "what the writer held of it is gone, too"
