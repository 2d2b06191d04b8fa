"""The JSON that the upstream answers with: tasks, artifacts, assets, accounts and errors, field by field.

Source of the fields: the upstream's page for POST videos/create, and its pages for tasks, assets and accounts.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from relay.sandbox import film
from relay.sandbox.timeline import Course, Step

Json = dict[str, Any]

ID_FORM: Final = re.compile(
    r"user:(\d{1,19})-runwayml:(?P<email>[^\s/?#%\\]{1,254})-(?P<kind>task|asset):"
    r"(?P<uuid>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
)
NAME_MAX: Final = 200

# Width and height by aspect ratio, at 720 lines.
DIMENSIONS: Final = {
    "16:9": (1280, 720),
    "9:16": (720, 1280),
    "1:1": (960, 960),
    "4:3": (1104, 832),
    "3:4": (832, 1104),
    "21:9": (1584, 672),
}


@dataclass(frozen=True, slots=True)
class Account:
    """An upstream account; `slots` is its maxJobs."""

    email: str
    slots: int = 2

    @classmethod
    def parse(cls, text: str) -> "Account":
        """`email=slots` or `email`; raises ValueError."""
        email, equals, slots = text.strip().rpartition("=")
        if not equals:
            email, slots = slots, "2"
        if not re.fullmatch(r"[^\s/?#%\\=]{1,254}", email) or not re.fullmatch(r"[1-9]|10", slots):
            raise ValueError(f"an account is email=slots with 1 to 10 slots, not {text!r}")
        return cls(email, int(slots))


@dataclass(frozen=True, slots=True)
class Task:
    """A created task: what was asked, and its whole course. `created_ms` is when it came into being upstream."""

    task_id: str
    uuid: str
    account: str
    user_id: int
    fields: Json
    seconds: float
    origin: str  # scheme and host that artifact addresses begin with
    created_ms: int
    course: Course
    seed: int
    asset_group: str
    artifact_id: str
    reply_url: str | None
    reply_ref: str | None

    @property
    def model(self) -> str:
        return str(self.fields["model"])

    @property
    def asset_id(self) -> str:
        return f"user:{self.user_id}-runwayml:{self.account}-asset:{self.artifact_id}"


def error(status: int, message: str, **more: Any) -> Json:
    return {"error": message, **more, "code": status}


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def task_object(task: Task, step: Step, *, progress_as: str, starts_in_ms: int, artifacts: Sequence[Json]) -> Json:
    """The flat task as it is at `step`; `progress_as` is a word of the fault `progress`."""
    prompt = str(task.fields.get("text_prompt") or "")
    name = f"{task.model} {prompt}".strip()[:NAME_MAX]
    body: Json = {
        "taskId": task.task_id,
        "id": task.uuid,
        "name": name,
        "image": None,
        "createdAt": iso(task.created_ms),
        "updatedAt": iso(step.at_ms),
        "taskType": task.model,
        "options": _options(task, name, prompt),
        "status": step.status,
        "error": _failure(task) if step.status == "FAILED" else None,
        "progressText": None,
        "progressRatio": _progress(step.progress, progress_as),
        "estimatedTimeToStartSeconds": round(starts_in_ms / 1000, 3) if step.status == "PENDING" else None,
        "artifacts": list(artifacts),
        "sharedAsset": None,
        "sourceAssetId": None,
        "code": 200,
    }
    if task.reply_url is not None:
        body["replyUrl"] = task.reply_url
    if task.reply_ref is not None:
        body["replyRef"] = task.reply_ref
    return body


def _options(task: Task, name: str, prompt: str) -> Json:
    ratio = str(task.fields.get("aspect_ratio") or "16:9")
    width, height = DIMENSIONS.get(ratio, DIMENSIONS["16:9"])
    with_image = any(key.startswith(("imageAssetId", "startFrameAssetId")) for key in task.fields)
    return {
        "name": name,
        "text_prompt": prompt,
        "seconds": task.seconds,
        "seed": task.seed,
        "watermark": False,
        "route": "i2v" if with_image else "t2v",
        "width": width,
        "height": height,
        "assetGroupId": task.asset_group,
        "creationSource": "tool-mode",
        "exploreMode": bool(task.fields.get("exploreMode", False)),
        "recordingEnabled": True,
    }


def _failure(task: Task) -> Json:
    ending = task.course.ending
    return {
        "errorMessage": ending.message,
        "reason": ending.reason,
        "message": ending.message,
        "moderation_category": ending.category,
        "tally_asimov": ending.category is not None,
    }


def _progress(progress: float, form: str) -> Any:
    match form:
        case "number":
            return progress
        case "null":
            return None
        case "empty":
            return ""
        case _:
            return f"{progress:g}"  # the page shows "0", "0.5", "1"


def artifact(task: Task, *, url: str | None, preview_url: str, size: int, metadata_as: str) -> Json:
    """The artifact of a task that succeeded; `metadata_as` is a word of the fault `metadata`."""
    ended = iso(task.course.ends_ms or task.created_ms)
    body: Json = {
        "assetId": task.asset_id,
        "id": task.artifact_id,
        "createdAt": ended,
        "updatedAt": ended,
        "userId": task.user_id,
        "createdBy": task.user_id,
        "taskId": task.uuid,
        "parentAssetGroupId": task.asset_group,
        "filename": f"{task.model} {task.seed}.mp4",
        "url": url,
        "fileSize": str(size),
        "isDirectory": False,
        "previewUrls": [preview_url],
        "private": True,
        "privateInTeam": True,
        "deleted": False,
        "reported": False,
        "metadata": _metadata(metadata_as),
        "favorite": False,
    }
    if url is None:
        del body["url"]
    return body


def _metadata(form: str) -> Json | None:
    about: Json = {"frameRate": film.FRAME_RATE, "duration": film.DURATION_S}
    match form:
        case "null":
            return None
        case "flat":
            size = {"width": film.WIDTH, "height": film.HEIGHT}
            return {**about, **size, "hasAlphaChannel": False, "hasAudio": False}
        case _:
            size = {"width": film.WIDTH, "height": film.HEIGHT}
            return {**about, "dimensions": [film.WIDTH, film.HEIGHT], "size": size}


def wrapped(body: Json, form: str) -> Json:
    """A flat task as `flat`, `nested` in {"task": …}, or `both` (nested, with the taskId at the top as well)."""
    match form:
        case "nested":
            return {"task": body}
        case "both":
            return {"taskId": body["taskId"], "task": body}
        case _:
            return body


def listed(task: Task, *, with_refs: bool) -> Json:
    """A task as the scheduler shows it."""
    body: Json = {"taskId": task.task_id}
    if with_refs and task.reply_url is not None:
        body["replyUrl"] = task.reply_url
    if with_refs and task.reply_ref is not None:
        body["replyRef"] = task.reply_ref
    return body


def busy(account: Account, running: Mapping[str, Sequence[Task]], limit: int) -> Json:
    """The API's own 429: its queue for `account` is full; `running` is what runs, by e-mail."""
    tasks = {
        email: [{"email": email, "id": task.uuid, **listed(task, with_refs=True)} for task in theirs]
        for email, theirs in running.items()
    }
    return error(429, f"Account {account.email} is busy executing {limit} tasks", runningTasks=tasks)


PROVIDER_LIMIT: Final[Json] = {
    "error": "You have too many tasks running or pending. Please wait for some of them to finish before starting more."
}
NO_CREDITS: Final[Json] = {"error": "You do not have enough credits to run this task."}
NOT_FOUND: Final[Json] = error(404, "Not found.")
UNAUTHORIZED: Final[Json] = error(401, "Unauthorized")
