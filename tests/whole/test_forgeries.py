"""Four forgeries at the callback doors, each beside the same job without it: nobody can tell the two apart.

A subscriber with a webhook of its own and a reader of the job's stream write down all that they are told.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.clock import ManualClock
from tests.journeys import EXAMPLE, Journey, eventually, journey, while_time_passes
from tests.wire import stream

pytestmark = pytest.mark.anyio

INBOX = "inbox-token-of-the-tests-0123456789"
INVENTED = "invented.example.com"
FILM = {"url": f"https://{INVENTED}/film.mp4", "previewUrls": [], "fileSize": "1"}
NOBODYS = "user:7-runwayml:a@invented.example.com-task:0f0e0d0c-0b0a-4908-8706-050403020100"
ENDS = ("job.succeeded", "job.failed", "job.cancelled")
TYPES = ["job.queued", "job.submitted", "job.in_doubt", "job.progress", *ENDS]


@dataclass
class Life:
    """A job on its way, and what a forger can do about it."""

    here: Journey
    job_id: str

    @property
    def task(self) -> dict[str, Any]:
        """The job's own task, as the upstream has it."""
        tasks = self.here.vendor.state(self.here.node.clock.now_ms())["tasks"]
        return next(task for task in tasks if self.job_id in task["replyRef"])

    async def forge(self, body: dict[str, Any], path: str | None = None) -> None:
        """What somebody sends who knows the address that the job's callbacks come to, and no token."""
        async with httpx2.AsyncClient(trust_env=False) as stranger:
            url = self.here.relay_url + path if path else self.task["replyUrl"]
            answer = await stranger.post(url, json=body)
        assert (answer.status_code, answer.json()) == (200, {"result": "stored"})

    async def asked(self) -> None:
        """Once the forgery has made the relay ask, and the upstream's answer is written; or has ended the job."""
        store = self.here.node.app.state.store

        async def look() -> bool:
            attempts, job = await store.attempts(self.job_id), await store.job(self.job_id)
            return bool(attempts[-1].asked or job.final)

        await self.here.until(look, bool)


@dataclass
class Told:
    """What came out of the relay, progress apart: how often that is told depends on how often the relay asks."""

    webhooks: list[str]
    stream: list[str]
    job: dict[str, Any]
    everything: str


Forge = Callable[[Life], Awaitable[None]]


async def nothing(life: Life) -> None:
    pass


async def told(folder: Path, forge: Forge, **faults: Any) -> Told:
    """Live through a job of 60 s; the forger acts at its beginning."""
    clock = ManualClock()
    around = journey(
        folder, clock=clock, sandbox_clock=clock, times_s=(10, 50), faults=faults, callback_inbox_token=INBOX
    )
    async with around as here:
        await here.subscribe(types=TYPES)
        life = Life(here, (await here.submit())["id"])
        await eventually(lambda: here.vendor.submits == 1)
        if not faults:
            await here.job_in(life.job_id, "running")
        async with stream(here.relay_url, f"/v1/jobs/{life.job_id}/events") as reader:
            await forge(life)
            frames = await while_time_passes(clock, reader.events())
        bodies: list[dict[str, Any]] = []
        while not bodies or bodies[-1]["type"] not in ENDS:
            bodies = await here.subscriber.wait_for(len(bodies) + 1)
        job = await here.job(life.job_id)
        jobs = await here.get("/v1/jobs")
        told_of = [body["data"]["job"]["id"] for body in bodies]
        own = job["upstreamTaskId"] == life.task["taskId"]
    assert set(told_of) == {life.job_id}
    assert len(jobs["data"]) == 1
    assert len(here.subscriber.got) == len(bodies)
    return Told(
        webhooks=[body["type"] for body in bodies if body["type"] != "job.progress"],
        stream=[frame.event for frame in frames if frame.event in TYPES and frame.event != "job.progress"],
        job={name: job[name] for name in ("state", "error", "attempts", "account", "progress")}
        | {"own task": own, "artifacts": [artifact["kind"] for artifact in job["artifacts"]]},
        everything=json.dumps([bodies, [str(frame) for frame in frames], job]),
    )


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def check(folder: Path, forge: Forge, **faults: Any) -> Told:
    """That the forgery is nowhere in what anybody was told, which is what they are told without it."""
    with_it = await told(made(folder / "forged"), forge, **faults)
    without = await told(made(folder / "plain"), nothing, **faults)
    assert INVENTED not in with_it.everything
    assert (with_it.webhooks, with_it.stream, with_it.job) == (without.webhooks, without.stream, without.job)
    return with_it


async def test_a_callback_with_invented_artifacts_reaches_no_subscriber_and_the_job_ends_with_its_own(
    tmp_path: Path,
) -> None:
    async def forge(life: Life) -> None:
        await life.forge({"taskId": life.task["taskId"], "status": "SUCCEEDED", "artifacts": [FILM]})
        await life.asked()

    heard = await check(tmp_path, forge)

    assert heard.webhooks == heard.stream == ["job.queued", "job.submitted", "job.succeeded"]
    assert (heard.job["own task"], heard.job["artifacts"]) == (True, ["video"])


@pytest.mark.parametrize(
    "faults",
    [{"create_slow": {"value": 5, "times": 1}}, {"create_lost": {"value": "522", "times": 1}}],
    ids=["that comes late", "that is lost"],
)
async def test_another_tasks_id_before_the_create_answer_binds_nothing_and_reaches_no_subscriber(
    tmp_path: Path, faults: dict[str, Any]
) -> None:
    async def forge(life: Life) -> None:
        here = life.here
        theirs = await here.client.post(
            f"{here.sandbox_url}/v1/runwayml/videos/create", json=EXAMPLE | {"replyRef": "theirs"}
        )
        task_id = theirs.json()["task"]["taskId"]
        await life.forge({"taskId": task_id, "status": "SUCCEEDED", "artifacts": [FILM]})

    heard = await check(tmp_path, forge, **faults)

    assert heard.webhooks[-1] == heard.stream[-1] == "job.succeeded"
    assert (heard.job["own task"], heard.job["attempts"]) == (True, 1)


async def test_a_failure_that_did_not_happen_reaches_no_subscriber_and_the_job_succeeds(tmp_path: Path) -> None:
    async def forge(life: Life) -> None:
        error = {"reason": "SAFETY.OUTPUT.VIDEO", "errorMessage": INVENTED}
        await life.forge({"task": {"taskId": life.task["taskId"], "status": "FAILED", "error": error}})
        await life.asked()

    heard = await check(tmp_path, forge)

    assert heard.webhooks == heard.stream == ["job.queued", "job.submitted", "job.succeeded"]
    assert heard.job["error"] is None


async def test_an_inbox_body_for_an_unknown_task_becomes_no_job_and_reaches_no_subscriber(tmp_path: Path) -> None:
    async def forge(life: Life) -> None:
        body = {"taskId": NOBODYS, "replyRef": life.task["replyRef"], "status": "SUCCEEDED", "artifacts": [FILM]}
        await life.forge(body, f"/callbacks/inbox/{INBOX}")
        await eventually(lambda: life.here.vendor.requests.get("/tasks/{taskId}", 0) > 0)

    heard = await check(tmp_path, forge)

    assert heard.webhooks == heard.stream == ["job.queued", "job.submitted", "job.succeeded"]
