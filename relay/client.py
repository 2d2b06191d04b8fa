"""The Python client: submit, watch with resume, wait, download, and verify webhooks.

    async with RelayClient("http://127.0.0.1:8080", token) as relay:
        job = await relay.submit(model="gen4.5", text_prompt="A city at golden hour")
        async for event in relay.watch(job["id"]):
            print(event["type"], event["data"]["job"]["progress"])

Everything that goes wrong is a `ClientError`; when the relay said why, `problem` holds its answer (RFC 9457).
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx2

from relay.clock import Clock, SystemClock
from relay.core import signature
from relay.core.event import FINAL_TYPES
from relay.errors import ClientError

TIMEOUT_S: Final = 30.0
# The relay sends a heartbeat every 15 s; three missing ones mean that the connection is dead.
SILENCE_S: Final = 50.0
RECONNECT_S: Final = (0.2, 1.0, 2.0, 5.0, 10.0)
SUBMIT_TRIES: Final = 3
PAGE: Final = 100
_ENDED: Final = 204


class RelayClient:
    """A relay at `url`, with a bearer token. Use it as an async context manager, or `aclose` it."""

    def __init__(self, url: str, token: str, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._http = httpx2.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def submit(self, *, idempotency_key: str | None = None, **fields: Any) -> dict[str, Any]:
        """Queue a job (the fields of `POST /v1/jobs`); the job, which by then is on the relay's disk.

        A connection that breaks is made again, always with the same key: one call makes one job.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        for wait_s in RECONNECT_S[:SUBMIT_TRIES]:
            try:
                return await self._call("POST", "/v1/jobs", json=fields, headers=headers)
            except ClientError as error:
                if error.http_status not in (None, 502, 503, 504):
                    raise
            await self._clock.sleep(wait_s)
        return await self._call("POST", "/v1/jobs", json=fields, headers=headers)

    async def job(self, job_id: str) -> dict[str, Any]:
        """One job, in the full view."""
        return await self._call("GET", f"/v1/jobs/{job_id}")

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """End a job now; `notice` says whether the upstream still renders what cannot be stopped."""
        return await self._call("POST", f"/v1/jobs/{job_id}/cancel")

    async def retry(self, job_id: str) -> dict[str, Any]:
        """A failed job as a new one, or its retry that has not ended."""
        return await self._call("POST", f"/v1/jobs/{job_id}/retry")

    async def resolve(self, job_id: str, outcome: str, task_id: str | None = None) -> dict[str, Any]:
        """Say what became of an attempt in doubt: `created` (with its taskId), `not_created` or `failed`."""
        known = {} if task_id is None else {"taskId": task_id}
        return await self._call("POST", f"/v1/jobs/{job_id}/resolve", json={"outcome": outcome, **known})

    async def models(self) -> dict[str, Any]:
        """The catalogue: `dated`, and in `data` what each model takes."""
        return await self._call("GET", "/v1/models")

    async def events(self, job_id: str) -> list[dict[str, Any]]:
        """All events of a job so far, oldest first."""
        return await self._all(f"/v1/jobs/{job_id}/events", "last_event_id")

    async def callbacks(self, job_id: str) -> list[dict[str, Any]]:
        """All callbacks of a job that the relay has kept, oldest first."""
        return await self._all(f"/v1/jobs/{job_id}/callbacks", "cursor")

    async def deliveries(self, job_id: str) -> list[dict[str, Any]]:
        """All deliveries of a job's events, newest first."""
        return await self._all(f"/v1/jobs/{job_id}/deliveries", "cursor")

    async def subscribe(self, url: str, **fields: Any) -> dict[str, Any]:
        """Make a subscription; the answer holds its `secret`, this once."""
        return await self._call("POST", "/v1/subscriptions", json={"url": url, **fields})

    async def create_token(self, name: str, scopes: Sequence[str], **limits: int | None) -> dict[str, Any]:
        """Make a named token (`maxWaiting`, `maxPerDay`); the answer holds the `token` itself, this once."""
        given = {key: value for key, value in limits.items() if value is not None}
        return await self._call("POST", "/v1/tokens", json={"name": name, "scopes": list(scopes), **given})

    async def accounts(self) -> list[dict[str, Any]]:
        """The upstream's accounts, as `GET /v1/accounts` shows them (scope read)."""
        found: list[dict[str, Any]] = (await self._call("GET", "/v1/accounts"))["data"]
        return found

    async def tokens(self) -> list[dict[str, Any]]:
        """The living tokens, oldest first."""
        found: list[dict[str, Any]] = (await self._call("GET", "/v1/tokens"))["data"]
        return found

    async def revoke_token(self, token_id: str) -> None:
        """From now on the token opens nothing."""
        await self._call("DELETE", f"/v1/tokens/{token_id}")

    async def watch(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """Every event of a job, from its first to its final one, each once and in order.

        A connection that breaks is made again behind the last event that came. Ends after the final event; raises
        `ClientError` when the relay refuses, or cannot be reached again after several tries.
        """
        last: str | None = None
        failures = 0
        while True:
            try:
                async for event in self._stream(f"/v1/jobs/{job_id}/events", last):
                    last, failures = event["id"], 0
                    yield event
                    if event["type"] in FINAL_TYPES:
                        return
            except (httpx2.HTTPError, _BadGateway) as error:
                if failures >= len(RECONNECT_S):
                    raise ClientError(f"the stream broke, and the relay does not answer ({error})") from error
                await self._clock.sleep(RECONNECT_S[failures])
                failures += 1
            except _Over:
                return

    async def download(self, url: str, path: Path) -> int:
        """Save an artifact by its signed address; the number of bytes. No token is sent."""
        size = 0
        async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http, http.stream("GET", url) as answer:
            if answer.status_code != 200:
                raise ClientError(f"the file cannot be had: {answer.status_code}", http_status=answer.status_code)
            with path.open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    size += await asyncio.to_thread(file.write, chunk)
        return size

    async def _stream(self, path: str, last: str | None) -> AsyncIterator[dict[str, Any]]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        timeout = httpx2.Timeout(TIMEOUT_S, read=SILENCE_S)
        async with self._http.stream("GET", path, headers=headers, timeout=timeout) as answer:
            if answer.status_code == _ENDED:
                raise _Over
            if answer.status_code in (429, 502, 503, 504):
                raise _BadGateway(f"{answer.status_code}")
            if answer.status_code != 200:
                await answer.aread()
                raise _refusal(answer)
            async for frame in httpx2.EventSource(answer):
                if not frame.event.startswith("stream.") and frame.data:
                    event: Any = frame.json()
                    yield event

    async def _all(self, path: str, cursor: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        query: dict[str, str] = {}
        while True:
            page = await self._call("GET", path, params={"limit": str(PAGE), **query})
            found += page["data"]
            if page["next"] is None or len(page["data"]) < PAGE:
                return found
            query = {cursor: page["next"]}

    async def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            answer = await self._http.request(method, path, **more)
        except httpx2.HTTPError as error:
            raise ClientError(f"the relay cannot be reached: {error}") from error
        if not answer.is_success:
            raise _refusal(answer)
        body: dict[str, Any] = answer.json() if answer.content else {}
        return body


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, clock: Clock | None = None) -> None:
    """Check a webhook as its subscriber: returns when the signature holds, else raises `SignatureInvalid`."""
    signature.verify([secret], headers, body, now_s=(clock or SystemClock()).now_ms() // 1000)


class _Over(Exception):
    """204: the job has ended, and everything has been read."""


class _BadGateway(Exception):
    """Somebody in front of the relay, or the relay itself, asks to come again."""


def _refusal(answer: httpx2.Response) -> ClientError:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    problem = problem if isinstance(problem, dict) else {}
    detail = problem.get("detail") or f"the relay answered {answer.status_code}"
    return ClientError(str(detail), http_status=answer.status_code, problem=problem)
