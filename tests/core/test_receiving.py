"""Callbacks are hints and answers are results, in whatever order they come."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.dispatch import Account
from relay.core.ledger import Callback, Quarantined
from relay.core.outcome import Missing, TaskAnswer, Unanswered
from relay.core.receiving import CALLBACK_BYTES_MAX, CALLBACKS_MAX, TOKEN_OUTLIVES_JOB_MS
from relay.core.task import Report
from tests.core.builders import (
    EMAIL,
    NOW_MS,
    OTHER_TASK_ID,
    SECRET,
    TASK_ID,
    VIDEO,
    accepted,
    account,
    answered,
    asked,
    attempt,
    callback,
    failed,
    job,
    reply_ref,
    report,
    started,
    task_body,
)
from tests.core.memory import Memory


def running(**attempt_changes: Any) -> Memory:
    """A job whose task runs, its first attempt created just now."""
    changes: dict[str, Any] = {"state": "created", "upstream_task_id": TASK_ID, "ask_at_ms": NOW_MS + 30_000}
    runs = job(state="running", attempts=1, account=EMAIL, upstream_task_id=TASK_ID, upstream_status="PENDING")
    return Memory(runs, attempt(**changes | attempt_changes), account())


def error_code(memory: Memory) -> str:
    assert memory.job.error is not None
    return str(memory.job.error["code"])


def test_progress_is_shown_and_told() -> None:
    memory = running()
    assert memory.apply(callback(task_body("RUNNING", "0.4"))) == "stored"
    assert (memory.job.progress, memory.job.upstream_status, memory.job.started_at_ms) == (0.4, "RUNNING", NOW_MS)
    assert (memory.types, memory.effects) == (["progress"], ["progress"])


def test_progress_never_falls_and_a_report_that_adds_nothing_is_not_told() -> None:
    memory = running()
    for progress in ("0.4", "0.2", 0.4, "0.9", None, ""):
        memory.apply(callback(task_body("RUNNING", progress)))
    assert (memory.job.progress, len(memory.events)) == (0.9, 2)


def test_what_is_older_by_its_time_is_kept_and_changes_nothing() -> None:
    memory = running()
    memory.apply(callback(task_body("RUNNING", "0.4", updatedAt="2026-01-01T00:00:00.000Z")))
    memory.apply(callback(task_body("PENDING", "0.9", updatedAt="2025-12-31T23:59:59.999Z")))
    assert (memory.job.progress, memory.job.upstream_status) == (0.4, "RUNNING")
    assert memory.effects == ["progress", "late"]


def test_what_is_older_by_its_progress_does_not_turn_the_status_back() -> None:
    memory = running()
    memory.apply(callback(task_body("RUNNING", "0.4")))
    memory.apply(callback(task_body("PENDING", "0")))
    assert (memory.job.upstream_status, memory.effects) == ("RUNNING", ["progress", "late"])


def test_a_forged_time_far_ahead_does_not_make_what_follows_look_late() -> None:
    memory = running()
    memory.apply(callback(task_body("RUNNING", "0.1", updatedAt="9999-01-01T00:00:00Z")))
    memory.apply(callback(task_body("RUNNING", "0.2", updatedAt="2026-01-01T00:00:01Z"), NOW_MS + 1_000))
    assert memory.job.progress == 0.2


def test_a_duplicate_changes_nothing() -> None:
    memory = running()
    memory.apply(callback(task_body("RUNNING", "0.4")))
    before = memory.attempt
    assert memory.apply(callback(task_body("RUNNING", "0.4"), NOW_MS + 1)) == "duplicate"
    assert (memory.attempt, len(memory.all(Callback)), memory.types) == (before, 1, ["progress"])


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_a_final_callback_is_a_hint_that_makes_the_relay_ask_and_never_a_result(status: str) -> None:
    memory = running()
    memory.apply(callback(task_body(status, "1"), NOW_MS + 7))
    assert (memory.job.state, memory.job.progress, memory.types) == ("running", 0.0, [])
    assert (memory.attempt.ask_at_ms, memory.attempt.asked) == (NOW_MS + 7, 0)


def test_many_final_callbacks_are_one_hint() -> None:
    memory = running()
    memory.apply(callback(task_body("SUCCEEDED", "1"), NOW_MS))
    memory.apply(asked(report("RUNNING")))
    memory.apply(callback(task_body("FAILED", "1"), NOW_MS + 1))
    assert (memory.attempt.asked, memory.attempt.ask_at_ms) == (1, NOW_MS + 2_000)


def test_a_hint_is_followed_up_on_its_schedule_and_then_polls_go_on() -> None:
    memory, at_ms, waits_s = running(), NOW_MS, []
    memory.apply(callback(task_body("SUCCEEDED", "1"), at_ms))
    for _ in range(6):
        memory.apply(asked(report("RUNNING", updatedAt="2026-01-01T00:00:00Z"), at_ms))
        assert memory.attempt.ask_at_ms is not None
        waits_s.append((memory.attempt.ask_at_ms - at_ms) / 1000)
        at_ms = memory.attempt.ask_at_ms
    assert waits_s == [2, 5, 15, 60, 60, 60]


def test_a_new_hint_after_the_schedule_asks_at_once_again() -> None:
    memory = running(hinted_at_ms=NOW_MS - 99_000, asked=5)
    memory.apply(callback(task_body("FAILED", "1")))
    assert (memory.attempt.ask_at_ms, memory.attempt.asked) == (NOW_MS, 0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "not a task"),
        (b"", "not a task"),
        ({"hello": "world"}, "not a task"),
        (task_body(replyRef=reply_ref(2)), "another replyRef"),
        (task_body(replyRef=None, taskId=OTHER_TASK_ID), "another taskId"),
    ],
)
def test_what_is_not_about_this_task_goes_to_quarantine_and_changes_nothing(body: object, reason: str) -> None:
    memory = running()
    before = memory.job
    assert memory.apply(callback(body)) == "quarantined"
    assert (memory.job, memory.quarantined, memory.all(Callback)) == (before, [reason], [])


def test_a_body_without_reference_and_id_is_about_the_task_whose_address_it_came_to() -> None:
    memory = running()
    memory.apply(callback({"status": "RUNNING", "progressRatio": 0.3}))
    assert memory.job.progress == 0.3


def test_an_id_from_a_callback_alone_binds_nothing_and_says_where_to_look_now() -> None:
    memory = Memory(job(state="in_doubt", attempts=1), attempt(state="unknown", ask_at_ms=NOW_MS + 300_000))
    memory.apply(callback(task_body("RUNNING", "0.9"), NOW_MS + 1))
    assert (memory.job.state, memory.job.upstream_task_id, memory.job.progress) == ("in_doubt", None, 0.0)
    assert (memory.attempt.hinted_task_id, memory.attempt.ask_at_ms) == (TASK_ID, NOW_MS + 1)


def test_a_later_callback_without_an_id_does_not_forget_the_one_that_was_hinted() -> None:
    memory = Memory(job(state="in_doubt", attempts=1), attempt(state="unknown"))
    memory.apply(callback(task_body("RUNNING")))
    memory.apply(callback({"status": "SUCCEEDED", "progressRatio": 1}, NOW_MS + 1))
    assert (memory.attempt.hinted_task_id, memory.attempt.hinted_at_ms) == (TASK_ID, NOW_MS + 1)


@pytest.mark.parametrize("door", ["hash-2", "", "admin"])
def test_an_unknown_address_is_unknown(door: str) -> None:
    memory = running()
    assert memory.apply(callback(task_body(), door=door)) == "unknown"


def test_an_address_dies_a_day_after_its_jobs_end() -> None:
    memory = Memory(job(state="failed", attempts=1, finished_at_ms=NOW_MS), attempt(state="ended"))
    assert memory.apply(callback(task_body("SUCCEEDED"), NOW_MS + TOKEN_OUTLIVES_JOB_MS)) == "stored"
    assert memory.apply(callback(task_body(), NOW_MS + TOKEN_OUTLIVES_JOB_MS + 1)) == "unknown"
    assert (memory.job.state, memory.effects) == ("failed", ["late"])


@pytest.mark.parametrize(
    "counted",
    [{"callbacks": CALLBACKS_MAX}, {"callback_bytes": CALLBACK_BYTES_MAX}, {"callback_bytes": CALLBACK_BYTES_MAX - 9}],
)
def test_an_attempt_that_has_had_its_share_of_callbacks_gets_no_more(counted: dict[str, int]) -> None:
    memory = running(**counted)
    assert memory.apply(callback(task_body(), size_bytes=10)) == "full"
    assert (memory.all(Callback), memory.all(Quarantined)) == ([], [])


def test_quarantined_bodies_count_too() -> None:
    memory = running(callbacks=CALLBACKS_MAX - 1)
    assert memory.apply(callback(b"spam")) == "quarantined"
    assert memory.apply(callback(b"more spam")) == "full"


def test_no_kept_body_holds_the_callback_secret() -> None:
    memory = running()
    memory.apply(callback(task_body("RUNNING")))
    memory.apply(callback(task_body(replyRef="else")))
    memory.apply(asked(report("RUNNING")))
    kept = [row.body for row in memory.all(Callback)] + [row.body for row in memory.all(Quarantined)]
    assert len(kept) == 2
    assert SECRET not in f"{kept} {memory.job}"


def test_the_answer_is_the_result() -> None:
    memory = running()
    memory.apply(asked(report("SUCCEEDED", "1"), NOW_MS + 9))
    assert (memory.job.state, memory.job.progress, memory.job.finished_at_ms) == ("succeeded", 1.0, NOW_MS + 9)
    assert [artifact["sourceUrl"] for artifact in memory.job.artifacts] == [VIDEO["url"]]
    assert (memory.attempt.state, memory.attempt.ask_at_ms, memory.types) == ("ended", None, ["succeeded"])


@pytest.mark.parametrize(
    ("answer", "code", "retryable"),
    [
        (failed("SAFETY.INPUT.TEXT"), "moderated", False),
        (failed("INTERNAL.BAD_OUTPUT.CODE01"), "bad_output", True),
        (failed(None), "upstream_failed", True),
        (failed("ASSET.INVALID"), "upstream_failed", False),
        (report("CANCELLED"), "upstream_failed", True),
    ],
)
def test_a_failure_is_told_in_our_words(answer: Report, code: str, retryable: bool) -> None:
    memory = running()
    memory.apply(asked(answer))
    assert memory.job.error is not None
    assert (memory.job.state, error_code(memory), memory.job.error["retryable"]) == ("failed", code, retryable)


def test_a_success_without_a_file_is_asked_after_for_ten_minutes_and_then_fails() -> None:
    memory = running()
    memory.apply(asked(report("SUCCEEDED", "1", artifacts=[])))
    assert (memory.job.state, memory.types) == ("running", [])
    memory.apply(asked(report("SUCCEEDED", "1", artifacts=[]), NOW_MS + 600_000))
    assert (memory.job.state, error_code(memory)) == ("failed", "no_artifact")


def test_a_file_that_comes_a_little_later_is_taken() -> None:
    memory = running()
    memory.apply(asked(report("SUCCEEDED", "1", artifacts=[])))
    memory.apply(asked(report("SUCCEEDED", "1"), NOW_MS + 30_000))
    assert memory.job.state == "succeeded"


def test_a_task_that_is_denied_for_long_and_often_is_lost() -> None:
    memory = running()
    for n in range(5):
        memory.apply(asked(Missing(vouched=True), NOW_MS + n * 150_000))
    assert (memory.job.state, error_code(memory)) == ("failed", "lost")


def test_a_task_that_is_seen_again_was_never_lost() -> None:
    memory = running()
    for n in range(4):
        memory.apply(asked(Missing(vouched=True), NOW_MS + n * 200_000))
    memory.apply(asked(report("RUNNING"), NOW_MS + 700_000))
    memory.apply(asked(Missing(vouched=True), NOW_MS + 800_000))
    assert (memory.job.state, memory.attempt.missing) == ("running", 1)


@pytest.mark.parametrize(
    ("answer", "wait_s"),
    [
        (Unanswered("time-out"), 30),
        (Unanswered("slow down", throttled=True), 60),
        (report("SUCCEEDED", taskId=OTHER_TASK_ID), 30),
    ],
)
def test_an_answer_that_says_nothing_about_the_task_is_asked_for_again(
    answer: Report | TaskAnswer, wait_s: int
) -> None:
    memory = running()
    memory.apply(asked(answer))
    assert (memory.job.state, memory.attempt.ask_at_ms) == ("running", NOW_MS + wait_s * 1000)


def test_a_404_that_nobody_vouches_for_is_no_denial() -> None:
    memory = running()
    for n in range(20):
        memory.apply(asked(Missing(), NOW_MS + n * 150_000))
    assert (memory.job.state, memory.attempt.missing) == ("running", 0)


BAD_OUTPUT = "INTERNAL.BAD_OUTPUT.CODE01"


def test_bad_output_is_tried_again_as_a_new_attempt_as_often_as_the_settings_say() -> None:
    memory = running()
    memory.apply(replace(asked(failed(BAD_OUTPUT)), bad_output_retries=1))
    assert (memory.job.state, memory.job.account, memory.job.progress) == ("queued", None, 0.0)
    assert memory.types[-1] == "queued"
    memory.apply(started(NOW_MS + 1, door="hash-2"))
    memory.apply(answered(accepted(replyRef=reply_ref(2), taskId=OTHER_TASK_ID), NOW_MS + 1, number=2))
    assert (memory.job.state, memory.job.attempts, memory.job.upstream_task_id) == ("running", 2, OTHER_TASK_ID)
    again = report("FAILED", taskId=OTHER_TASK_ID, error={"reason": BAD_OUTPUT})
    memory.apply(replace(asked(again, number=2), bad_output_retries=1))
    assert (memory.job.state, (memory.job.error or {})["code"]) == ("failed", "bad_output")


@pytest.mark.parametrize("reason", ["SAFETY.INPUT.TEXT", "INTERNAL.SERVER", None])
def test_nothing_but_bad_output_is_tried_again(reason: str | None) -> None:
    memory = running()
    memory.apply(replace(asked(failed(reason)), bad_output_retries=5))
    assert memory.job.state == "failed"


def test_moderation_that_refuses_often_is_told_once() -> None:
    memory = running()
    memory.keep(account(moderated_at_ms=[NOW_MS - 3_600_000, NOW_MS - 60_000, NOW_MS - 1]))
    memory.apply(asked(failed("SAFETY.INPUT.TEXT")))
    assert memory.types[-2:] == ["account.moderated", "failed"]
    assert memory.all(Account)[0].moderated_at_ms == []


@pytest.mark.parametrize(("parked", "retry_at_ms"), [(None, 0), ("no_credits", NOW_MS + 50_000)])
def test_the_end_of_a_task_opens_its_account_at_once_unless_it_is_parked(parked: Any, retry_at_ms: int) -> None:
    memory = running()
    memory.keep(account(retry_at_ms=NOW_MS + 50_000, parked=parked))
    memory.apply(asked(report("SUCCEEDED", "1")))
    assert memory.all(Account)[0].retry_at_ms == retry_at_ms


@pytest.mark.parametrize("state", ["sending", "unknown", "not_created", "ended"])
def test_an_answer_about_an_attempt_whose_task_nobody_has_named_or_that_is_over_changes_nothing(state: Any) -> None:
    memory = running(state=state)
    before = memory.job, memory.attempt
    for answer in (report("SUCCEEDED", "1"), failed(), Missing()):
        memory.apply(asked(answer))
    assert (memory.job, memory.attempt, memory.events) == (*before, [])


def test_the_task_of_a_cancelled_job_is_asked_after_for_its_slot_and_tells_nobody() -> None:
    memory = running()
    memory.keep(replace(memory.job, state="cancelled", finished_at_ms=NOW_MS))
    memory.apply(callback(task_body("RUNNING", "0.9")))
    memory.apply(callback(task_body("SUCCEEDED", "1"), NOW_MS + 1))
    assert (memory.attempt.ask_at_ms, memory.effects) == (NOW_MS + 1, ["late", "hint"])
    memory.apply(asked(report("SUCCEEDED", "1"), NOW_MS + 2))
    assert (memory.attempt.state, memory.job.state, memory.events) == ("ended", "cancelled", [])
    kept = [artifact["sourceUrl"] for artifact in memory.job.artifacts]
    assert kept == [VIDEO["url"]], "it was paid for"
    assert memory.job.task is not None
    assert (memory.job.task["status"], memory.job.finished_at_ms) == ("SUCCEEDED", NOW_MS)


def test_nothing_changes_a_job_that_has_ended() -> None:
    memory = running()
    memory.apply(asked(report("SUCCEEDED", "1")))
    before, events = memory.job, len(memory.events)
    memory.apply(asked(failed()))
    memory.apply(callback(task_body("FAILED", "1")))
    memory.apply(answered(accepted()))
    memory.apply(started(door="hash-2"))
    assert (memory.job, len(memory.events)) == (before, events)


def test_the_address_of_an_older_attempt_says_nothing_of_the_newer_one() -> None:
    memory = running()
    memory.keep(attempt(0, state="not_created"))
    memory.apply(callback({"status": "RUNNING", "progressRatio": "0.9"}, door="hash-0"))
    assert (memory.job.progress, memory.effects) == (0.0, ["late"])
