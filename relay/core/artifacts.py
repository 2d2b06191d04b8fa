"""Files of jobs that the relay keeps itself: what is known of each, what is fit to be kept, when it is tried again."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from relay.core.job import Job, artifact_id, file_name
from relay.core.media import SNIFF_BYTES, Media, is_page, media_of
from relay.core.task import content_type_of
from relay.errors import BadGateway

# A `doomed` one is to be removed from the storage, and then its row.
FileState = Literal["wanted", "kept", "failed", "doomed"]
FILE_STATES: Final = ("wanted", "kept", "failed", "doomed")
# Between tries; the last one stands for all that follow, until so many were made.
WAITS_S: Final = (15, 60, 300, 1_800, 7_200, 21_600)
TRIES_MAX: Final = 20
SPREAD: Final = 0.2
FILE_MAX_BYTES: Final = 4 * 1024**3
# For so long the end of a job is held back until its files are kept, where that is wanted.
HOLD_MS: Final = 600_000
REASON_CHARS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An artifact, or one of its previews, that is kept or is to be kept. `path` is its name within the storage.

    `held_until_ms`: the end of its job is told once it is kept, or at that time.
    """

    seq: int = 0
    id: str
    job_id: str
    position: int
    preview: int | None = None
    state: FileState = "wanted"
    size_bytes: int | None = None
    sha256: str | None = None
    content_type: str | None = None
    path: str | None = None
    attempts: int = 0
    next_at_ms: int
    held_until_ms: int | None = None
    reason: str | None = None
    created_at_ms: int
    kept_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Keeping:
    """That the relay keeps files: for how long, and for how long an end is held back until they are kept (None: not).

    Both in ms.
    """

    retention_ms: int
    hold_ms: int | None = None


class Unfit(BadGateway):
    """What was fetched is not what it should be: another try would bring the same."""


def file_id(job_id: str, position: int, preview: int | None) -> str:
    return artifact_id(job_id, position) + ("" if preview is None else f"-preview-{preview}")


def wanted(job: Job, keeping: Keeping, at_ms: int) -> list[StoredFile]:
    """Every file of a job that has ended well, to be fetched at once."""
    hold = keeping.hold_ms is not None and job.state == "running"
    return [
        StoredFile(
            id=file_id(job.id, position, preview),
            job_id=job.id,
            position=position,
            preview=preview,
            next_at_ms=at_ms,
            held_until_ms=at_ms + (keeping.hold_ms or 0) if hold else None,
            created_at_ms=at_ms,
        )
        for position, artifact in enumerate(job.artifacts)
        for preview in (None, *range(len(artifact["previews"])))
    ]


def declared_kind(artifact: dict[str, Any], preview: int | None) -> str:
    """What the upstream says that it is: video, image, audio or other."""
    kind: str = artifact["kind"] if preview is None else content_type_of(file_name(artifact, preview))[0]
    return kind


def judge(kind: str, first: bytes, *, whole: bool) -> Media:
    """What a file is whose first bytes are these; `Unfit` when it is not the film, picture or sound that it should be.

    While too few bytes are there to tell, and more may come, it counts as the unknown.
    """
    if not first and whole:
        raise Unfit("the host sends an empty file")
    media = media_of(first)
    if media is None and kind != "other" and (whole or len(first) >= SNIFF_BYTES):
        what = "a page" if is_page(first) else "something unknown"
        raise Unfit(f"the host sends {what} in the place of {kind}")
    return media or ("other", "application/octet-stream", "")


def path_of(file: StoredFile, extension: str) -> str:
    """Its name within the storage, of nothing but our own ids and a known extension; spread over 256 folders."""
    return f"{file.job_id[-2:]}/{file.id}{extension}"


def next_try_ms(attempts: int, at_ms: int, chance: float) -> int:
    """When it is tried again after so many attempts; `chance` from 0 to 1."""
    wait_s = WAITS_S[min(attempts, len(WAITS_S)) - 1]
    return at_ms + int(wait_s * 1000 * (1 + SPREAD * (2 * chance - 1)))
