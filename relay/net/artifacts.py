"""The bytes of an artifact, fetched through the guarded transport by the upstream's link.

The upstream's links die within a day or two. When that of the job is dead, the task is asked for a fresh one, and not
before: a player that seeks opens a film again and again, and must not become so many questions to the upstream. The
upstream's token never goes to an artifact's host.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from relay.core.job import Job
from relay.core.outcome import Found
from relay.core.target import Allow
from relay.errors import BadGateway, NotFound, TargetRefused
from relay.net.transport import GuardedTransport, Response
from relay.net.upstream import Upstream

DEADLINE_S: Final = 600.0
SERVED: Final = (200, 206, 416)
# What hosts of files answer to a link that has expired.
EXPIRED: Final = (400, 401, 403, 404, 410)


class File:
    """An open file: implements `relay.web.ports.OpenFile`."""

    def __init__(self, response: Response) -> None:
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    def chunks(self) -> AsyncIterator[bytes]:
        return self._response.iter_raw()


class UpstreamArtifacts:
    """Implements `relay.web.ports.Artifacts`; close it with `aclose`."""

    def __init__(self, upstream: Upstream, allow: Allow) -> None:
        self._upstream = upstream
        self._transport = GuardedTransport(allow)

    async def aclose(self) -> None:
        await self._transport.aclose()

    @asynccontextmanager
    async def open(self, job: Job, index: int, preview: int | None, headers: Mapping[str, str]) -> AsyncGenerator[File]:
        """Open a file; `NotFound` when the job has no such preview, `BadGateway` when its host does not give it."""
        async with AsyncExitStack() as stack:
            try:
                response = await self._fetched(stack, job.artifacts[index], preview, headers)
                if response.status in EXPIRED and (fresh := await self._fresh(job, index)) is not None:
                    await stack.aclose()
                    response = await self._fetched(stack, fresh, preview, headers)
            except TargetRefused as error:  # the link is the upstream's: whoever reads has done nothing wrong
                raise BadGateway("the link to this file leads where the relay does not call") from error
            if response.status not in SERVED:
                raise BadGateway(f"the host of this file answered {response.status}")
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

    async def _fresh(self, job: Job, index: int) -> dict[str, Any] | None:
        """The artifact with the links that the upstream gives now; None when it does not answer."""
        answer = await self._upstream.task(job.upstream_task_id) if job.upstream_task_id else None
        known = answer.report.artifacts if isinstance(answer, Found) else ()
        return known[index] if index < len(known) else None
