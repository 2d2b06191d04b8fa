"""Callbacks are hints: kept, answered, asked about; whoever forges one can make the relay ask, and nothing more."""

import hashlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.clock import ManualClock
from relay.core.job import Attempt
from relay.web import callbacks
from tests.journeys import EXAMPLE, Journey, eventually, journey
from tests.wire import request, wire

pytestmark = pytest.mark.anyio

UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"
FILM: dict[str, Any] = {"url": "https://evil.example.com/film.mp4", "previewUrls": [], "fileSize": "1"}
ASKED = "/tasks/{taskId}"


@dataclass
class Running:
    """A job whose task stands still at the upstream, and the address that its callbacks come to."""

    here: Journey
    clock: ManualClock
    job: dict[str, Any]

    @property
    def task(self) -> dict[str, Any]:
        tasks: list[dict[str, Any]] = self.here.vendor.state(self.clock.now_ms())["tasks"]
        return next(task for task in tasks if self.job["id"] in task["replyRef"])

    @property
    def token(self) -> str:
        return str(self.task["replyUrl"].rpartition("/")[2])

    async def calls_back(self, body: Any, **headers: str) -> httpx2.Response:
        """What a stranger who has the address, but no token, can send."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with httpx2.AsyncClient(trust_env=False) as stranger:
            return await stranger.post(
                f"{self.here.relay_url}/callbacks/{self.token}",
                content=content,
                headers={"Content-Type": "application/json", **headers},
            )

    async def now(self) -> dict[str, Any]:
        return await self.here.job(self.job["id"])

    async def attempt(self) -> Attempt:
        attempts: list[Attempt] = await self.here.node.app.state.store.attempts(self.job["id"])
        return attempts[-1]

    async def asked(self, times: int) -> None:
        """Once the upstream's answer to so many questions about the task has been written."""
        await self.here.until(self.attempt, lambda attempt: attempt.state == "ended" or attempt.asked >= times)

    async def events(self) -> list[str]:
        return [event["type"] for event in (await self.here.get(f"/v1/jobs/{self.job['id']}/events"))["data"]]

    async def effects(self) -> list[str]:
        return [row["effect"] for row in (await self.here.get(f"/v1/jobs/{self.job['id']}/callbacks"))["data"]]


def files_in(folder: Path) -> list[Path]:
    """The database, its log, and what lies beside it."""
    return [path for path in folder.iterdir() if path.is_file()]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Running]:
    """It would end 60 s from now, if time did not stand still, and the upstream itself says nothing."""
    clock = ManualClock()
    faults = {"callbacks": "none"}
    async with journey(tmp_path, clock=clock, sandbox_clock=clock, times_s=(10, 50), faults=faults) as here:
        job = await here.job_in((await here.submit())["id"], "running")
        yield Running(here, clock, job)


@pytest.mark.parametrize(
    "forged",
    [
        {"status": "SUCCEEDED", "artifacts": [FILM]},
        {"task": {"status": "SUCCEEDED", "artifacts": [FILM], "progressRatio": "1"}},
        {"status": "FAILED", "artifacts": [], "error": {"reason": "SAFETY.X", "errorMessage": "no"}},
        {"status": "CANCELLED", "progressRatio": 1},
    ],
    ids=["invented film", "nested", "invented failure", "invented cancel"],
)
async def test_a_forged_end_makes_the_relay_ask_and_changes_nothing(running: Running, forged: dict[str, Any]) -> None:
    answer = await running.calls_back(forged)
    await running.asked(1)
    job = await running.now()

    assert (answer.status_code, answer.json()) == (200, {"result": "stored"})
    assert running.here.vendor.requests[ASKED] == 1
    assert (job["state"], job["progress"], job["artifacts"], job["error"]) == ("running", 0.0, [], None)
    assert await running.events() == ["job.queued", "job.submitted"]
    assert await running.effects() == ["hint: the upstream is asked for the end"]


async def test_after_a_hint_the_relay_asks_a_few_times_and_no_stream_of_hints_makes_it_ask_more(
    running: Running,
) -> None:
    await running.calls_back({"status": "SUCCEEDED", "artifacts": [FILM]})
    await running.asked(1)
    for times, wait_s in enumerate((2, 5), start=2):
        await running.calls_back({"status": "FAILED", "artifacts": [], "progressRatio": times})
        running.clock.advance(wait_s)
        await running.asked(times)

    assert running.here.vendor.requests[ASKED] == 3
    assert (await running.effects())[1:] == ["hint: the upstream is already being asked"] * 2


