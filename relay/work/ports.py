"""What the workers need of the world outside, as they see it; `relay.net` has the real ones."""

from collections.abc import Mapping
from typing import Any, Protocol

from relay.core.accounts import SeenAccount
from relay.core.outcome import Outcome, RunningTask, TaskAnswer, Unanswered
from relay.core.retry import Answer
from relay.core.task import Report


class Upstream(Protocol):
    """The upstream; `relay.net.upstream.Upstream` says what each answer means."""

    async def create(self, fields: Mapping[str, Any]) -> Outcome: ...

    async def task(self, task_id: str) -> TaskAnswer: ...

    async def tasks(self, email: str) -> list[Report] | Unanswered: ...

    async def scheduler(self) -> list[RunningTask] | Unanswered: ...

    async def accounts(self) -> list[SeenAccount] | Unanswered: ...


class Sender(Protocol):
    """Sends one webhook and never raises for what the other side does."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer: ...
