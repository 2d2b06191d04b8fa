"""A task that turns up after its attempt was given up is found wherever the upstream names it, and adopted once."""

from pathlib import Path

import pytest

from relay.core.job import Job
from relay.core.outcome import Busy, RunningTask
from relay.core.steering import JobCancelled
from relay.store.contract import JobFilter
from tests.work.bench import IN_DOUBT_AFTER_S, Bench, bench, found, report, steps, task_id

pytestmark = pytest.mark.anyio

NUMBER = 7


async def given_up(here: Bench) -> tuple[Job, str]:
    """A job that failed as `submit_unknown`, and the replyRef of its attempt."""
    attempt = await here.in_doubt()
    here.clock.advance(IN_DOUBT_AFTER_S + 1)
    await steps(here.reconciler())
    job = await here.job(attempt.job_id)
    assert (job.state, job.error and job.error["code"]) == ("failed", "submit_unknown")
    return job, attempt.reply_ref


async def newest(here: Bench) -> Job:
    return (await here.store.jobs(JobFilter(origin=("adopted",)), None, 10))[0]


@pytest.mark.parametrize("named_by", ["scheduler", "task list"])
async def test_a_later_look_finds_it(tmp_path: Path, named_by: str) -> None:
    async with bench(tmp_path) as here:
        old, ref = await given_up(here)
        if named_by == "scheduler":
            here.upstream.running = [RunningTask(task_id(NUMBER), ref)]
        else:
            here.upstream.listed = [report(NUMBER, "RUNNING", ref)]
        worker = here.reconciler()
        due_ms = await worker.step()
        assert due_ms is not None
        here.clock.advance((due_ms - here.clock.now_ms()) / 1000)
        await steps(worker)
        late = await newest(here)
        attempts = await here.store.attempts(late.id)

    assert (late.upstream_task_id, late.problems[0]["given"]) == (task_id(NUMBER), old.id)
    assert attempts[0].reply_ref == ref


async def test_a_look_for_another_attempt_finds_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        _, ref = await given_up(here)
        await here.in_doubt()
        here.upstream.listed = [report(NUMBER, "RUNNING", ref)]
        here.clock.advance(1.0)
        await steps(here.reconciler())

        assert (await newest(here)).upstream_task_id == task_id(NUMBER)


async def test_a_429_that_names_it_finds_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        _, ref = await given_up(here)
        await here.submit()
        here.upstream.outcomes = [Busy("full", (RunningTask(task_id(NUMBER), ref),))]
        await steps(here.submitter())

        assert (await newest(here)).upstream_task_id == task_id(NUMBER)


async def test_it_is_adopted_once_and_its_video_is_had(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        _, ref = await given_up(here)
        here.upstream.listed = [report(NUMBER, "RUNNING", ref)]
        here.upstream.running = [RunningTask(task_id(NUMBER), ref)]
        film = {"url": "https://files.example.com/film.mp4"}
        here.upstream.answers = [found(NUMBER, "SUCCEEDED", reply_ref=ref, artifacts=[film])]
        worker = here.reconciler()
        for _ in range(12):
            here.clock.advance(300.0)
            await steps(worker)

        assert sorted(await here.states()) == ["failed", "succeeded"]
    assert here.upstream.created == []


async def test_nobody_looks_for_ever(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await given_up(here)
        worker = here.reconciler()
        for _ in range(12):
            here.clock.advance(300.0)
            await steps(worker)
        looks = here.upstream.schedulers
        here.clock.advance(86_400.0)
        await steps(worker)

        assert here.upstream.schedulers == looks
        assert await here.states() == ["failed"]


async def test_the_task_of_a_cancelled_job_is_kept_on_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        attempt = await here.in_doubt()
        await here.store.apply(JobCancelled(attempt.job_id, here.clock.now_ms()))
        here.clock.advance(IN_DOUBT_AFTER_S + 1)
        worker = here.reconciler()
        await steps(worker)
        here.upstream.listed = [report(NUMBER, "RUNNING", attempt.reply_ref)]
        here.clock.advance(300.0)
        await steps(worker)
        job = await here.job(attempt.job_id)

    assert (job.state, job.upstream_task_id) == ("cancelled", task_id(NUMBER))
