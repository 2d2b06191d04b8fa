"""The upstream's task object: read from any of its shapes, never trusted, never raising.

A task arrives nested (`{"task": {…}}`), flat, or in a list (`{"tasks": [{…}]}`); numbers arrive as strings; anything
may be missing. `read` takes what is there. See the upstream's page "Videos" and its facts.
"""

import base64
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard
from urllib.parse import parse_qs, urlsplit

from pydantic_core import from_json, to_json

TASK_ID: Final = re.compile(
    r"user:[0-9]{1,19}-runwayml:(?P<account>[^\s/?#%\\]{1,254})-task:"
    r"(?P<uuid>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"
)

RUNNING: Final = "RUNNING"
THROTTLED: Final = "THROTTLED"
SUCCEEDED: Final = "SUCCEEDED"
FAILED: Final = "FAILED"
CANCELLED: Final = frozenset({"CANCELLED", "CANCELED"})
FINAL: Final = frozenset({SUCCEEDED, FAILED}) | CANCELLED

DEPTH_MAX: Final = 64
BEGINNING_BYTES: Final = 8
TEXT_MAX_CHARS: Final = 2_000
STATUS_MAX_CHARS: Final = 40
URL_MAX_CHARS: Final = 8_192
ARTIFACTS_MAX: Final = 20
PREVIEWS_MAX: Final = 12

_TYPES: Final = {
    ".mp4": ("video", "video/mp4"),
    ".mov": ("video", "video/quicktime"),
    ".webm": ("video", "video/webm"),
    ".png": ("image", "image/png"),
    ".jpg": ("image", "image/jpeg"),
    ".jpeg": ("image", "image/jpeg"),
    ".webp": ("image", "image/webp"),
    ".gif": ("image", "image/gif"),
    ".mp3": ("audio", "audio/mpeg"),
    ".wav": ("audio", "audio/wav"),
    ".m4a": ("audio", "audio/mp4"),
}

# The secret in the relay's own replyUrl, which the upstream echoes back to whoever may look. Some JSON writers put a
# backslash before a slash.
_CALLBACK_SECRET: Final = re.compile(r"(/callbacks/(?:inbox/)?)[A-Za-z0-9_\-]{16,}")
_CALLBACK_SECRET_BYTES: Final = re.compile(rb"(/callbacks\\?/(?:inbox\\?/)?)[A-Za-z0-9_\-]{16,}")

_WIDE: Final = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")

# The last second that can be written as ISO 8601 with four digits for the year.
_LAST_S: Final = 253_402_300_799


@dataclass(frozen=True, slots=True)
class Report:
    """What one body says of one task; `raw` is the whole object with callback secrets masked."""

    task_id: str | None
    reply_ref: str | None
    status: str
    progress: float | None
    updated_at_ms: int | None
    starts_in_s: float | None
    error: dict[str, Any] | None
    artifacts: tuple[dict[str, Any], ...]
    raw: dict[str, Any]

    @property
    def final(self) -> bool:
        return self.status in FINAL


def decode(body: bytes, *, mend: bool = True) -> object:
    """Parse JSON as strictly as a hostile sender deserves.

    Returns the value, or `None` when the bytes are not JSON (NaN, too long a number, no charset of JSON's) or nested
    deeper than `DEPTH_MAX`. With `mend`, strings that no UTF-8 text can hold (lone surrogates) lose just those
    characters; without, they stay, for whoever refuses them by name.
    """
    try:
        value = from_json(body, allow_inf_nan=False)
        return None if _too_deep(value) else value
    except ValueError:
        return _decode_odd(body, mend=mend)


def _decode_odd(body: bytes, *, mend: bool) -> object:
    """The same for what the quick parser does not take: byte order marks, UTF-16 and 32, lone surrogates."""
    try:
        text = body.decode("utf-8-sig") if not _looks_wide(body) else body.decode(json.detect_encoding(body))
        value: object = json.loads(text, parse_constant=_refuse_constant)
        if _too_deep(value):
            return None
        return printable(value) if mend else value
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return None


