"""The job: its states, its record, and the three views of it that the doors show.

    queued ──► submitting ──► running ──► succeeded | failed | cancelled
      │  ▲         │  │          ▲
      │  └─────────┘  └► in_doubt┘──► failed | cancelled
      └──► failed | cancelled

A job waits in `queued`; `submitting` means that a request to create its task is on its way; `in_doubt` that nobody
knows whether that request made one; `running` that the upstream has named the task. The final states are final.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal

State = Literal["queued", "submitting", "in_doubt", "running", "succeeded", "failed", "cancelled"]
Origin = Literal["api", "dropin", "adopted"]
# How a task is paid for: an account runs one explore task at a time, at lower priority.
Mode = Literal["credits", "explore"]
ErrorCode = Literal[
    "validation",
    "moderated",
    "no_credits",
    "bad_output",
    "upstream_failed",
    "lost",
    "no_artifact",
    "deadline",
    "submit_unknown",
    "account_gone",
]

WAYS: Final[dict[State, frozenset[State]]] = {
    "queued": frozenset({"submitting", "failed", "cancelled"}),
    "submitting": frozenset({"queued", "in_doubt", "running", "failed", "cancelled"}),
    "in_doubt": frozenset({"running", "queued", "failed", "cancelled"}),
    "running": frozenset({"queued", "succeeded", "failed", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
STATES: Final = tuple(WAYS)
FINAL: Final = frozenset(state for state, ways in WAYS.items() if not ways)

# `address(artifact id, file name)` makes the relay's own address of a file, anew at each call.
Address = Callable[[str, str], str]

JSON: Final = {"json": True}
EVENT_VIEW_MAX_BYTES: Final = 16 * 1024
ADDRESS_BYTES: Final = 256
ERROR_CHARS: Final = 500
FEW_ARTIFACTS: Final = 5
FEW_FILES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One accepted request and all that is known of its way. Times are Unix ms; `seq` is the insertion number."""

    seq: int = 0
    id: str
    state: State = "queued"
    model: str
    mode: Mode = "credits"
    reply_ref: str | None = None
    reply_url_sealed: str | None = None
    origin: Origin = "api"
    token_id: str
    submitted_by: str
    priority: int = 0
    deadline_ms: int | None = None
    pinned: str | None = None
    account: str | None = None
    task_id: str
    upstream_task_id: str | None = None
    upstream_status: str | None = None
    progress: float = 0.0
    attempts: int = 0
    request: dict[str, Any] = field(metadata=JSON)
    task: dict[str, Any] | None = field(default=None, metadata=JSON)
    artifacts: list[dict[str, Any]] = field(default_factory=list, metadata=JSON)
    error: dict[str, Any] | None = field(default=None, metadata=JSON)
    problems: list[dict[str, Any]] = field(default_factory=list, metadata=JSON)
    retry_of: str | None = None
    created_at_ms: int
    submitted_at_ms: int | None = None
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    erased_at_ms: int | None = None
    updated_at_ms: int

    @property
    def final(self) -> bool:
        return self.state in FINAL


