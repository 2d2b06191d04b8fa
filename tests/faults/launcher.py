"""Forks relays whose streams are impatient, and perhaps defective; see `tests.crash.launcher`, whose place it takes.

    python -m tests.faults.launcher [DEFECT]

Each defect is one that an event stream may well have, put in from outside, to show that the fault test finds it.
"""

import asyncio
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from relay import serve
from relay.core.event import Event
from relay.core.sse import Cursor
from relay.feed import Feed
from relay.serve import bound as listen
from relay.store.contract import EventFilter
from relay.store.sqlite import SqliteStore, WritingFile
from relay.web import following, stream
from tests.crash import launcher

# A heartbeat moves the position of readers whose events are rare, and a slow reader is ended: both often, here.
HEARTBEAT_S = 0.3
SEND_S = 0.5
# Readers that share one process with all others are sometimes late without having stopped.
STALLED_S = 2.0
# What a system would otherwise keep for a reader that does not read is more than all that is told here.
SEND_BYTES = 16 * 1024
EARLY_S = 0.02


def skips_one() -> None:
    """Who comes back begins one event too late."""
    resumed = stream._resumed

    async def late(*given: Any) -> following.Start:
        start = await resumed(*given)
        return replace(start, cursor=Cursor(start.cursor.seq + 1, start.cursor.epoch))

    launcher.put(stream, _resumed=late)


def repeats_one() -> None:
    """A page of the store begins with the event that was asked to be left out."""
    after = SqliteStore.events_after

    async def from_there(store: SqliteStore, seq: int, wanted: EventFilter, limit: int) -> list[Event]:
        return await after(store, max(0, seq - 1), wanted, limit)

    launcher.put(SqliteStore, events_after=from_there)


def wrong_slice() -> None:
    """Of several new events the feed leaves the first one out."""
    after = Feed.after

    def sliced(feed: Feed, seq: int) -> list[Event] | None:
        found = after(feed, seq)
        return found[1:] if found and len(found) > 1 else found

    launcher.put(Feed, after=sliced)


def disordered() -> None:
    """Of several new events the newest comes first."""
    after = Feed.after
    launcher.put(Feed, after=lambda feed, seq: (found := after(feed, seq)) and found[::-1])


def published_early() -> None:
    """Readers are told of events while these are still being committed."""
    committed, transaction = Feed.committed, WritingFile._transaction
    first: list[tuple[Feed, asyncio.AbstractEventLoop]] = []

    def seen(feed: Feed, head: int, events: Sequence[Event] = ()) -> None:
        if not first:
            first.append((feed, asyncio.get_running_loop()))
        if head > feed.head or not events:
            committed(feed, head, events)

    def early(file: WritingFile, group: Any, decide: Any) -> Any:
        def decided(*given: Any) -> Any:
            written = decide(*given)
            if first and written.events:
                feed, loop = first[0]
                loop.call_soon_threadsafe(seen, feed, written.head, written.events)
                time.sleep(EARLY_S)
            return written

        return transaction(file, group, decided)

    launcher.put(Feed, committed=seen)
    launcher.put(WritingFile, _transaction=early)


DEFECTS: Final[dict[str, Callable[[], None]]] = {
    made.__name__: made for made in (skips_one, repeats_one, wrong_slice, disordered, published_early)
}


def bound(host: str, port: int) -> socket.socket:
    """Listening, as the relay would, with small buffers; connections inherit them."""
    listening = listen(host, port)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
    return listening


if __name__ == "__main__":
    launcher.put(serve, bound=bound, STALLED_S=STALLED_S)
    launcher.put(following, HEARTBEAT_S=HEARTBEAT_S, SEND_S=SEND_S)
    for chosen in sys.argv[1:]:
        DEFECTS[chosen]()
    launcher.nursery()
