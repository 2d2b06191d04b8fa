"""Every job's end is found by asking; what nobody can find is looked for, never sent again, and given up in time."""

from pathlib import Path

import pytest

from relay.core.accounts import AccountsListed, SeenAccount
from relay.core.outcome import Missing, RunningTask, TaskAnswer, Unanswered
from relay.core.receiving import Arrived, CallbackReceived
from relay.core.watch import ASK_EVERY_MS, LATE_MS, THROTTLED_MS
from relay.vault import hash_token
from relay.work import reconciler
from relay.work.reconciler import Reconciler
from tests.journeys import eventually
from tests.work.bench import EMAIL, IN_DOUBT_AFTER_S, Bench, bench, found, report, steps, task_id

pytestmark = pytest.mark.anyio

FILM = {"url": "https://files.example.com/film.mp4"}


async def test_a_running_task_is_asked_about_every_half_minute(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.running()
        here.upstream.answers = [found(1, "RUNNING", progressRatio="0.2"), found(1, "RUNNING", progressRatio="0.6")]
        worker = here.reconciler()
        waits = []
        for _ in range(3):
            due_ms = await steps(worker)
            assert due_ms is not None
            waits.append(due_ms - here.clock.now_ms())
            here.clock.advance(waits[-1] / 1000)
        here.upstream.answers = [found(1, "SUCCEEDED", artifacts=[FILM])]
        due_ms = await steps(worker)

        assert waits == [ASK_EVERY_MS] * 3
        assert await here.states() == ["succeeded"]
        assert due_ms is None
    assert here.upstream.asked == [task_id(1)] * 3


@pytest.mark.parametrize(
    ("answer", "wait_ms"),
    [
        (Unanswered("522"), ASK_EVERY_MS),
        (Unanswered("slow down", throttled=True), THROTTLED_MS),
        (Missing(), ASK_EVERY_MS),
        (found(2, "FAILED"), ASK_EVERY_MS),
        (found(1, "THROTTLED"), LATE_MS),
        (found(1, "UPSCALING"), ASK_EVERY_MS),
        (found(1, "SUCCEEDED"), ASK_EVERY_MS),
    ],
    ids=["no answer", "429", "404", "another task", "throttled", "an unknown status", "no film yet"],
)
async def test_what_is_no_end_is_asked_again(tmp_path: Path, answer: TaskAnswer, wait_ms: int) -> None:
    async with bench(tmp_path) as here:
        await here.running()
        here.upstream.answers = [answer]
        here.clock.advance(ASK_EVERY_MS / 1000)
        due_ms = await steps(here.reconciler())

        assert await here.states() == ["running"]
        assert due_ms == here.clock.now_ms() + wait_ms


async def test_a_task_that_stays_away_is_lost_after_ten_minutes(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        attempt = await here.running()
        here.upstream.answers = [Missing()]
        began_ms = here.clock.now_ms()
        await until_final(here, attempt.job_id)
        job = await here.job(attempt.job_id)

        assert job.error is not None
        assert job.error["code"] == "lost"
        assert 600 <= (here.clock.now_ms() - began_ms) / 1000 <= 700


async def until_final(here: Bench, job_id: str) -> list[float]:
    """Let time pass to each moment at which the reconciler has something to do; when it looked, in seconds."""
    worker, looked_at, began_ms = here.reconciler(), [], here.clock.now_ms()
    while not (await here.job(job_id)).final:
        looks = here.upstream.schedulers
        due_ms = await steps(worker)
        if here.upstream.schedulers > looks:
            looked_at.append((here.clock.now_ms() - began_ms) / 1000)
        if due_ms is not None:
            here.clock.advance((due_ms - here.clock.now_ms()) / 1000)
    return looked_at


async def test_an_attempt_in_doubt_is_looked_for_more_and_more_rarely_and_given_up(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        attempt = await here.in_doubt()
        looked_at = await until_final(here, attempt.job_id)
        job = await here.job(attempt.job_id)
        busy = await here.store.busy()

    assert looked_at[:8] == [1, 6, 21, 51, 111, 411, 711, 1_011]
    assert looked_at[-2] < IN_DOUBT_AFTER_S <= looked_at[-1]
    assert job.error is not None
    assert (job.state, job.error["code"], job.attempts) == ("failed", "submit_unknown", 1)
    assert busy == {}
    assert here.upstream.created == []


@pytest.mark.parametrize("where", ["scheduler", "list"])
async def test_whatever_names_the_attempts_reference_finds_it(tmp_path: Path, where: str) -> None:
    async with bench(tmp_path) as here:
        attempt = await here.in_doubt()
        if where == "scheduler":
            here.upstream.running = [RunningTask(task_id(8), "theirs"), RunningTask(task_id(7), attempt.reply_ref)]
        else:
            here.upstream.running = Unanswered("522")
            here.upstream.listed = [report(8, reply_ref=None), report(7, reply_ref=attempt.reply_ref)]
        here.clock.advance(1)
        worker = here.reconciler()
        await steps(worker)
        job = await here.job(attempt.job_id)

        assert (job.state, job.upstream_task_id) == ("running", task_id(7))
        assert here.upstream.lists == [EMAIL]


async def test_a_task_that_had_ended_before_it_was_found_is_ended_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        attempt = await here.in_doubt()
        here.upstream.listed = [report(7, "SUCCEEDED", attempt.reply_ref, artifacts=[FILM])]
        here.clock.advance(1)
        await steps(here.reconciler())

        assert await here.states() == ["succeeded"]


async def test_a_list_without_references_finds_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.in_doubt()
        here.upstream.running = [RunningTask(task_id(7), None)]
        here.upstream.listed = [report(7)]
        here.clock.advance(1)
        await steps(here.reconciler())

        assert await here.states() == ["in_doubt"]


async def test_one_look_serves_all_that_are_in_doubt_on_an_account(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.store.apply(AccountsListed((SeenAccount(EMAIL, 3),), here.clock.now_ms()))
        attempts = [await here.in_doubt() for _ in range(3)]
        here.upstream.running = [RunningTask(task_id(n), attempt.reply_ref) for n, attempt in enumerate(attempts)]
        here.upstream.answers = [Unanswered("not now")]
        here.clock.advance(1)
        await steps(here.reconciler())

        assert await here.states() == ["running"] * 3
        assert here.upstream.schedulers == 1
        assert here.upstream.lists == [EMAIL]


async def test_a_hint_is_followed_at_once_and_believed_only_where_the_upstream_agrees(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        attempt = await here.in_doubt()
        here.upstream.answers = [
            found(9, "RUNNING", reply_ref="theirs"),
            found(7, "RUNNING", reply_ref=attempt.reply_ref),
        ]
        worker = here.reconciler()
        for number, state in ((9, "in_doubt"), (7, "running")):
            await here.store.apply(
                CallbackReceived(
                    hash_token(attempt.job_id),
                    Arrived(
                        body=b"",
                        sha256=f"{number:064x}",
                        size_bytes=1,
                        content_type="",
                        report=report(number, "RUNNING"),
                        at_ms=here.clock.now_ms(),
                    ),
                )
            )
            await worker.step()
            await eventually(lambda: not worker._under_way)

            assert await here.states() == [state]
    assert here.upstream.asked[:2] == [task_id(9), task_id(7)]


async def test_a_question_that_fails_within_is_asked_again_after_a_pause(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.running()
        here.upstream.answers = [ValueError("a defect"), found(1, "SUCCEEDED", artifacts=[FILM])]
        here.clock.advance(ASK_EVERY_MS / 1000)
        worker = here.reconciler()
        for _ in range(5):
            await worker.step()
        await eventually(lambda: bool(here.upstream.asked))
        assert len(here.upstream.asked) == 1, "what fails must not be repeated in a hot loop"
        await eventually(lambda: bool(here.clock._sleepers))
        here.clock.advance(1)
        await eventually(lambda: not worker._under_way)
        await steps(worker)

        assert await here.states() == ["succeeded"]


async def test_a_finding_that_belongs_to_another_job_does_not_keep_the_search_going_for_ever(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.running(7)
        here.upstream.answers = [found(7, "RUNNING")]
        attempt = await here.in_doubt()
        here.upstream.running = [RunningTask(task_id(7), attempt.reply_ref)]
        await until_final(here, attempt.job_id)
        job = await here.job(attempt.job_id)

        assert job.error is not None
        assert job.error["code"] == "submit_unknown"


async def test_a_404_counts_only_while_the_account_can_be_seen(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        attempt = await here.running()
        here.upstream.answers = [Missing()]
        here.upstream.listed = Unanswered("522")
        worker = here.reconciler()
        for _ in range(60):
            here.clock.advance(60)
            await steps(worker)
        assert await here.states() == ["running"]
        here.upstream.listed = [report(1, "SUCCEEDED", attempt.reply_ref, artifacts=[FILM])]
        here.clock.advance(60)
        await steps(worker)

        assert await here.states() == ["succeeded"], "the list knows what the question for it denied"


async def test_an_upstream_that_asks_for_fewer_questions_is_asked_only_what_is_urgent(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        first, second = await here.running(1), await here.running(2)
        here.upstream.answers = [Unanswered("slow down", throttled=True)]
        here.clock.advance(ASK_EVERY_MS / 1000)
        worker = here.reconciler()
        due_ms = await steps(worker)
        asked = len(here.upstream.asked)
        assert due_ms == here.clock.now_ms() + THROTTLED_MS
        final = Arrived(
            body=b"",
            sha256="0" * 64,
            size_bytes=1,
            content_type="",
            report=report(2, "FAILED", second.reply_ref),
            at_ms=here.clock.now_ms(),
        )
        await here.store.apply(CallbackReceived(hash_token(second.job_id), final))
        here.upstream.answers = [found(2, "FAILED")]
        await steps(worker)

        assert here.upstream.asked[asked:] == [task_id(2)]
        assert await here.states() == ["running", "failed"]
    assert first.account == second.account


async def test_bad_output_is_tried_again_as_often_as_the_settings_say(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.running()
        here.upstream.answers = [found(1, "FAILED", error={"reason": "INTERNAL.BAD_OUTPUT.CODE01"})]
        here.clock.advance(ASK_EVERY_MS / 1000)
        worker = Reconciler(
            here.store, here.feed, here.clock, here.upstream, in_doubt_after_s=IN_DOUBT_AFTER_S, bad_output_retries=1
        )
        await steps(worker)
        assert await here.states() == ["queued"]
        await steps(here.submitter())

        assert await here.states() == ["running"]


async def test_after_a_start_every_running_task_is_asked_about_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.running(1)
        await here.running(2)
        here.upstream.answers = [found(1, "SUCCEEDED"), found(2, "RUNNING")]
        worker = here.reconciler()
        await steps(worker)
        asked = len(here.upstream.asked)
        await worker.recover()
        await steps(worker)

        assert sorted(here.upstream.asked[asked:]) == [task_id(1), task_id(2)]


async def test_an_operator_may_have_it_sent_again_when_nobody_finds_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as here:
        await here.in_doubt()
        here.clock.advance(IN_DOUBT_AFTER_S)
        worker = Reconciler(
            here.store, here.feed, here.clock, here.upstream, in_doubt_after_s=IN_DOUBT_AFTER_S, resubmit=True
        )
        await steps(worker)
        assert await here.states() == ["queued"]
        await steps(here.submitter())

        assert await here.states() == ["running"]


async def test_a_few_are_asked_at_a_time_and_all_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "AT_ONCE", 2)
    async with bench(tmp_path) as here:
        await here.store.apply(AccountsListed((SeenAccount(EMAIL, 5),), here.clock.now_ms()))
        for number in range(5):
            await here.running(number)
        here.upstream.answering.clear()
        here.upstream.answers = [Unanswered("522")]
        here.clock.advance(ASK_EVERY_MS / 1000)
        worker = here.reconciler()
        await worker.step()
        await worker.step()
        await eventually(lambda: len(here.upstream.asked) == 2)
        here.upstream.answering.set()
        await steps(worker)

        assert sorted(here.upstream.asked) == [task_id(n) for n in range(5)]
