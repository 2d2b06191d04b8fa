"""Notices that a reader has left: a server's `send` says nothing of it, and work for nobody would go on to its end."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive


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
