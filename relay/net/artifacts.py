"""The bytes of an artifact, fetched through the guarded transport by a link that the upstream has just given.

The upstream's links die within a day or two, so the task is asked for a fresh one at each opening; the link of the job
itself is used where the upstream cannot be asked. The upstream's token never goes to an artifact's host.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from relay.core.job import Job
from relay.core.outcome import Found
from relay.core.target import Allow
from relay.errors import BadGateway, NotFound, TargetRefused
from relay.net.transport import GuardedTransport, Response
from relay.net.upstream import Upstream

DEADLINE_S: Final = 600.0
SERVED: Final = (200, 206, 416)


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
        artifact = await self._fresh(job, index)
        previews = artifact["previews"]
        if preview is not None and not 0 <= preview < len(previews):
            raise NotFound("this artifact has no such preview")
        url = artifact["sourceUrl"] if preview is None else previews[preview]
        try:
            async with self._transport.stream("GET", url, headers=headers, deadline_s=DEADLINE_S) as response:
                if response.status not in SERVED:
                    raise BadGateway(f"the host of this file answered {response.status}")
                yield File(response)
        except TargetRefused as error:  # the link is the upstream's: whoever reads has done nothing wrong
            raise BadGateway("the link to this file leads where the relay does not call") from error

    async def _fresh(self, job: Job, index: int) -> dict[str, Any]:
        answer = await self._upstream.task(job.upstream_task_id) if job.upstream_task_id else None
        if isinstance(answer, Found) and index < len(answer.report.artifacts):
            return answer.report.artifacts[index]
        return job.artifacts[index]
