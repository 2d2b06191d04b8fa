"""Each scenario does what its sentence says, as seen by whoever submits and asks."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx2
import pytest

from relay.sandbox.admission import built_in
from relay.sandbox.faults import read_faults
from relay.sandbox.scenarios import EXAMPLE, SCENARIOS
from relay.sandbox.vendor import Vendor
from tests.sandbox.serving import Bench, answered, bench, receiver

pytestmark = pytest.mark.anyio

SPEED = 1000.0
SILENCE_S = 0.3


@dataclass(frozen=True)
class Seen:
    """What is seen of a scenario: the create's outcome, how the task ends (None: there is none), and its callbacks."""

    create: int | str = 200
    ends: str | None = "SUCCEEDED"
    callbacks: int | None = 11


EXPECTED = {
    "happy": Seen(),
    "moderated-at-submit": Seen(422, None, 0),
    "refused": Seen(400, None, 0),
    "no-credits": Seen(412, None, 0),
    "unauthorized": Seen(401, None, 0),
    "busy": Seen(429, None, 0),
    "provider-limit": Seen(429, None, 0),
    "changing-capacity": Seen(),
    "created-then-522": Seen(522),
    "cut-then-appears": Seen("cut"),
    "522-then-appears": Seen(522),
    "created-in-silence": Seen("silence"),
    "never-created": Seen(522, None, 0),
    "html-at-submit": Seen(502),
    "lagging-lists": Seen(522),
    "lists-without-refs": Seen(522),
    "slow-answer": Seen(),
    "moderated-late": Seen(ends="FAILED", callbacks=3),
    "bad-output": Seen(ends="FAILED", callbacks=9),
    "failed-without-reason": Seen(ends="FAILED", callbacks=9),
    "failed-otherwise": Seen(ends="FAILED", callbacks=9),
    "cancelled": Seen(ends="CANCELLED", callbacks=5),
    "throttled": Seen(callbacks=12),
    "odd-status": Seen(),
    "never-ends": Seen(ends="RUNNING", callbacks=10),
    "lost-callbacks": Seen(callbacks=0),
    "half-the-callbacks": Seen(callbacks=None),
    "final-callback-only": Seen(callbacks=1),
    "duplicate-callbacks": Seen(callbacks=22),
    "reordered-callbacks": Seen(),
    "late-final": Seen(),
    "late-callbacks": Seen(),
    "callback-before-answer": Seen(callbacks=12),
    "stray-callbacks": Seen(callbacks=22),
    "anonymous-callbacks": Seen(),
    "running-after-final": Seen(),
    "not-found-at-first": Seen(),
    "html-errors": Seen(),
    "polls-limited": Seen(),
    "asking-in-silence": Seen(),
    "no-artifact-at-first": Seen(),
    "no-artifact-ever": Seen(),
    "expired-links": Seen(),
    "large-film": Seen(),
    "other-shapes": Seen(),
}