AttemptState = Literal["sending", "created", "unknown", "not_created", "ended"]
# An attempt whose task runs, or may run, at the upstream: it takes one of the account's slots.
OCCUPYING: Final = frozenset({"sending", "created", "unknown"})
# How long a task takes of which nothing is known.
UNKNOWN_MS: Final = 600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to create a job's task. It is on disk before the first byte of the request is written.

    `ask_at_ms` is when the upstream is asked next about it (`created`: the task, `unknown`: the lists), None for never;
    `expected_ms` is how long its task should take, `probe` that it went beyond what the account was known to admit,
    `heralded` that the last end on that account came with a callback.
    """

    job_id: str
    number: int
    state: AttemptState = "sending"
    account: str
    token_hash: str
    reply_ref: str
    upstream_task_id: str | None = None
    hinted_task_id: str | None = None
    hinted_at_ms: int | None = None
    reported_at_ms: int | None = None
    sent_at_ms: int
    expected_ms: int = UNKNOWN_MS
    probe: bool = False
    heralded: bool = False
    answered_at_ms: int | None = None
    ended_at_ms: int | None = None
    ask_at_ms: int | None = None
    asked: int = 0
    missing: int = 0
    missing_since_ms: int | None = None
    empty_since_ms: int | None = None
    unconfirmed_at_ms: int | None = None
    callbacks: int = 0
    callback_bytes: int = 0
    detail: str | None = None
    # Tasks that look like this attempt's while it is in doubt: for a person to see, never acted on.
    candidates: list[dict[str, Any]] | None = field(default=None, metadata=JSON)

    @property
    def occupying(self) -> bool:
        return self.state in OCCUPYING


def reply_ref_of(instance: str, job_id: str, number: int) -> str:
    """The relay's own reference of an attempt: it can be computed again, and looked for in the upstream's lists."""
    return f"relay:{instance}:{job_id}:{number}"


def mode_of(request: dict[str, Any]) -> Mode:
    """How a request's task is paid for."""
    return "explore" if request.get("exploreMode") is True else "credits"


def task_id_of(job_id: str) -> str:
    """The task id that a job has for ever towards its client, made before the upstream's own is known."""
    return f"user:0-runwayml:relay-task:{job_id}"


def error(code: ErrorCode, message: str, *, reason: str | None = None, retryable: bool = False) -> dict[str, Any]:
    """A job's error as the doors show it."""
    return {"code": code, "message": message, "reason": reason, "retryable": retryable}


@lru_cache(8_192)
def iso(at_ms: int | None) -> str | None:
    """ISO 8601, UTC, milliseconds, `Z`."""
    if at_ms is None:
        return None
    minute, ms = divmod(at_ms, 60_000)
    return f"{_minute(minute)}{ms // 1000:02}.{ms % 1000:03}Z"


@lru_cache(8_192)
def _minute(number: int) -> str:
    return datetime.fromtimestamp(number * 60, UTC).isoformat()[:17]


def artifact_id(job_id: str, index: int) -> str:
    return f"{job_id}-{index}"


def file_name(artifact: dict[str, Any], preview: int | None = None) -> str:
    """The name in an artifact's address, its extension telling the type."""
    if preview is None:
        return f"{artifact['kind']}{artifact['extension']}"
    source = artifact["previews"][preview].split("?")[0]
    suffix = source[source.rfind(".") :].lower() if "." in source.rsplit("/", 1)[-1] else ""
    return f"preview-{preview + 1}{suffix if suffix in ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.mp4') else ''}"


def _artifact_view(job_id: str, index: int, artifact: dict[str, Any], address: Address) -> dict[str, Any]:
    made_id = artifact_id(job_id, index)
    return {
        "id": made_id,
        "kind": artifact["kind"],
        "url": address(made_id, file_name(artifact)),
        "contentType": artifact["contentType"],
        "sizeBytes": artifact["sizeBytes"],
        "durationS": artifact["durationS"],
        "width": artifact["width"],
        "height": artifact["height"],
        "previewUrls": [address(made_id, file_name(artifact, n)) for n in range(len(artifact["previews"]))],
        "keptUntil": iso(artifact.get("keptUntilMs")),
        **({"notKept": artifact["notKept"]} if artifact.get("notKept") else {}),
    }


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the queue says of a job now; it is not stored, for it changes with every other job."""

    queue_position: int | None = None
    starts_at_ms: int | None = None
    ends_at_ms: int | None = None


NO_OUTLOOK: Final = Outlook()


def event_view(job: Job, address: Address, outlook: Outlook = NO_OUTLOOK) -> dict[str, Any]:
    """The job as events, webhooks and lists show it: without `request`, `task` and `replyUrl`.

    It has at most `EVENT_VIEW_MAX_BYTES`: of a job with more to tell, the full view alone has the least needed.
    """
    view = _whole_view(job, address, outlook)
    files = sum(1 + len(artifact["previews"]) for artifact in job.artifacts)
    if files <= FEW_FILES and not (job.problems or job.error or any("notKept" in one for one in view["artifacts"])):
        return view  # all the rest has bounds of its own, far below
    for smaller in _SMALLER:
        if _size_bytes(view) <= EVENT_VIEW_MAX_BYTES:
            break
        view |= smaller(view)
    return view


def _size_bytes(view: dict[str, Any]) -> int:
    """The size as JSON; an event's addresses are made absolute only when it is read, so each is given its room."""
    addresses = sum(1 + len(artifact["previewUrls"]) for artifact in view["artifacts"])
    return len(json.dumps(view, ensure_ascii=False).encode()) + addresses * ADDRESS_BYTES


