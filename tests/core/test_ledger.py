"""The ledger under happenings in any order: what must hold after each of them, and at the end."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay.core.delivering import DeliveryReleased
from relay.core.delivery import Delivery
from relay.core.event import FINAL_TYPES, PROGRESS
from relay.core.job import FINAL, STATES, WAYS, Attempt, State
from relay.core.ledger import Draft, Happening, IllegalStep, Loaded
from relay.core.outcome import (
    BadToken,
    Busy,
    Found,
    Missing,
    NoCredits,
    NotSent,
    Outcome,
    Refused,
    RunningTask,
    TaskAnswer,
    Unanswered,
    Unknown,
)
from relay.core.receiving import CallbackReceived
from relay.core.task import Report, named
from tests.core.builders import (
    HOUR_MS,
    LIMIT_MS,
    NOW_MS,
    OTHER_TASK_ID,
    TASK_ID,
    accepted,
    account,
    answered,
    asked,
    callback,
    claimed,
    failed,
    job,
    looked,
    reply_ref,
    report,
    sent,
    started,
    submitted,
    subscription,
    task_body,
)
from tests.core.memory import EPOCH, Memory, begun

SUBSCRIPTIONS = (
    subscription("everything"),
    subscription("ends", types=[]),
    subscription("progress", types=[PROGRESS]),
    subscription("off", state="disabled"),
)
statuses = st.sampled_from(["PENDING", "RUNNING", "THROTTLED", "SUCCEEDED", "FAILED", "CANCELLED", "?", ""])
progresses = st.sampled_from(["0", "0.1", 0.5, "0.9", 1, "", None])
times = st.sampled_from([None, "2025-12-31T23:59:59Z", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "9999-01-01"])
artifacts = st.sampled_from([[], [{"url": "https://files.example.com/film.mp4"}], [{"url": None}]])
reports = st.builds(report, statuses, progresses, updatedAt=times, artifacts=artifacts)
bodies = st.builds(
    task_body,
    statuses,
    progresses,
    updatedAt=times,
    artifacts=artifacts,
    taskId=st.sampled_from([TASK_ID, OTHER_TASK_ID, None]),
    replyRef=st.sampled_from([reply_ref(1), reply_ref(2), None, "relay:forged:ref:1"]),
) | st.binary(max_size=4)
answers: st.SearchStrategy[TaskAnswer] = st.one_of(
    reports.map(Found), st.builds(Missing), st.builds(Unanswered, st.just("cut"), st.booleans())
)
runners = st.sampled_from([(), (RunningTask(TASK_ID, reply_ref(1)),), (RunningTask(OTHER_TASK_ID, "somebody"),)])


def outcome_for(number: int) -> st.SearchStrategy[Outcome]:
    """What the upstream may say to a create; an acceptance names the attempt's own reference, or none."""
    taken = st.builds(accepted, statuses, progresses, artifacts=artifacts, replyRef=st.just(reply_ref(number)))
    refused = st.builds(Refused, st.sampled_from(["validation", "moderated"]), st.just("no"))
    back = st.sampled_from([NotSent("no"), NoCredits("no"), BadToken("no")])
    unknown = st.just(Unknown("cut"))
    return st.one_of(taken, taken, taken, unknown, unknown, refused, back, st.builds(Busy, st.just("full"), runners))