def test_every_scenario_is_expected_to_do_something() -> None:
    assert list(EXPECTED) == list(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_has_a_sentence_faults_that_can_be_set_and_a_create_that_the_catalogue_takes(name: str) -> None:
    scenario = SCENARIOS[name]

    assert scenario.sentence.endswith(".")
    assert set(read_faults(scenario.faults)) == set(scenario.faults)
    assert scenario.fields["model"] in built_in().models
    assert set(scenario.fields) == set(EXAMPLE)


async def outcome(sandbox: Bench, fields: dict[str, Any]) -> int | str:
    try:
        answer = await sandbox.client.post("videos/create", json=fields, timeout=httpx2.Timeout(20, read=SILENCE_S))
    except httpx2.RemoteProtocolError:
        return "cut"
    except httpx2.ReadTimeout:
        return "silence"
    return answer.status_code


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_scenario_does_what_it_says(name: str) -> None:
    scenario, seen = SCENARIOS[name], EXPECTED[name]
    async with bench(speed=SPEED, times_s=(5, 50)) as sandbox, receiver() as callbacks:
        await sandbox.client.put(sandbox.origin + "/sandbox/faults", json=dict(scenario.faults))

        created = await outcome(sandbox, {**scenario.fields, "replyUrl": callbacks.origin, "replyRef": name})
        tasks = (await sandbox.state())["tasks"]
        while tasks and tasks[0]["status"] != seen.ends:
            tasks = (await sandbox.state())["tasks"]
        if seen.callbacks:
            await callbacks.until(lambda: len(callbacks.requests) >= (seen.callbacks or 0))

        assert created == seen.create
        assert [task["status"] for task in tasks] == ([seen.ends] if seen.ends else [])
        if seen.callbacks is not None:
            assert len(callbacks.requests) == seen.callbacks


NOW_MS = 1_767_225_600_000
PAGE = {"offset": "0", "limit": "10"}


def look(sandbox: Vendor, task_id: str, what: str, at_s: float) -> Any:
    """One fact about a task, `at_s` seconds after its create: it waits 30 s and renders for 100 s."""
    now_ms = NOW_MS + round(at_s * 1000)
    if what == "listed":
        listed = json.loads(sandbox.asking.scheduler(now_ms).body), json.loads(sandbox.asking.tasks(now_ms, PAGE).body)
        return [len(each) for each in listed]
    if what == "references":
        return [task.get("replyRef") for task in json.loads(sandbox.asking.scheduler(now_ms).body)]
    answer = answered(lambda: sandbox.asking.task(now_ms, task_id))
    if what == "answer":
        return "silence" if answer.hang else answer.status
    task = json.loads(answer.body)
    if what == "link":
        url = task["artifacts"][0]["url"]
        name, _, jwt = url.rpartition("/")[2].partition("?_jwt=")
        return [sandbox.links.good(name, jwt, now_ms + later_s * 1000) for later_s in (59, 60)]
    if what == "size":
        return task["artifacts"][0]["fileSize"]
    return len(task["artifacts"]) if what == "artifacts" else task[what]


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("cut-then-appears", [("listed", 19, [0, 0]), ("listed", 20, [1, 1])]),
        ("522-then-appears", [("listed", 59, [0, 0]), ("answer", 59, 404), ("listed", 60, [1, 1])]),
        ("created-then-522", [("listed", 0, [1, 1]), ("references", 0, ["mine"])]),
        ("lagging-lists", [("listed", 59, [0, 0]), ("answer", 59, 200), ("listed", 60, [1, 1])]),
        ("lists-without-refs", [("listed", 0, [1, 1]), ("references", 0, [None])]),
        ("throttled", [("status", 30, "THROTTLED"), ("status", 629, "THROTTLED"), ("status", 630, "RUNNING")]),
        ("odd-status", [("status", 60, "UPSCALING"), ("status", 130, "SUCCEEDED")]),
        ("never-ends", [("status", 100_000, "RUNNING"), ("progressRatio", 100_000, "0.9")]),
        ("running-after-final", [("status", 189, "RUNNING"), ("status", 190, "SUCCEEDED")]),
        ("not-found-at-first", [("answer", 59, 404), ("answer", 60, 200)]),
        ("html-errors", [("answer", 1, 502), ("answer", 2, 502), ("answer", 3, 502), ("answer", 4, 200)]),
        ("polls-limited", [*(("answer", at_s, 429) for at_s in range(5)), ("answer", 5, 200)]),
        ("asking-in-silence", [("answer", 1, "silence"), ("answer", 2, 200)]),
        ("no-artifact-at-first", [("artifacts", 189, 0), ("artifacts", 190, 1)]),
        ("no-artifact-ever", [("status", 130, "SUCCEEDED"), ("artifacts", 100_000, 0)]),
        ("expired-links", [("link", 130, [True, False])]),
        ("large-film", [("size", 130, "100000000")]),
        ("moderated-late", [("status", 50, "FAILED"), ("error", 49, None)]),
        ("cancelled", [("status", 70, "CANCELLED"), ("error", 70, None)]),
    ],
)
def test_asking_after_a_scenario_shows_what_its_sentence_says(name: str, facts: list[tuple[str, float, Any]]) -> None:
    scenario = SCENARIOS[name]
    sandbox = Vendor(Random(1), times_s=(30, 100), faults=scenario.faults)  # noqa: S311 - chance, not a secret
    answered(lambda: sandbox.create(NOW_MS, {**scenario.fields, "replyRef": "mine"}, "http://sandbox"))
    task_id = next(sandbox.register.oldest_first()).task_id

    seen = [(what, at_s, look(sandbox, task_id, what, at_s)) for what, at_s, _ in facts]

    assert seen == facts