def printable(value: object) -> object:
    """The same JSON value, each lone surrogate replaced by `?`, so that it can be written anywhere."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-8", "replace"))
    return value


def mask(text: str) -> str:
    """Hide the secret of every relay callback URL in `text`."""
    return _CALLBACK_SECRET.sub(r"\1***", text)


def mask_bytes(body: bytes, token: str = "") -> bytes:
    """Hide the secret of every relay callback URL in `body`, and `token` wherever it stands."""
    body = _CALLBACK_SECRET_BYTES.sub(rb"\1***", body)
    # In what a token can be written with, only the wide charsets have NULs, and hardly any body has one.
    for charset in ("utf-8", *(_WIDE if b"\x00" in body else ())) if token else ():
        secret = token.encode(charset, "replace")
        # Its beginning is found, or not, in a fraction of the time.
        if secret[:BEGINNING_BYTES] in body:
            body = body.replace(secret, "***".encode(charset))
    return body


def unwrap(body: object) -> dict[str, Any] | None:
    """Find the task object in a body: at the top level, in `task`, or first in `tasks` or in an array."""
    if isinstance(body, list):
        body = body[0] if body else None
    if not isinstance(body, dict):
        return None
    if "status" in body and ("taskId" in body or "progressRatio" in body or "artifacts" in body):
        return body
    nested = body.get("task")
    if isinstance(nested, dict):
        # Users have seen the ids beside the nested object as well as in it.
        beside = {key: body[key] for key in ("taskId", "replyUrl", "replyRef") if key in body and key not in nested}
        return {**nested, **beside}
    tasks = body.get("tasks")
    if isinstance(tasks, list) and tasks and isinstance(tasks[0], dict):
        return tasks[0]
    return body if isinstance(body.get("taskId"), str) or isinstance(body.get("status"), str) else None


def listed(body: object) -> list[dict[str, Any]]:
    """The task objects of a list answer: an array, or one in `tasks`."""
    rows = body.get("tasks") if isinstance(body, dict) else body
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def read(body: object, *, masked: bool = False) -> Report | None:
    """Read a task from any shape; `None` when there is none in it. Callback secrets are masked wherever they stand.

    `masked`: that was done before, and nothing of `raw` will be kept.
    """
    found = unwrap(body)
    if found is None:
        return None
    task = found if masked else _masked(found)
    task_id = _text(task.get("taskId"))
    return Report(
        task_id=task_id if task_id and TASK_ID.fullmatch(task_id) else None,
        reply_ref=_text(task.get("replyRef")),
        status=(_text(task.get("status")) or "").upper()[:STATUS_MAX_CHARS],
        progress=_ratio(task.get("progressRatio")),
        updated_at_ms=_instant_ms(task.get("updatedAt")),
        starts_in_s=_number(task.get("estimatedTimeToStartSeconds")),
        error=_error(task.get("error")),
        artifacts=_artifacts(task.get("artifacts")),
        raw=task,
    )


def _masked(task: dict[str, Any]) -> dict[str, Any]:
    """Masked before anything is taken out of it; a number too large for a float (1e999) is no number."""
    try:
        text = to_json(task, inf_nan_mode="constants")
        if not (_CALLBACK_SECRET_BYTES.search(text) or b"Infinity" in text or b"NaN" in text):
            return task
        masked: dict[str, Any] = from_json(mask_bytes(to_json(task, inf_nan_mode="null")))
    except ValueError:  # a lone surrogate
        masked = json.loads(mask(json.dumps(task, ensure_ascii=False)), parse_constant=lambda name: None)
    return masked


def named(task_id: str, reply_ref: str | None) -> Report:
    """A report that says no more than that the task exists, as the scheduler list and a 429 body do."""
    return Report(task_id, reply_ref, "", None, None, None, None, (), {})


def model_of(report: Report) -> str:
    """The model of somebody else's task, as far as the task says it."""
    return _text(report.raw.get("taskType")) or "unknown"


def content_type_of(name: str) -> tuple[str, str]:
    """`(kind, media type)` by the extension of a file name."""
    return _TYPES.get(_suffix(name), ("other", "application/octet-stream"))


