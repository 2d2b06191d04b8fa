"""The upstream's task object, read from every shape that was seen, and from what nobody should send."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import task as tasks
from relay.core.task import Report, decode, mask_bytes, read
from tests.core.builders import OTHER_TASK_ID, SECRET, TASK_ID, VIDEO, report, task_body

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
FIELDS = [*task_body(), "task", "tasks", "updatedAt", "estimatedTimeToStartSeconds"]
hostile_tasks = st.dictionaries(st.sampled_from(FIELDS), json_values | st.just(TASK_ID), max_size=8)


def text_of(report: Report | None) -> str:
    """Everything that a report holds, as text."""
    return repr(report)


def link(claims: object) -> str:
    """An artifact's address, signed with these claims."""
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"https://files.example.com/film.mp4?_jwt=head.{payload}.signature"


@pytest.mark.parametrize(
    "body",
    [
        task_body(),
        {"task": task_body()},
        [task_body()],
        {"tasks": [task_body(), task_body(taskId=OTHER_TASK_ID)]},
        {"taskId": TASK_ID, "replyRef": task_body()["replyRef"], "task": {"status": "RUNNING", "progressRatio": 0.5}},
    ],
    ids=["flat", "nested", "in an array", "first of tasks", "ids beside it"],
)
def test_a_task_is_found_in_every_shape(body: object) -> None:
    found = read(body)
    assert found is not None
    assert (found.task_id, found.reply_ref) == (TASK_ID, task_body()["replyRef"])
    assert (found.status, found.progress) == ("RUNNING", 0.5)


@pytest.mark.parametrize("body", [None, "text", 7, [], [7], {}, {"error": "Not found.", "code": 404}, {"tasks": []}])
def test_what_holds_no_task_is_none(body: object) -> None:
    assert read(body) is None


@pytest.mark.parametrize(
    ("given_progress", "progress"),
    [("0.5", 0.5), (0.5, 0.5), ("1", 1.0), (7, 1.0), (-1, 0.0), ("", None), (None, None), (True, None), ("NaN", None)],
)
def test_progress_is_read_as_text_or_number_and_kept_between_0_and_1(given_progress: object, progress: float) -> None:
    assert report(progress=given_progress).progress == progress


@pytest.mark.parametrize(
    ("status", "final"),
    [
        ("SUCCEEDED", True),
        ("failed", True),
        ("CANCELED", True),
        ("CANCELLED", True),
        ("THROTTLED", False),
        ("?", False),
    ],
)
def test_only_four_words_end_a_task_however_they_are_written(status: str, final: bool) -> None:
    assert report(status).final is final


def test_an_id_that_could_leave_its_path_is_no_id() -> None:
    for task_id in (
        "user:1-runwayml:%2F..%2Faccounts%3Fx=-task:" + TASK_ID[-36:],
        TASK_ID + "?x",
        "user:\u0661" + TASK_ID[6:],
    ):
        assert report(taskId=task_id).task_id is None


def test_the_email_in_an_id_may_hold_dashes_and_plus_signs() -> None:
    task_id = TASK_ID.replace("me@example.com", "a-b+task:c@x.org")
    assert report(taskId=task_id).task_id == task_id
    assert tasks.account_of(task_id) == "a-b+task:c@x.org"


@pytest.mark.parametrize(
    ("error", "message", "reason"),
    [
        ("plain words", "plain words", None),
        ({"errorMessage": "a", "message": "b", "reason": "SAFETY.X"}, "a", "SAFETY.X"),
        ({"message": "b", "reason": ""}, "b", None),
        ({"reason": 7}, None, None),
    ],
)
def test_an_error_is_read_as_text_or_object(error: object, message: str | None, reason: str | None) -> None:
    assert report("FAILED", error=error).error == {"message": message, "reason": reason}


@pytest.mark.parametrize(
    ("metadata", "size"),
    [
        ({"dimensions": [1280, 720], "size": {"width": 1920, "height": 1080}}, (1920, 1080)),
        ({"dimensions": [1280, 720]}, (1280, 720)),
        ({"width": 640, "height": "480"}, (640, 480)),
        (None, (None, None)),
    ],
)
def test_both_shapes_of_metadata_give_the_size(metadata: object, size: tuple[int | None, int | None]) -> None:
    (artifact,) = report("SUCCEEDED", artifacts=[VIDEO | {"metadata": metadata}]).artifacts
    assert (artifact["width"], artifact["height"]) == size
    assert (artifact["kind"], artifact["contentType"], artifact["sizeBytes"]) == ("video", "video/mp4", 1024)


def test_an_artifact_without_an_address_is_none() -> None:
    rows = [{"id": "x"}, {"url": None}, {"url": "ftp://x/y.mp4"}, {"url": "https://x/" + "y" * 9_000}, 7]
    assert report("SUCCEEDED", artifacts=rows).artifacts == ()


@pytest.mark.parametrize(
    ("claims", "expires_at_ms"),
    [
        ({"exp": 1_800_000_000}, 1_800_000_000_000),
        ({"exp": 1_800_000_000_000}, None),  # milliseconds: a time that no calendar has
        ({"exp": -1}, None),
        ({}, None),
        ([], None),
    ],
)
def test_a_signed_link_says_when_it_dies(claims: object, expires_at_ms: int | None) -> None:
    (artifact,) = report("SUCCEEDED", artifacts=[{"url": link(claims)}]).artifacts
    assert artifact["sourceExpiresAtMs"] == expires_at_ms


