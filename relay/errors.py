"""Every exception that we raise, in one tree.

What the outside world answers is a value, never an exception; what we or a client did wrong is one of these:

    RelayError                      has a stable `code`, an HTTP `status`, a sentence, and perhaps `problems`
    ├── ConfigurationError          a setting is missing or wrong; all problems in one message
    ├── InvalidRequest        400   the request breaks a rule; `problems` names field and rule
    │   └── TargetRefused     400   an address that the relay does not call
    ├── Unauthorized          401   no token, or one that is not known
    ├── Forbidden             403   the token lacks the scope
    ├── NotFound              404   there is no such thing, or it is not yours
    ├── Conflict              409   the thing is in a state that does not allow this
    │   └── KeyReused         409   an Idempotency-Key came again with another request
    ├── Gone                  410   it was there and has expired
    ├── BodyTooLarge          413
    ├── BodyTooSlow           408
    ├── LimitReached          429   a queue is full and nothing was stored
    │   └── QuotaReached      429   the token's own limit is, and nothing was stored
    ├── Unavailable           503   the store cannot take it now; try again after `retry_after_s`
    ├── BadGateway            502   the upstream did not answer as it should
    │   └── CallFailed        502   a guarded call got no whole answer (lives in `net/connection.py`, with its `kind`)
    ├── SignatureInvalid            a webhook's signature does not hold (raised to those who verify)
    └── ClientError                 the relay, seen by its client, refused or could not be reached
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule of a request or of the settings.

    `field` is the name the client used (`duration`, `query.cursor`), `rule` a stable word (`required`, `one_of`),
    `message` a sentence that can be shown; `given` and `allowed` are JSON values.
    """

    field: str
    rule: str
    message: str
    given: Any = None
    allowed: Any = None

    def as_json(self) -> dict[str, Any]:
        return {
            "field": self.field,
            "rule": self.rule,
            "given": self.given,
            "allowed": self.allowed,
            "message": self.message,
        }


class RelayError(Exception):
    """Root of the tree; `str(error)` is a sentence that may be shown to whoever made the request."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, problems: Sequence[Problem] = (), retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.problems = tuple(problems)
        self.retry_after_s = retry_after_s


class ConfigurationError(RelayError):
    code = "configuration"


class InvalidRequest(RelayError):
    code = "invalid_request"
    status = 400

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> "InvalidRequest":
        return cls("; ".join(problem.message for problem in problems), problems=problems)

    @classmethod
    def field(cls, field: str, rule: str, message: str, *, given: Any = None, allowed: Any = None) -> "InvalidRequest":
        return cls.of([Problem(field, rule, message, given, allowed)])


class TargetRefused(InvalidRequest):
    code = "target_refused"


class Unauthorized(RelayError):
    code = "unauthorized"
    status = 401


class Forbidden(RelayError):
    code = "forbidden"
    status = 403


class NotFound(RelayError):
    code = "not_found"
    status = 404


class Conflict(RelayError):
    code = "conflict"
    status = 409


class KeyReused(Conflict):
    code = "idempotency_key_reused"


class Gone(RelayError):
    code = "gone"
    status = 410


class BodyTooLarge(RelayError):
    code = "body_too_large"
    status = 413


class BodyTooSlow(RelayError):
    code = "body_too_slow"
    status = 408


class LimitReached(RelayError):
    code = "limit_reached"
    status = 429


class QuotaReached(LimitReached):
    code = "quota"


class Unavailable(RelayError):
    code = "unavailable"
    status = 503


class BadGateway(RelayError):
    code = "bad_gateway"
    status = 502


class SignatureInvalid(RelayError):
    code = "signature_invalid"
    status = 400


class ClientError(RelayError):
    code = "client"

    def __init__(self, message: str, *, http_status: int | None = None, problem: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.problem = problem or {}