class OneJob(RuleBasedStateMachine):
    """One job, whatever happens to it in whatever order; time goes on by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(account(), *SUBSCRIPTIONS)
        self.at_ms = NOW_MS
        self.last = job()
        self.ended: object = None
        self.bodies: list[CallbackReceived] = []

    @initialize(steps=st.integers(0, 2), first=outcome_for(1))
    def submit(self, steps: int, first: Outcome) -> None:
        """Begin anywhere on the way, for most of what is interesting lies behind the answer to the first attempt."""
        on_the_way: tuple[Happening[Any], ...] = (submitted(), started(), answered(first))
        self.memory.apply_all(*on_the_way[: steps + 1])
        self.last = self.memory.job

    @rule(step_ms=st.sampled_from([1, 1_000, 60_000, HOUR_MS]))
    def time_passes(self, step_ms: int) -> None:
        self.at_ms += step_ms

    @rule()
    def start(self) -> None:
        self.memory.apply(started(self.at_ms, door=f"hash-{self.memory.job.attempts + 1}"))

    @precondition(lambda self: self.memory.job.attempts)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        number = self.some_attempt(data, "sending")
        self.memory.apply(answered(data.draw(outcome_for(number)), self.at_ms, number=number))

    @rule(body=bodies, number=st.integers(1, 3))
    def call_back(self, body: object, number: int) -> None:
        self.bodies.append(callback(body, self.at_ms, door=f"hash-{number}"))
        self.memory.apply(self.bodies[-1])

    @precondition(lambda self: self.bodies)
    @rule(data=st.data())
    def call_back_again(self, data: st.DataObject) -> None:
        self.memory.apply(data.draw(st.sampled_from(self.bodies)))

    @precondition(lambda self: self.memory.job.attempts)
    @rule(data=st.data(), answer=answers)
    def ask(self, data: st.DataObject, answer: TaskAnswer) -> None:
        self.memory.apply(asked(answer, self.at_ms, number=self.some_attempt(data, "created")))

    @precondition(lambda self: self.memory.job.attempts)
    @rule(data=st.data(), found=st.none() | reports | st.just(named(TASK_ID, reply_ref(1))))
    def look(self, data: st.DataObject, found: Report | None) -> None:
        self.memory.apply(looked(found, self.at_ms, number=self.some_attempt(data, "unknown")))

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        self.memory.apply(claimed(self.some_delivery(data, "due"), self.at_ms))

    @rule(data=st.data(), status=st.sampled_from([200, 200, 500, 410, None]))
    def deliver(self, data: st.DataObject, status: int | None) -> None:
        self.memory.apply(sent(self.some_delivery(data, "sending"), status, self.at_ms))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.memory.apply(DeliveryReleased(self.some_delivery(data, "sending"), self.at_ms))

    def some_attempt(self, data: st.DataObject, state: str) -> int:
        """One in this state rather than any: the others must not be moved, but there is little to see in it."""
        fitting = [attempt.number for attempt in self.memory.all(Attempt) if attempt.state == state]
        return data.draw(st.sampled_from(fitting or [1, self.memory.job.attempts]))

    def some_delivery(self, data: st.DataObject, state: str) -> str:
        fitting = [delivery.id for delivery in self.memory.deliveries if delivery.state == state]
        return data.draw(st.sampled_from(fitting or [delivery.id for delivery in self.memory.deliveries]))

    @invariant()
    def the_job_went_a_way_of_the_table_and_its_progress_did_not_fall(self) -> None:
        before, now = self.last, self.memory.job
        assert now.state == before.state or now.state in reachable(before.state)
        assert now.attempts > before.attempts or now.progress >= before.progress
        self.last = now

    @invariant()
    def a_job_that_has_ended_never_changes(self) -> None:
        if self.ended is None and self.memory.job.final:
            self.ended = self.memory.job
        assert self.ended in (None, self.memory.job)

    @invariant()
    def there_is_one_final_event_and_it_is_the_last(self) -> None:
        finals = [event for event in self.memory.events if event.final]
        assert len(finals) == (1 if self.memory.job.final else 0)
        # What the operator is told of a subscription may come later.
        assert finals in ([], [event for event in self.memory.events if event.job_id][-1:])
        assert [event.type for event in finals] in ([], [f"job.{self.memory.job.state}"])

    @invariant()
    def event_numbers_have_no_gap(self) -> None:
        assert [event.id for event in self.memory.events] == [
            f"{EPOCH}-{n + 1}" for n in range(len(self.memory.events))
        ]

    @invariant()
    def at_most_one_attempt_may_be_paid_for_and_an_unknown_one_is_the_last(self) -> None:
        paid = [attempt for attempt in self.memory.all(Attempt) if attempt.state != "not_created"]
        assert [attempt.number for attempt in paid] in ([], [self.memory.job.attempts])

    @invariant()
    def somebody_will_ask_about_every_job_that_runs_or_is_in_doubt(self) -> None:
        if self.memory.job.state in ("running", "in_doubt"):
            assert self.memory.attempt.ask_at_ms is not None

    @invariant()
    def every_lane_moves_one_by_one_and_in_order(self) -> None:
        for lane in self.memory.lanes():
            assert [delivery.event_seq for delivery in lane] == sorted(delivery.event_seq for delivery in lane)
            assert lane[0].state in ("due", "sending")
            assert {delivery.state for delivery in lane[1:]} <= {"waiting"}

    @invariant()
    def unsent_progress_stands_only_at_the_end_of_a_lane(self) -> None:
        for lane in self.memory.lanes():
            unsent = [one for one in lane if one.event_type == PROGRESS and one.state == "waiting"]
            assert unsent in ([], lane[-1:])

    @invariant()
    def what_is_over_says_when_and_what_was_superseded_by_what(self) -> None:
        for delivery in self.memory.deliveries:
            over = delivery.state in ("delivered", "superseded", "dead")
            assert (delivery.finished_at_ms is not None) is over
            assert delivery.state != "superseded" or "superseded by" in (delivery.reason or "")
            assert delivery.state != "superseded" or delivery.event_type not in FINAL_TYPES

    @invariant()
    def the_end_is_owed_to_everybody_who_wants_it(self) -> None:
        ends = [one.subscription_id for one in self.memory.deliveries if one.event_type in FINAL_TYPES]
        assert sorted(ends) == (["ends", "everything", "off"] if self.memory.job.final else [])


def reachable(state: State) -> set[State]:
    """Where one happening may lead: one way, or two by way of `running`, for a task may be found ended."""
    return set(WAYS[state]) | (set(WAYS["running"]) if "running" in WAYS[state] else set())


OneJob.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestOneJob = OneJob.TestCase


def run_to_the_end(memory: Memory, callbacks: list[tuple[int, CallbackReceived]], end: Report) -> Memory:
    """Let the task run for five asks, then ask for its end; each callback comes before the ask of its number."""
    for asks in range(6):
        for place, one in callbacks:
            if place == asks:
                memory.apply(one)
        answer = report("RUNNING", "0.6") if asks < 5 else end
        memory.apply(asked(answer, NOW_MS + asks * 30_000))
    return memory


@given(
    st.lists(st.tuples(st.integers(0, 5), bodies.map(lambda body: callback(body, NOW_MS))), max_size=12),
    st.sampled_from([report("SUCCEEDED", "1"), failed(), failed("SAFETY.X"), report("CANCELLED")]),
)
def test_the_end_is_the_same_whatever_callbacks_are_lost_doubled_reordered_or_forged(
    callbacks: list[tuple[int, CallbackReceived]], end: Report
) -> None:
    without, with_them = (run_to_the_end(begun(), some, end) for some in ([], callbacks))
    assert with_them.job.final
    for name in ("state", "error", "artifacts", "task", "account", "upstream_task_id", "finished_at_ms"):
        assert getattr(with_them.job, name) == getattr(without.job, name)


@given(
    creates=st.lists(st.sampled_from([Busy("full"), NotSent("no"), NoCredits("no")]), max_size=3),
    last=st.sampled_from(["accepted", "unknown", "refused", "crashed"]),
    found_after_ms=st.sampled_from([None, 0, 2_000, HOUR_MS, 2 * LIMIT_MS]),
    runs_ms=st.sampled_from([0, 90_000, HOUR_MS]),
    denied=st.booleans(),
)
def test_every_job_ends_when_the_upstream_is_only_asked_as_the_ledger_says(
    creates: list[Outcome], last: str, found_after_ms: int | None, runs_ms: int, denied: bool
) -> None:
    memory, at_ms = Memory(account(), *SUBSCRIPTIONS), NOW_MS
    memory.apply(submitted())
    for number, outcome in enumerate(creates, 1):
        memory.apply(started(at_ms, door=f"hash-{number}"))
        memory.apply(answered(outcome, at_ms, number=number))
        at_ms += 600_000
    number = len(creates) + 1
    memory.apply(started(at_ms, door="hash-last"))
    outcomes: dict[str, Outcome] = {
        "accepted": accepted(replyRef=reply_ref(number)),
        "unknown": Unknown("time-out"),
        "refused": Refused("validation", "no"),
        "crashed": Unknown("the relay was killed"),
    }
    begun_ms = at_ms
    memory.apply(answered(outcomes[last], at_ms, number=number))
    for _ in range(2_000):
        if memory.attempt.ask_at_ms is None or not memory.attempt.occupying:
            break
        at_ms = max(at_ms, memory.attempt.ask_at_ms)
        over = at_ms - begun_ms >= runs_ms
        now = report("SUCCEEDED" if over else "RUNNING", replyRef=reply_ref(number))
        if memory.attempt.state == "unknown":
            seen = found_after_ms is not None and at_ms - begun_ms >= found_after_ms
            memory.apply(looked(now if seen else None, at_ms, number=number))
        else:
            memory.apply(asked(Missing(vouched=True) if denied else now, at_ms, number=number))
    assert memory.job.final
    assert at_ms - begun_ms <= LIMIT_MS + max(runs_ms, 2 * HOUR_MS)


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("after", STATES)
def test_a_step_that_the_table_does_not_have_is_refused(before: State, after: State) -> None:
    draft = Draft(Loaded(epoch=EPOCH, next_seq=1))
    if before == after or after in WAYS[before]:
        draft.step(job(state=before), job(state=after))
    else:
        with pytest.raises(IllegalStep, match=f"from {before} to {after}"):
            draft.step(job(state=before), job(state=after))


def test_no_way_leads_out_of_a_final_state() -> None:
    assert {state for state, ways in WAYS.items() if not ways} == FINAL == {"succeeded", "failed", "cancelled"}


def test_of_two_versions_of_a_row_the_later_is_written_once() -> None:
    draft = Draft(Loaded(epoch=EPOCH, next_seq=1))
    draft.put(job(progress=0.1))
    draft.put(job(progress=0.2))
    draft.put(job(2))
    assert list(draft.changes(None).puts) == [job(progress=0.2), job(2)]


def test_events_of_one_happening_are_numbered_on_and_supersede_each_other() -> None:
    draft = Draft(Loaded(epoch=EPOCH, next_seq=8, subscriptions=(subscription(),)))
    draft.tell(job(), "job.progress", NOW_MS)
    draft.tell(job(), "job.progress", NOW_MS)
    deliveries = [record for record in draft.changes(None).puts if isinstance(record, Delivery)]
    assert [(one.event_seq, one.state) for one in deliveries] == [(8, "superseded"), (9, "due")]
