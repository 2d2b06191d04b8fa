"""Sends the sandbox's callbacks when they are due: once each, in order within a task, never again."""

import asyncio
from functools import partial
from typing import Final

import httpx2

from relay.clock import Clock, wait_at_most, within
from relay.sandbox.outbox import Callback, Outbox

SEND_TIMEOUT_S: Final = 10.0
SENDING_MAX: Final = 200  # tasks whose callbacks are under way at once
IDLE_S: Final = 3600.0
USER_AGENT: Final = "useapi.net sandbox"


class Sender:
    """Run `run()` in the background; call `wake()` after whatever may have changed what is due next."""

    def __init__(self, outbox: Outbox, clock: Clock, client: httpx2.AsyncClient) -> None:
        self._outbox = outbox
        self._clock = clock
        self._client = client
        self._changed = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._last: dict[str, asyncio.Task[None]] = {}  # of each task that callbacks are under way for
        self._permits = asyncio.Semaphore(SENDING_MAX)

    def wake(self) -> None:
        self._changed.set()

    async def sent(self, sequence: str) -> None:
        """Return when nothing that is due now of this task waits to be sent."""
        self._take_due()
        if sequence in self._last:
            await asyncio.wait([self._last[sequence]])

    async def run(self) -> None:
        """Until cancelled. Callbacks under way are then given up, as those of a crashed upstream would be."""
        try:
            while True:
                self._changed.clear()
                self._take_due()
                due_ms = self._outbox.next_due_ms()
                wait_s = IDLE_S if due_ms is None else max(0.0, (due_ms - self._clock.now_ms()) / 1000)
                await wait_at_most(self._clock, self._changed.wait(), wait_s)
        finally:
            for sending in self._sending:
                sending.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    def _take_due(self) -> None:
        for callback in self._outbox.due(self._clock.now_ms()):
            before = self._last.get(callback.sequence)
            sending = asyncio.create_task(self._in_turn(callback, before))
            sending.add_done_callback(partial(self._ended, callback.sequence))
            self._last[callback.sequence] = sending
            self._sending.add(sending)

    async def _in_turn(self, callback: Callback, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        async with self._permits:
            await self._send(callback)

    def _ended(self, sequence: str, sending: asyncio.Task[None]) -> None:
        self._sending.discard(sending)
        if self._last.get(sequence) is sending:
            del self._last[sequence]

    async def _send(self, callback: Callback) -> None:
        status: int | None = None
        error: str | None = None
        headers = {"content-type": callback.content_type, "user-agent": USER_AGENT}
        try:
            post = self._client.post(callback.url, content=callback.body, headers=headers)
            status = (await within(self._clock, SEND_TIMEOUT_S, post)).status_code
        except TimeoutError:
            error = "timed out"
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as failure:
            # Recorded and forgotten: a receiver that was not there has lost this callback for ever.
            error = f"{type(failure).__name__}: {failure}"
        self._outbox.record(callback, self._clock.now_ms(), status=status, error=error)
