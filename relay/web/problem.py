"""Errors as `application/problem+json` (RFC 9457), and the bounded reading of bodies and queries."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive

from relay.core import task as tasks
from relay.errors import BodyTooLarge, BodyTooSlow, InvalidRequest, Problem, RelayError, Unavailable
from relay.observe import logger

BODY_MAX_BYTES: Final = 256 * 1024
BODY_DEADLINE_S: Final = 30.0
UNFINISHED_MAX_BYTES: Final = 64 * 1024 * 1024
RETRY_AFTER_S: Final = 5
# Of a query: how often one name may stand in it, and how much that is wrong with it is told at once.
VALUES_MAX: Final = 50
PROBLEMS_MAX: Final = 20
DROPIN_PREFIX: Final = "/v1/runwayml/"

_log = logger("web")
_AGO: Final = re.compile(r"(\d{1,9})([smhd])")
_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_CODES: Final = {404: "not_found", 405: "method_not_allowed"}
_TITLES: Final = {
    "not_found": "There is nothing at this address",
    "method_not_allowed": "This address does not take that method",
}


class Json(Response):
    """JSON without spaces, characters as they are."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


class ProblemJson(Json):
    media_type = "application/problem+json"


def problem_response(error: RelayError) -> Response:
    """The answer to a request that raised `error`."""
    body = {
        "type": "about:blank",
        "title": error.code.replace("_", " ").capitalize(),
        "status": error.status,
        "code": error.code,
        "detail": error.message,
        "problems": [problem.as_json() for problem in error.problems],
    }
    return ProblemJson(body, error.status, _headers(error))


def _headers(error: RelayError) -> dict[str, str]:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="relay"'
    return headers


def dropin_response(error: RelayError) -> Response:
    """The same in the upstream's own shape, at the drop-in door."""
    body = {"error": error.message, "code": error.status, "problems": [problem.as_json() for problem in error.problems]}
    return Json(body, error.status, _headers(error))


def _answer_to(request: Request, error: RelayError) -> Response:
    dropin = request.url.path.startswith(DROPIN_PREFIX)
    return dropin_response(error) if dropin else problem_response(error)


