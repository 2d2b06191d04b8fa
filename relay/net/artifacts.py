"""The bytes of an artifact, fetched through the guarded transport by the upstream's link.

The upstream's links die within a day or two. When that of the job is dead, the task is asked for a fresh one, and not
before: a player that seeks opens a film again and again, and must not become so many questions to the upstream. The
upstream's token never goes to an artifact's host.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from relay.clock import Clock, SystemClock
from relay.core.artifacts import FILE_MAX_BYTES, Unfit
from relay.core.job import Job
from relay.core.outcome import Found, Missing, TaskAnswer
from relay.core.target import Allow
from relay.errors import BadGateway, NotFound, TargetRefused, Unavailable
from relay.net.transport import GuardedTransport, Response
from relay.net.upstream import Upstream

DEADLINE_S: Final = 600.0
SERVED: Final = (200, 206, 304, 416)
# What hosts of files answer to a link that has expired.
EXPIRED: Final = (400, 401, 403, 404, 410)
# So long nobody asks again for links that have not worked; so many tasks are asked about at once, so many wait.
ASK_EVERY_S: Final = 30.0
ASK_AT_ONCE: Final = 4
ASK_MAX: Final = 200
KNOWN_MAX: Final = 2_000


class File:
    """An open file: implements `relay.web.ports.OpenFile`."""

    def __init__(self, response: Response) -> None:
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come; `Unfit` where there are too many of them."""
        return self._bounded()

    async def _bounded(self) -> AsyncGenerator[bytes]:
        left = FILE_MAX_BYTES
        async for piece in self._response.iter_raw():
            left -= len(piece)
            if left < 0:
                raise Unfit(f"it is larger than {FILE_MAX_BYTES} bytes")
            yield piece


@dataclass(slots=True)
class _Known:
    """What the upstream said last of a task's files, when that was, why it was of no use, and whether it has been."""

    at_s: float
    artifacts: Sequence[dict[str, Any]]
    reason: str
    works: bool = False


class UpstreamArtifacts:
    """Implements `relay.web.ports.Artifacts`; close it with `aclose`."""

    def __init__(self, upstream: Upstream, allow: Allow, *, clock: Clock | None = None) -> None:
        self._upstream = upstream
        self._clock = clock or SystemClock()
        self._transport = GuardedTransport(allow, clock=self._clock)
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(ASK_AT_ONCE)

    async def aclose(self) -> None:
        for asking in (pending := [*self._asking.values()]):
            asking.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        await self._transport.aclose()

    @asynccontextmanager
    async def open(self, job: Job, index: int, preview: int | None, headers: Mapping[str, str]) -> AsyncGenerator[File]:
        """Open a file; `NotFound` when the job has no such preview, `BadGateway` when its host does not give it."""
        artifact = self._newest(job, index)
        # What was asked for here is good until its host says that it is not: clocks differ.
        if artifact is job.artifacts[index] and (artifact["sourceExpiresAtMs"] or 2**62) <= self._clock.now_ms():
            artifact = await self._renewed(job, index)
        async with AsyncExitStack() as stack:
            try:
                response = await self._fetched(stack, artifact, preview, headers)
                if response.status in EXPIRED and (fresh := await self._renewed(job, index)) is not artifact:
                    await stack.aclose()
                    response = await self._fetched(stack, fresh, preview, headers)
            except TargetRefused as error:  # the link is the upstream's: whoever reads has done nothing wrong
                raise BadGateway("the link to this file leads where the relay does not call") from error
            known = self._known.get(job.upstream_task_id or "")
            if response.status not in SERVED:
                why = f"; its link is dead: {known.reason}" if known and known.reason else ""
                raise BadGateway(f"the host of this file answered {response.status}{why}")
            if known is not None:
                known.works = True
            yield File(response)

    async def _fetched(
        self, stack: AsyncExitStack, artifact: dict[str, Any], preview: int | None, headers: Mapping[str, str]
    ) -> Response:
        previews = artifact["previews"]
        if preview is not None and not 0 <= preview < len(previews):
            raise NotFound("this artifact has no such preview")
        url = artifact["sourceUrl"] if preview is None else previews[preview]
        opening = self._transport.stream("GET", url, headers=headers, deadline_s=DEADLINE_S)
        return await stack.enter_async_context(opening)

    def _newest(self, job: Job, index: int) -> dict[str, Any]:
        """The artifact with the newest links that are known."""
        known = self._known.get(job.upstream_task_id or "")
        return known.artifacts[index] if known and index < len(known.artifacts) else job.artifacts[index]

    async def _renewed(self, job: Job, index: int) -> dict[str, Any]:
        """The artifact with the links that the upstream gives now; those that are known when it does not answer."""
        task_id = job.upstream_task_id
        known = self._known.get(task_id or "")
        if task_id and (known is None or known.works or self._clock.monotonic_s() - known.at_s >= ASK_EVERY_S):
            if task_id not in self._asking:
                if len(self._asking) >= ASK_MAX:
                    raise Unavailable("too many files need a fresh link at this moment", retry_after_s=10)
                self._asking[task_id] = asyncio.create_task(self._ask(task_id))
            await asyncio.shield(self._asking[task_id])
        return self._newest(job, index)

    async def _ask(self, task_id: str) -> None:
        try:
            async with self._turns:
                answer = await self._upstream.task(task_id)
            before = self._known.pop(task_id, None)
            artifacts = answer.report.artifacts if isinstance(answer, Found) else ()
            known = artifacts or (before.artifacts if before else ())
            self._known[task_id] = _Known(self._clock.monotonic_s(), known, "" if artifacts else _reason(answer))
            while len(self._known) > KNOWN_MAX:
                del self._known[next(iter(self._known))]
        finally:
            del self._asking[task_id]


def _reason(answer: TaskAnswer) -> str:
    match answer:
        case Found():
            return "the upstream has no file of this task any more"
        case Missing():
            return "the upstream no longer knows the task"
        case _:
            return f"no fresh one could be had ({answer.message})"
