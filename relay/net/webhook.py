"""Delivers one webhook and says what came back, as a value: whatever the other side does is an `Answer`.

An attempt reads at most 16 KiB of the answer. A longer body is neither read on nor held against the subscriber: its
status stands in the head, and to make a delivery fail that was answered 200 would only send the same event again. A
body that ends within those 16 KiB must end properly; one that is cut or drips past the deadline is a failed attempt.
"""

import ssl
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

from relay.clock import Clock, SystemClock
from relay.core.retry import Answer, AnswerKind, excerpt_of, parse_retry_after
from relay.core.target import HOP_HEADER, Allow
from relay.errors import TargetRefused
from relay.net.connection import CallFailed
from relay.net.transport import GuardedTransport, Resolve, Response
from relay.observe import Metrics

DEADLINE_S = 15.0
ANSWER_MAX_BYTES = 16 * 1024
_SECRET_MIN_CHARACTERS = 6
"""Shorter words of an address are not hidden in excerpts: they are no secrets, and the text would be garbled."""


class WebhookSender:
    """Posts to subscribers over the guarded transport; one instance, with its connections, for the whole process."""

    def __init__(
        self,
        allow: Allow,
        *,
        deadline_s: float = DEADLINE_S,
        clock: Clock | None = None,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
        mark: str | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`deadline_s` lies over name lookup, connecting, TLS, head and body of one attempt together.

        `mark` is sent along as `HOP_HEADER`, for a relay to know its own webhooks when they come back to it.
        """
        self._metrics = metrics or Metrics()
        self._marks = {} if mark is None else {HOP_HEADER: mark}
        self._clock = clock or SystemClock()
        self._deadline_s = deadline_s
        self._transport = GuardedTransport(allow, clock=self._clock, resolve=resolve, ssl_context=ssl_context)

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST `body` once, and count what came of it.

        Nothing that the address, the network or the other side does is raised. `InvalidRequest` when `headers` hold
        what HTTP cannot carry, which is the caller's mistake.
        """
        answer = await self._sent(url, headers, body)
        self._metrics.attempted(answer.kind, answer.status, answer.took_ms)
        return answer

    async def _sent(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        attempt = _Attempt(url, self._clock)
        try:
            async with self._transport.stream(
                "POST",
                url,
                headers={**headers, **self._marks},
                body=body,
                deadline_s=self._deadline_s,
                phases=attempt.phases,
            ) as response:
                await attempt.read(response)
        except TargetRefused as refused:
            return attempt.failed("target_refused", refused.message)
        except CallFailed as failure:
            return attempt.failed(failure.kind, failure.message)
        return attempt.answered()

    async def aclose(self) -> None:
        """Close every connection; attempts that are under way fail."""
        await self._transport.aclose()


class _Attempt:
    """What is known of one attempt, as far as it came."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._began_at_s = clock.monotonic_s()
        self._host = ""
        self._status: int | None = None
        self._retry_after_s: float | None = None
        self._is_encoded = False
        self._body = bytearray()
        self.phases: dict[str, int] = {}

    async def read(self, response: Response) -> None:
        self._host = response.host
        self._status = response.status
        self._retry_after_s = parse_retry_after(response.headers.get("retry-after", ""), self._clock.now_ms() / 1000)
        self._is_encoded = response.headers.get("content-encoding", "identity") != "identity"
        async for piece in response.iter_raw():
            self._body += piece[: ANSWER_MAX_BYTES - len(self._body)]
            if len(self._body) >= ANSWER_MAX_BYTES:
                break

    def answered(self) -> Answer:
        return self._as("answered", f"{self._host} answered {self._status}")

    def failed(self, kind: AnswerKind, detail: str) -> Answer:
        return self._as(kind, detail)

    def _as(self, kind: AnswerKind, detail: str) -> Answer:
        took_ms = round((self._clock.monotonic_s() - self._began_at_s) * 1000)
        # Nothing is ever inflated, so a compressed body has nothing to show.
        excerpt = "" if self._is_encoded or not self._body else excerpt_of(bytes(self._body), _secrets_of(self._url))
        return Answer(kind, self._status, self._retry_after_s, detail, excerpt, took_ms, self.phases)


def _secrets_of(url: str) -> list[str]:
    """The parts of an address that an error page may repeat and nobody but its owner may see."""
    address = url.partition("://")[2]
    path, _, query = address.partition("?")
    _, _, path = path.partition("/")
    values = [value for _, value in parse_qsl(query)]
    words = [url, address, "/" + path, query, *path.split("/"), *values]
    return [each for word in words for each in {word, unquote(word)} if len(each) >= _SECRET_MIN_CHARACTERS]
