"""Streams on the wire, as server-sent events or as lines of JSON: frames, notices, cursors.

Every value that goes into a frame is JSON in one line or a name from a closed set, so nobody can inject a field.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from relay.core.event import Event, encode, render
from relay.core.job import Address

HEARTBEAT_S: Final = 15
_REFUSED: Final = re.compile(r";\s*q=0(\.0*)?\s*$")
CURSOR: Final = re.compile(r"(?P<epoch>[0-9a-f]{8})-(?P<seq>[0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the log: everything up to and including event `seq` has been seen. `epoch` None: not known."""

    seq: int
    epoch: str | None = None

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


def parse_cursor(text: str) -> Cursor | None:
    """`<epoch>-<seq>` as it stands in an event's `id`; None for anything else."""
    match = CURSOR.fullmatch(text)
    return Cursor(int(match["seq"]), match["epoch"]) if match else None


def frame(event: Event, address: Address) -> bytes:
    """One event, its data in a single line."""
    data = encode(render(event, address))
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (event.id.encode(), event.type.encode(), data)


def notice(name: str, data: dict[str, Any], *, cursor: Cursor | None = None) -> bytes:
    """A frame about the stream itself (`stream.open`, `stream.cursor`, `stream.gap`, `stream.bye`).

    With `cursor` it carries an id, which every reader then remembers.
    """
    head = f"id: {cursor}\n" if cursor is not None else ""
    return f"{head}event: {name}\n".encode() + b"data: %b\n\n" % encode(data)


def retry(milliseconds: int) -> bytes:
    """How long a reader waits before it comes back; with a comment, so that proxies pass the head on at once.

    The notice that follows ends it: with an empty line of its own, some readers take it for an empty event.
    """
    return f"retry: {milliseconds}\n: relay\n".encode()


def heartbeat(now_s: int) -> bytes:
    """A comment. It ends with one newline: with two, some readers take it for an empty event."""
    return f": hb {now_s}\n".encode()


def line(event: Event, address: Address) -> bytes:
    """One event as a line of JSON, the same object that webhooks carry."""
    return encode(render(event, address)) + b"\n"


def line_notice(name: str, data: dict[str, Any], *, cursor: Cursor | None = None) -> bytes:
    """A notice as a line of JSON; with `cursor` it has an `id`, as events have."""
    head = {"id": str(cursor)} if cursor is not None else {}
    return encode({**head, "type": name, "data": data}) + b"\n"


def line_heartbeat(now_s: int) -> bytes:
    return line_notice("stream.heartbeat", {"at": now_s})


class Notice(Protocol):
    """How a form writes what a stream says of itself."""

    def __call__(self, name: str, data: dict[str, Any], *, cursor: Cursor | None = None) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write a stream."""

    media_type: str
    frame: Callable[[Event, Address], bytes]
    notice: Notice
    heartbeat: Callable[[int], bytes]
    retry: Callable[[int], bytes]


SSE: Final = Form("text/event-stream", frame, notice, heartbeat, retry)
NDJSON: Final = Form("application/x-ndjson", line, line_notice, line_heartbeat, lambda milliseconds: b"")


def form_of(accept: str) -> Form | None:
    """The form of stream that an `Accept` header asks for; None for a page of JSON. `q=0` refuses (RFC 9110 12.4.2)."""
    taken = [asked for asked in accept.lower().split(",") if not _REFUSED.search(asked)]
    return next((form for form in (SSE, NDJSON) if any(form.media_type in asked for asked in taken)), None)