_SMALLER: Final[tuple[Callable[[dict[str, Any]], dict[str, Any]], ...]] = (
    lambda view: {"artifacts": [{**artifact, "previewUrls": []} for artifact in view["artifacts"]]},
    lambda view: {"problems": []},
    lambda view: {"error": view["error"] and {**view["error"], "message": view["error"]["message"][:ERROR_CHARS]}},
    lambda view: {"error": view["error"] and {**view["error"], "reason": None}},
    lambda view: {"artifacts": view["artifacts"][:FEW_ARTIFACTS]},
)


def _whole_view(job: Job, address: Address, outlook: Outlook) -> dict[str, Any]:
    return {
        "id": job.id,
        "replyRef": job.reply_ref,
        "model": job.model,
        "state": job.state,
        "progress": job.progress,
        "queuePosition": outlook.queue_position,
        "startsAt": iso(outlook.starts_at_ms),
        "eta": iso(outlook.ends_at_ms),
        "account": job.account,
        "taskId": job.task_id,
        "upstreamTaskId": job.upstream_task_id,
        "upstreamStatus": job.upstream_status,
        "attempts": job.attempts,
        "artifacts": [_artifact_view(job.id, n, artifact, address) for n, artifact in enumerate(job.artifacts)],
        "error": job.error,
        "problems": job.problems,
        "retryOf": job.retry_of,
        "origin": job.origin,
        "submittedBy": job.submitted_by,
        "createdAt": iso(job.created_at_ms),
        "submittedAt": iso(job.submitted_at_ms),
        "startedAt": iso(job.started_at_ms),
        "finishedAt": iso(job.finished_at_ms),
        "updatedAt": iso(job.updated_at_ms),
        **({} if job.erased_at_ms is None else {"erasedAt": iso(job.erased_at_ms)}),
    }


def full_view(
    job: Job, address: Address, outlook: Outlook = NO_OUTLOOK, reply_url: str | None = None
) -> dict[str, Any]:
    """Everything of one job; `reply_url` is the client's, handed in only for its submitter."""
    view = _whole_view(job, address, outlook)
    for shown, artifact in zip(view["artifacts"], job.artifacts, strict=True):
        shown["sourceUrl"] = artifact["sourceUrl"]
        shown["sourceExpiresAt"] = iso(artifact["sourceExpiresAtMs"])
    task = job.task
    if task is not None:
        task = {**task, "replyUrl": reply_url, "replyRef": job.reply_ref, "taskId": job.task_id}
    return {**view, "replyUrl": reply_url, "request": job.request, "task": task}


def public_view(job: Job, address: Address, outlook: Outlook = NO_OUTLOOK) -> dict[str, Any]:
    """What a ticket opens: enough for a progress bar and its video, and nothing else."""
    return public_part(event_view(job, address, outlook))


def public_part(view: dict[str, Any]) -> dict[str, Any]:
    """So much of an event view as the public view shows."""
    shown = ("id", "state", "progress", "queuePosition", "startsAt", "eta", "artifacts", "createdAt", "finishedAt")
    failure = view["error"] and {"code": view["error"]["code"], "message": view["error"]["message"]}
    return {**{key: view[key] for key in shown}, "error": failure}
