"""The JSON that the upstream answers with: tasks, artifacts, assets, accounts and errors, field by field.

Source of the fields: the upstream's page for POST videos/create, and its pages for tasks, assets and accounts.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from relay.sandbox import film
from relay.sandbox.timeline import Course, Step

Json = dict[str, Any]

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

PROVIDER_LIMIT: Final[Json] = {
    "error": "You have too many tasks running or pending. Please wait for some of them to finish before starting more."
}
NO_CREDITS: Final[Json] = {"error": "You do not have enough credits to run this task."}


@dataclass(frozen=True, slots=True)
class Account:
    """An upstream account; `slots` is its maxJobs."""

    email: str
    slots: int = 2

    @classmethod
    def parse(cls, text: str) -> "Account":
        """`email=slots` or `email`; raises ValueError."""
        match = re.fullmatch(r"([^\s/?#%\\=]{1,254})(?:=([1-9]|10))?", text.strip())
        if match is None:
            raise ValueError(f"an account is email=slots with 1 to 10 slots, not {text!r}")
        return cls(match[1], int(match[2] or 2))


@dataclass(frozen=True, slots=True)
class Task:
    """A created task: what was asked, and its whole course. `created_ms` is when it came into being upstream."""

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
    def task_id(self) -> str:
        return f"user:{self.user_id}-runwayml:{self.account}-task:{self.uuid}"

    @property
    def asset_id(self) -> str:
        """What it makes is an asset, too."""
        return asset_id(self.user_id, self.account, self.artifact_id)

    @property
    def model(self) -> str:
        return str(self.fields["model"])


def asset_id(user_id: int, account: str, uuid: str) -> str:
    return f"user:{user_id}-runwayml:{account}-asset:{uuid}"


def iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def task_object(task: Task, step: Step, *, progress_as: str, starts_in_ms: int, artifacts: Sequence[Json]) -> Json:
    """The flat task as it is at `step`; `progress_as` is a word of the fault `progress`."""
    prompt = str(task.fields.get("text_prompt") or "")
    name = f"{task.model} {prompt}".strip()[:NAME_MAX]
    progress: Json = {"string": f"{step.progress:g}", "number": step.progress, "null": None, "empty": ""}
    return {
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
        "progressRatio": progress[progress_as],
        "estimatedTimeToStartSeconds": round(starts_in_ms / 1000, 3) if step.status == "PENDING" else None,
        "artifacts": list(artifacts),
        "sharedAsset": None,
        "sourceAssetId": None,
        "code": 200,
        **references(task),
    }


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


def references(task: Task) -> Json:
    """replyUrl and replyRef, where the task has them."""
    known = {"replyUrl": task.reply_url, "replyRef": task.reply_ref}
    return {name: value for name, value in known.items() if value is not None}


def wrapped(body: Json, form: str) -> Json:
    """A flat task as `flat`, `nested` in {"task": …}, or `both` (nested, with the taskId at the top as well)."""
    forms: dict[str, Json] = {
        "flat": body,
        "nested": {"task": body},
        "both": {"taskId": body["taskId"], "task": body},
    }
    return forms[form]


def artifact(task: Task, *, url: str | None, preview_url: str, size: int, metadata_as: str) -> Json:
    """The artifact of a task that succeeded; `metadata_as` is a word of the fault `metadata`."""
    ended_ms = task.course.ends_ms or task.created_ms
    return {
        **file_object(task.asset_id, task.user_id, ended_ms, f"{task.model} {task.seed}.mp4", size),
        **({} if url is None else {"url": url}),
        "taskId": task.uuid,
        "parentAssetGroupId": task.asset_group,
        "previewUrls": [preview_url],
        "privateInTeam": True,
        "reported": False,
        "metadata": _metadata(metadata_as),
    }


def file_object(file_id: str, user_id: int, made_ms: int, name: str, size: int) -> Json:
    """What artifacts and uploaded assets have in common."""
    return {
        "assetId": file_id,
        "id": file_id.rpartition(":")[2],
        "createdAt": iso(made_ms),
        "updatedAt": iso(made_ms),
        "userId": user_id,
        "createdBy": user_id,
        "filename": name,
        "fileSize": str(size),
        "isDirectory": False,
        "previewUrls": [],
        "private": True,
        "deleted": False,
        "favorite": False,
    }


def _metadata(form: str) -> Json | None:
    about: Json = {"frameRate": film.FRAME_RATE, "duration": film.DURATION_S}
    size = {"width": film.WIDTH, "height": film.HEIGHT}
    forms: dict[str, Json | None] = {
        "nested": {**about, "dimensions": [film.WIDTH, film.HEIGHT], "size": size},
        "flat": {**about, **size, "hasAlphaChannel": False, "hasAudio": False},
        "null": None,
    }
    return forms[form]
