"""What the queue says of jobs now: positions, expected starts and ends."""

from collections.abc import Iterable
from typing import Any, Final

from relay.core.dispatch import Waiting
from relay.core.estimate import LEARNED_FROM, ends_at_ms, outlooks, typical_ms
from relay.core.job import NO_OUTLOOK, Job, Outlook

LOOKED_AT: Final = 1_000


async def forecast(state: Any, jobs: Iterable[Job]) -> dict[str, Outlook]:
    """The outlook of each of these jobs that waits or runs, by id."""
    now_ms, found = state.clock.now_ms(), {}
    jobs = list(jobs)
    running = [job for job in jobs if job.state == "running" and job.submitted_at_ms is not None]
    usual_ms = await _usual_ms(state, {(job.model, job.mode) for job in running})
    for job in running:
        found[job.id] = Outlook(ends_at_ms=ends_at_ms(usual_ms[job.model, job.mode], job.submitted_at_ms or 0, now_ms))
    queued = [job for job in jobs if job.state == "queued"]
    if queued:
        by_id = await _outlooks(state, await state.store.queue(LOOKED_AT))
        places = await state.store.queue_positions([job for job in queued if job.id not in by_id])
        for job in queued:
            found[job.id] = by_id.get(job.id) or Outlook(queue_position=places.get(job.id))
    return found


async def outlook_of(state: Any, job: Job) -> Outlook:
    return (await forecast(state, [job])).get(job.id, NO_OUTLOOK)


async def next_start(state: Any, job: Waiting) -> Outlook:
    """The outlook of a job that would be queued now."""
    return (await _outlooks(state, [*await state.store.queue(LOOKED_AT), job]))[job.job_id]


async def _outlooks(state: Any, waiting: list[Waiting]) -> dict[str, Outlook]:
    store = state.store
    usual_ms = await _usual_ms(state, {(job.model, job.mode) for job in waiting})
    # While submitting is held, nobody can say when a job starts.
    accounts = await store.accounts() if await store.hold() is None else []
    return outlooks(state.clock.now_ms(), accounts, await store.running(LOOKED_AT), waiting, usual_ms)


async def _usual_ms(state: Any, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """How long tasks of each of these models and modes usually take."""
    return {
        (model, mode): typical_ms(state.catalogue, model, await state.store.took_ms(model, mode, LEARNED_FROM))
        for model, mode in wanted
    }
