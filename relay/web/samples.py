"""The webhooks of the document, each with an example that is made as a real one is."""

from dataclasses import replace
from typing import Any, Final

from relay.core.dropin import task_view
from relay.core.event import JOB_TYPES, OPERATOR_TYPES, PING, of_job, of_operator, render
from relay.core.job import NO_OUTLOOK, Job, error, task_id_of
from relay.core.signature import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from relay.web.shapes import TEXT, WHOLE, Schema, ref

EPOCH: Final = "5f0c1a2b"
AT_MS: Final = 1_767_225_600_000
JOB_ID: Final = "019b76da-a800-7000-8000-000000000001"
_ARTIFACT: Final = {
    "kind": "video",
    "extension": ".mp4",
    "contentType": "video/mp4",
    "sizeBytes": 1_048_576,
    "durationS": 5.0,
    "width": 1280,
    "height": 720,
    "previews": ["https://files.example.com/preview.jpg"],
    "sourceUrl": "https://files.example.com/video.mp4",
    "sourceExpiresAtMs": None,
}
_QUEUED: Final = Job(
    id=JOB_ID,
    model="gen4.5",
    reply_ref="order-7",
    token_id="",
    submitted_by="shop",
    task_id=task_id_of(JOB_ID),
    request={"model": "gen4.5", "text_prompt": "A coastal city at golden hour", "duration": 5},
    created_at_ms=AT_MS,
    updated_at_ms=AT_MS,
)
_RUNNING: Final = replace(
    _QUEUED,
    state="running",
    progress=0.42,
    account="me@example.com",
    upstream_task_id="user:7-runwayml:me@example.com-task:0f7a5b1e-2f7c-4c5d-9f6e-0a1b2c3d4e5f",
    upstream_status="RUNNING",
    attempts=1,
    submitted_at_ms=AT_MS,
    started_at_ms=AT_MS,
)
_ENDED: Final = replace(_RUNNING, finished_at_ms=AT_MS)
SAMPLES: Final = {
    "job.queued": _QUEUED,
    "job.submitted": replace(_RUNNING, progress=0.0, upstream_status="PENDING", started_at_ms=None),
    "job.progress": _RUNNING,
    "job.in_doubt": replace(_RUNNING, state="in_doubt", progress=0.0, upstream_task_id=None, upstream_status=None),
    "job.succeeded": replace(
        _ENDED, state="succeeded", progress=1.0, upstream_status="SUCCEEDED", artifacts=[_ARTIFACT]
    ),
    "job.failed": replace(
        _ENDED,
        state="failed",
        upstream_status="FAILED",
        error=error("moderated", "The prompt was not taken.", reason="SAFETY.INPUT.TEXT"),
    ),
    "job.cancelled": replace(_ENDED, state="cancelled"),
}
HEADERS: Final[tuple[tuple[str, Schema, str], ...]] = (
    (ID_HEADER, TEXT, "the event's id, the same at every try and replay"),
    (TIMESTAMP_HEADER, WHOLE, "Unix seconds of this try"),
    (SIGNATURE_HEADER, TEXT, "`v1,…` a secret and `v1a,…` (ed25519), separated by spaces"),
)
_ANSWERS: Final = {
    "2XX": {"description": "taken"},
    "410": {"description": "wants no more: the subscription is disabled"},
    "default": {"description": "tried again on schedule; a Retry-After is heard"},
}


def webhooks() -> dict[str, Any]:
    """Every type of event as a webhook, in the format `event`, and `task` where a task could tell it; and the ping."""
    found = {name: _webhook(name, ref("Event"), {"event": _event(name), "task": _task(name)}) for name in JOB_TYPES}
    for name in OPERATOR_TYPES:
        told = of_operator(name, "upstream", "why it is so", epoch=EPOCH, seq=7, at_ms=AT_MS)
        found[name] = _webhook(name, ref("OperatorEvent"), {"event": render(told, _address)})
    return found | {PING: _webhook(PING, ref("Ping"), {})}


def _webhook(name: str, schema: Schema, examples: dict[str, Any]) -> dict[str, Any]:
    body: Schema = {"allOf": [schema, {"properties": {"type": {"const": name}}}]}
    if "task" in examples:
        body = {"anyOf": [body, ref("Task")]}
    content = {"schema": body, "examples": {key: {"value": value} for key, value in examples.items()}}
    operation = {
        "summary": name,
        "tags": ["webhooks"],
        "parameters": [
            {"name": key, "in": "header", "required": True, "schema": shape, "description": about}
            for key, shape, about in HEADERS
        ],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": _ANSWERS,
        "security": [],
    }
    return {"post": operation}


def _event(name: str) -> dict[str, Any]:
    return render(of_job(SAMPLES[name], name, epoch=EPOCH, seq=7, at_ms=AT_MS), _address)


def _task(name: str) -> dict[str, Any]:
    return task_view(SAMPLES[name], _address, NO_OUTLOOK, "https://shop.example.com/hook", AT_MS)


def _address(artifact_id: str, name: str) -> str:
    return f"https://relay.example.com/v1/artifacts/{artifact_id}/{name}?exp=1767830400&sig=0a1b2c3d"
