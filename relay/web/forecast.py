"""What the queue says of jobs now: positions, expected starts and ends."""

from collections.abc import Iterable
from typing import Any, Final

from relay.core.estimate import ends_at_ms, outlooks
from relay.core.job import NO_OUTLOOK, Job, Outlook

LOOKED_AT: Final = 1_000


async def forecast(state: Any, jobs: Iterable[Job]) -> dict[str, Outlook]:
    """The outlook of each of these jobs that waits or runs, by id."""
    now_ms, found = state.clock.now_ms(), {}
    jobs = list(jobs)
    for job in jobs:
        if job.state == "running" and job.submitted_at_ms is not None:
            ends_ms = ends_at_ms(state.catalogue, job.model, job.submitted_at_ms, now_ms)
            found[job.id] = Outlook(ends_at_ms=ends_ms)
    queued = [job for job in jobs if job.state == "queued"]
    if queued:
        waiting = await state.store.waiting_models(LOOKED_AT)
        by_id = dict(
            zip((job_id for job_id, _ in waiting), await _outlooks(state, [m for _, m in waiting]), strict=True)
        )
        for job in queued:
            found[job.id] = by_id.get(job.id) or Outlook(queue_position=await state.store.queue_position(job))
    return found


async def outlook_of(state: Any, job: Job) -> Outlook:
    return (await forecast(state, [job])).get(job.id, NO_OUTLOOK)


async def next_start(state: Any, model: str) -> Outlook:
    """The outlook of a job of `model` that would be queued now."""
    waiting = [name for _, name in await state.store.waiting_models(LOOKED_AT)]
    return (await _outlooks(state, [*waiting, model]))[-1]


async def _outlooks(state: Any, models: list[str]) -> list[Outlook]:
    store = state.store
    return outlooks(
        state.clock.now_ms(), state.catalogue, await store.accounts(), await store.running(LOOKED_AT), models
    )