def created_at_ms(report: Report) -> int | None:
    """When the upstream says that the task was created, Unix ms."""
    return _instant_ms(report.raw.get("createdAt"))


def account_of(task_id: str) -> str | None:
    """The e-mail inside a task id: personal data, never logged."""
    match = TASK_ID.fullmatch(task_id)
    return match["account"] if match else None


def _suffix(path: str) -> str:
    name = path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix.lower() if stem else ""


def _looks_wide(body: bytes) -> bool:
    return body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in body[:4]


def _too_deep(value: object) -> bool:
    """Whether containers lie deeper in each other than `DEPTH_MAX`: what can be read must be writable everywhere."""
    level = [value]
    for _ in range(DEPTH_MAX):
        inside: list[object] = []
        for container in level:
            if isinstance(container, dict):
                inside += container.values()
            elif isinstance(container, list):
                inside += container
        if not inside:
            return False
        level = inside
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _text(value: object) -> str | None:
    return value.replace("\x00", "")[:TEXT_MAX_CHARS] or None if isinstance(value, str) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1e15 else None  # also refuses NaN and infinity


def _ratio(value: object) -> float | None:
    number = _number(value)
    return None if number is None else min(1.0, max(0.0, number))


def _instant_ms(value: object) -> int | None:
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
    except ValueError:
        return None
    try:
        return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)
    except (OverflowError, OSError):
        return None


def _error(value: object) -> dict[str, Any] | None:
    if isinstance(value, str) and value:
        return {"message": _text(value), "reason": None}
    if not isinstance(value, dict):
        return None
    message = _text(value.get("errorMessage")) or _text(value.get("message"))
    return {"message": message, "reason": _text(value.get("reason"))}


def _artifacts(value: object) -> tuple[dict[str, Any], ...]:
    """Those artifacts that have an address; the kind is told by its path, for there is no `type`."""
    rows = value if isinstance(value, list) else []
    found = []
    for row in rows[:ARTIFACTS_MAX]:
        url = row.get("url") if isinstance(row, dict) else None
        if _is_address(url):
            found.append(_artifact(row, url))
    return tuple(found)


def _is_address(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= URL_MAX_CHARS and value.startswith(("http://", "https://"))


def _artifact(row: dict[str, Any], url: str) -> dict[str, Any]:
    try:
        suffix = _suffix(urlsplit(url).path)
    except ValueError:
        suffix = ""
    kind, content_type = content_type_of(suffix and f"x{suffix}")
    metadata = row.get("metadata")
    meta = metadata if isinstance(metadata, dict) else {}
    size = meta.get("size")
    dimensions = meta.get("dimensions")
    width, height = meta.get("width"), meta.get("height")
    if isinstance(size, dict):
        width, height = size.get("width"), size.get("height")
    elif isinstance(dimensions, list) and len(dimensions) == 2:
        width, height = dimensions
    file_size, previews = _number(row.get("fileSize")), row.get("previewUrls")
    return {
        "kind": kind,
        "contentType": content_type,
        "extension": suffix if suffix in _TYPES else "",
        "sizeBytes": None if file_size is None else int(file_size),
        "durationS": _number(meta.get("duration")),
        "width": _whole(width),
        "height": _whole(height),
        "previews": list(filter(_is_address, previews[:PREVIEWS_MAX] if isinstance(previews, list) else ())),
        "sourceUrl": url,
        "sourceExpiresAtMs": _expiry_ms(url),
    }


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _expiry_ms(url: str) -> int | None:
    """When a signed link dies, as its `_jwt` says; read, not verified, for it is only a hint."""
    try:
        token = parse_qs(urlsplit(url).query).get("_jwt", [""])[0]
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        expires_s = _number(claims.get("exp"))
    except (ValueError, IndexError, AttributeError, RecursionError):
        return None
    # Whoever writes milliseconds here means a time that no calendar has.
    return None if expires_s is None or not 0 <= expires_s <= _LAST_S else int(expires_s * 1000)
