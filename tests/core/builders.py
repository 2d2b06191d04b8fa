"""Builders of what the tests of the ledger speak about: jobs, attempts, the upstream's bodies, subscriptions."""

import hashlib
import json
from typing import Any

from relay.core import job as jobs
from relay.core import task as tasks
from relay.core.delivering import DeliveriesClaimed, DeliveryAttempted
from relay.core.delivery import Subscription
from relay.core.dispatch import Account
from relay.core.event import JOB_TYPES
from relay.core.job import Attempt, Job
from relay.core.outcome import Accepted, Found, Outcome, TaskAnswer
from relay.core.receiving import Arrived, CallbackReceived, TaskAnswered
from relay.core.retry import Answer
from relay.core.submitting import AttemptAnswered, AttemptLooked, AttemptStarted, JobSubmitted
from relay.core.task import Report

NOW_MS = 1_767_225_600_000
HOUR_MS = 3_600_000
LIMIT_MS = 6 * HOUR_MS
INSTANCE = "0a1b2c3d"
EMAIL = "me@example.com"
JOB_ID = "019b76da-a800-7000-8000-000000000001"
TASK_ID = f"user:7-runwayml:{EMAIL}-task:11111111-2222-4333-8444-555555555555"
OTHER_TASK_ID = f"user:7-runwayml:{EMAIL}-task:99999999-2222-4333-8444-555555555555"
SECRET = "TheTokenThatNobodyMaySee_0123456789-abcdefg"
VIDEO = {"url": "https://files.example.com/film.mp4?_jwt=x.y.z", "fileSize": "1024", "previewUrls": []}


def job(number: int = 1, **changes: Any) -> Job:
    """A queued job; `number` tells several apart."""
    job_id = f"{JOB_ID[:-1]}{number}"
    values: dict[str, Any] = {
        "id": job_id,
        "model": "gen4.5",
        "token_id": "admin",
        "submitted_by": "admin",
        "task_id": jobs.task_id_of(job_id),
        "request": {"model": "gen4.5", "text_prompt": "A coast"},
        "created_at_ms": NOW_MS,
        "updated_at_ms": NOW_MS,
    }
    return Job(**values | changes)


def reply_ref(number: int = 1, job_id: str = JOB_ID) -> str:
    return jobs.reply_ref_of(INSTANCE, job_id, number)


def attempt(number: int = 1, **changes: Any) -> Attempt:
    values: dict[str, Any] = {
        "job_id": JOB_ID,
        "number": number,
        "account": EMAIL,
        "token_hash": f"hash-{number}",
        "reply_ref": reply_ref(number),
        "sent_at_ms": NOW_MS,
    }
    return Attempt(**values | changes)


def account(email: str = EMAIL, slots: int = 2, **changes: Any) -> Account:
    return Account(email=email, slots=slots, **changes)


def task_body(status: str = "RUNNING", progress: object = "0.5", **changes: Any) -> dict[str, Any]:
    """A task as `GET /tasks/{taskId}` and a callback give it."""
    values: dict[str, Any] = {
        "taskId": TASK_ID,
        "status": status,
        "progressRatio": progress,
        "replyRef": reply_ref(),
        "replyUrl": f"https://relay.example.com/callbacks/{SECRET}",
        "error": None,
        "artifacts": [VIDEO] if status == "SUCCEEDED" else [],
    }
    return values | changes


def report(status: str = "RUNNING", progress: object = "0.5", **changes: Any) -> Report:
    read = tasks.read(task_body(status, progress, **changes))
    assert read is not None
    return read


def failed(reason: str | None = "INTERNAL.SERVER", message: str = "it broke") -> Report:
    return report("FAILED", "0.7", error={"errorMessage": message, "reason": reason})


def subscription(name: str = "sub-1", *, types: list[str] | None = None, **changes: Any) -> Subscription:
    """A subscription to all events of jobs, unless `types` are given."""
    values: dict[str, Any] = {
        "id": name,
        "url_sealed": "sealed",
        "url_shown": "https://hook.example.com/…/abc",
        "secrets": [],
        "types": list(JOB_TYPES) if types is None else types,
        "created_at_ms": NOW_MS,
        "updated_at_ms": NOW_MS,
    }
    return Subscription(**values | changes)


def submitted(number: int = 1, *, queue_per_token: int = 100, queue_max: int = 1_000, **changes: Any) -> JobSubmitted:
    return JobSubmitted(job(number, **changes), queue_per_token, queue_max)


def started(at_ms: int = NOW_MS, *, job_id: str = JOB_ID, door: str = "hash-1") -> AttemptStarted:
    """An attempt whose callbacks come to `door`, the hash of its token."""
    return AttemptStarted(job_id, INSTANCE, EMAIL, door, at_ms)


def answered(outcome: Outcome, at_ms: int = NOW_MS, *, number: int = 1) -> AttemptAnswered:
    return AttemptAnswered(JOB_ID, number, outcome, at_ms)


def accepted(status: str = "PENDING", progress: object = "0", **changes: Any) -> Accepted:
    return Accepted(report(status, progress, **changes))


def asked(answer: Report | TaskAnswer, at_ms: int = NOW_MS, *, number: int = 1) -> TaskAnswered:
    """The upstream's answer about the task; a report is one that it found."""
    return TaskAnswered(JOB_ID, number, Found(answer) if isinstance(answer, Report) else answer, at_ms)


def looked(
    found: Report | None = None, at_ms: int = NOW_MS, *, number: int = 1, limit_ms: int = LIMIT_MS
) -> AttemptLooked:
    """A search for an attempt in doubt."""
    return AttemptLooked(JOB_ID, number, found, limit_ms, at_ms)


def callback(
    body: object, at_ms: int = NOW_MS, *, door: str = "hash-1", size_bytes: int | None = None
) -> CallbackReceived:
    """A callback with this JSON body, or these bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CallbackReceived(door, arrived(raw, at_ms, size_bytes=size_bytes))


def arrived(raw: bytes, at_ms: int = NOW_MS, *, size_bytes: int | None = None) -> Arrived:
    """A body at a callback door."""
    return Arrived(
        body=tasks.mask_bytes(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        size_bytes=len(raw) if size_bytes is None else size_bytes,
        content_type="application/json",
        report=tasks.read(tasks.decode(raw)),
        at_ms=at_ms,
    )


def sent(delivery_id: str, status: int | None, at_ms: int = NOW_MS) -> DeliveryAttempted:
    """An attempt to deliver that was answered with `status`, or not at all."""
    answer = Answer("timeout" if status is None else "answered", status, None, "as told", "", 12)
    return DeliveryAttempted(delivery_id, answer, 0.5, at_ms)


def claimed(delivery_id: str, at_ms: int = NOW_MS, lease_ms: int = 60_000) -> DeliveriesClaimed:
    """One delivery is taken by somebody who sends it."""
    return DeliveriesClaimed((delivery_id,), at_ms + lease_ms, at_ms)