async def test_a_true_end_is_what_the_upstream_answers_and_not_what_was_called_back(running: Running) -> None:
    running.clock.advance(61)
    await running.calls_back({"status": "FAILED", "artifacts": [FILM], "error": "invented"})
    job = await running.here.ended(running.job["id"])

    assert (job["state"], job["error"]) == ("succeeded", None)
    assert "evil" not in json.dumps(job)


@pytest.mark.parametrize(
    ("forged", "reason"),
    [
        ({"status": "SUCCEEDED", "taskId": f"user:1-runwayml:a@x.com-task:{UUID}"}, "another taskId"),
        ({"status": "SUCCEEDED", "taskId": None, "replyRef": "somebody-else"}, "another replyRef"),
        ({"task": {"status": "FAILED"}, "replyRef": "relay:00000000:x:1"}, "another replyRef"),
        ({"hello": "world"}, "not a task"),
    ],
)
async def test_what_is_about_something_else_is_kept_apart(
    running: Running, forged: dict[str, Any], reason: str
) -> None:
    answer = await running.calls_back(forged)
    kept = (await running.here.get("/v1/quarantine"))["data"]

    assert (answer.status_code, answer.json()) == (200, {"result": "quarantined"})
    assert [(row["reason"], row["job"], json.loads(row["body"])) for row in kept] == [
        (reason, running.job["id"], forged)
    ]
    assert running.here.vendor.requests.get(ASKED, 0) == 0
    assert await running.events() == ["job.queued", "job.submitted"]
    assert await running.effects() == []


ODD = {
    "empty": b"",
    "not JSON": b"status=SUCCEEDED",
    "cut": b'{"status": "SUCC',
    "a number": b"1",
    "null": b"null",
    "an empty list": b"[]",
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"task":' * 100_000 + b"1" + b"}" * 100_000,
    "deep in a task": b'{"status":"RUNNING","artifacts":' + b"[" * 900 + b"]" * 900 + b"}",
    "NaN": b'{"status": "SUCCEEDED", "artifacts": [], "progressRatio": NaN}',
    "infinity": b'{"status": "RUNNING", "progressRatio": 1e999}',
    "a long number": b'{"status": "RUNNING", "progressRatio": ' + b"9" * 5_000 + b"}",
    "NUL": b'{"status": "RUN\\u0000NING", "taskId": "a\\u0000b", "progressRatio": 0}',
    "raw NUL": b'{"status": "RUN\x00NING"}',
    "a byte order mark": b'\xef\xbb\xbf{"status": "RUNNING", "progressRatio": 0}',
    "UTF-16": '{"status": "RUNNING", "progressRatio": 0}'.encode("utf-16"),
    "half of UTF-16": b"\xff\xfe{",
    "no UTF-8": b'{"status": "RUNNING\xff"}',
    "lone surrogates": b'{"status": "\\ud800", "progressRatio": "\\udfff", "error": "\\ud83d"}',
    "wrong types": b'{"status": 7, "taskId": {}, "artifacts": "x", "progressRatio": [], "updatedAt": 9}',
    "odd artifacts": b'{"status": "RUNNING", "artifacts": [1, null, {"url": "http://[", "metadata": {"size": 1}}]}',
    "odd times": b'{"status": "RUNNING", "progressRatio": 0, "updatedAt": "9999-99-99T99:99:99Z"}',
    "a far future": b'{"status": "RUNNING", "progressRatio": 0, "updatedAt": "9999-12-31T23:59:59-23:59"}',
    "a task of tasks": b'{"tasks": [{"task": {"tasks": [{}]}}]}',
    "an error alone": b'{"error": {"message": 1, "reason": []}, "status": "FAILED"}',
}


async def test_no_odd_body_is_more_than_kept(running: Running) -> None:
    for name, body in ODD.items():
        answer = await running.calls_back(body, **{"Content-Type": "text/odd; charset=klingon"})

        assert answer.status_code == 200, name
        assert answer.json()["result"] in ("stored", "quarantined"), name
    kept = await running.here.get("/v1/quarantine?limit=200")
    shown = await running.here.get(f"/v1/jobs/{running.job['id']}/callbacks?limit=200")
    job = await running.now()

    assert len(kept["data"]) + len(shown["data"]) == len(ODD)
    hashes = {row["sha256"] for row in (*kept["data"], *shown["data"])}
    assert hashes == {hashlib.sha256(body).hexdigest() for body in ODD.values()}
    assert (job["state"], job["progress"], job["artifacts"]) == ("running", 0.0, [])


