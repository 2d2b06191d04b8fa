"""What is kept of jobs' files: whole, of the right kind, under its own name, for as long as it should be."""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from relay.core.artifacts import TRIES_MAX, Keeping, StoredFile
from relay.core.delivering import SubscriptionSaved
from relay.core.delivery import Delivery
from relay.core.event import Event
from relay.core.job import Attempt, Job
from relay.core.ledger import Callback
from relay.core.outcome import Accepted
from relay.core.receiving import TaskAnswered
from relay.core.steering import JobErased
from relay.core.target import parse_allow
from relay.errors import ConfigurationError
from relay.net.artifacts import UpstreamArtifacts
from relay.net.upstream import Upstream
from relay.store import files as store_files
from relay.store.files import Folder, Part
from relay.work import mirror as work_mirror
from relay.work.janitor import Janitor, Retention
from relay.work.mirror import DEADLINE_S, House, Mirror
from tests.core.builders import subscription
from tests.journeys import eventually, while_time_passes
from tests.net.peers import Act, Peer, answering, dripping, flooding, read_request, saying, serving
from tests.web.test_kept import OURS
from tests.work.bench import Bench, bench, found, report, steps

pytestmark = pytest.mark.anyio

DAY_MS = 24 * 3600 * 1000
MOVIE = b"\x00\x00\x00\x18ftypisom" + bytes(range(256)) * 40


def whole(body: bytes, *more: str) -> bytes:
    head = "\r\n".join(("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", 'ETag: "film"', *more))
    return head.encode() + b"\r\n\r\n" + body


@dataclass
class Stage:
    """A store with a mirror, and a host of files; `root` is the storage."""

    here: Bench
    mirror: Mirror
    folder: Folder
    peer: Peer
    root: Path

    async def ended(self, number: int = 1, reply_ref: str | None = None, **artifact: Any) -> Job:
        """A job that has succeeded with one film at the host."""
        job = await self.here.submit(reply_ref=reply_ref)
        attempt = await self.here.attempted(Accepted(report(number)), job)
        link = {"url": f"http://127.0.0.1:{self.peer.port}/film.mp4"} | artifact
        answer = found(number, "SUCCEEDED", artifacts=[link])
        await self.here.store.apply(TaskAnswered(attempt.job_id, 1, answer, self.here.clock.now_ms()))
        return await self.here.job(attempt.job_id)

    async def file(self, job: Job) -> StoredFile:
        file = await self.here.store.file(f"{job.id}-0")
        assert file is not None
        return file

    async def artifact(self, job: Job) -> dict[str, Any]:
        return (await self.here.job(job.id)).artifacts[0]

    @property
    def names(self) -> list[str]:
        """Everything that lies in the storage."""
        return sorted(
            str(path.relative_to(self.root))
            for path in self.root.rglob("*")
            if path.is_file() and path.name not in OURS
        )


@asynccontextmanager
async def stage(
    folder: Path, act: Act, *, max_bytes: int | None = None, kind: type[Folder] = Folder
) -> AsyncGenerator[Stage]:
    async with serving(act) as peer, bench(folder, keeping=Keeping(30 * DAY_MS)) as here:
        upstream = Upstream("http://127.0.0.1:1", "token", clock=here.clock)
        files = UpstreamArtifacts(upstream, parse_allow([f"127.0.0.1:{peer.port}"]), clock=here.clock)
        root = folder / "files"
        kept = kind(root, here.store.instance)
        mirror = Mirror(here.store, here.feed, here.clock, files, House(kept, 30 * DAY_MS, max_bytes))
        try:
            yield Stage(here, mirror, kept, peer, root)
        finally:
            await mirror.stop()
            await files.aclose()
            await upstream.aclose()
            await kept.aclose()


