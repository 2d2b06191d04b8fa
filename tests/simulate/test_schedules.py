"""Contract section 1 after every step of thousands of schedules; a seed that breaks it is printed and plays again."""

import os
from itertools import count
from typing import Any

import pytest

from relay.core import dispatch, submitting
from relay.core.ledger import Draft
from relay.core.submitting import AttemptAnswered
from tests.simulate import figures
from tests.simulate.ledger import Broken
from tests.simulate.schedule import run

A_FEW, MANY = 200, 100_000
# The long run starts elsewhere each time that it is told to, so that it does not play the same schedules for ever.
FIRST = int(os.environ.get("SIMULATE_FROM", "1000000"))
LOOKED_THROUGH = 300
STEPS_OF_ONE = 40


def test_whatever_goes_wrong_every_job_ends_once_is_paid_once_and_is_told() -> None:
    for seed in range(A_FEW):
        run(seed)


@pytest.mark.parametrize("seed", [2, 13])
def test_killed_before_and_after_each_of_its_steps_it_keeps_its_promises(seed: int) -> None:
    steps = run(seed, frozenset()).steps
    for half in range(2, 2 * min(steps, STEPS_OF_ONE) + 2):
        assert run(seed, frozenset({half})).crashes == 1


@pytest.mark.long
@pytest.mark.timeout(4 * 3_600)
@pytest.mark.parametrize("part", range(10))
def test_the_same_for_very_many(part: int) -> None:
    each = MANY // 10
    for seed in range(FIRST + part * each, FIRST + (part + 1) * each):
        run(seed)


def test_the_same_seed_gives_the_same_run() -> None:
    assert run(7) == run(7)


def first_broken() -> str:
    for seed in count():
        assert seed < LOOKED_THROUGH, "nothing was noticed"
        try:
            run(seed)
        except Broken as error:
            return str(error)
    raise AssertionError


def test_an_unknown_attempt_that_is_sent_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttemptAnswered, "_in_doubt", AttemptAnswered._back_to_queue)
    told = first_broken()

    assert "is paid for twice" in told
    assert "again: python -m tests.simulate " in told


def test_a_job_that_nobody_asks_about_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(attempt: Any, now_ms: int, *, throttled: bool = False) -> int:
        return now_ms + 365 * 24 * 3_600_000

    monkeypatch.setattr("relay.core.watch.next_ask_ms", never)

    assert "has not ended" in first_broken()


def test_an_end_without_an_event_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    tell = Draft.tell

    def silent(draft: Any, job: Any, event_type: str, at_ms: int) -> None:
        if event_type != "job.succeeded":
            tell(draft, job, event_type, at_ms)

    monkeypatch.setattr(Draft, "tell", silent)

    assert "ended without an event" in first_broken()


def test_a_paid_task_that_nobody_looks_for_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submitting, "in_doubt_too_long", lambda attempt, now_ms, limit_ms: True)
    monkeypatch.setattr(submitting, "next_late_look_ms", lambda attempt, now_ms: None)

    assert "its paid task" in first_broken()


def test_the_relay_comes_near_the_best_schedule() -> None:
    """The figures of one seed, with room for chance; `python -m tests.simulate.figures` has them all."""
    case = next(case for case in figures.CASES if case.name == "two slots")
    found = figures.figure(case, 1)

    assert found.relay <= 1.02
    assert found.relay_refusals <= found.advice_refusals / 4


def test_a_limit_that_is_never_probed_again_would_be_seen_in_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_step_ms", lambda account, busy: 10**12)
    monkeypatch.setattr("relay.core.accounts.freed", lambda account, at_ms, heard: account)
    case = next(case for case in figures.CASES if case.name == "one to three")

    assert figures.figure(case, 1).relay > 1.2
