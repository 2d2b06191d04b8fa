"""Sends the sandbox's callbacks when they are due: once each, in order within a task, never again."""

import asyncio
from collections import deque
from typing import Final

import httpx2

from relay.clock import Clock, wait_at_most
from relay.sandbox.outbox import Callback
from relay.sandbox.vendor import Vendor

SEND_TIMEOUT_S: Final = 10.0
SENDING_MAX: Final = 200  # tasks whose callbacks are under way at once
IDLE_S: Final = 3600.0
USER_AGENT: Final = "useapi.net sandbox"


class Sender:
    """Run `run()` in the background; call `wake()` after whatever may have changed what is due next."""

    def __init__(self, vendor: Vendor, clock: Clock, client: httpx2.AsyncClient) -> None:
        self._vendor = vendor
        self._clock = clock
        self._client = client
        self._changed = asyncio.Event()
        self._queues: dict[str, deque[Callback]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._permits = asyncio.Semaphore(SENDING_MAX)
        self._idle = asyncio.Condition()

    def wake(self) -> None:
        self._changed.set()

    async def sent(self, sequence: str) -> None:
        """Return when nothing that is due now of this task waits to be sent."""
        self._take_due()
        async with self._idle:
            await self._idle.wait_for(lambda: sequence not in self._queues)

    async def run(self) -> None:
        """Until cancelled. Callbacks under way are then given up, as those of a crashed upstream would be."""
        try:
            while True:
                self._changed.clear()
                self._take_due()
                due_ms = self._vendor.next_due_ms()
                wait_s = IDLE_S if due_ms is None else max(0.0, (due_ms - self._clock.now_ms()) / 1000)
                await wait_at_most(self._clock, self._changed.wait(), wait_s)
        finally:
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)

    def _take_due(self) -> None:
        for callback in self._vendor.due(self._clock.now_ms()):
            queue = self._queues.get(callback.sequence)
            if queue is not None:
                queue.append(callback)
                continue
            self._queues[callback.sequence] = deque([callback])
            worker = asyncio.create_task(self._drain(callback.sequence))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _drain(self, sequence: str) -> None:
        queue = self._queues[sequence]
        async with self._permits:
            while queue:
                await self._send(queue.popleft())
        del self._queues[sequence]
        async with self._idle:
            self._idle.notify_all()

    async def _send(self, callback: Callback) -> None:
        status: int | None = None
        error: str | None = None
        headers = {"content-type": callback.content_type, "user-agent": USER_AGENT}

        async def post() -> None:
            nonlocal status, error
            try:
                answer = await self._client.post(callback.url, content=callback.body, headers=headers)
                status = answer.status_code
            except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as failure:
                # Recorded and forgotten: a receiver that was not there has lost this callback for ever.
                error = f"{type(failure).__name__}: {failure}"

        if not await wait_at_most(self._clock, post(), SEND_TIMEOUT_S):
            error = "timed out"
        self._vendor.outbox.record(callback, self._clock.now_ms(), status=status, error=error)
