"""What the doors need of the world outside, as they see it; `node` fills it in."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from relay.core.job import Job
from relay.core.outcome import TaskAnswer


class OpenFile(Protocol):
    """A file that is being read from where it lies: `status` 200, 206 or 416, its headers, and its bytes."""

    status: int
    headers: Mapping[str, str]

    def chunks(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Answered:
    """What the upstream answered to a request that was passed through."""

    status: int
    content_type: str
    body: bytes


class Passage(Protocol):
    """Passes requests of the drop-in door through to the upstream."""

    async def forward(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: AsyncIterator[bytes] | None,
    ) -> Answered:
        """The upstream's answer, whatever its status; `BadGateway` when there is none."""
        ...


class Tasks(Protocol):
    """The upstream's word about one task."""

    async def task(self, task_id: str) -> TaskAnswer: ...


class Artifacts(Protocol):
    """Where the bytes of an artifact come from."""

    def open(
        self, job: Job, index: int, preview: int | None, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[OpenFile]:
        """Open a file with the reader's `Range` headers; `BadGateway` or `NotFound` when it cannot be had."""
        ...
