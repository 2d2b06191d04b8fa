"""Why is it stuck? Situations of `relay trigger`, and what the relay says of a job, a delivery, a subscription in each.

Relay and sandbox share one clock that the test moves; it moves it until the sentence is there, and not for ever.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from relay.clock import ManualClock
from relay.sandbox.scenarios import EXAMPLE, SCENARIOS
from relay.sandbox.vendor import Vendor
from tests.journeys import Journey, journey
from tests.whole.test_scenarios import time_jumps

pytestmark = pytest.mark.anyio

JUMPS_MAX = 600


@dataclass(frozen=True)
class Stuck:
    """A scenario, the words of the answer; what is asked for and goes wrong beyond it, how many jobs go before."""

    scenario: str
    said: tuple[str, ...]
    state: str
    fields: dict[str, Any] = field(default_factory=dict)
    before: int = 0
    faults: dict[str, Any] = field(default_factory=dict)


SITUATIONS = {
    "the account has no credits": Stuck("no-credits", ("is parked (", "and is tried again at"), "queued"),
    "all slots are taken": Stuck(
        "never-ends", ("Waits for a slot on", "2 of 2 running; 1 job ahead.", "It should start in about"), "queued",
        before=3, faults={"never_ends": True},
    ),
    "it must start soon, and cannot": Stuck(
        "busy", ("Attempt 1 on", "not taken (", "It fails if it has not started by"), "queued", {"deadline": 3_600}
    ),
    "it is pinned to an account that nobody knows": Stuck(
        "happy", ("account_gone, the upstream has no account nobody@example.com",), "failed",
        {"email": "nobody@example.com"},
    ),
    "nobody knows whether it was created": Stuck(
        "never-created",
        ("nobody knows whether the upstream took it", "was looked for 3 times", "It may be paid for", "submit_unknown"),
        "in_doubt",
    ),
    "a task like it is there, and nothing says whose": Stuck(
        "lists-without-refs", ("1 task with the same prompt began near it", "POST …/resolve"), "in_doubt",
        faults={"callbacks": "none"},
    ),
    "it is said to have ended, and asking says not": Stuck(
        "running-after-final", ("Reported as finished at", "waiting for the upstream to confirm"), "running"
    ),
    "the upstream throttles it": Stuck("throttled", ("The upstream says THROTTLED, 0%.",), "running"),
    "it succeeded without a file": Stuck(
        "no-artifact-ever", ("says that it succeeded, but has had no file of it since",), "running"
    ),
    "it stands still": Stuck("never-ends", ("The upstream says RUNNING, 90%.", "It is asked about next in"), "running"),
    "moderation refused it": Stuck(
        "moderated-at-submit", ("moderated", "the same again would fail again", "Nobody was told of it"), "failed"
    ),
}  # fmt: skip


async def until_said(here: Journey, clock: ManualClock, path: str, *words: str) -> dict[str, Any]:
    """What the door says, once all of these words are in it."""
    for _ in range(JUMPS_MAX):
        why = await here.get(path)
        if all(word in " ".join(why["sentences"]) for word in words):
            return why
        await time_jumps(clock)
    raise AssertionError(f"{words} are not in: {why['sentences']}")


@pytest.mark.parametrize("name", SITUATIONS)
async def test_a_stuck_job_says_what_it_waits_for(tmp_path: Path, name: str) -> None:
    clock, stuck = ManualClock(), SITUATIONS[name]
    scenario = SCENARIOS[stuck.scenario]
    faults = {**scenario.faults, **stuck.faults}
    vendor = Vendor(Random(1), faults=faults, times_s=(10, 60))  # noqa: S311 - chance, not a secret
    async with journey(tmp_path, vendor=vendor, clock=clock, sandbox_clock=clock) as here:
        for _ in range(stuck.before):
            await here.submit()
        job = (await here.client.post("/v1/jobs", json={**scenario.fields, **stuck.fields})).json()

        why = await until_said(here, clock, f"/v1/jobs/{job['id']}/why", *stuck.said)

        assert why["sentences"][0].startswith("Accepted at")
        assert why["facts"]["state"] == stuck.state


async def with_delivery(here: Journey, clock: ManualClock, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """A delivery, once there is one that is so."""
    for _ in range(JUMPS_MAX):
        found: list[dict[str, Any]] = (await here.get("/v1/deliveries"))["data"]
        for one in filter(holds, found):
            return one
        await time_jumps(clock)
    raise AssertionError(f"there is no such delivery: {found}")


async def test_a_subscriber_that_answers_nothing_but_errors_is_explained_from_all_sides(tmp_path: Path) -> None:
    clock = ManualClock()
    vendor = Vendor(Random(1), times_s=(10, 60))  # noqa: S311 - chance, not a secret
    async with journey(tmp_path, vendor=vendor, clock=clock, sandbox_clock=clock) as here:
        made = await here.subscribe()
        here.subscriber.answers += [503] * 100
        job = await here.submit()
        for _ in range(4):
            await here.submit()
        delivery = await with_delivery(here, clock, lambda one: one["job"] == job["id"] and one["attempts"] > 0)

        door = f"/v1/deliveries/{delivery['id']}/why"
        once = await until_said(here, clock, door, "so far; the last answer: the subscriber answered 503")
        assert once["facts"]["lastAnswer"]["status"] == 503

        open_ = await until_said(here, clock, door, "its breaker is open until")
        assert open_["facts"]["failures"] >= 5
        same = open_["sentences"][0]
        assert (await here.get(f"/v1/jobs/{job['id']}/why"))["sentences"][-1] == same
        assert (await here.get(f"/v1/subscriptions/{made['id']}/why?job={job['id']}"))["sentences"] == [same]
        whole = " ".join((await here.get(f"/v1/subscriptions/{made['id']}/why"))["sentences"])
        for words in ("It is told of job.", "failures in a row", "its breaker is open until", "deliveries to it wait"):
            assert words in whole

        here.subscriber.answers.clear()
        well = await until_said(here, clock, f"/v1/subscriptions/{made['id']}/why", "The last one that arrived: job.")
        assert "breaker" not in " ".join(well["sentences"])


async def test_one_that_wants_no_more_holds_what_it_is_owed(tmp_path: Path) -> None:
    clock = ManualClock()
    vendor = Vendor(Random(1), times_s=(10, 60))  # noqa: S311 - chance, not a secret
    async with journey(tmp_path, vendor=vendor, clock=clock, sandbox_clock=clock) as here:
        made = await here.subscribe()
        here.subscriber.answers.append(410)
        await here.submit()
        held = await with_delivery(here, clock, lambda one: one["state"] == "held")

        [sentence] = (await here.get(f"/v1/deliveries/{held['id']}/why"))["sentences"]
        assert "held until the subscription is enabled again (disabled: the subscriber answered 410" in sentence
        whole = " ".join((await here.get(f"/v1/subscriptions/{made['id']}/why"))["sentences"])
        assert "It is disabled since" in whole
        assert "410" in whole


async def test_what_waits_for_another_and_what_is_not_needed_any_more_say_so(tmp_path: Path) -> None:
    clock = ManualClock()
    vendor = Vendor(Random(1), times_s=(10, 60))  # noqa: S311 - chance, not a secret
    async with journey(tmp_path, vendor=vendor, clock=clock, sandbox_clock=clock) as here:
        await here.subscribe(types=["job.queued", "job.submitted", "job.succeeded"])
        here.subscriber.open.clear()
        job = await here.submit()
        await here.job_in(job["id"], "running")
        why = await until_said(here, clock, f"/v1/jobs/{job['id']}/why", "job.submitted to subscription")
        assert "waits for the delivery before it: job.queued of the same job goes first" in why["sentences"][-1]
        assert "being sent now" in why["sentences"][-2]
        waiting = (await here.get(f"/v1/deliveries?job={job['id']}&state=waiting"))["data"][0]
        facts = (await here.get(f"/v1/deliveries/{waiting['id']}/why"))["facts"]
        assert facts["waitsFor"].split(".")[0] == (await here.get(f"/v1/jobs/{job['id']}/events"))["data"][0]["id"]
        here.subscriber.answers.append(500)
        here.subscriber.open.set()
        await until_said(here, clock, f"/v1/jobs/{job['id']}/why", "not needed any more", "superseded by")


async def test_a_subscriber_of_other_things_was_told_nothing_and_why(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        others: dict[str, dict[str, Any]] = {
            "it takes only models sora-2 or veo-3.1, and this is gen4.5": {"models": ["sora-2", "veo-3.1"]},
            "it takes only the replyRef order-8, and this has order-7": {"replyRef": "order-8"},
            "it takes job.failed, and no such event of the job was written": {"types": ["job.failed"]},
        }
        made = {words: (await here.subscribe(**wanted))["id"] for words, wanted in others.items()}
        job = await here.ended((await here.submit(replyRef="order-7"))["id"])
        made["after the job had ended"] = (await here.subscribe())["id"]
        for words, subscription in made.items():
            [sentence] = (await here.get(f"/v1/subscriptions/{subscription}/why?job={job['id']}"))["sentences"]
            assert words in sentence
            assert job["id"] in sentence
        assert "Nobody was told of it" in (await here.get(f"/v1/jobs/{job['id']}/why"))["sentences"][-1]
        gone = await here.client.get(f"/v1/subscriptions/{subscription}/why?job=nothing")
        assert gone.status_code == 404


def test_the_situations_are_those_of_the_trigger() -> None:
    assert len(SITUATIONS) >= 10
    assert {stuck.scenario for stuck in SITUATIONS.values()} <= SCENARIOS.keys()
    assert EXAMPLE["model"] == "gen4.5"
