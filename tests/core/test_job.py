"""The job's states, its three views, and the words that are made of it."""

import json
from typing import Any

import pytest

from relay.core import job as jobs
from relay.core.event import Event, encode, of_job, render
from relay.core.job import EVENT_VIEW_MAX_BYTES, FINAL, STATES, WAYS, Outlook, event_view, full_view, public_view
from tests.core.builders import EMAIL, NOW_MS, SECRET, TASK_ID, VIDEO, job, report

CONTRACT_FIELDS = {
    "id", "replyRef", "model", "state", "progress", "queuePosition", "startsAt", "eta", "account", "taskId",
    "upstreamTaskId", "upstreamStatus", "attempts", "artifacts", "error", "problems", "retryOf", "origin",
    "submittedBy", "createdAt", "submittedAt", "startedAt", "finishedAt", "updatedAt",
}  # fmt: skip
ONLY_IN_FULL = {"replyUrl", "request", "task"}
PUBLIC_FIELDS = {
    "id", "state", "progress", "queuePosition", "startsAt", "eta", "artifacts", "error", "createdAt", "finishedAt",
}  # fmt: skip


def address(artifact_id: str, name: str) -> str:
    return f"https://relay.example.com/v1/artifacts/{artifact_id}/{name}?exp=1767225600&sig={'s' * 43}"


def done(**changes: Any) -> jobs.Job:
    """A job that has succeeded with one film."""
    ended = report("SUCCEEDED", artifacts=[VIDEO | {"previewUrls": ["https://files.example.com/p.png?_jwt=1"]}])
    values: dict[str, Any] = {
        "state": "succeeded",
        "progress": 1.0,
        "account": EMAIL,
        "upstream_task_id": TASK_ID,
        "task": ended.raw,
        "artifacts": list(ended.artifacts),
        "reply_ref": "mine",
    }
    return job(**values | changes)


def as_text(view: object) -> str:
    return json.dumps(view, ensure_ascii=False)


def test_the_ways_are_the_contracts() -> None:
    assert {state: set(ways) for state, ways in WAYS.items()} == {
        "queued": {"submitting", "failed", "cancelled"},
        "submitting": {"queued", "in_doubt", "running", "failed", "cancelled"},
        "in_doubt": {"running", "queued", "failed", "cancelled"},
        "running": {"queued", "succeeded", "failed", "cancelled"},
        "succeeded": set(),
        "failed": set(),
        "cancelled": set(),
    }
    assert set(STATES) - FINAL == {"queued", "submitting", "in_doubt", "running"}


def test_the_three_views_have_the_contracts_fields() -> None:
    assert event_view(job(), address).keys() == CONTRACT_FIELDS
    assert full_view(job(), address).keys() == CONTRACT_FIELDS | ONLY_IN_FULL
    assert public_view(job(), address).keys() == PUBLIC_FIELDS


def test_the_task_in_the_full_view_is_the_clients_and_not_the_relays() -> None:
    view = full_view(done(), address, reply_url="https://client.example.com/hook")
    assert view["task"]["replyUrl"] == view["replyUrl"] == "https://client.example.com/hook"
    assert view["task"]["replyRef"] == "mine"
    assert view["task"]["taskId"] == view["taskId"] == jobs.task_id_of(job().id)
    assert (view["upstreamTaskId"], SECRET in as_text(view)) == (TASK_ID, False)


def test_the_upstreams_link_is_in_the_full_view_alone() -> None:
    assert full_view(done(), address)["artifacts"][0]["sourceUrl"] == VIDEO["url"]
    assert "files.example.com" not in as_text([event_view(done(), address), public_view(done(), address)])


def test_the_public_view_says_what_failed_and_nothing_of_whose_account_or_prompt_it_was() -> None:
    failed = done(state="failed", error=jobs.error("moderated", "refused", reason="SAFETY.INPUT"))
    view = public_view(failed, address)
    assert view["error"] == {"code": "moderated", "message": "refused"}
    for private in (EMAIL, "A coast", "mine", "admin", "SAFETY"):
        assert private not in as_text(view)