def test_a_link_whose_claims_are_nested_without_end_says_nothing() -> None:
    payload = base64.urlsafe_b64encode(b"[" * 5_000).decode()
    (artifact,) = report("SUCCEEDED", artifacts=[{"url": f"https://x/y.mp4?_jwt=a.{payload}.b"}]).artifacts
    assert artifact["sourceExpiresAtMs"] is None


@pytest.mark.parametrize(
    "place",
    [
        {"replyUrl": f"https://relay.example.com/callbacks/{SECRET}"},
        {"options": {"deep": [f"see https://r/callbacks/{SECRET}?x=1"]}},
        {"status": f"x/callbacks/{SECRET}"},
        {"error": {"message": "it broke", "reason": f"POST https://r/callbacks/{SECRET} answered 500"}},
        {"error": f"POST https://r/callbacks/{SECRET} answered 500"},
        {"artifacts": [{"url": "https://x/y.mp4", "previewUrls": [f"https://r/callbacks/{SECRET}"]}]},
        {f"https://r/callbacks/{SECRET}": True},
        {"inbox": f"https://r/callbacks/inbox/{SECRET}"},
    ],
)
def test_a_callback_secret_is_masked_wherever_it_stands(place: dict[str, Any]) -> None:
    assert SECRET not in text_of(report(**place))


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(task_body()).encode(),
        json.dumps(task_body()).replace("/", "\\/").encode(),
        json.dumps(task_body()).encode("utf-16"),
        *(json.dumps(task_body()).encode(charset) for charset in ("utf-16-be", "utf-32", "utf-32-be")),
        f'"{SECRET}"'.encode(),
        f"not JSON {SECRET}\xff".encode("latin-1"),
    ],
    ids=["JSON", "slashes escaped", "UTF-16", "UTF-16-BE", "UTF-32", "UTF-32-BE", "alone", "not JSON"],
)
def test_kept_bytes_hold_no_token_in_any_spelling(body: bytes) -> None:
    kept = mask_bytes(body, SECRET)
    for charset in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        assert SECRET.encode(charset) not in kept


def test_another_attempts_secret_is_masked_in_kept_bytes_too() -> None:
    for body in (json.dumps(task_body()), json.dumps(task_body()).replace("/", "\\/")):
        assert SECRET.encode() not in mask_bytes(body.encode(), "another-token-altogether")


@given(json_values | hostile_tasks)
def test_reading_any_json_never_raises_and_what_was_read_can_be_written(body: object) -> None:
    found = read(decode(json.dumps(body).encode()))
    if found is not None:
        json.dumps(found.raw, allow_nan=False).encode()
        json.dumps([found.artifacts, found.error, found.progress], allow_nan=False)
        assert found.progress is None or 0 <= found.progress <= 1


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-16")))
def test_decoding_any_bytes_never_raises_and_gives_what_utf_8_can_hold(body: bytes) -> None:
    json.dumps(decode(body), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "body",
    [b"", b"NaN", b"[Infinity]", b"\xff\xfe\xff", b"[" * 100_000, b"1" * 5_000, b"{'a': 1}", b"<html>", b"[1]x"],
    ids=["nothing", "NaN", "Infinity", "half a character", "deep", "long number", "quotes", "HTML", "more"],
)
def test_what_is_not_json_is_none(body: bytes) -> None:
    assert decode(body) is None


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_in_any_of_its_charsets_is_read(charset: str) -> None:
    assert decode('{"a": "é"}'.encode(charset)) == {"a": "é"}


def test_what_is_nested_deeper_than_the_bound_is_not_read() -> None:
    fits, deeper = (b"[" * depth + b"]" * depth for depth in (tasks.DEPTH_MAX, tasks.DEPTH_MAX + 1))
    assert decode(fits) is not None
    assert decode(deeper) is None


def test_a_lone_surrogate_costs_itself_and_nothing_else() -> None:
    assert decode(b'{"a": "x\\ud800y", "b": 1}') == {"a": "x?y", "b": 1}


def test_a_number_too_large_for_a_float_is_no_number() -> None:
    found = read(decode(b'{"status": "RUNNING", "taskId": "x", "options": 1e999, "progressRatio": 1e999}'))
    assert found is not None
    assert (found.raw["options"], found.progress) == (None, None)


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("2026-01-01T00:00:00.250Z", 1_767_225_600_250),
        ("2026-01-01T01:00:00+01:00", 1_767_225_600_000),
        ("2026-01-01T00:00:00", 1_767_225_600_000),
        ("0001-01-01T00:00:00+14:00", -62_135_647_200_000),
        ("yesterday", None),
        (1_767_225_600, None),
    ],
)
def test_times_are_read_as_utc(text: object, at_ms: int | None) -> None:
    assert report(updatedAt=text).updated_at_ms == at_ms


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.MP4", ("video", "video/mp4")),
        ("b.png", ("image", "image/png")),
        ("c", ("other", "application/octet-stream")),
    ],
)
def test_the_kind_is_told_by_the_extension(name: str, kind: tuple[str, str]) -> None:
    assert tasks.content_type_of(name) == kind


def test_a_list_answer_is_an_array_or_in_tasks() -> None:
    rows = [task_body(), 7, task_body(taskId=OTHER_TASK_ID)]
    assert len(tasks.listed(rows)) == len(tasks.listed({"tasks": rows})) == 2
    assert tasks.listed({"error": "no"}) == tasks.listed(None) == []
