"""A store on disk, a clock that is moved by hand, and an upstream that answers as it is told."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.clock import ManualClock
from relay.core import job as jobs
from relay.core import task as tasks
from relay.core.accounts import AccountsListed, SeenAccount
from relay.core.artifacts import Keeping
from relay.core.job import Attempt, Job
from relay.core.outcome import Accepted, Found, Outcome, RunningTask, TaskAnswer, Unanswered, Unknown
from relay.core.submitting import AttemptAnswered, AttemptStarted, JobSubmitted
from relay.core.task import Report
from relay.feed import Feed
from relay.sandbox.admission import built_in
from relay.store.contract import JobFilter
from relay.store.sqlite import SqliteStore, open_store
from relay.vault import hash_token, new_hex, new_uuid7
from relay.work.loop import Worker
from relay.work.reconciler import Reconciler
from relay.work.submitter import Submitter
from tests.journeys import WAIT_S

EMAIL = "me@example.com"
IN_DOUBT_AFTER_S = 1_800.0


def task_id(number: int) -> str:
    return f"user:1-runwayml:{EMAIL}-task:00000000-0000-4000-8000-{number:012d}"


def report(number: int, status: str = "PENDING", reply_ref: str | None = None, **more: Any) -> Report:
    """The upstream's word about its task number `number`."""
    found = tasks.read({"taskId": task_id(number), "status": status, "replyRef": reply_ref, "artifacts": [], **more})
    assert found is not None
    return found


@dataclass
class Scripted:
    """An upstream: `outcomes` and `answers` are used up one by one, the last one stays; what it was asked is kept."""

    outcomes: list[Outcome | BaseException] = field(default_factory=list)
    answers: list[TaskAnswer | BaseException] = field(default_factory=lambda: [Unanswered("not told")])
    running: list[RunningTask] | Unanswered = field(default_factory=list)
    listed: list[Report] | Unanswered = field(default_factory=list)
    seen: list[SeenAccount] | Unanswered = field(default_factory=lambda: [SeenAccount(EMAIL, 2)])
    created: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    schedulers: int = 0
    lists: list[str] = field(default_factory=list)
    answering: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answering.set()

    async def create(self, fields: Mapping[str, Any]) -> Outcome:
        self.created.append(dict(fields))
        number = len(self.created)
        await self.answering.wait()
        accepted = Accepted(report(number, reply_ref=fields["replyRef"]))
        outcome: Outcome = _next(self.outcomes) if self.outcomes else accepted
        return outcome

    async def task(self, task_id: str) -> TaskAnswer:
        self.asked.append(task_id)
        await self.answering.wait()
        answer: TaskAnswer = _next(self.answers)
        return answer

    async def tasks(self, email: str, offset: int = 0) -> list[Report] | Unanswered:
        self.lists.append(email)
        return self.listed

    async def scheduler(self) -> list[RunningTask] | Unanswered:
        self.schedulers += 1
        return self.running

    async def accounts(self) -> list[SeenAccount] | Unanswered:
        return self.seen


def _next(said: list[Any]) -> Any:
    answer = said.pop(0) if len(said) > 1 else said[0]
    if isinstance(answer, BaseException):
        raise answer
    return answer


@dataclass
class Bench:
    store: SqliteStore
    feed: Feed
    clock: ManualClock
    upstream: Scripted

    def submitter(self, callback_url: str | None = None, lease_s: float = 0.0) -> Submitter:
        return Submitter(
            self.store,
            self.feed,
            self.clock,
            self.upstream,
            catalogue=built_in(),
            callback_url=callback_url,
            in_doubt_after_s=IN_DOUBT_AFTER_S,
            lease_s=lease_s,
        )

    def reconciler(self) -> Reconciler:
        return Reconciler(self.store, self.feed, self.clock, self.upstream, in_doubt_after_s=IN_DOUBT_AFTER_S)

    async def submit(self, **more: Any) -> Job:
        """A queued job."""
        now_ms = self.clock.now_ms()
        job_id = new_uuid7(now_ms)
        fields: dict[str, Any] = {
            "request": {"model": "gen4.5", "text_prompt": "a hill"},
            "task_id": jobs.task_id_of(job_id),
            "token_id": "admin",
            **more,
        }
        job = Job(
            id=job_id,
            model="gen4.5",
            submitted_by="admin",
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            **fields,
        )
        return await self.store.apply(JobSubmitted(job, 1_000, 1_000))

    async def attempted(self, outcome: Outcome | None, job: Job | None = None) -> Attempt:
        """The attempt of a job, written and, but for None, answered."""
        job = job or await self.submit()
        token = hash_token(job.id)
        started = AttemptStarted(job.id, self.store.instance, EMAIL, token, self.clock.now_ms())
        attempt = await self.store.apply(started)
        assert attempt is not None
        if outcome is not None:
            await self.store.apply(AttemptAnswered(job.id, attempt.number, outcome, self.clock.now_ms()))
        return attempt

    async def in_doubt(self) -> Attempt:
        return await self.attempted(Unknown("the answer did not come"))

    async def running(self, number: int = 1) -> Attempt:
        return await self.attempted(Accepted(report(number)))

    async def job(self, job_id: str) -> Job:
        found = await self.store.job(job_id)
        assert found is not None
        return found

    async def states(self) -> list[str]:
        """Of all jobs, oldest first."""
        listed = await self.store.jobs(JobFilter(), None, 100)
        return [job.state for job in reversed(listed)]


async def steps(worker: Worker) -> int | None:
    """Steps until one finds nothing to do; when the next one is due."""
    async with asyncio.timeout(WAIT_S):
        while True:
            while worker._under_way:
                await asyncio.wait(worker._under_way)
            before = worker._feed.generation
            due_ms = await worker.step()
            if not worker._under_way and worker._feed.generation == before:
                return due_ms


def found(number: int, status: str, **more: Any) -> Found:
    return Found(report(number, status, **more))


@asynccontextmanager
async def bench(
    folder: Path, clock: ManualClock | None = None, keeping: Keeping | None = None
) -> AsyncGenerator[Bench]:
    feed = Feed()
    store = await open_store(folder / "relay.db", new_hex=new_hex, committed=feed.committed, keeping=keeping)
    try:
        made = Bench(store, feed, clock or ManualClock(), Scripted())
        await store.apply(AccountsListed((SeenAccount(EMAIL, 2),), made.clock.now_ms()))
        yield made
    finally:
        await store.close()
