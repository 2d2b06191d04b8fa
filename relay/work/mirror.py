"""Keeps the files of jobs: fetches what is wanted, removes what is not, and lets go of ends that were held back.

A file is kept when it lies in the storage, whole and synced, and then its row says so. Whatever is cut off in between
is gone on with where its host still has the very same file, else it is swept away and fetched again.
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from relay.clock import Clock, within
from relay.core.artifacts import FILE_MAX_BYTES, TRIES_MAX, StoredFile, Unfit, declared_kind, judge, path_of
from relay.core.job import Job
from relay.core.keeping import FileKept, FileNotKept, FileRemoved, FilesDropped, HoldEnded
from relay.core.media import SNIFF_BYTES, goes_on, size_of, version_of
from relay.errors import BadGateway, NotFound, RelayError
from relay.feed import Feed
from relay.store.contract import Store
from relay.store.files import ANY, Folder, Part
from relay.vault import jitter
from relay.work.loop import Worker
from relay.work.ports import Files

AT_ONCE: Final = 8
# Over all requests of one try together.
DEADLINE_S: Final = 900.0
RESUMES_MAX: Final = 20
PRUNE_EVERY_MS: Final = 60_000
PRUNED_AT_ONCE: Final = 500
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# With one of them the end of an answer is told apart from a cut.
_LENGTHS: Final = {"content-length", "transfer-encoding"}
_FOR_EVER_MS: Final = 2**62


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a try did not keep a file; whether none will, and whether the next can go on with what has come."""

    reason: str
    for_good: bool = False
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class House:
    """How files are kept: where, for how long, and how many bytes at most (None: as many as there are)."""

    folder: Folder
    retention_ms: int
    max_bytes: int | None = None


