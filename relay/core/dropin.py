"""The upstream's own shapes, as a client of the drop-in door would have got them from the upstream itself.

Only documented statuses appear, the client's own `replyUrl` and `replyRef` come back, and a job keeps for ever the
taskId of its create answer.
"""

from collections.abc import Mapping
from typing import Any, Final

from relay.core.job import Address, ErrorCode, Job, Outlook, State, artifact_id, file_name, iso

# What the page documents; PENDING until the upstream has a task, and its own word from then on.
STATUSES: Final = ("PENDING", "RUNNING", "THROTTLED", "SUCCEEDED", "FAILED")
_OF_STATE: Final[dict[State, str]] = {
    "queued": "PENDING",
    "submitting": "PENDING",
    "in_doubt": "PENDING",
    "running": "RUNNING",
    "succeeded": "SUCCEEDED",
    "failed": "FAILED",
    "cancelled": "FAILED",
}
_HTTP: Final[dict[ErrorCode, int]] = {"validation": 400, "moderated": 422, "no_credits": 412, "deadline": 429}
# Failures that the upstream itself reported keep its reason; the others are ours.
_UPSTREAMS_OWN: Final = frozenset({"moderated", "bad_output", "upstream_failed"})


def status_of(job: Job) -> str:
    """The documented status of a job."""
    if job.state == "running" and job.upstream_status in STATUSES[:3]:
        return job.upstream_status
    return _OF_STATE[job.state]


def task_view(job: Job, address: Address, outlook: Outlook, reply_url: str | None, now_ms: int) -> dict[str, Any]:
    """The flat task, as `GET /tasks/{taskId}` and a callback have it."""
    task = dict(job.task or _not_yet(job))
    task |= {
        "taskId": job.task_id,
        "status": status_of(job),
        "progressRatio": f"{job.progress:g}",
        "updatedAt": iso(job.updated_at_ms),
        "error": _error(job, task.get("error")),
        "artifacts": _artifacts(job, task.get("artifacts"), address),
        "replyUrl": reply_url,
        "replyRef": job.reply_ref,
        "code": 200,
        "jobId": job.id,
        "upstreamTaskId": job.upstream_task_id,
    }
    if task["status"] == "PENDING":
        starts_ms = outlook.starts_at_ms
        task["estimatedTimeToStartSeconds"] = None if starts_ms is None else max(0, round((starts_ms - now_ms) / 1000))
    return task


def create_answer(task: Mapping[str, Any]) -> dict[str, Any]:
    """The 200 of a create: nested as on the page, and with the ids at the top level, where scripts look too."""
    ids = {key: task[key] for key in ("taskId", "jobId", "replyUrl", "replyRef")}
    return {"task": dict(task), **ids, "code": 200}


def refusal(job: Job) -> tuple[int, dict[str, Any]] | None:
    """`(status, body)` of a create whose job has already failed before it ran; None for any other job."""
    if job.state != "failed" or job.upstream_task_id is not None or job.error is None:
        return None
    status = _HTTP.get(job.error["code"])
    return None if status is None else (status, {"error": job.error["message"], "code": status, "jobId": job.id})


def busy(running: int, slots: int, estimate_s: int | None) -> dict[str, Any]:
    """The upstream's 429 (a), said by the relay: too much waits, and nothing was stored."""
    when = "" if estimate_s is None else f"; the next could start in about {estimate_s} s"
    return {
        "error": f"All accounts are busy executing {running} of {slots} tasks{when}",
        "runningTasks": {},
        "code": 429,
    }


def _not_yet(job: Job) -> dict[str, Any]:
    """A task that the upstream does not have yet, from what the client asked for."""
    prompt = job.request.get("text_prompt", "")
    options = {key: value for key, value in job.request.items() if key not in ("model", "replyUrl", "replyRef")}
    return {
        "id": job.id,
        "name": f"{job.model} {prompt}".strip(),
        "image": None,
        "createdAt": iso(job.created_at_ms),
        "taskType": job.model,
        "options": options,
        "progressText": None,
        "estimatedTimeToStartSeconds": 0,
        "sharedAsset": None,
        "sourceAssetId": None,
    }


def _error(job: Job, upstreams: object) -> object:
    if job.error is None:
        return {"errorMessage": "cancelled", "reason": "RELAY.CANCELLED"} if job.state == "cancelled" else None
    if job.error["code"] in _UPSTREAMS_OWN and isinstance(upstreams, dict):
        return upstreams
    reason = job.error["reason"] or f"RELAY.{job.error['code'].upper()}"
    return {"errorMessage": job.error["message"], "message": job.error["message"], "reason": reason}


def _artifacts(job: Job, upstreams: object, address: Address) -> list[dict[str, Any]]:
    """The upstream's own artifact objects, every address one of the relay's."""
    by_url = {
        row["url"]: row
        for row in (upstreams if isinstance(upstreams, list) else [])
        if isinstance(row, dict) and "url" in row
    }
    shown = []
    for index, artifact in enumerate(job.artifacts):
        made_id = artifact_id(job.id, index)
        previews = [address(made_id, file_name(artifact, n)) for n in range(len(artifact["previews"]))]
        row = by_url.get(artifact["sourceUrl"], {})
        shown.append({**row, "url": address(made_id, file_name(artifact)), "previewUrls": previews})
    return shown
