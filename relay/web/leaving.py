"""Notices that a reader has left, or reads no more: a server's `send` says nothing of either, and goes on, or waits."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from starlette.types import Receive, Send

from relay.clock import Clock, wait_at_most

SEND_S: Final = 30.0


async def taken(clock: Clock, send: Send, part: bytes) -> bool:
    """Send a part of a body; False when nobody reads: the answer then ends here, and the server cuts it off."""
    return await wait_at_most(clock, send({"type": "http.response.body", "body": part, "more_body": True}), SEND_S)


async def while_connected(receive: Receive, writing: Coroutine[Any, Any, None]) -> None:
    """Run `writing` until it is done, or cancel it when the reader has gone; its exception is raised here."""
    work = asyncio.create_task(writing)
    leaving = asyncio.create_task(gone(receive))
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        for task in (work, leaving):
            task.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


async def gone(receive: Receive) -> None:
    """Until the reader has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