async def test_bodies_are_bounded_one_by_one_and_together(running: Running) -> None:
    limit = callbacks.BODY_MAX_BYTES
    too_long = await running.calls_back(b"x" * (limit + 1))
    answers = [await running.calls_back(bytes([n]) * limit) for n in range(9)]
    kept = (await running.here.get("/v1/quarantine"))["data"]

    assert (too_long.status_code, too_long.json()["code"]) == (413, "body_too_large")
    assert [answer.status_code for answer in answers] == [200] * 8 + [429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert len(kept) == 8


async def test_a_body_that_does_not_come_is_a_408_and_nothing_is_kept(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "BODY_DEADLINE_S", 0.05)
    head = request("POST", f"/callbacks/{running.token}", {"Content-Length": "100"}, token=None)
    async with wire(running.here.relay_url) as connection:
        await connection.send(head + b'{"status":')
        status, body = await connection.answer()
    async with wire(running.here.relay_url) as connection:
        await connection.send(head + b'{"status": "SUCCEEDED"}')  # and hangs up

    assert (status, body["code"]) == (408, "body_too_slow")
    assert await running.effects() == []
    assert (await running.here.get("/v1/quarantine"))["data"] == []


async def test_other_methods_and_other_tokens_find_nothing(running: Running) -> None:
    async with httpx2.AsyncClient(base_url=running.here.relay_url, trust_env=False) as stranger:
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert (await stranger.request(method, f"/callbacks/{running.token}")).status_code == 405
        for token in (running.token[:-1], running.token + "a", running.token.swapcase(), "%00", "x" * 4_000):
            answer = await stranger.post(f"/callbacks/{token}", content=b'{"status": "SUCCEEDED", "artifacts": []}')
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert running.here.vendor.requests.get(ASKED, 0) == 0


async def test_a_callback_twice_is_one_callback_and_progress_never_falls(running: Running) -> None:
    def report(progress: str, second: int) -> dict[str, Any]:
        at = f"2026-01-01T00:00:{second:02}.000Z"
        return {"status": "RUNNING", "taskId": running.task["taskId"], "progressRatio": progress, "updatedAt": at}

    running.clock.advance(29)
    newer, older = report("0.5", 20), report("0.7", 10)
    results = [(await running.calls_back(body)).json()["result"] for body in (newer, newer, older, report("0.4", 25))]
    job = await running.now()

    assert results == ["stored", "duplicate", "stored", "stored"]
    assert await running.effects() == ["progress", "late: something newer is known", "nothing new"]
    assert (job["progress"], job["upstreamStatus"]) == (0.5, "RUNNING")
    assert await running.events() == ["job.queued", "job.submitted", "job.progress"]


async def test_what_comes_after_the_end_is_kept_for_a_day_and_harmless(running: Running) -> None:
    running.clock.advance(61)
    await running.calls_back({"status": "SUCCEEDED", "artifacts": []})
    ended = await running.here.ended(running.job["id"])
    events = await running.events()
    running.clock.advance(24 * 3600 - 1)
    late = await running.calls_back({"status": "FAILED", "artifacts": [], "error": "late"})
    running.clock.advance(2)
    dead = await running.calls_back({"status": "FAILED", "artifacts": []})

    assert (late.status_code, dead.status_code) == (200, 404)
    assert (await running.effects())[-1].startswith("late: ")
    assert await running.events() == events
    assert (await running.now())["updatedAt"] == ended["updatedAt"]


async def test_the_secret_of_the_address_is_nowhere_at_rest_and_nowhere_shown(running: Running, tmp_path: Path) -> None:
    echoed = {"status": "RUNNING", "progressRatio": 0, "replyUrl": running.task["replyUrl"], "note": running.token}
    body = json.dumps(echoed).encode()
    await running.calls_back(body)
    await running.calls_back({"not a task": running.task["replyUrl"]})
    running.clock.advance(61)
    await running.calls_back({"status": "SUCCEEDED", "artifacts": []})
    job = await running.here.ended(running.job["id"])
    shown = await running.here.client.get(f"/v1/jobs/{running.job['id']}/callbacks")
    kept = await running.here.client.get("/v1/quarantine")

    assert shown.json()["data"][0]["sha256"] == hashlib.sha256(body).hexdigest()
    for text in (json.dumps(job), shown.text, kept.text):
        assert running.token not in text
    assert running.token.encode() not in b"".join(path.read_bytes() for path in files_in(tmp_path))


async def test_an_id_that_only_a_callback_names_binds_nothing(tmp_path: Path) -> None:
    clock = ManualClock()
    faults = {"create_lost": "522", "callbacks": "none", "lists_without_refs": True}
    async with journey(tmp_path, clock=clock, sandbox_clock=clock, times_s=(10, 50), faults=faults) as here:
        doubtful = Running(here, clock, await here.job_in((await here.submit())["id"], "in_doubt"))
        here.vendor.faults.replace({"callbacks": "none", "lists_without_refs": True})
        made = await here.client.post(
            f"{here.sandbox_url}/v1/runwayml/videos/create",
            json=EXAMPLE | {"replyRef": "theirs"},
        )
        theirs = made.json()["task"]["taskId"]

        # Somebody else's task, one that there is not, and one that cannot even be asked about.
        for n, forged in enumerate(
            (theirs, f"user:1-runwayml:a@x.com-task:{UUID}", f"user:1-runwayml:a\x01b-task:{UUID}"), start=1
        ):
            await doubtful.calls_back({"status": "SUCCEEDED", "taskId": forged, "artifacts": [FILM]})
            await doubtful.asked(n)
            assert (await doubtful.now())["state"] == "in_doubt"
        assert here.vendor.requests["/scheduler/"] == 3
        # The true one: the upstream itself says whose it is.
        await doubtful.calls_back({"status": "RUNNING", "taskId": doubtful.task["taskId"]})
        job = await here.job_in(doubtful.job["id"], "running")

        assert job["upstreamTaskId"] == doubtful.task["taskId"]
        assert job["attempts"] == 1
        assert here.vendor.submits == 2


HARMLESS: list[dict[str, Any]] = [
    {"callbacks_doubled": 1.0},
    {"callbacks_reordered": True},
    {"callbacks_stray": 1.0},
    {"callbacks_before_answer": True},
    {"callbacks_without": "ids"},
    {"callbacks": "final"},
    {"callback_body": "nested", "callback_content_type": "text/plain"},
    {"progress": "null", "get_body": "nested", "metadata": "null"},
    {"get_running_after_final": {"value": 0.2, "real": True}},
    {"create_body": "flat"},
]


@pytest.mark.parametrize("faults", HARMLESS, ids=[next(iter(faults)) for faults in HARMLESS])
async def test_however_callbacks_come_a_job_ends_once(here: Journey, faults: dict[str, Any]) -> None:
    here.vendor.faults.replace(faults)
    job = await here.ended((await here.submit())["id"])
    here.vendor.faults.replace({})
    events = (await here.get(f"/v1/jobs/{job['id']}/events"))["data"]

    assert job["state"] == "succeeded"
    assert job["artifacts"][0]["kind"] == "video"
    types = [event["type"] for event in events]
    assert types[:2] == ["job.queued", "job.submitted"]
    assert set(types[2:-1]) <= {"job.progress"}
    assert types[-1] == "job.succeeded"
    shown = [event["data"]["job"]["progress"] for event in events]
    assert shown == sorted(shown)


async def test_without_an_address_of_its_own_the_relay_asks_for_everything(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, callbacks=False, clock=clock, sandbox_clock=clock, times_s=(10, 65)) as here:
        await here.subscribe()
        polled = Running(here, clock, await here.job_in((await here.submit())["id"], "running"))
        progress = []
        for times in (1, 2, 3):
            clock.advance(30)
            await polled.asked(times)
            progress.append((await polled.now())["progress"])
        job = await here.ended(polled.job["id"])
        webhook = (await here.subscriber.wait_for(1))[0]

        assert polled.task["replyUrl"] is None
        assert job["state"] == "succeeded"
        assert progress == sorted(progress)
        assert 0 < progress[0] < 1
        assert here.vendor.requests[ASKED] == 3
        assert webhook["data"]["job"]["id"] == job["id"]
        assert job["artifacts"][0]["url"].startswith(here.relay_url)


async def test_a_callback_makes_nobody_wait_for_the_next_question(running: Running) -> None:
    """The upstream's own callbacks, from its first word on, and the end as soon as the upstream says so."""
    running.here.vendor.faults.replace({})
    job = await running.here.submit()
    other = Running(running.here, running.clock, await running.here.job_in(job["id"], "running"))
    other.clock.advance(35)
    await running.here.job_that(job["id"], lambda job: job["progress"] > 0)
    other.clock.advance(30)
    await running.here.ended(job["id"])

    await eventually(lambda: other.here.vendor.outbox.log[-1]["status"] == 200)
    assert (await other.events())[-1] == "job.succeeded"
