"""Each scenario does what its sentence says, as seen by whoever submits and asks."""

from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from relay.sandbox.admission import built_in
from relay.sandbox.faults import read_faults
from relay.sandbox.scenarios import EXAMPLE, SCENARIOS
from tests.sandbox.serving import Bench, Receiver, bench, receiver

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
