"""Callbacks and jobs for a relay that may die at any moment, and the promises that it has made until then.

A promise is what was answered 2xx. Whoever is not answered has been promised nothing.
"""

import asyncio
import hashlib
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx2

from relay.sandbox.outbox import Callback
from relay.sandbox.shapes import Task
from relay.sandbox.vendor import Vendor
from tests.crash.processes import Relay, answered
from tests.journeys import EXAMPLE, Subscriber

Promise = tuple[str, str]

SETTLED_S = 40.0


@dataclass
class Promises:
    """Ids of jobs, and (job id, SHA-256) of callbacks, that were answered 2xx; `more` is set at each of them."""

    jobs: set[str] = field(default_factory=set)
    callbacks: set[Promise] = field(default_factory=set)
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def job(self, job_id: str) -> None:
        self.jobs.add(job_id)
        self.more.set()

    def callback(self, reply_ref: str | None, body: bytes) -> None:
        self.callbacks.add((job_of(reply_ref), hashlib.sha256(body).hexdigest()))
        self.more.set()

    async def grown(self, count: int) -> None:
        """Once there are so many callbacks."""
        while len(self.callbacks) < count:
            self.more.clear()
            await self.more.wait()

    def listen(self, vendor: Vendor) -> None:
        """Count what the sandbox's own callbacks are answered, too."""
        record = vendor.outbox.record

        def recorded(callback: Callback, now_ms: int, *, status: int | None, error: str | None) -> None:
            if status == 200:
                self.callback(callback.about["replyRef"], callback.body)
            record(callback, now_ms, status=status, error=error)

        vendor.outbox.record = recorded  # type: ignore[method-assign]


def job_of(reply_ref: str | None) -> str:
    """The job id in a reference of the relay's."""
    assert reply_ref is not None
    return reply_ref.split(":")[2]


class Bodies:
    """Callback bodies, no two alike: progress for the most part, sometimes the end, sometimes nonsense."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, task: Task) -> bytes:
        self.count += 1
        if self.count % 7 == 0:
            return f"nonsense {self.count}".encode()
        status = "SUCCEEDED" if self.count % 5 == 0 else "RUNNING"
        body = {"status": status, "progressRatio": self.count % 100 / 100, "count": self.count}
        if self.count % 3:
            body |= {"taskId": task.task_id, "replyRef": task.reply_ref}
        return json.dumps(body).encode()


async def call_back(client: httpx2.AsyncClient, task: Task, body: bytes, promises: Promises) -> None:
    """Post one callback to where the task's go."""
    answer = await client.post(task.reply_url or "", content=body, headers={"content-type": "application/json"})
    answered(answer, 200)
    promises.callback(task.reply_ref, body)


async def submit(relay: Relay, promises: Promises, **more: Any) -> str:
    answer = await relay.client.post("/v1/jobs", json=EXAMPLE | more)
    answered(answer, 202)
    promises.job(answer.json()["id"])
    return str(answer.json()["id"])


async def subscribe(relay: Relay, subscriber: Subscriber) -> None:
    """One subscription to everything about jobs."""
    types = ["job.queued", "job.submitted", "job.progress", "job.succeeded", "job.failed"]
    answer = await relay.client.post("/v1/subscriptions", json={"url": subscriber.url, "types": types})
    assert answer.status_code == 201, answer.text


async def unless_it_dies(relay: Relay, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work` with a relay that may be killed meanwhile; whether it came to its end.

    Nothing is cancelled: whatever is under way ends by itself, for its connection breaks.
    """
    try:
        await work
    except httpx2.HTTPError:
        await relay.stopped()
        return False
    return True


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Do all of it, and raise what is worst of what has failed, once all have ended."""
    failures = [one for one in await asyncio.gather(*work, return_exceptions=True) if one is not None]
    for failure in sorted(failures, key=lambda one: isinstance(one, httpx2.HTTPError)):
        raise failure


async def ended(relay: Relay, job_id: str) -> None:
    """Once the job's stream has come to its final event."""
    headers = {"Accept": "text/event-stream"}
    async with relay.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        async for _ in stream.aiter_lines():
            pass


async def settled(relay: Relay) -> None:
    """Once every job has ended, and nothing is owed to anybody any more."""
    async with asyncio.timeout(SETTLED_S):
        jobs = await relay.all("/v1/jobs")
        await together(*(ended(relay, job["id"]) for job in jobs if job["finishedAt"] is None))
        while await relay.all("/v1/deliveries", state=["waiting", "due", "sending"]):
            pass  # each look takes a moment, and nothing tells of a delivery


def heard(subscriber: Subscriber) -> set[str]:
    """The ids of the events that came."""
    return {headers["webhook-id"] for headers, _ in subscriber.got}


async def missing(relay: Relay, promises: Promises, already: frozenset[Promise] = frozenset()) -> set[Any]:
    """The promises that the relay's doors no longer know of, but for callbacks that were looked up `already`."""
    asked = promises.callbacks - already
    kept = {row["sha256"] for row in await relay.all("/v1/quarantine")}
    jobs = {job_id for job_id, _ in asked}
    for job_id in sorted(jobs):
        kept |= {row["sha256"] for row in await relay.all(f"/v1/jobs/{job_id}/callbacks")}
    lost: set[Any] = {(job_id, sha256) for job_id, sha256 in asked if sha256 not in kept}
    if not already:
        lost |= promises.jobs - {job["id"] for job in await relay.all("/v1/jobs")}
    return lost