class Mirror(Worker):
    """Fetches at most `AT_ONCE` files at a time; without a `house` none."""

    name = "mirror"

    def __init__(self, store: Store, feed: Feed, clock: Clock, files: Files, house: House | None) -> None:
        super().__init__(store, feed, clock)
        self._files = files
        self._house = house
        self._flying: set[str] = set()
        self._prune_at_ms = 0

    async def recover(self) -> int:
        """At start: look at what was cut off (how many files these were), and begin to look for what nobody knows.

        Ends that an earlier relay held back for files are told when this one keeps none.
        """
        if self._house is None:
            while held := await self._store.files_held(_FOR_EVER_MS, PRUNED_AT_ONCE):
                for job_id in held:
                    await self._store.apply(HoldEnded(job_id, self._clock.now_ms()))
            return 0
        cut = await self._house.folder.unfinished()
        for name in cut:
            file = await self._store.file(name)
            if file is None or file.state != "wanted":
                await self._house.folder.discard(name)
        self.spawn(self._sweep(self._house))
        return len(cut)

    async def step(self) -> int | None:
        house, now_ms = self._house, self._clock.now_ms()
        if house is None:
            return None
        for job_id in await self._store.files_held(now_ms, PRUNED_AT_ONCE):
            await self._store.apply(HoldEnded(job_id, now_ms))
        removed = await self._remove(house, await self._store.files_doomed(PRUNED_AT_ONCE))
        if not now_ms < self._prune_at_ms <= now_ms + PRUNE_EVERY_MS:
            await self.prune(now_ms - house.retention_ms)
            self._prune_at_ms = now_ms + PRUNE_EVERY_MS
        # Those under way are among them, and so are those that ended while the store was asked.
        busy = set(self._flying)
        for file in await self._store.files_due(now_ms, AT_ONCE + len(busy)):
            if file.id not in busy | self._flying and len(self._flying) < AT_ONCE:
                self._flying.add(file.id)
                self.spawn(self._keep(house, file))
        if removed == PRUNED_AT_ONCE:  # there are more
            return now_ms
        next_ms = await self._store.next_file_ms(now_ms)
        return min(self._prune_at_ms, next_ms or self._prune_at_ms)

    async def prune(self, kept_before_ms: int) -> int:
        """Let go of files that are older, or too many; of nothing that is still owed. How many files they are."""
        if self._house is None:
            return 0
        dropped = 0
        for job_id in await self._store.files_to_go(kept_before_ms, self._house.max_bytes, PRUNED_AT_ONCE):
            dropped += await self._store.apply(FilesDropped(job_id, self._clock.now_ms()))
        if dropped:
            self._log.info("artifacts.pruned", files=dropped)
        return dropped

    async def _sweep(self, house: House) -> None:
        async def known(file_ids: Sequence[str]) -> Mapping[str, str]:
            # In this order: what has just come is in one of the two.
            flying = dict.fromkeys(self._flying, ANY)
            return flying | await self._store.files_kept(file_ids)

        swept = await house.folder.sweep(known)
        if swept:
            self._log.info("artifacts.swept", files=swept)

    async def _remove(self, house: House, doomed: Sequence[StoredFile]) -> int:
        removed = 0
        for file in doomed:
            if file.id in self._flying:
                continue  # its fetch ends first, and takes back what it has written
            try:
                await house.folder.discard(file.id)
                if file.path is not None:
                    await house.folder.remove(file.path)
            except OSError as error:
                self._log.warning("artifact.not_removed", file=file.id, reason=error.strerror)
                continue
            removed += await self._store.apply(FileRemoved(file.job_id, file.id, self._clock.now_ms()))
        return removed

    async def _keep(self, house: House, file: StoredFile) -> None:
        try:
            failed = await self._tried(house, file)
            if failed is not None:
                now_ms, over = self._clock.now_ms(), failed.for_good or file.attempts + 1 >= TRIES_MAX
                await self.surely(FileNotKept(file.job_id, file.id, now_ms, failed.reason, jitter(), over))
                self._log.warning("artifact.not_kept", file=file.id, reason=failed.reason, for_good=over)
                if over or not failed.goes_on:
                    await house.folder.discard(file.id)
        finally:
            self._flying.discard(file.id)

    async def _tried(self, house: House, file: StoredFile) -> Failed | None:
        """Fetch and keep it; why that failed, or None."""
        try:
            job = await self._store.job(file.job_id)
            if job is None or file.position >= len(job.artifacts):
                return Failed("its job has no such file any more", for_good=True)
            await self._fetch(house.folder, job, file)
        except (Unfit, NotFound) as error:
            return Failed(error.message, for_good=True)
        except RelayError as error:
            return Failed(error.message, goes_on=True)
        except TimeoutError:
            return Failed(f"it did not come within {DEADLINE_S:g} s", goes_on=True)
        except OSError as error:
            full = error.errno in _FULL
            return Failed("the storage is full" if full else f"the storage cannot be written: {error.strerror}")
        return None

    async def _fetch(self, folder: Folder, job: Job, file: StoredFile) -> None:
        artifact = job.artifacts[file.position]
        kind = declared_kind(artifact, file.preview)
        async with folder.writing(file.id) as part:
            await within(self._clock, DEADLINE_S, self._whole(part, job, file, kind))
            media = judge(kind, part.first, whole=True)
            path = path_of(file, media[2] or ("" if file.preview is not None else artifact["extension"]))
            sha256 = await part.keep(path, media[1])
            kept = FileKept(job.id, file.id, self._clock.now_ms(), path, part.size_bytes, sha256, media)
            if not await self.surely(kept):
                now = await self._store.file(file.id)
                if now is None or now.state != "kept" or now.path != path:
                    await folder.remove(path)

    async def _whole(self, part: Part, job: Job, file: StoredFile, kind: str) -> None:
        """Write what is missing of the file, going on wherever a connection was cut; never of two versions of it."""
        for requests in range(1, RESUMES_MAX + 2):
            before = part.size_bytes
            try:
                if await self._more(part, job, file, kind):
                    return
                await part.begin("")  # its host does not go on with what is here: from the beginning
            except (Unfit, NotResumed):
                raise
            except BadGateway:
                if part.size_bytes == before or not part.version or requests > RESUMES_MAX:
                    raise
        raise BadGateway("its host goes on with nothing that it has begun")

    async def _more(self, part: Part, job: Job, file: StoredFile, kind: str) -> bool:
        """One request for the rest of the file, or for all of it; False where its host has no rest of what is here."""
        before = part.size_bytes
        headers = {"range": f"bytes={before}-", "if-range": part.version} if before else {}
        async with self._files.open(job, file.position, file.preview, headers) as answer:
            if answer.status == 200:
                await part.begin(version_of(answer.headers))
            elif not before:
                raise NotResumed(f"the host of this file answered {answer.status}")
            elif answer.status != 206 or not goes_on(answer.headers, before, part.version):
                return False
            size = size_of(answer.headers)
            if max(size or 0, part.size_bytes) > FILE_MAX_BYTES:
                raise Unfit(f"it is larger than {FILE_MAX_BYTES} bytes")
            async for chunk in answer.chunks():
                if part.size_bytes + len(chunk) > FILE_MAX_BYTES:
                    raise Unfit(f"it is larger than {FILE_MAX_BYTES} bytes")
                await part.write(chunk)
                if part.size_bytes - len(chunk) < SNIFF_BYTES:
                    judge(kind, part.first, whole=False)
        if size is not None and size != part.size_bytes:
            raise BadGateway(f"it ended after {part.size_bytes} of {size} bytes")
        told = job.artifacts[file.position]["sizeBytes"] if file.preview is None else None
        if not answer.headers.keys() & _LENGTHS and told not in (None, part.size_bytes):
            raise NotResumed(f"it ended after {part.size_bytes} of {told} bytes")
        return True


class NotResumed(BadGateway):
    """The host gave something else than the file: it is asked again later, and not in this try."""