async def on_relay_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RelayError)  # noqa: S101 # registered for this class only
    return _answer_to(request, error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, the latter with all the methods that the address takes."""
    assert isinstance(error, HTTPException)  # noqa: S101 # registered for this class only
    code = _CODES.get(error.status_code, "http")
    detail = _TITLES.get(code, error.detail)
    headers = {"Allow": ", ".join(_taken_here(request))} if error.status_code == 405 else error.headers
    if request.url.path.startswith(DROPIN_PREFIX):
        return Json({"error": detail, "code": error.status_code, "problems": []}, error.status_code, headers)
    body = {"type": "about:blank", "title": detail, "status": error.status_code, "code": code, "detail": detail}
    return ProblemJson({**body, "problems": []}, error.status_code, headers)


def _taken_here(request: Request) -> list[str]:
    """A route has one method, and several lie at one address."""
    routes = request.app.routes
    path = next(route.path for route in routes if route.matches(request.scope)[0] == Match.PARTIAL)
    return sorted(set().union(*(route.methods for route in routes if route.path == path)))


async def on_defect(request: Request, error: Exception) -> Response:
    return _answer_to(request, mistake(error, request.method))


def mistake(error: BaseException, method: str) -> RelayError:
    """A defect of ours: the client learns that much, the log the rest."""
    _log.error("request.failed", method=method, exc_info=error)
    return RelayError("the relay made a mistake; it is in its log")


class _Unfinished:
    """The bytes of all bodies that have come in part: of a process, as its memory is."""

    size_bytes = 0


async def read_body(receive: Receive, *, max_bytes: int = BODY_MAX_BYTES, deadline_s: float = BODY_DEADLINE_S) -> bytes:
    """The whole body, at most `max_bytes` (else 413) and within `deadline_s` (else 408).

    Whoever sends slowly on many connections is told 503 before they fill the memory; a body that comes at once is not.
    """
    chunks, size_bytes, held_bytes, more = [], 0, 0, True
    try:
        async with asyncio.timeout(deadline_s):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BodyTooSlow("the connection ended before the body did")
                chunks.append(message.get("body", b""))
                size_bytes += len(chunks[-1])
                if size_bytes > max_bytes:
                    raise BodyTooLarge(f"the body is longer than {max_bytes} bytes")
                more = message.get("more_body", False)
                if more:
                    held_bytes += len(chunks[-1])
                    _Unfinished.size_bytes += len(chunks[-1])
                    if _Unfinished.size_bytes > UNFINISHED_MAX_BYTES:
                        raise Unavailable("too many bodies are on their way at once", retry_after_s=RETRY_AFTER_S)
    except TimeoutError as error:
        raise BodyTooSlow(f"the body did not come within {deadline_s:g} s") from error
    finally:
        _Unfinished.size_bytes -= held_bytes
    return b"".join(chunks)


async def read_object(request: Request) -> dict[str, Any]:
    """A body that is a JSON object; everything else is an `InvalidRequest` that says what it is instead."""
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise InvalidRequest.field(
            "Content-Type",
            "media_type",
            "this door takes JSON: send Content-Type: application/json",
            given=content_type,
            allowed=["application/json"],
        )
    body = await read_body(request.receive)
    value = tasks.decode(body, mend=False)
    if not isinstance(value, dict):
        message = "the body is not JSON" if value is None else "the body is JSON, but not an object"
        raise InvalidRequest.field("body", "json_object", message, allowed="a JSON object")
    return value


def read_query(request: Request, *, one: Sequence[str] = (), many: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """The query's values by name; an unknown name, or more values than are taken, is an `InvalidRequest`."""
    found: dict[str, tuple[str, ...]] = dict.fromkeys((*one, *many), ())
    problems: list[Problem] = []
    for name, value in request.query_params.multi_items():
        if len(problems) >= PROBLEMS_MAX:  # some doors are open to all: a short request gets no long answer
            break
        if name not in found:
            message = f"there is no query parameter {name}"
            problems.append(Problem(f"query.{name}", "unknown", message, value, sorted(found)))
        elif name in one and found[name]:
            problems.append(Problem(f"query.{name}", "once", f"{name} is given twice, and only one is taken", value))
        elif len(found[name]) >= VALUES_MAX:
            message = f"{name} is given more than {VALUES_MAX} times, and no more are taken"
            problems.append(Problem(f"query.{name}", "too_many", message, value, VALUES_MAX))
        else:
            found[name] += (value,)
    if problems:
        raise InvalidRequest.of(problems)
    return found


def whole(query: Mapping[str, tuple[str, ...]], name: str, default: int, lowest: int, highest: int) -> int:
    """A whole number of the query, within its bounds."""
    if not query[name]:
        return default
    text = query[name][0]
    if not (text.isascii() and text.isdecimal() and len(text) <= 18) or not lowest <= int(text) <= highest:
        message = f"{name} must be a whole number from {lowest} to {highest}"
        raise InvalidRequest.field(f"query.{name}", "range", message, given=text, allowed=[lowest, highest])
    return int(text)


def instant(query: Mapping[str, tuple[str, ...]], name: str, now_ms: int, *words: str) -> int | None:
    """A moment of the query in Unix ms: so long ago, or a time (of UTC, where it names no zone); None: absent.

    `words` are what else may stand there, for the message.
    """
    if not query[name]:
        return None
    text = query[name][0]
    if ago := _AGO.fullmatch(text):
        return max(0, now_ms - int(ago[1]) * _UNIT_MS[ago[2]])
    try:
        time = datetime.fromisoformat(text)
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        forms = ", ".join([*words, "a time ago (30s, 10m, 6h, 2d)"])
        message = f"{name} must be {forms} or an ISO 8601 time"
        raise InvalidRequest.field(f"query.{name}", "time", message, given=text[:80]) from error


def flag(query: Mapping[str, tuple[str, ...]], name: str) -> bool:
    """`true` or `false` of the query; false when it is absent."""
    return listed(query, name, ("true", "false")) == ("true",)


def listed(query: Mapping[str, tuple[str, ...]], name: str, known: Sequence[str]) -> tuple[str, ...]:
    """Values of the query that must all be among `known`."""
    for value in query[name]:
        if value not in known:
            message = f"{name} {value!r} does not exist: {', '.join(known)}"
            raise InvalidRequest.field(f"query.{name}", "one_of", message, given=value, allowed=list(known))
    return query[name]
