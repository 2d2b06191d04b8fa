"""Cancel, retry, resolve, erase, deadlines and late tasks, through real doors and with a sandbox behind them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.clock import ManualClock
from relay.store.driver import sqlite3
from tests.journeys import EXAMPLE, Journey, eventually, journey, while_time_passes

pytestmark = pytest.mark.anyio

PROMPT = "A coast that nobody may read of again"
# Renders for so long that it is still at it when somebody cancels.
LONG_S = (0.01, 30.0)


async def post(here: Journey, path: str, **body: Any) -> httpx2.Response:
    return await here.client.post(path, json=body)


async def cancel(here: Journey, job_id: str) -> httpx2.Response:
    return await here.client.post(f"/v1/jobs/{job_id}/cancel")


async def types(here: Journey, job_id: str) -> list[str]:
    events = await here.get(f"/v1/jobs/{job_id}/events")
    return [event["type"].removeprefix("job.") for event in events["data"]]


async def why(here: Journey, job_id: str) -> str:
    return " ".join((await here.get(f"/v1/jobs/{job_id}/why"))["sentences"])


async def test_a_queued_job_that_is_cancelled_is_never_submitted(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"busy": True}) as here:
        job = await here.submit()
        await here.job_that(job["id"], lambda now: now["state"] == "queued" and now["attempts"] > 0)
        submits = here.vendor.submits
        first, second = await cancel(here, job["id"]), await cancel(here, job["id"])

        assert (first.status_code, first.json()["state"], first.json()["notice"]) == (200, "cancelled", None)
        assert second.json() == first.json(), "a second time changes nothing"
        assert (await types(here, job["id"]))[-1] == "cancelled"
        assert here.vendor.submits == submits
        assert "was cancelled" in await why(here, job["id"])


async def test_a_running_job_that_is_cancelled_says_that_the_upstream_still_renders(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=LONG_S) as here:
        job = await here.submit(replyUrl=here.subscriber.url)
        await here.job_in(job["id"], "running")
        answer = (await cancel(here, job["id"])).json()

        assert (answer["state"], answer["error"]) == ("cancelled", None)
        assert "still renders" in answer["notice"]
        assert answer["notice"] in await why(here, job["id"])
        assert (await here.get("/v1/accounts"))["data"][0]["running"] == 1, "its slot is taken"
        told = [body for _, body in here.subscriber.got if b"RELAY.CANCELLED" in body]
        while not told:
            await here.subscriber.wait_for(len(here.subscriber.got) + 1)
            told = [body for _, body in here.subscriber.got if b"RELAY.CANCELLED" in body]


async def test_what_a_cancelled_job_renders_is_kept_on_it_without_an_event(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=(0.01, 1.0)) as here:
        job = await here.submit()
        await here.job_in(job["id"], "running")
        await cancel(here, job["id"])
        now = await here.job_that(job["id"], lambda now: bool(now["artifacts"]))

        assert (now["state"], now["task"]["status"], now["upstreamStatus"]) == ("cancelled", "SUCCEEDED", "SUCCEEDED")
        assert (await types(here, job["id"]))[-1] == "cancelled"
        assert (await types(here, job["id"])).count("succeeded") == 0
        film = await here.client.get(now["artifacts"][0]["url"], headers={"Authorization": ""})
        assert film.status_code == 200
        assert (await here.get("/v1/accounts"))["data"][0]["running"] == 0


async def test_a_job_that_has_ended_is_not_cancelled(here: Journey, ended: dict[str, Any]) -> None:
    answer = await cancel(here, ended["id"])

    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert (await here.job(ended["id"]))["state"] == "succeeded"


async def test_a_cancel_that_races_with_the_submitter_leaves_one_winner(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=(0.0, 0.01)) as here:
        jobs = [await here.submit() for _ in range(12)]
        answers = await asyncio.gather(*(cancel(here, job["id"]) for job in jobs))
        after = [await here.ended(job["id"]) for job in jobs]
        finals = [(await types(here, job["id"])) for job in jobs]

    for answer, job, told in zip(answers, after, finals, strict=True):
        assert job["state"] == ("cancelled" if answer.status_code == 200 else "succeeded")
        assert sum(told.count(state) for state in ("succeeded", "failed", "cancelled")) == 1


@pytest.mark.parametrize("door", ["cancel", "retry", "resolve"])
async def test_nobody_steers_what_does_not_exist(here: Journey, door: str) -> None:
    answer = await post(here, f"/v1/jobs/nothing/{door}", outcome="failed")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert (await here.client.delete("/v1/jobs/nothing")).status_code == 404


async def test_a_failed_job_is_tried_again_as_a_new_one(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"fails": {"value": "empty", "times": 1}}) as here:
        old = await here.submit(replyRef="again", replyUrl=here.subscriber.url, priority=4)
        await here.ended(old["id"])
        made = await here.client.post(f"/v1/jobs/{old['id']}/retry")
        new = await here.ended(made.json()["id"])

        assert (made.status_code, made.headers["location"]) == (202, f"/v1/jobs/{new['id']}")
        assert (new["state"], new["retryOf"], new["replyRef"]) == ("succeeded", old["id"], "again")
        assert new["request"] == old["request"]
        assert new["replyUrl"] == here.subscriber.url
        assert (await here.job(old["id"]))["state"] == "failed"
        assert (await here.client.post(f"/v1/jobs/{new['id']}/retry")).status_code == 409


async def test_an_open_retry_is_returned_and_not_doubled(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"refused": {"value": True, "times": 1}}) as here:
        old = await here.ended((await here.submit())["id"])
        here.vendor.faults.replace({"busy": True})
        answers = await asyncio.gather(*(here.client.post(f"/v1/jobs/{old['id']}/retry") for _ in range(5)))

    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 202]
    assert len({answer.json()["id"] for answer in answers}) == 1


def lost_answer(here_lists: bool = True) -> dict[str, Any]:
    """A create whose answer is lost, while the lists name nobody."""
    return {"create_lost": {"value": "522", "times": 1}, "lists_without_refs": here_lists, "callbacks": "none"}


async def in_doubt(here: Journey) -> dict[str, Any]:
    job = await here.submit()
    return await here.job_in(job["id"], "in_doubt")


async def test_a_persons_word_binds_the_task_that_the_upstream_knows(tmp_path: Path) -> None:
    async with journey(tmp_path, faults=lost_answer()) as here:
        job = await in_doubt(here)
        task = next(here.vendor.register.newest_first())
        await eventually(lambda: task.course.ended(here.node.clock.now_ms()))
        task_id = task.task_id
        answer = await post(here, f"/v1/jobs/{job['id']}/resolve", outcome="created", taskId=task_id)
        after = await here.ended(job["id"])

    assert answer.status_code == 200, answer.text
    assert (after["state"], after["upstreamTaskId"], after["attempts"]) == ("succeeded", task_id, 1)


async def test_a_task_that_is_not_the_attempts_is_not_bound_by_any_word(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        other = await here.ended((await here.submit())["id"])
        here.vendor.faults.replace(lost_answer())
        job = await in_doubt(here)
        path = f"/v1/jobs/{job['id']}/resolve"
        known = other["upstreamTaskId"]
        unknown = known[:-12] + "0" * 12
        elsewhere = known.replace("-runwayml:", "-runwayml:x")
        answers = {
            "another job's": await post(here, path, outcome="created", taskId=known),
            "unknown": await post(here, path, outcome="created", taskId=unknown),
            "another account's": await post(here, path, outcome="created", taskId=elsewhere),
            "no id": await post(here, path, outcome="created"),
            "ours": await post(here, path, outcome="created", taskId=job["taskId"]),
            "a path": await post(here, path, outcome="created", taskId=known.replace("-task", "/../x-task")),
            "an id too many": await post(here, path, outcome="failed", taskId=known),
            "no outcome": await post(here, path),
            "another outcome": await post(here, path, outcome="paid"),
            "another field": await post(here, path, outcome="failed", why="because"),
        }
        after = await here.job(job["id"])

    assert [(name, answer.status_code) for name, answer in answers.items()] == [
        ("another job's", 409),
        ("unknown", 409),
        *((name, 400) for name in list(answers)[2:]),
    ]
    assert all(answer.json()["problems"] for answer in answers.values() if answer.status_code == 400)
    assert after["state"] == "in_doubt"


async def test_what_was_not_created_is_sent_again_and_what_failed_is_not(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"create_fails": {"value": "522", "times": 2}}) as here:
        first, second = await in_doubt(here), await in_doubt(here)
        again = await post(here, f"/v1/jobs/{first['id']}/resolve", outcome="not_created")
        ended = await post(here, f"/v1/jobs/{second['id']}/resolve", outcome="failed")
        sent = await here.ended(first["id"])
        twice = await post(here, f"/v1/jobs/{second['id']}/resolve", outcome="failed")

    assert (again.json()["state"], sent["state"], sent["attempts"]) == ("queued", "succeeded", 2)
    assert (ended.json()["state"], ended.json()["error"]["code"]) == ("failed", "submit_unknown")
    assert twice.status_code == 409


async def test_what_is_erased_is_gone_from_every_door_and_from_the_file(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        submitted = await here.submit(text_prompt=PROMPT, replyRef="mine", replyUrl=here.subscriber.url)
        job = await here.ended(submitted["id"])
        await here.until(lambda: here.get(f"/v1/jobs/{job['id']}/callbacks"), lambda page: len(page["data"]) > 1)
        before = json.dumps([job, await here.get(f"/v1/jobs/{job['id']}/callbacks")])
        first = await here.client.delete(f"/v1/jobs/{job['id']}")
        again = await here.client.delete(f"/v1/jobs/{job['id']}")
        now = await here.job(job["id"])
        doors = [
            await here.get(path.format(job["id"]))
            for path in (
                "/v1/jobs/{}",
                "/v1/jobs/{}/events",
                "/v1/jobs/{}/callbacks",
                "/v1/jobs/{}/why",
                "/v1/jobs/{}/deliveries",
                "/v1/jobs",
                "/v1/quarantine",
                "/v1/runwayml/tasks/" + job["upstreamTaskId"],
            )
        ]
        film = await here.client.get(job["artifacts"][0]["url"])
        head = (await here.get("/v1/events?since=earliest"))["next"]
        other = await here.ended((await here.submit())["id"])
        next_ids = [event["id"] for event in (await here.get(f"/v1/jobs/{other['id']}/events"))["data"]]
    with sqlite3.connect(f"file:{tmp_path / 'relay.db'}?mode=ro", uri=True) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [row for table in tables for row in database.execute(f"SELECT * FROM {table}")]  # noqa: S608
    database.close()

    assert PROMPT in before
    assert (first.status_code, again.status_code, film.status_code) == (204, 204, 404)
    assert PROMPT not in json.dumps(doors)
    assert [row for row in rows if PROMPT in repr(row)] == []
    assert (now["request"], now["task"], now["artifacts"], now["replyUrl"]) == ({}, None, [], None)
    kept = ("id", "state", "attempts", "createdAt", "submittedAt", "finishedAt", "replyRef", "taskId", "account")
    assert [now[name] for name in kept] == [job[name] for name in kept]
    assert now["erasedAt"] is not None
    assert "was erased at" in json.dumps(doors[3])
    assert all(callback["body"] == "" and callback["sizeBytes"] > 0 for callback in doors[2]["data"])
    assert int(next_ids[0].rpartition("-")[2]) == int(head.rpartition("-")[2]) + 1, "old events took no new numbers"


async def test_only_what_has_ended_can_be_erased(tmp_path: Path) -> None:
    async with journey(tmp_path, faults={"busy": True}) as here:
        job = await here.submit()
        refused = await here.client.delete(f"/v1/jobs/{job['id']}")
        await cancel(here, job["id"])
        erased = await here.client.delete(f"/v1/jobs/{job['id']}")
        retried = await here.client.post(f"/v1/jobs/{job['id']}/retry")

    assert (refused.status_code, erased.status_code, retried.status_code) == (409, 204, 409)


@pytest.mark.parametrize(
    ("wrong", "field", "rule"),
    [
        ({"priority": 11}, "priority", "range"),
        ({"priority": -11}, "priority", "range"),
        ({"priority": 1.5}, "priority", "range"),
        ({"priority": True}, "priority", "range"),
        ({"priority": "1"}, "priority", "range"),
        ({"priority": 10**400}, "priority", "range"),
        ({"deadline": "tomorrow"}, "deadline", "time"),
        ({"deadline": True}, "deadline", "time"),
        ({"deadline": [1]}, "deadline", "time"),
        ({"deadline": 10**400}, "deadline", "time"),
        ({"deadline": 0}, "deadline", "ahead"),
        ({"deadline": -5}, "deadline", "ahead"),
        ({"deadline": "2020-01-01T00:00:00Z"}, "deadline", "ahead"),
        ({"deadline": "9999-12-31T23:59:59+00:00"}, "deadline", "ahead"),
    ],
)
async def test_a_term_that_is_wrong_is_refused_by_field_and_rule(
    here: Journey, wrong: dict[str, Any], field: str, rule: str
) -> None:
    answer = await here.client.post("/v1/jobs", json=EXAMPLE | wrong)
    dry = await here.client.post("/v1/jobs?dry_run=true", json=EXAMPLE | wrong)

    assert answer.status_code == 400
    assert [(problem["field"], problem["rule"]) for problem in answer.json()["problems"]] == [(field, rule)]
    assert dry.json()["valid"] is False


async def test_wrong_terms_and_a_wrong_request_are_told_at_once(here: Journey) -> None:
    answer = await here.client.post("/v1/jobs", json=EXAMPLE | {"priority": 99, "deadline": "x", "model": "gen9"})
    assert [problem["field"] for problem in answer.json()["problems"]] == ["priority", "deadline", "model"]


async def test_good_terms_are_the_relays_and_never_the_upstreams(here: Journey) -> None:
    terms = {"priority": -10, "deadline": "2199-01-01T00:00:00+02:00"}
    assert (await here.client.post("/v1/jobs", json=EXAMPLE | terms)).status_code == 400, "further than a year"
    job = await here.submit(priority=10.0, deadline=60)
    after = await here.ended(job["id"])
    assert (after["state"], after["request"]) == ("succeeded", EXAMPLE)


async def test_a_job_that_has_not_started_by_its_deadline_fails_when_it_comes(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, faults={"busy": True}) as here:
        job = await here.submit(deadline=90)
        other = await here.submit()
        after = await while_time_passes(clock, here.ended(job["id"]), 0.5)
        waiting = await here.job(other["id"])

    assert (after["state"], after["error"]["code"], after["attempts"] > 0) == ("failed", "deadline", True)
    created, ended = _seconds(after["createdAt"]), _seconds(after["finishedAt"])
    assert 90 <= ended - created < 93
    assert not waiting["finishedAt"]


def _seconds(time: str) -> float:
    hours, minutes, seconds = time[11:-1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


@pytest.mark.parametrize("told_by", ["lists", "callback"])
async def test_a_task_that_turns_up_after_its_job_failed_is_adopted(tmp_path: Path, told_by: str) -> None:
    """The create is cut, its task appears behind `RELAY_IN_DOUBT_AFTER`; one task is paid for, and its video is had."""
    clock = ManualClock()
    faults = {
        "create_lost": {"value": "522", "times": 1},
        "appears_after": {"value": 180, "times": 1},
        "callbacks": "none" if told_by == "lists" else "final",
        "lists_without_refs": told_by == "callback",
    }
    relay: dict[str, Any] = {"in_doubt_after": "60s", "clock": clock, "sandbox_clock": clock, "times_s": (1.0, 1.0)}
    async with journey(tmp_path, faults=faults, **relay) as here:
        job = await here.submit(replyRef="mine", replyUrl=here.subscriber.url)
        failed = await while_time_passes(clock, here.ended(job["id"]), 0.5)

        async def adopted() -> list[dict[str, Any]]:
            listed: list[dict[str, Any]] = (await here.get("/v1/jobs?replyRef=mine"))["data"]
            return [one for one in listed if one["id"] != job["id"]]

        [late] = await while_time_passes(
            clock, here.until(adopted, lambda found: bool(found and found[0]["finishedAt"])), 0.5
        )
        sentences = await why(here, late["id"])
        old = await here.job(job["id"])
        submits = here.vendor.submits

    assert (failed["state"], failed["error"]["code"]) == ("failed", "submit_unknown")
    assert (late["state"], late["origin"], len(late["artifacts"])) == ("succeeded", "adopted", 1)
    assert [(problem["rule"], problem["given"]) for problem in late["problems"]] == [("late_task", job["id"])]
    assert job["id"] in sentences
    assert (old["state"], old["finishedAt"], submits) == ("failed", failed["finishedAt"], 1)


async def test_what_looks_like_an_attempt_in_doubt_is_shown_and_never_bound(tmp_path: Path) -> None:
    clock = ManualClock()
    async with journey(tmp_path, faults=lost_answer(), clock=clock, sandbox_clock=clock, times_s=(1.0, 1.0)) as here:
        job = await in_doubt(here)
        task_id = next(here.vendor.register.newest_first()).task_id

        async def reasons() -> dict[str, Any]:
            return await here.get(f"/v1/jobs/{job['id']}/why")

        told = await while_time_passes(
            clock, here.until(reasons, lambda found: bool(found["facts"]["candidates"])), 0.5
        )
        now = await here.job(job["id"])

    assert [candidate["taskId"] for candidate in told["facts"]["candidates"]] == [task_id]
    assert (now["state"], now["upstreamTaskId"]) == ("in_doubt", None)


async def test_a_token_steers_its_own_jobs_and_one_with_manage_all(here: Journey) -> None:
    async def token(*scopes: str) -> dict[str, str]:
        made = await post(here, "/v1/tokens", name=f"steers {scopes} {len(names)}", scopes=scopes)
        names.append(made.json()["id"])
        return {"Authorization": f"Bearer {made.json()['token']}"}

    names: list[str] = []
    owner, other, reader = await token("submit"), await token("submit"), await token("submit", "read")
    manager = await token("submit", "manage")
    made = await here.client.post("/v1/jobs", json=EXAMPLE | {"text_prompt": "moderate-late"}, headers=owner)
    job = await here.ended(made.json()["id"])
    path = f"/v1/jobs/{job['id']}/retry"
    tried = {
        name: await here.client.post(path, headers=headers)
        for name, headers in (("other", other), ("reader", reader), ("manager", manager))
    }
    again = tried["manager"].json()
    owners = await here.client.get(f"/v1/jobs/{again['id']}", headers=owner)

    assert job["state"] == "failed"
    assert {name: answer.status_code for name, answer in tried.items()} == {"other": 404, "reader": 403, "manager": 202}
    assert "request" not in again, "managing is not reading"
    assert owners.json()["retryOf"] == job["id"], "the new job is its first client's"
