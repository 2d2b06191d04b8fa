"""What the upstream answered, as values: to a create, and to a question about a task.

A create is **known not to have happened** only when no byte was sent or the upstream said so itself (`Busy`, `Refused`,
`NoCredits`, `BadToken`, `NotSent`); everything that is not one of these or `Accepted` is `Unknown`.
"""

from dataclasses import dataclass

from relay.core.job import ErrorCode
from relay.core.task import Report


@dataclass(frozen=True, slots=True)
class Accepted:
    """2xx with a task id in it."""

    report: Report


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A line of a 429 body or of the scheduler list: somebody's task that runs now."""

    task_id: str
    reply_ref: str | None


@dataclass(frozen=True, slots=True)
class Busy:
    """429: the account has no room now; `running` is who takes it, where the upstream said so."""

    message: str
    running: tuple[RunningTask, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """400, 404, 422 in the upstream's own JSON: this request will never be taken."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class NoCredits:
    """402 or 412: the account cannot pay; others may."""

    message: str


@dataclass(frozen=True, slots=True)
class BadToken:
    """401: no account can be used until the operator mends the token."""

    message: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """No byte of the request was written: the name, the connection or TLS failed."""

    message: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The task may exist, now or in minutes: a time-out, a cut, 408, 5xx, an answer not in the upstream's JSON."""

    message: str


Outcome = Accepted | Busy | Refused | NoCredits | BadToken | NotSent | Unknown


@dataclass(frozen=True, slots=True)
class Found:
    """The upstream's own word about a task."""

    report: Report


@dataclass(frozen=True, slots=True)
class Missing:
    """404: the upstream does not know this task, or not yet.

    `vouched`: it answered another question about the same account, so that it does know the account.
    """

    vouched: bool = False


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The upstream could not be asked: it says nothing about the task. `throttled` for a 429, `unauthorized` a 401."""

    message: str
    throttled: bool = False
    unauthorized: bool = False


TaskAnswer = Found | Missing | Unanswered