def cutting(body: bytes, at: int, requests: list[bytes], *, honours_range: bool) -> Act:
    """Answer with the whole, cut after `at` bytes; then with the part that is asked for, or again with the whole."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(request := await read_request(reader))
        begin = next(
            (int(line[13:-1]) for line in request.lower().split(b"\r\n") if line.startswith(b"range: bytes=")), 0
        )
        if begin and honours_range:
            rest = body[begin:]
            head = f'HTTP/1.1 206 Partial\r\nContent-Length: {len(rest)}\r\nETag: "film"\r\n'
            head += f"Content-Range: bytes {begin}-{len(body) - 1}/{len(body)}\r\n\r\n"
            writer.write(head.encode() + rest)
        else:
            answer = whole(body)
            writer.write(answer if len(requests) > 1 else answer[: len(answer) - len(body) + at])
        await writer.drain()
        writer.close()

    return act


async def test_a_file_is_kept_whole_and_hashed_and_the_job_says_so(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(whole(MOVIE))) as on:
        job = await on.ended()
        await steps(on.mirror)
        file, artifact = await on.file(job), await on.artifact(job)

        assert (file.state, file.size_bytes, file.content_type) == ("kept", len(MOVIE), "video/mp4")
        assert file.sha256 == hashlib.sha256(MOVIE).hexdigest()
        assert on.names == [f"{job.id[-2:]}/{job.id}-0.mp4"] == [file.path]
        assert (on.root / str(file.path)).read_bytes() == MOVIE
        assert artifact["sizeBytes"] == len(MOVIE)
        assert artifact["keptUntilMs"] == on.here.clock.now_ms() + 30 * DAY_MS
        assert await on.folder.check(file) is None


@pytest.mark.parametrize("honours_range", [True, False])
async def test_after_a_cut_the_fetch_goes_on_where_it_was(tmp_path: Path, honours_range: bool) -> None:
    requests: list[bytes] = []
    async with stage(tmp_path, cutting(MOVIE, 5_000, requests, honours_range=honours_range)) as on:
        job = await on.ended()
        await steps(on.mirror)
        file = await on.file(job)

        assert (file.state, file.attempts) == ("kept", 1)
        assert (on.root / str(file.path)).read_bytes() == MOVIE
        assert file.sha256 == hashlib.sha256(MOVIE).hexdigest()
        assert b'range: bytes=5000-\r\nif-range: "film"' in requests[1]
        assert len(requests) == 2


@dataclass
class Host:
    """A host of one film: `cuts` are the bytes of it after which its next answers end, 0 for no answer at all.

    With `odd` it gives that head in the place of a 206, and the rest of the film whatever version was asked for.
    """

    body: bytes = MOVIE
    version: tuple[str, ...] = ('ETag: "1"',)
    cuts: list[int] = field(default_factory=list)
    odd: str = ""
    asked: list[bytes] = field(default_factory=list)

    async def act(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        wanted = {name: value for name, _, value in (line.partition(b": ") for line in request.split(b"\r\n"))}
        at, cut = int(wanted.get(b"range", b"bytes=0-")[6:-1]), self.cuts.pop(0) if self.cuts else len(self.body)
        self.asked.append(wanted.get(b"range", b""))
        same = wanted.get(b"if-range", b"").decode() in "".join(self.version)
        if at and (same or self.odd):
            span = f"bytes {at}-{len(self.body) - 1}/{len(self.body)}"
            head = self.odd or "\r\n".join(("HTTP/1.1 206 OK", *self.version, f"Content-Range: {span}"))
        else:
            at, head = 0, "\r\n".join(("HTTP/1.1 200 OK", *self.version))
        if cut:
            writer.write(f"{head}\r\nContent-Length: {len(self.body) - at}\r\n\r\n".encode() + self.body[at:cut])
            await writer.drain()
        writer.close()


DATED = ("Date: Sat, 01 Jan 2028 00:02:00 GMT", "Last-Modified: Sat, 01 Jan 2028 00:00:00 GMT")


@pytest.mark.parametrize("version", [('ETag: "1"',), DATED], ids=["a tag", "a date"])
@pytest.mark.parametrize("restarted", [False, True], ids=["same life", "restarted"])
async def test_the_next_try_goes_on_where_the_last_one_ended(
    tmp_path: Path, version: tuple[str, ...], restarted: bool
) -> None:
    host = Host(version=version, cuts=[5_000, 0])
    async with stage(tmp_path, host.act) as on:
        await on.mirror.recover()
        job = await on.ended()
        await steps(on.mirror)
        waiting, left = await on.file(job), on.names
        if restarted:
            assert await on.mirror.recover() == 1
        on.here.clock.advance(20)
        await steps(on.mirror)
        file = await on.file(job)

        assert (waiting.state, waiting.attempts) == ("wanted", 1)
        assert left == [f"incoming/{job.id}-0", f"incoming/{job.id}-0.version"]
        assert host.asked == [b"", b"bytes=5000-", b"bytes=5000-"]
        assert (file.state, file.sha256) == ("kept", hashlib.sha256(MOVIE).hexdigest())
        assert on.names == [file.path]
        assert (on.root / str(file.path)).read_bytes() == MOVIE


@pytest.mark.parametrize(
    "version",
    [(), ('ETag: W/"1"',), ("ETag: 1",), (DATED[1],), (DATED[0], DATED[1].replace("00:00:00", "00:01:30"))],
    ids=["none", "a weak tag", "no tag", "a date alone", "a date of just now"],
)
async def test_a_file_whose_version_nobody_can_name_begins_anew(tmp_path: Path, version: tuple[str, ...]) -> None:
    host = Host(version=version, cuts=[5_000])
    async with stage(tmp_path, host.act) as on:
        job = await on.ended()
        await steps(on.mirror)
        left = on.names
        on.here.clock.advance(20)
        await steps(on.mirror)

        assert (left, host.asked) == ([], [b"", b""])
        assert (await on.file(job)).state == "kept"


@pytest.mark.parametrize(
    "odd",
    [
        "",
        'HTTP/1.1 206 OK\r\nETag: "2"\r\nContent-Range: bytes 5000-10251/10252',
        "HTTP/1.1 206 OK\r\nContent-Range: bytes 5000-10251/10252",
        'HTTP/1.1 206 OK\r\nETag: "1"\r\nContent-Range: bytes 4999-10251/10252',
        'HTTP/1.1 206 OK\r\nETag: "1"',
        'HTTP/1.1 416 No\r\nETag: "2"\r\nContent-Range: bytes */10252',
    ],
    ids=["the whole", "another version", "no version", "another place", "no place", "no such part"],
)
async def test_a_file_that_has_changed_meanwhile_is_never_mixed_with_what_had_come(tmp_path: Path, odd: str) -> None:
    host, other = Host(cuts=[5_000, 0]), MOVIE[:24] + bytes(reversed(MOVIE[24:]))
    async with stage(tmp_path, host.act) as on:
        job = await on.ended()
        await steps(on.mirror)
        host.body, host.version, host.odd = other, ('ETag: "2"',), odd
        on.here.clock.advance(20)
        await steps(on.mirror)
        file = await on.file(job)

        assert (file.state, file.sha256) == ("kept", hashlib.sha256(other).hexdigest())
        assert (on.root / str(file.path)).read_bytes() == other


async def test_what_came_before_the_power_failed_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_files, "_BOOT", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("one")
    host = Host(cuts=[5_000, 0])
    async with stage(tmp_path, host.act) as on:
        await on.mirror.recover()
        job = await on.ended()
        await steps(on.mirror)
        (tmp_path / "boot_id").write_text("two")
        assert await on.mirror.recover() == 0
        left = on.names
        on.here.clock.advance(20)
        await steps(on.mirror)

        assert (left, host.asked[-1]) == ([], b"")
        assert (await on.file(job)).state == "kept"


async def test_nothing_is_left_of_a_file_that_nobody_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(cuts=[5_000, *(0 for _ in range(2 * TRIES_MAX))])
    async with stage(tmp_path, host.act) as on:
        job = await on.ended(1)
        for _ in range(TRIES_MAX):
            await steps(on.mirror)
            on.here.clock.advance(1.2 * 6 * 3600)
        given_up, left = (await on.file(job)).state, on.names
        host.cuts[:] = [5_000, 0]
        erased = await on.ended(2)
        await steps(on.mirror)
        waits = on.names
        await on.here.store.apply(JobErased(erased.id, on.here.clock.now_ms()))
        await steps(on.mirror)
        gone = on.names
        monkeypatch.setattr(store_files, "PARTS_MAX", 0)
        host.cuts[:] = [5_000, 0]
        await on.ended(3)
        await steps(on.mirror)

        assert (given_up, left, len(waits), gone, on.names) == ("failed", [], 2, [], [])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "a page in the place of video"),
        (b'{"error": "expired"}', "a page in the place of video"),
        (b"MZ\x90\x00 a program", "something unknown in the place of video"),
        (b"", "an empty file"),
    ],
)
async def test_what_is_no_film_is_refused_for_good(tmp_path: Path, body: bytes, says: str) -> None:
    async with stage(tmp_path, answering(whole(body))) as on:
        job = await on.ended()
        await steps(on.mirror)
        file = await on.file(job)

        assert (file.state, on.names) == ("failed", [])
        assert says in str(file.reason)
        assert (await on.artifact(job))["notKept"] == file.reason


async def test_a_film_that_is_a_picture_is_kept_as_a_picture(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(whole(b"\x89PNG\r\n\x1a\n" + bytes(100)))) as on:
        job = await on.ended()
        await steps(on.mirror)
        artifact = await on.artifact(job)

        assert (artifact["kind"], artifact["extension"], artifact["contentType"]) == ("image", ".png", "image/png")
        assert on.names == [f"{job.id[-2:]}/{job.id}-0.png"]


async def test_an_endless_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_mirror, "FILE_MAX_BYTES", 300_000)
    endless = flooding(b"HTTP/1.1 200 OK\r\n\r\n" + MOVIE, b"x" * 10_000)
    async with stage(tmp_path, endless) as on:
        job = await on.ended()
        await steps(on.mirror)
        file = await on.file(job)

        assert (file.state, on.names) == ("failed", [])
        assert "larger than" in str(file.reason)


async def test_a_file_that_ends_early_is_not_kept_where_only_the_upstream_tells_its_size(tmp_path: Path) -> None:
    async with stage(tmp_path, saying(b"HTTP/1.1 200 OK\r\n\r\n" + MOVIE)) as on:
        job = await on.ended(fileSize=str(len(MOVIE) + 1))
        other = await on.ended(2, fileSize=str(len(MOVIE)))
        await steps(on.mirror)
        file = await on.file(job)

        assert (file.state, (await on.file(other)).state) == ("wanted", "kept")
        assert file.reason == f"it ended after {len(MOVIE)} of {len(MOVIE) + 1} bytes"


async def test_what_cannot_be_removed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with stage(tmp_path, answering(whole(MOVIE))) as on:
        job = await on.ended()
        await steps(on.mirror)
        await on.here.store.apply(JobErased(job.id, on.here.clock.now_ms()))
        with monkeypatch.context() as broken:
            broken.setattr(on.folder, "remove", refuse)
            await steps(on.mirror)
        left = on.names
        await steps(on.mirror)

        assert (len(left), on.names) == (1, [])


async def test_a_slow_host_has_until_one_deadline(tmp_path: Path) -> None:
    slow = dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + MOVIE, b"x")
    async with stage(tmp_path, slow) as on:
        job = await on.ended()
        await while_time_passes(on.here.clock, steps(on.mirror), step_s=DEADLINE_S / 20)
        file = await on.file(job)

        assert (file.state, on.names) == ("wanted", [])
        assert "did not come" in str(file.reason) or "not done after" in str(file.reason)
        assert file.next_at_ms > file.created_at_ms


async def test_a_link_that_leads_inside_is_not_followed(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(whole(MOVIE))) as on:
        job = await on.ended(url="http://169.254.169.254/../../film.mp4")
        await steps(on.mirror)
        file = await on.file(job)

        assert (file.state, on.names, on.peer.connections) == ("wanted", [], 0)
        assert "leads where the relay does not call" in str(file.reason)


async def test_a_host_that_fails_is_tried_again_with_growing_waits_and_then_given_up(tmp_path: Path) -> None:
    failing = answering(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    async with stage(tmp_path, failing) as on:
        job = await on.ended()
        waits = []
        for _ in range(TRIES_MAX):
            await steps(on.mirror)
            file = await on.file(job)
            waits.append(file.next_at_ms - on.here.clock.now_ms())
            on.here.clock.advance(waits[-1] / 1000)

        assert (file.state, file.attempts) == ("failed", TRIES_MAX)
        assert waits[0] < waits[1] < waits[2] < waits[3] < waits[4]
        assert max(waits) <= 1.2 * 6 * 3_600_000
        assert "500" in str(file.reason)


class FullFolder(Folder):
    """A storage without room, for as long as `full`."""

    full = True

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncGenerator[Part]:
        async with super().writing(name) as part:
            if self.full:
                part._flush = self._no_room  # type: ignore[method-assign]
            yield part

    def _no_room(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_while_the_storage_is_full_the_job_goes_on_and_the_file_waits(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(whole(MOVIE)), kind=FullFolder) as on:
        job = await on.ended()
        await steps(on.mirror)
        waiting, artifact = await on.file(job), await on.artifact(job)
        FullFolder.full = False
        on.here.clock.advance(30)
        await steps(on.mirror)
        FullFolder.full = True
        kept = await on.file(job)

        assert job.state == "succeeded"
        assert (waiting.state, waiting.reason) == ("wanted", "the storage is full")
        assert artifact["notKept"] == "the storage is full"
        assert (kept.state, kept.reason, (await on.artifact(job))["notKept"]) == ("kept", None, None)


async def test_a_job_that_is_erased_while_its_file_comes_leaves_nothing(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def gated(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(whole(MOVIE)[:-10])
        await gate.wait()
        writer.write(MOVIE[-10:])
        await writer.drain()

    async with stage(tmp_path, gated) as on:
        job = await on.ended()
        await on.mirror.step()
        await eventually(lambda: any(name.startswith("incoming/") for name in on.names))
        await on.here.store.apply(JobErased(job.id, on.here.clock.now_ms()))
        await on.mirror.step()
        gate.set()
        await steps(on.mirror)

        assert on.names == []
        assert await on.here.store.file(f"{job.id}-0") is None


async def test_what_is_too_old_goes_and_its_job_says_so(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(whole(MOVIE))) as on:
        old = await on.ended(1)
        await steps(on.mirror)
        on.here.clock.advance(29 * 24 * 3600)
        young = await on.ended(2)
        await steps(on.mirror)
        on.here.clock.advance(2 * 24 * 3600)
        await steps(on.mirror)
        await steps(on.mirror)

        assert on.names == [f"{young.id[-2:]}/{young.id}-0.mp4"]
        assert (await on.artifact(old))["keptUntilMs"] is None
        assert await on.here.store.file(f"{old.id}-0") is None


async def test_of_too_many_bytes_the_oldest_go_but_none_that_is_owed(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(whole(MOVIE)), max_bytes=2 * len(MOVIE)) as on:
        owed = subscription("owed", types=["job.succeeded"], reply_ref="owed")
        await on.here.store.apply(SubscriptionSaved(owed))
        jobs = []
        for number in range(1, 6):
            jobs.append(await on.ended(number, reply_ref="owed" if number == 2 else None))
            await steps(on.mirror)
            on.here.clock.advance(61)
        await steps(on.mirror)
        await steps(on.mirror)

        assert on.names == sorted(f"{job.id[-2:]}/{job.id}-0.mp4" for job in (jobs[1], *jobs[-2:]))


async def test_a_job_goes_with_its_files_and_all_its_rows_but_its_events_also_after_a_crash(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(whole(MOVIE))) as on:
        old, owed = await on.ended(1), subscription("owed", types=["job.succeeded"], reply_ref="owed")
        await on.here.store.apply(SubscriptionSaved(owed))
        waits = await on.ended(2, reply_ref="owed")
        await steps(on.mirror)
        on.here.clock.advance(2 * DAY_MS / 1000)
        young = await on.ended(3)
        await steps(on.mirror)
        before = on.names
        janitor = Janitor(on.here.store, on.here.feed, on.here.clock, retention=Retention(DAY_MS, 2**62, 2**62))
        await janitor.step()
        cut = on.names  # the rows are gone, and here the relay dies
        await on.mirror.recover()
        await steps(on.mirror)
        rows = {
            kind.__name__: len(await on.here.store._list(kind, "WHERE job_id = :id", {"id": old.id}))
            for kind in (Attempt, Callback, Delivery, Event, StoredFile)
        }

        assert (len(before), cut) == (3, before)
        assert on.names == sorted(f"{job.id[-2:]}/{job.id}-0.mp4" for job in (waits, young))
        assert await on.here.store.job(old.id) is None
        assert (await on.here.job(waits.id)).state == (await on.here.job(young.id)).state == "succeeded"
        assert {name for name, count in rows.items() if count} == {"Event"}


@pytest.mark.parametrize(
    "cut",
    ["keep", "put", "_sync", "surely"],
    ids=["before the sync", "before its name", "after its name", "before its row"],
)
async def test_wherever_it_is_cut_nothing_half_is_there_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    class Cut(BaseException):
        """The power goes."""

    def die(*_: Any, **__: Any) -> Any:
        raise Cut

    where: dict[str, tuple[Any, Callable[..., Any]]] = {
        "keep": (Part, die),
        "put": (Folder, die),
        "_sync": (store_files, die),
        "surely": (Mirror, die),
    }
    async with stage(tmp_path, answering(whole(MOVIE))) as on:
        job = await on.ended()
        (on.root / job.id[-2:]).mkdir()
        with monkeypatch.context() as broken:
            broken.setattr(where[cut][0], cut, die)
            broken.setattr(Part, "close", lambda part: part._opened.close())
            with pytest.raises(Cut):
                await on.mirror._fetch(on.folder, job, await on.file(job))
        left = on.names
        await on.mirror.recover()
        await asyncio.wait(on.mirror._under_way)
        still = on.names
        await steps(on.mirror)

        assert left
        assert all(name.startswith("incoming/") for name in still), "a name is only what is kept"
        assert on.names == [f"{job.id[-2:]}/{job.id}-0.mp4"]
        assert (await on.file(job)).state == "kept"


async def test_bytes_are_synced_before_the_name_and_the_name_before_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename, apply = os.fsync, Path.replace, Mirror.surely

    def synced(number: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{number}')).relative_to(tmp_path / 'files')}")
        sync(number)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"name {target.relative_to(tmp_path / 'files')}")
        return rename(self, target)

    async def applied(self: Mirror, happening: Any) -> Any:
        done.append(type(happening).__name__)
        return await apply(self, happening)

    async with stage(tmp_path, answering(whole(MOVIE))) as on:
        job = await on.ended()
        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(Path, "replace", renamed)
        monkeypatch.setattr(Mirror, "surely", applied)
        await steps(on.mirror)
        shelf = job.id[-2:]

        assert done == [
            f"sync incoming/{job.id}-0",
            "sync .",
            f"name {shelf}/{job.id}-0.mp4",
            f"sync {shelf}",
            "FileKept",
        ]


async def test_a_start_removes_what_no_row_speaks_of_and_leaves_what_is_kept_or_a_strangers(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(whole(MOVIE))) as on:
        job = await on.ended()
        await steps(on.mirror)
        shelf = on.root / job.id[-2:]
        for name in (f"{job.id}-0.png", f"{job.id}-7.mp4", "notes.txt"):
            (shelf / name).write_bytes(b"x")
        (on.root / "incoming" / "half").write_bytes(b"x")
        cut = await on.mirror.recover()
        await asyncio.wait(on.mirror._under_way)

        assert cut == 0
        assert on.names == sorted((f"{shelf.name}/{job.id}-0.mp4", f"{shelf.name}/notes.txt"))


async def test_a_storage_serves_one_relay(tmp_path: Path) -> None:
    await Folder(tmp_path / "files", "00000001").aclose()
    with pytest.raises(ConfigurationError, match="another relay"):
        Folder(tmp_path / "files", "00000002")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="nothing can be written"):
        Folder(tmp_path / "file", "00000001")


@pytest.mark.parametrize("path", ["../relay.db", "", "/etc/passwd", "00/../../x", "00/x.mp4", "incoming/half"])
async def test_no_name_leads_out_of_the_storage(tmp_path: Path, path: str) -> None:
    async with stage(tmp_path, answering(whole(MOVIE))) as on:
        job = await on.ended()
        file = replace(await on.file(job), path=path, size_bytes=1)

        with pytest.raises(OSError, match="no file has such a name"):
            await on.folder.remove(path)
        assert await on.folder.check(file) == "it cannot be read: no file has such a name"
