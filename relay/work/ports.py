"""What the workers need of the world outside, as they see it; `relay.net` has the real ones."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from relay.core.accounts import SeenAccount
from relay.core.job import Job
from relay.core.outcome import Outcome, RunningTask, TaskAnswer, Unanswered
from relay.core.retry import Answer
from relay.core.task import Report


class Upstream(Protocol):
    """The upstream; `relay.net.upstream.Upstream` says what each answer means."""

    async def create(self, fields: Mapping[str, Any]) -> Outcome: ...

    async def task(self, task_id: str) -> TaskAnswer: ...

    async def tasks(self, email: str, offset: int = 0) -> list[Report] | Unanswered: ...

    async def scheduler(self) -> list[RunningTask] | Unanswered: ...

    async def accounts(self) -> list[SeenAccount] | Unanswered: ...


class Sender(Protocol):
    """Sends one webhook and never raises for what the other side does."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer: ...


class Source(Protocol):
    """A file as its host gives it: `status` 200 or 206, its headers, and its bytes; `BadGateway` when they are cut."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def chunks(self) -> AsyncIterator[bytes]: ...


class Files(Protocol):
    """The files of jobs where the upstream has them."""

    def open(
        self, job: Job, index: int, preview: int | None, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[Source]:
        """Open one with these `Range` headers; `BadGateway` or `NotFound` when it cannot be had."""
        ...
