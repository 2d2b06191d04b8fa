"""Happenings of files that the relay keeps: one was kept, was not, is held up no longer, goes, or is wanted again."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from relay.core.artifacts import REASON_CHARS, TRIES_MAX, StoredFile, next_try_ms, wanted
from relay.core.job import Job
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs, nothing
from relay.core.media import Media
from relay.errors import Conflict

FORGOTTEN = "its job was kept as long as the relay keeps jobs"
AGED = "it was kept as long as the relay keeps files"


@dataclass(frozen=True, slots=True)
class OfFile(Happening[bool]):
    """Base: something about one file. The result is whether it was of any account."""

    job_id: str
    file_id: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, files_of=self.job_id)


@dataclass(frozen=True, slots=True)
class FileKept(OfFile):
    """A file lies in the storage under `path`, whole and safe. Without effect where nobody wants it any more."""

    path: str
    size_bytes: int
    sha256: str
    media: Media

    def decide(self, loaded: Loaded) -> Changes[bool]:
        file, job = loaded.file(self.file_id), loaded.job
        if file is None or job is None or file.state != "wanted" or loaded.keeping is None:
            return nothing(False)
        kind, content_type, extension = self.media
        draft = Draft(loaded)
        kept = replace(
            file,
            state="kept",
            path=self.path,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            content_type=content_type,
            attempts=file.attempts + 1,
            reason=None,
            kept_at_ms=self.at_ms,
        )
        learned: dict[str, Any] = {"sizeBytes": self.size_bytes, "notKept": None}
        learned["keptUntilMs"] = self.at_ms + loaded.keeping.retention_ms
        if extension:
            learned |= {"kind": kind, "contentType": content_type, "extension": extension}
        _go_on(draft, _told(job, file, self.at_ms, learned), _with(loaded.files, kept), self.at_ms)
        draft.put(kept if kept.held_until_ms is None else replace(kept, held_until_ms=None))
        return draft.changes(True)


@dataclass(frozen=True, slots=True)
class FileNotKept(OfFile):
    """A try to keep a file failed: it is tried again, unless `for_good`. `chance`, from 0 to 1, spreads the waits."""

    reason: str
    chance: float
    for_good: bool = False

    def decide(self, loaded: Loaded) -> Changes[bool]:
        file, job = loaded.file(self.file_id), loaded.job
        if file is None or job is None or file.state != "wanted":
            return nothing(False)
        attempts, reason = file.attempts + 1, self.reason[:REASON_CHARS]
        draft = Draft(loaded)
        over = self.for_good or attempts >= TRIES_MAX
        after = replace(
            file,
            state="failed" if over else "wanted",
            attempts=attempts,
            reason=reason,
            next_at_ms=next_try_ms(attempts, self.at_ms, self.chance),
        )
        draft.put(after)
        _go_on(draft, _told(job, file, self.at_ms, {"notKept": reason}), _with(loaded.files, after), self.at_ms)
        return draft.changes(True)


@dataclass(frozen=True, slots=True)
class FileLost(OfFile):
    """What is kept is not there any more, or is not what it was: it is fetched anew."""

    reason: str

    def decide(self, loaded: Loaded) -> Changes[bool]:
        file, job = loaded.file(self.file_id), loaded.job
        if file is None or job is None or file.state != "kept":
            return nothing(False)
        draft = Draft(loaded)
        draft.put(replace(file, state="wanted", attempts=0, reason=self.reason, next_at_ms=self.at_ms, path=None))
        draft.put(_told(job, file, self.at_ms, {"keptUntilMs": None, "notKept": self.reason}))
        return draft.changes(True)


@dataclass(frozen=True, slots=True)
class FileRemoved(OfFile):
    """A doomed file is out of the storage."""

    def decide(self, loaded: Loaded) -> Changes[bool]:
        file = loaded.file(self.file_id)
        if file is None or file.state != "doomed":
            return nothing(False)
        draft = Draft(loaded)
        draft.drop(file)
        return draft.changes(True, quiet=True)


@dataclass(frozen=True, slots=True)
class HoldEnded(Happening[None]):
    """The end of a job was held back for its files for long enough."""

    job_id: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, files_of=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[None]:
        draft = Draft(loaded)
        if loaded.job is not None:
            _go_on(draft, loaded.job, loaded.files, self.at_ms, over=True)
        return draft.changes(None)


@dataclass(frozen=True, slots=True)
class FilesDropped(Happening[int]):
    """The kept files of a job go, unless something of the job is still owed. The result is how many they are."""

    job_id: str
    at_ms: int
    reason: str = AGED

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, files_of=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[int]:
        kept = [file for file in loaded.files if file.state == "kept"]
        if not kept or loaded.job is None or loaded.open_deliveries or not loaded.job.final:
            return nothing(0)
        draft, job = Draft(loaded), loaded.job
        for file in kept:
            draft.put(replace(file, state="doomed", reason=self.reason))
            job = _told(job, file, self.at_ms, {"keptUntilMs": None, "notKept": self.reason})
        draft.put(job)
        return draft.changes(len(kept))


@dataclass(frozen=True, slots=True)
class FilesWanted(Happening[int]):
    """A person wants the files of a job that are missing to be fetched now. The result is how many they are."""

    job_id: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, files_of=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[int]:
        if loaded.keeping is None:
            raise Conflict("this relay keeps no files: RELAY_ARTIFACTS is none")
        if loaded.job is None or not loaded.job.final:
            return nothing(0)
        draft, count = Draft(loaded), 0
        for fresh in wanted(loaded.job, loaded.keeping, self.at_ms):
            known = loaded.file(fresh.id)
            if known is None or known.state in ("wanted", "failed"):
                draft.put(replace(known, state="wanted", attempts=0, next_at_ms=self.at_ms) if known else fresh)
                count += 1
        return draft.changes(count)


@dataclass(frozen=True, slots=True)
class JobForgotten(Happening[bool]):
    """A job that ended before that time goes with all that is stored of it, but for its events. Whether it went.

    Not while a delivery is owed or an attempt takes a slot. Its files are doomed by the same change: their rows outlive
    the job until the storage has let go of them, whatever happens in between.
    """

    job_id: str
    ended_before_ms: int

    def needs(self) -> Needs:
        return Needs(job_id=self.job_id, files_of=self.job_id)

    def decide(self, loaded: Loaded) -> Changes[bool]:
        job = loaded.job
        if job is None or not job.final or (job.finished_at_ms or 0) >= self.ended_before_ms:
            return nothing(False)
        if loaded.open_deliveries or any(attempt.occupying for attempt in loaded.attempts):
            return nothing(False)
        draft = Draft(loaded)
        doom(draft, loaded.files, FORGOTTEN)
        draft.drop(job)
        return draft.changes(True, quiet=not loaded.files)


def doom(draft: Draft, files: Iterable[StoredFile], reason: str = "the job was erased") -> None:
    """All of these go, whoever may want them."""
    for file in files:
        draft.put(replace(file, state="doomed", reason=reason, held_until_ms=None))


def _go_on(draft: Draft, job: Job, files: Iterable[StoredFile], at_ms: int, *, over: bool = False) -> None:
    """Write the job; it ends now if it was held back for its files alone, and none of them is to be waited for."""
    held = [file for file in files if file.held_until_ms is not None]
    if not held or (not over and any(file.state == "wanted" for file in held)):
        draft.put(job)
        return
    for file in held:
        draft.put(replace(file, held_until_ms=None))
        if over and file.state == "wanted":
            job = _told(job, file, at_ms, {"notKept": file.reason or "it could not be fetched in time"})
    if job.state != "running":
        draft.put(job)
        return
    after = replace(job, state="succeeded", finished_at_ms=at_ms, updated_at_ms=at_ms)
    draft.step(job, after)
    draft.tell(after, "job.succeeded", at_ms)


def _told(job: Job, file: StoredFile, at_ms: int, learned: dict[str, Any]) -> Job:
    """The job, with what was learned of one of its artifacts; a preview's is of nobody's concern."""
    if file.preview is not None or file.position >= len(job.artifacts):
        return job
    artifacts = [
        {**artifact, **learned} if n == file.position else artifact for n, artifact in enumerate(job.artifacts)
    ]
    return replace(job, artifacts=artifacts, updated_at_ms=at_ms)


def _with(files: Iterable[StoredFile], changed: StoredFile) -> list[StoredFile]:
    return [changed if file.id == changed.id else file for file in files]