def test_an_artifacts_address_is_made_anew_and_ends_with_the_right_extension() -> None:
    (artifact,) = event_view(done(), address)["artifacts"]
    assert artifact["url"] == address(f"{job().id}-0", "video.mp4")
    assert artifact["previewUrls"] == [address(f"{job().id}-0", "preview-1.png")]


@pytest.mark.parametrize(
    ("preview", "name"),
    [
        ("https://x/a.JPG?b=c.png", "preview-1.jpg"),
        ("https://x.y/a", "preview-1"),
        ("https://x/a.exe", "preview-1"),
        ("https://x/a.tar/b", "preview-1"),
    ],
)
def test_a_previews_extension_is_one_of_a_picture_or_film(preview: str, name: str) -> None:
    assert jobs.file_name({"previews": [preview]}, 0) == name


def test_what_the_queue_says_is_shown_in_all_views() -> None:
    outlook = Outlook(3, NOW_MS + 1, NOW_MS + 2)
    for view in (event_view, full_view, public_view):
        shown = view(job(), address, outlook)
        times = ("2026-01-01T00:00:00.001Z", "2026-01-01T00:00:00.002Z")
        assert (shown["queuePosition"], shown["startsAt"], shown["eta"]) == (3, *times)


def test_times_are_iso_8601_in_utc_with_milliseconds() -> None:
    assert jobs.iso(1_767_225_600_007) == "2026-01-01T00:00:00.007Z"
    assert jobs.iso(None) is None


def film(count: int, previews: int) -> list[dict[str, Any]]:
    """So many artifacts with so many previews each, as a report gives them."""
    return list(report("SUCCEEDED", artifacts=[VIDEO | {"previewUrls": ["https://x/y"] * previews}] * count).artifacts)


@pytest.mark.parametrize(
    "long",
    [
        {"artifacts": film(20, 12)},
        {"artifacts": film(10, 8)},
        {"problems": [{"field": "f", "given": "🎬" * 80, "message": "m" * 400}] * 40},
        {"state": "failed", "error": jobs.error("moderated", "🎬" * 2_000, reason="\x01" * 2_000)},
    ],
    ids=["artifacts", "addresses", "problems", "error"],
)
def test_the_event_view_stays_within_its_bound_when_it_is_rendered(long: dict[str, Any]) -> None:
    big = done(reply_ref="🎬" * 1_024, **long)
    event = of_job(big, "job.succeeded", epoch="0a0a0a0a", seq=7, at_ms=NOW_MS)
    shown = render(event, address)["data"]["job"]
    assert len(encode(shown)) <= EVENT_VIEW_MAX_BYTES
    assert shown.keys() == CONTRACT_FIELDS
    assert shown["artifacts"][0]["url"].startswith("https://relay.example.com/")


def test_the_full_view_keeps_what_the_event_view_leaves_out() -> None:
    big = done(problems=[{"field": "f", "given": None, "message": "m" * 400}] * 60)
    assert len(full_view(big, address)["problems"]) == 60
    assert event_view(big, address)["problems"] == []


def test_an_event_is_kept_without_addresses_and_shown_with_fresh_ones() -> None:
    event = of_job(done(), "job.succeeded", epoch="0a0a0a0a", seq=7, at_ms=NOW_MS)
    assert "https://" not in as_text(event.data)
    shown = render(event, address)
    assert shown["data"]["job"]["artifacts"] == event_view(done(), address)["artifacts"]
    assert (shown["id"], shown["type"], shown["timestamp"]) == ("0a0a0a0a-7", "job.succeeded", jobs.iso(NOW_MS))


def test_an_event_carries_what_readers_filter_by() -> None:
    event = of_job(done(), "job.succeeded", epoch="0a0a0a0a", seq=7, at_ms=NOW_MS)
    assert (event.job_id, event.model, event.reply_ref, event.token_id) == (job().id, "gen4.5", "mine", "admin")
    assert event.final
    assert not Event(seq=1, epoch="e", type="job.progress", at_ms=0, data={}).final
