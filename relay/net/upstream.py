"""The upstream's client, fixed to its host: every answer becomes a value, whatever shape it has.

Nothing is retried here, and nothing is logged: bodies hold secrets, ids hold e-mails.
"""

import json
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from relay.clock import Clock, SystemClock, within
from relay.core import task as tasks
from relay.core.accounts import SeenAccount
from relay.core.outcome import (
    Accepted,
    BadToken,
    Busy,
    Found,
    Missing,
    NoCredits,
    NotSent,
    Outcome,
    Refused,
    RunningTask,
    TaskAnswer,
    Unanswered,
    Unknown,
)
from relay.core.skew import OFF_IN_A_ROW, off_in_a_row, off_ms
from relay.core.task import TASK_ID, Report
from relay.errors import BadGateway, InvalidRequest
from relay.observe import Metrics

CONNECT_S: Final = 10.0
CREATE_DEADLINE_S: Final = 90.0
ASK_DEADLINE_S: Final = 30.0
UPLOAD_DEADLINE_S: Final = 1_800.0
BODY_MAX_BYTES: Final = 8 * 1024 * 1024
MESSAGE_MAX_CHARS: Final = 500
LIST_LIMIT: Final = 200
RUNNING_MAX: Final = 1_000
SILENT_AFTER: Final = 3
DEFAULT_SLOTS: Final = 2

# What surely means that no byte of the request was written.
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer that came whole; `body` is None when it was not JSON."""

    status: int
    body: object

    @property
    def message(self) -> str:
        """The upstream's own sentence, which may be text or an object."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        if isinstance(error, dict):
            error = error.get("message") or error.get("errorMessage")
        text = error if isinstance(error, str) and error else f"the upstream answered {self.status}"
        return tasks.mask(text)[:MESSAGE_MAX_CHARS]

    @property
    def in_own_words(self) -> bool:
        """Whether the upstream itself said this, and not something in front of it."""
        return isinstance(self.body, dict) and "error" in self.body


