"""Frames of server-sent events: a reader finds in them what was put into them, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import sse
from relay.core.event import Event, encode, of_job
from relay.core.sse import Cursor, parse_cursor
from tests.core.builders import NOW_MS, job


def address(artifact_id: str, name: str) -> str:
    return f"/{artifact_id}/{name}"


def event(**changes: Any) -> Event:
    return of_job(job(**changes), "job.progress", epoch="0a0b0c0d", seq=42, at_ms=NOW_MS)


def fields(frame: bytes) -> dict[str, str]:
    """A frame as the strictest reader sees it: one that ends a line wherever Unicode does."""
    text = frame.decode()
    assert text.endswith("\n\n")
    return dict(line.split(": ", 1) for line in text.splitlines() if line)


@given(st.text(max_size=80))
def test_no_text_of_a_client_can_end_a_line(reply_ref: str) -> None:
    made = event(reply_ref=reply_ref)
    read = fields(sse.frame(made, address))
    assert read.keys() == {"id", "event", "data"}
    assert (read["id"], read["event"]) == ("0a0b0c0d-42", "job.progress")
    assert json.loads(read["data"])["data"]["job"]["replyRef"] == reply_ref


def test_the_line_ends_of_unicode_are_escaped_in_every_door_and_mean_the_same() -> None:
    text = "a\u2028b\u2029c\x85d\r\ne"
    body = encode({"text": text})
    assert len(body.decode().splitlines()) == 1
    assert json.loads(body) == {"text": text}


def test_a_notice_moves_the_cursor_only_when_it_has_one() -> None:
    assert fields(sse.notice("stream.bye", {"reason": "drain"})) == {
        "event": "stream.bye",
        "data": '{"reason":"drain"}',
    }
    moved = fields(sse.notice("stream.cursor", {}, cursor=Cursor(7, "0a0b0c0d")))
    assert moved == {"id": "0a0b0c0d-7", "event": "stream.cursor", "data": "{}"}


def test_a_heartbeat_is_a_comment_that_ends_with_one_newline() -> None:
    assert sse.heartbeat(1_767_225_600) == b": hb 1767225600\n"


def test_the_head_of_a_stream_says_when_to_come_back_and_is_flushed_by_a_comment() -> None:
    assert sse.retry(2_345) == b"retry: 2345\n: relay\n"


@given(st.integers(0, 10**18 - 1), st.from_regex(r"[0-9a-f]{8}", fullmatch=True))
def test_a_cursor_reads_back_as_it_was_written(seq: int, epoch: str) -> None:
    assert parse_cursor(str(Cursor(seq, epoch))) == Cursor(seq, epoch)


@pytest.mark.parametrize(
    "text",
    ["", "7", "0a0b0c0d", "0a0b0c0d-", "0A0B0C0D-7", "0a0b0c0d-7 ", "0a0b0c0d-7\n", "0a0b0c0d-\u0667", "0a0b0c0d--7"],
)
def test_what_is_not_an_events_id_is_no_cursor(text: str) -> None:
    assert parse_cursor(text) is None


@given(st.text(max_size=40))
def test_parsing_a_cursor_never_raises(text: str) -> None:
    parse_cursor(text)
