"""Files that are kept: written with the end of their job, told with it where that is wanted, and gone with it."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.artifacts import HOLD_MS, Keeping, StoredFile, judge, next_try_ms
from relay.core.job import Job, event_view
from relay.core.keeping import (
    FileKept,
    FileLost,
    FileNotKept,
    FileRemoved,
    FilesDropped,
    FilesWanted,
    HoldEnded,
    JobForgotten,
)
from relay.core.media import media_of, names, part_of
from relay.core.outcome import Found
from relay.core.receiving import TaskAnswered
from relay.core.steering import JobCancelled, JobErased
from relay.errors import Conflict
from tests.core.builders import JOB_ID, NOW_MS, VIDEO, report, subscription
from tests.core.memory import Memory, begun

RETENTION_MS = 1_000_000
FILM, PREVIEW = f"{JOB_ID}-0", f"{JOB_ID}-0-preview-0"
MP4 = ("video", "video/mp4", ".mp4")
AT_MS = NOW_MS + 1_000


def ended(hold_ms: int | None = None, *subscribed: Any) -> Memory:
    """A job whose task has ended with a film and a preview."""
    memory = begun(*subscribed)
    memory._keeping = Keeping(RETENTION_MS, hold_ms)
    links = [VIDEO | {"previewUrls": ["https://files.example.com/p.png"]}]
    memory.apply(TaskAnswered(JOB_ID, 1, Found(report("SUCCEEDED", "1", artifacts=links)), NOW_MS))
    return memory


def kept(file_id: str = FILM) -> FileKept:
    return FileKept(JOB_ID, file_id, AT_MS, f"01/{file_id}.mp4", 4_096, "f" * 64, MP4)


def failed(file_id: str = FILM, *, for_good: bool = False) -> FileNotKept:
    return FileNotKept(JOB_ID, file_id, AT_MS, "the storage is full", 0.5, for_good)


def files(memory: Memory) -> dict[str, str]:
    return {file.id: file.state for file in memory.all(StoredFile)}


def artifact(memory: Memory) -> dict[str, Any]:
    view: dict[str, Any] = event_view(memory.job, "{}/{}".format)["artifacts"][0]
    return view


def test_the_files_of_a_job_are_wanted_in_the_very_change_that_ends_it() -> None:
    memory = ended()

    assert memory.job.state == "succeeded"
    assert files(memory) == {FILM: "wanted", PREVIEW: "wanted"}
    assert {file.held_until_ms for file in memory.all(StoredFile)} == {None}


def test_without_storage_nothing_is_wanted() -> None:
    memory = begun()
    memory.apply(TaskAnswered(JOB_ID, 1, Found(report("SUCCEEDED", "1")), NOW_MS))

    assert files(memory) == {}
    with pytest.raises(Conflict):
        memory.apply(FilesWanted(JOB_ID, AT_MS))


def test_what_was_kept_is_shown_on_the_job_and_writes_no_event() -> None:
    memory = ended()
    told = memory.types
    assert memory.apply(kept()) is True
    assert memory.apply(kept()) is False

    assert (artifact(memory)["sizeBytes"], artifact(memory)["keptUntil"]) == (4_096, "2026-01-01T00:16:41.000Z")
    assert memory.types == told


def test_an_end_is_held_back_until_the_last_file_is_settled() -> None:
    memory = ended(HOLD_MS)
    held = memory.job
    memory.apply(failed())
    memory.apply(failed(PREVIEW, for_good=True))
    waiting = memory.job.state
    memory.apply(kept())

    assert (held.state, held.progress, waiting) == ("running", 1.0, "running")
    assert memory.attempt.state == "ended"
    assert memory.types[-2:] == ["progress", "succeeded"]
    assert memory.job.finished_at_ms == AT_MS
    assert memory.events[-1].data["job"]["artifacts"][0]["keptUntil"] is not None
    assert files(memory) == {FILM: "kept", PREVIEW: "failed"}
    assert {file.held_until_ms for file in memory.all(StoredFile)} == {None}


def test_an_end_that_was_held_back_for_long_enough_says_what_is_not_kept_and_it_is_kept_later() -> None:
    memory = ended(HOLD_MS)
    memory.apply(HoldEnded(JOB_ID, AT_MS))
    told = memory.events[-1].data["job"]["artifacts"][0]
    memory.apply(kept())
    memory.apply(HoldEnded(JOB_ID, AT_MS))

    assert (told["keptUntil"], told["notKept"]) == (None, "it could not be fetched in time")
    assert memory.types.count("succeeded") == 1
    assert artifact(memory)["keptUntil"] is not None


def test_a_job_that_is_cancelled_while_its_end_is_held_back_stays_so() -> None:
    memory = ended(HOLD_MS)
    memory.apply(JobCancelled(JOB_ID, AT_MS))
    memory.apply_all(kept(), kept(PREVIEW), HoldEnded(JOB_ID, AT_MS))

    assert memory.job.state == "cancelled"
    assert memory.types[-1] == "cancelled"
    assert {file.held_until_ms for file in memory.all(StoredFile)} == {None}


def test_what_a_cancelled_job_has_paid_for_is_kept() -> None:
    memory = begun()
    memory._keeping = Keeping(RETENTION_MS, HOLD_MS)
    memory.apply(JobCancelled(JOB_ID, NOW_MS))
    memory.apply(TaskAnswered(JOB_ID, 1, Found(report("SUCCEEDED", "1")), NOW_MS))

    assert files(memory) == {FILM: "wanted"}
    assert memory.job.state == "cancelled"


def test_files_of_which_something_is_owed_do_not_go() -> None:
    memory = ended(None, subscription())
    memory.apply_all(kept(), kept(PREVIEW))
    owed = memory.apply(FilesDropped(JOB_ID, AT_MS))
    for delivery in memory.deliveries:
        memory.keep(replace(delivery, state="delivered"))

    assert owed == 0
    assert memory.apply(FilesDropped(JOB_ID, AT_MS)) == 2
    assert set(files(memory).values()) == {"doomed"}
    assert artifact(memory)["keptUntil"] is None
    memory.apply_all(FileRemoved(JOB_ID, FILM, AT_MS), FileRemoved(JOB_ID, PREVIEW, AT_MS))
    assert files(memory) == {}


def test_what_goes_is_shown_on_the_job_until_somebody_wants_it_again() -> None:
    memory = ended()
    memory.apply_all(kept(), failed(PREVIEW, for_good=True), FileLost(JOB_ID, FILM, AT_MS, "damaged"))
    lost = artifact(memory)
    again = memory.apply(FilesWanted(JOB_ID, AT_MS))

    assert (lost["keptUntil"], lost["notKept"]) == (None, "damaged")
    assert again == 2
    assert files(memory) == {FILM: "wanted", PREVIEW: "wanted"}


def test_an_erased_job_dooms_its_files_whatever_they_are() -> None:
    memory = ended()
    memory.apply_all(kept(), JobErased(JOB_ID, AT_MS))

    assert set(files(memory).values()) == {"doomed"}
    assert memory.apply(kept(PREVIEW)) is False


def test_a_job_that_ended_long_ago_goes_and_its_files_are_doomed_by_the_same_change() -> None:
    memory = ended(None, subscription())
    memory.apply(kept())
    early, owed = memory.apply(JobForgotten(JOB_ID, NOW_MS)), memory.apply(JobForgotten(JOB_ID, AT_MS))
    for delivery in memory.deliveries:
        memory.keep(replace(delivery, state="delivered"))

    assert (early, owed, memory.apply(JobForgotten(JOB_ID, AT_MS))) == (False, False, True)
    assert memory.all(Job) == []
    assert files(memory) == {FILM: "doomed", PREVIEW: "doomed"}
    assert memory.apply(kept(PREVIEW)) is False
    memory.apply_all(FileRemoved(JOB_ID, FILM, AT_MS), FileRemoved(JOB_ID, PREVIEW, AT_MS))
    assert files(memory) == {}
    assert memory.apply(JobForgotten(JOB_ID, AT_MS)) is False


def test_a_job_whose_task_still_runs_does_not_go() -> None:
    memory = begun()
    memory.apply(JobCancelled(JOB_ID, NOW_MS))

    assert memory.apply(JobForgotten(JOB_ID, AT_MS)) is False


def test_waits_grow_and_are_spread() -> None:
    waits = [next_try_ms(attempts, 0, 0.5) for attempts in range(1, 9)]

    assert waits == [15_000, 60_000, 300_000, 1_800_000, 7_200_000, 21_600_000, 21_600_000, 21_600_000]
    assert (next_try_ms(1, 0, 0.0), next_try_ms(1, 0, 1.0)) == (12_000, 18_000)


@pytest.mark.parametrize(
    ("first", "media"),
    [
        (b"\x00\x00\x00\x20ftypisom", "video/mp4"),
        (b"\x00\x00\x00\x14ftypqt  ", "video/quicktime"),
        (b"\x00\x00\x00\x14ftypM4A ", "audio/mp4"),
        (b"\x00\x00\x00\x08wide\x00\x00", "video/quicktime"),
        (b"\x1aE\xdf\xa3\x01", "video/webm"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBP", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", "audio/wav"),
        (b"RIFF\x00\x00\x00\x00AVI ", None),
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"OggS", "audio/ogg"),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_a_file_is_known_by_its_first_bytes(first: bytes, media: str | None) -> None:
    found = media_of(first)
    assert (found and found[1]) == media


def test_something_unknown_is_kept_where_nobody_said_what_it_is() -> None:
    assert judge("other", b"MZ", whole=True)[0] == "other"
    assert judge("video", b"\x00", whole=False)[0] == "other"


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-3", range(4)),
        ("bytes = 5 - ", range(5, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-99", range(10)),
        ("bytes=8-99", range(8, 10)),
        ("bytes=10-", range(10, 10)),
        ("bytes=7-3", range(7, 4)),
        ("bytes=-0", range(10, 10)),
        ("bytes=-", None),
        ("bytes=0-1,4-5", None),
        ("items=0-1", None),
        (None, None),
    ],
)
def test_a_part_lies_within_the_file(asked: str | None, part: range | None) -> None:
    assert part_of(asked, 10) == part


def test_a_tag_is_found_among_several() -> None:
    assert names('"a", W/"b"', '"b"')
    assert names("*", '"b"')
    assert not names("*", None)
    assert not names('"a"', '"b"')
    assert not names(None, '"b"')