class Upstream:
    """Speaks to `base_url` only, with one bearer token. Close it with `aclose`."""

    def __init__(
        self, base_url: str, token: str, *, clock: Clock | None = None, metrics: Metrics | None = None
    ) -> None:
        self._metrics = metrics or Metrics()
        self._unanswered = 0
        self._unanswered_since_s = 0.0
        self._clock = clock or SystemClock()
        self._base_url = base_url.rstrip("/")
        self._last_off_ms: deque[int] = deque(maxlen=OFF_IN_A_ROW)
        timeout = httpx2.Timeout(ASK_DEADLINE_S, connect=CONNECT_S)
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "Accept-Encoding": "identity"}
        tls = httpx2.create_ssl_context()
        self._asking = httpx2.AsyncClient(timeout=timeout, headers=headers, trust_env=False, verify=tls)
        # A kept connection may have been closed by the other side when the request goes out, and then nobody can say
        # whether it arrived. A create gets a connection of its own.
        self._creating = httpx2.AsyncClient(
            timeout=httpx2.Timeout(CREATE_DEADLINE_S, connect=CONNECT_S),
            headers=headers,
            trust_env=False,
            verify=tls,
            limits=httpx2.Limits(max_keepalive_connections=0),
        )

    def off_ms(self) -> int | None:
        """How far ahead of ours the upstream's clock is; None while it is about right, or nobody can say."""
        return off_in_a_row(self._last_off_ms)

    def silent_s(self) -> float:
        """For how long nothing that was asked had an answer; 0 while one came, or too few were asked to tell."""
        if self._unanswered < SILENT_AFTER:
            return 0.0
        return max(0.001, self._clock.monotonic_s() - self._unanswered_since_s)

    def __repr__(self) -> str:
        return f"Upstream({self._base_url!r})"

    async def aclose(self) -> None:
        await self._asking.aclose()
        await self._creating.aclose()

    async def create(self, fields: Mapping[str, Any]) -> Outcome:
        """POST videos/create. Only what surely did not happen is anything else than `Accepted` or `Unknown`."""
        try:
            answer = await self._send(self._creating, "POST", "/videos/create", CREATE_DEADLINE_S, content=fields)
        except _NOT_SENT as error:
            return NotSent(f"no connection to the upstream ({type(error).__name__})")
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, _TooLarge) as error:
            return Unknown(f"the upstream's answer did not come ({type(error).__name__})")
        return _outcome(answer)

    async def task(self, task_id: str) -> TaskAnswer:
        """GET tasks/{taskId}, the id raw in the path."""
        path = f"/tasks/{task_id}"
        if not TASK_ID.fullmatch(task_id) or not self._keeps(path):
            return Unanswered("the task's id cannot be put into a path")
        answer = await self._ask(path)
        if isinstance(answer, Unanswered):
            return answer
        if answer.status == 404 and answer.in_own_words:
            return Missing()
        report = tasks.read(answer.body) if answer.status == 200 else None
        if report is None or not report.status:
            return Unanswered(f"the upstream answered {answer.status}, without a task")
        return Found(report)

    async def tasks(self, email: str, offset: int = 0) -> list[Report] | Unanswered:
        """GET tasks/: the newest tasks of one account, at most `LIST_LIMIT`, behind the first `offset` (0 to 1000)."""
        answer = await self._ask("/tasks/", {"offset": str(offset), "limit": str(LIST_LIMIT), "email": email})
        if isinstance(answer, Unanswered):
            return answer
        if answer.status != 200:
            return Unanswered(answer.message)
        reports = [tasks.read(row) for row in tasks.listed(answer.body)[:LIST_LIMIT]]
        return [report for report in reports if report is not None]

    async def scheduler(self) -> list[RunningTask] | Unanswered:
        """GET scheduler/: what runs now on all accounts."""
        answer = await self._ask("/scheduler/")
        if isinstance(answer, Unanswered):
            return answer
        return _running(answer.body) if answer.status == 200 else Unanswered(answer.message)

    async def accounts(self) -> list[SeenAccount] | Unanswered:
        """GET accounts: of what it answers only e-mail, slots and error are kept, for the rest is passwords."""
        answer = await self._ask("/accounts")
        if isinstance(answer, Unanswered):
            return answer
        if answer.status != 200 or not isinstance(answer.body, dict):
            return Unanswered(answer.message, unauthorized=answer.status == 401)
        return [_account(email, row) for email, row in answer.body.items() if isinstance(row, dict)]

    async def forward(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: AsyncIterator[bytes] | None,
    ) -> tuple[int, str, bytes]:
        """Pass a request through: `(status, content type, body)`; the body goes out as it comes in.

        `BadGateway` when no answer came, `InvalidRequest` for a path that would not be sent as it is.
        """
        if not self._keeps(path):
            raise InvalidRequest.field("path", "raw", "this id cannot be put into a path")
        deadline_s = UPLOAD_DEADLINE_S if body is not None else ASK_DEADLINE_S
        request = self._asking.stream(
            method, self._base_url + path, params=list(query), headers=dict(headers), content=body
        )
        try:
            status, headers_got, answer = await self._answered("forwarded", deadline_s, request)
            return status, headers_got.get("content-type", ""), answer
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, _TooLarge) as error:
            raise BadGateway(f"the upstream's answer did not come ({type(error).__name__})") from error

    def _keeps(self, path: str) -> bool:
        """Whether the URL as it will be sent has exactly this path: `..`, `?` and `%` would change it."""
        wanted = httpx2.URL(self._base_url).raw_path.rstrip(b"/") + path.encode("utf-8", "replace")
        try:
            return httpx2.URL(self._base_url + path).raw_path == wanted
        except httpx2.InvalidURL:  # a control character, which the form of an id does not exclude
            return False

    async def _ask(self, path: str, query: Mapping[str, str] | None = None) -> _Answer | Unanswered:
        try:
            answer = await self._send(self._asking, "GET", path, ASK_DEADLINE_S, params=query)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, _TooLarge) as error:
            return Unanswered(f"the upstream could not be asked ({type(error).__name__})")
        if answer.status == 429:
            return Unanswered("the upstream asks for fewer questions", throttled=True)
        if answer.body is None:
            return Unanswered(f"the upstream answered {answer.status}, not in JSON")
        return answer

    async def _send(
        self,
        client: httpx2.AsyncClient,
        method: str,
        path: str,
        deadline_s: float,
        *,
        params: Mapping[str, str] | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> _Answer:
        body = None if content is None else json.dumps(content, ensure_ascii=False).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        url = self._base_url + path
        request = client.stream(method, url, params=params, content=body, headers=headers)
        sent_ms = self._clock.now_ms()
        status, got, answer = await self._answered(_kind_of(path), deadline_s, request)
        # An answer out of a cache has the date of another day.
        if "age" not in got and (off := off_ms(got.get("date", ""), sent_ms, self._clock.now_ms())) is not None:
            self._last_off_ms.append(off)
        return _Answer(status, tasks.decode(answer))

    async def _answered(
        self, kind: str, deadline_s: float, request: AbstractAsyncContextManager[httpx2.Response]
    ) -> tuple[int, httpx2.Headers, bytes]:
        """`(status, headers, body)` of an answer that came whole, and in time; counted, whatever came."""
        status, began_s = None, self._clock.monotonic_s()
        try:
            status, headers, body = await within(self._clock, deadline_s, _whole(request))
            return status, headers, body
        finally:
            self._metrics.asked(kind, status)
            if status is not None and status < 500:
                self._unanswered = 0
            else:
                self._unanswered_since_s = self._unanswered_since_s if self._unanswered else began_s
                self._unanswered += 1


def _kind_of(path: str) -> str:
    """What a request is for, by its path; `task` is a poll."""
    first, _, more = path.strip("/").partition("/")
    return "create" if first == "videos" else "task" if more else first


class _TooLarge(Exception):
    pass


async def _whole(request: AbstractAsyncContextManager[httpx2.Response]) -> tuple[int, httpx2.Headers, bytes]:
    """`(status, headers, body)` of an answer that came whole."""
    async with request as response:
        return response.status_code, response.headers, await _bounded(response)


async def _bounded(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > BODY_MAX_BYTES:
            raise _TooLarge
    return bytes(body)


def _outcome(answer: _Answer) -> Outcome:
    status, message = answer.status, answer.message
    if 200 <= status < 300:
        report = tasks.read(answer.body)
        return Accepted(report) if report and report.task_id else Unknown(f"a {status} without a task id")
    if not answer.in_own_words:
        return Unknown(f"the upstream answered {status}, not in its own JSON")
    if status in (402, 412) or (status == 400 and "enough credits" in message):
        return NoCredits(message)
    if status == 401:
        return BadToken(message)
    if status == 422:
        return Refused("moderated", message)
    if status in (400, 404):
        return Refused("validation", message)
    if status == 429:
        body = answer.body if isinstance(answer.body, dict) else {}
        groups = body.get("runningTasks")
        rows = (
            [row for group in groups.values() if isinstance(group, list) for row in group]
            if isinstance(groups, dict)
            else []
        )
        return Busy(message, tuple(_running(rows)))
    return Unknown(f"the upstream answered {status}")


def _running(rows: object) -> list[RunningTask]:
    found = []
    for row in rows[:RUNNING_MAX] if isinstance(rows, list) else []:
        task_id, reply_ref = (row.get("taskId"), row.get("replyRef")) if isinstance(row, dict) else (None, None)
        if isinstance(task_id, str) and TASK_ID.fullmatch(task_id):
            found.append(RunningTask(task_id, reply_ref if isinstance(reply_ref, str) else None))
    return found


def _account(email: str, row: dict[str, Any]) -> SeenAccount:
    slots = row.get("maxJobs")
    error = row.get("error")
    return SeenAccount(
        email=email,
        slots=slots if isinstance(slots, int) and not isinstance(slots, bool) and 1 <= slots <= 10 else DEFAULT_SLOTS,
        error=tasks.mask(str(error))[:MESSAGE_MAX_CHARS] if error else None,
    )
