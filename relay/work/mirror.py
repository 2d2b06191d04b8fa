"""Keeps the files of jobs: fetches what is wanted, removes what is not, and lets go of ends that were held back.

A file is kept when it lies in the storage, whole and synced, and then its row says so. Whatever is cut off in between
is swept away at the next start, and fetched again.
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from relay.clock import Clock, within
from relay.core.artifacts import FILE_MAX_BYTES, StoredFile, Unfit, declared_kind, judge, path_of
from relay.core.job import Job
from relay.core.keeping import FileKept, FileNotKept, FileRemoved, FilesDropped, HoldEnded
from relay.core.media import SNIFF_BYTES
from relay.errors import BadGateway, NotFound, RelayError
from relay.feed import Feed
from relay.store.contract import Store
from relay.store.files import ANY, Folder, Part
from relay.vault import jitter
from relay.work.loop import Worker
from relay.work.ports import Files

AT_ONCE: Final = 8
# Over all tries and resumes of one fetch together.
DEADLINE_S: Final = 900.0
RESUMES_MAX: Final = 20
PRUNE_EVERY_MS: Final = 60_000
PRUNED_AT_ONCE: Final = 500
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# With one of them the end of an answer is told apart from a cut.
_LENGTHS: Final = {"content-length", "transfer-encoding"}
_FOR_EVER_MS: Final = 2**62


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
        """At start: remove what was cut off (how many files these were), and begin to look for what nobody knows.

        Ends that an earlier relay held back for files are told when this one keeps none.
        """
        if self._house is None:
            while held := await self._store.files_held(_FOR_EVER_MS, PRUNED_AT_ONCE):
                for job_id in held:
                    await self._store.apply(HoldEnded(job_id, self._clock.now_ms()))
            return 0
        cut = await self._house.folder.empty_incoming()
        self.spawn(self._sweep(self._house))
        return cut

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
        # Those under way are among them.
        for file in await self._store.files_due(now_ms, AT_ONCE + len(self._flying)):
            if file.id not in self._flying and len(self._flying) < AT_ONCE:
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
                if file.path is not None:
                    await house.folder.remove(file.path)
            except OSError as error:
                self._log.warning("artifact.not_removed", file=file.id, reason=error.strerror)
                continue
            removed += await self._store.apply(FileRemoved(file.job_id, file.id, self._clock.now_ms()))
        return removed

    async def _keep(self, house: House, file: StoredFile) -> None:
        try:
            reason, for_good = await self._tried(house, file)
            if reason is not None:
                now_ms = self._clock.now_ms()
                await self.surely(FileNotKept(file.job_id, file.id, now_ms, reason, jitter(), for_good))
                self._log.warning("artifact.not_kept", file=file.id, reason=reason, for_good=for_good)
        finally:
            self._flying.discard(file.id)

    async def _tried(self, house: House, file: StoredFile) -> tuple[str | None, bool]:
        """Why it could not be kept, and whether that is for good."""
        try:
            job = await self._store.job(file.job_id)
            if job is None or file.position >= len(job.artifacts):
                return "its job has no such file any more", True
            await within(self._clock, DEADLINE_S, self._fetch(house.folder, job, file))
        except (Unfit, NotFound) as error:
            return error.message, True
        except RelayError as error:
            return error.message, False
        except TimeoutError:
            return f"it did not come within {DEADLINE_S:g} s", False
        except OSError as error:
            full = error.errno in _FULL
            return "the storage is full" if full else f"the storage cannot be written: {error.strerror}", False
        return None, False

    async def _fetch(self, folder: Folder, job: Job, file: StoredFile) -> None:
        artifact = job.artifacts[file.position]
        kind = declared_kind(artifact, file.preview)
        async with folder.writing(file.id) as part:
            first = await self._whole(part, job, file, kind)
            media = judge(kind, first, whole=True)
            path = path_of(file, media[2] or ("" if file.preview is not None else artifact["extension"]))
            sha256 = await part.keep(path, media[1])
            kept = FileKept(job.id, file.id, self._clock.now_ms(), path, part.size_bytes, sha256, media)
            if not await self.surely(kept):
                await folder.remove(path)

    async def _whole(self, part: Part, job: Job, file: StoredFile, kind: str) -> bytes:
        """Write the file from its host, going on where a connection was cut; its first bytes."""
        artifact, first, etag, resumes = job.artifacts[file.position], bytearray(), "", 0
        while True:
            before = part.size_bytes
            headers = {"range": f"bytes={before}-", "if-range": etag} if before else {}
            try:
                async with self._files.open(job, file.position, file.preview, headers) as answer:
                    goes_on = answer.headers.get("content-range", "").startswith(f"bytes {before}-")
                    if answer.status == 200 and before:
                        part.restart()
                        first.clear()
                    elif answer.status != 200 and not (before and answer.status == 206 and goes_on):
                        raise NotResumed(f"the host of this file answered {answer.status}")
                    etag = answer.headers.get("etag", "")
                    async for chunk in answer.chunks():
                        if part.size_bytes + len(chunk) > FILE_MAX_BYTES:
                            raise Unfit(f"it is larger than {FILE_MAX_BYTES} bytes")
                        if len(first) < SNIFF_BYTES:
                            first += chunk[: SNIFF_BYTES - len(first)]
                            judge(kind, bytes(first), whole=False)
                        await part.write(chunk)
                size = artifact["sizeBytes"] if file.preview is None else None
                if not answer.headers.keys() & _LENGTHS and size not in (None, part.size_bytes):
                    raise NotResumed(f"it ended after {part.size_bytes} of {size} bytes")
                return bytes(first)
            except (Unfit, NotResumed):
                raise
            except BadGateway:
                resumes += 1
                if part.size_bytes == before or not etag or etag.startswith("W/") or resumes > RESUMES_MAX:
                    raise


class NotResumed(BadGateway):
    """The host gave something else than the rest of the file: it is tried from the beginning, later."""
