"""The Python client: submit, watch with resume, wait, download, and verify webhooks.

    async with RelayClient("http://127.0.0.1:8080", token) as relay:
        job = await relay.submit(model="gen4.5", text_prompt="A city at golden hour")
        async for event in relay.watch(job["id"]):
            print(event["type"], event["data"]["job"]["progress"])

Everything that goes wrong is a `ClientError`; when the relay said why, `problem` holds its answer (RFC 9457).
"""

import asyncio
import base64
import hashlib
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Any, Final, Self

import httpx2

from relay.clock import Clock, SystemClock
from relay.core import signature
from relay.core.event import FINAL_TYPES, encode
from relay.errors import ClientError

TIMEOUT_S: Final = 30.0
# The relay looks through the whole copy before its first byte.
BACKUP_TIMEOUT_S: Final = 600.0
# The relay sends a heartbeat every 15 s; three missing ones mean that the connection is dead.
SILENCE_S: Final = 50.0
RECONNECT_S: Final = (0.2, 1.0, 2.0, 5.0, 10.0, 10.0, 10.0)
# However long a server, or whoever stands in front of it, asks to be left alone.
WAIT_MAX_S: Final = 60.0
SUBMIT_TRIES: Final = 3
PAGE: Final = 100
# The types of what a stream tells of itself begin like this.
NOTICE: Final = "stream."
GAP: Final = "stream.gap"
_ENDED: Final = 204
_Query = Mapping[str, Sequence[str]]


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

    async def jobs(self, limit: int, **filters: Sequence[str]) -> list[dict[str, Any]]:
        """The newest `limit` jobs; the query of `GET /v1/jobs` chooses among them: `state`, `model`, `since`, `q`, …"""
        return await self._all("/v1/jobs", "cursor", filters, limit)

    async def why(self, job_id: str) -> dict[str, Any]:
        """What a job has done, waits for and will do next: `sentences`, and the `facts` behind them."""
        return await self._call("GET", f"/v1/jobs/{job_id}/why")

    async def why_delivery(self, delivery_id: str) -> dict[str, Any]:
        """Why a delivery has, or has not, arrived."""
        return await self._call("GET", f"/v1/deliveries/{delivery_id}/why")

    async def why_subscription(self, subscription_id: str, job: str | None = None) -> dict[str, Any]:
        """How it goes with a subscriber, or why it was, or was not, told of a job."""
        return await self._call("GET", f"/v1/subscriptions/{subscription_id}/why", params={"job": job} if job else {})

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

    async def subscriptions(self) -> list[dict[str, Any]]:
        """All subscriptions, without their addresses and secrets."""
        found: list[dict[str, Any]] = (await self._call("GET", "/v1/subscriptions"))["data"]
        return found

    async def subscription(self, subscription_id: str, verb: str = "", **fields: Any) -> dict[str, Any]:
        """One subscription, or the answer of one of its doors: `rotate`, `ping`, `enable`."""
        path = f"/v1/subscriptions/{subscription_id}"
        return await (self._call("POST", f"{path}/{verb}", json=fields) if verb else self._call("GET", path))

    async def update_subscription(self, subscription_id: str, **fields: Any) -> dict[str, Any]:
        """Change some of what `subscribe` takes."""
        return await self._call("PATCH", f"/v1/subscriptions/{subscription_id}", json=fields)

    async def unsubscribe(self, subscription_id: str) -> None:
        """Remove a subscription; what it is still owed ends as dead letters."""
        await self._call("DELETE", f"/v1/subscriptions/{subscription_id}")

    async def all_deliveries(self, limit: int, **filters: Sequence[str]) -> list[dict[str, Any]]:
        """The newest `limit` deliveries; `state`, `subscription` and `job` choose among them."""
        return await self._all("/v1/deliveries", "cursor", filters, limit)

    async def delivery(self, delivery_id: str) -> dict[str, Any]:
        """One delivery with the answers to its attempts."""
        return await self._call("GET", f"/v1/deliveries/{delivery_id}")

    async def retry_delivery(self, delivery_id: str) -> dict[str, Any]:
        """Send one again, now, under the same id."""
        return await self._call("POST", f"/v1/deliveries/{delivery_id}/retry")

    async def replay(self, chosen: Mapping[str, Any], *, dry_run: bool = True) -> dict[str, Any]:
        """Send all deliveries again that a filter chooses, or only count them; `replay_of` tells how far it is."""
        return await self._call("POST", "/v1/deliveries/replay", json={"filter": dict(chosen), "dryRun": dry_run})

    async def replay_of(self, replay_id: str) -> dict[str, Any]:
        return await self._call("GET", f"/v1/replays/{replay_id}")

    async def artifacts(self, limit: int, **filters: Sequence[str]) -> list[dict[str, Any]]:
        """The newest `limit` files that the relay keeps or is to keep; `state` and `job` choose among them."""
        return await self._all("/v1/artifacts", "cursor", filters, limit)

    async def artifacts_do(self, verb: str, **fields: Any) -> dict[str, Any]:
        """`fetch` (`job`), `prune` (`olderThanS`), or `<file id>/verify`, as the door of that name."""
        return await self._call("POST", f"/v1/artifacts/{verb}", json=fields)

    async def create_token(self, name: str, scopes: Sequence[str], **limits: int | None) -> dict[str, Any]:
        """Make a named token (`maxWaiting`, `maxPerDay`, `ttlS`); the answer holds the `token` itself, this once."""
        given = {key: value for key, value in limits.items() if value is not None}
        return await self._call("POST", "/v1/tokens", json={"name": name, "scopes": list(scopes), **given})

    async def accounts(self) -> list[dict[str, Any]]:
        """The upstream's accounts, as `GET /v1/accounts` shows them (scope read)."""
        found: list[dict[str, Any]] = (await self._call("GET", "/v1/accounts"))["data"]
        return found

    async def stats(self, since: str | None = None) -> dict[str, Any]:
        """Counts, rates and times since then (an ISO time, or so long ago: `30d`), as `GET /v1/stats` shows them."""
        return await self._call("GET", "/v1/stats", params={"since": since} if since else {})

    async def quarantine(self, limit: int) -> list[dict[str, Any]]:
        """The newest `limit` bodies that came to a callback address and were no report on its task."""
        return await self._all("/v1/quarantine", "cursor", limit=limit)

    async def audit(self, limit: int, **filters: str | None) -> list[dict[str, Any]]:
        """The newest `limit` lines of who changed what; only the admin token may read them."""
        given = {name: value for name, value in filters.items() if value is not None}
        return await self._all("/v1/audit", "cursor", given, limit)

    async def tokens(self) -> list[dict[str, Any]]:
        """The living tokens, oldest first."""
        found: list[dict[str, Any]] = (await self._call("GET", "/v1/tokens"))["data"]
        return found

    async def revoke_token(self, token_id: str) -> None:
        """From now on the token opens nothing."""
        await self._call("DELETE", f"/v1/tokens/{token_id}")

    async def watch(self, job_id: str) -> AsyncIterator[dict[str, Any]]:
        """Every event of a job, from its first to its final one, each once and in order.

        A connection that breaks is made again behind the last event that came, after the time that the relay asks for.
        Where events are gone from the log, a `stream.gap` comes in their place (`data` says how many, and where the
        job can be read). Ends after the final event; raises `ClientError` when the relay refuses, or cannot be reached
        again after several tries.
        """
        async with aclosing(self._follow(f"/v1/jobs/{job_id}/events", {}, None)) as frames:
            async for _, event in frames:
                if event["type"] == GAP or not event["type"].startswith(NOTICE):
                    yield event
                if event["type"] in FINAL_TYPES:
                    return

    async def listen(
        self, *, after: str | None = None, since: str = "now", types: Sequence[str] = (), jobs: Sequence[str] = ()
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """The events of all jobs as they are committed, for ever: each with the position to resume behind it.

        Begins behind the position `after`, else at `since`. What happens to the stream itself comes in the same way,
        with a type that begins with `stream.`: `stream.cursor` (the position alone has moved), `stream.gap` (events
        before here are gone), `stream.broken` (the connection; it is made again as often as it takes). `ClientError`
        when the relay refuses, or cannot be reached at the start.
        """
        query = {"type": [*types], "job": [*jobs]}
        if after is None:
            # A page tells the position of this moment, before the first event comes.
            page = await self._call("GET", "/v1/events", params={**query, "since": since, "limit": "1"})
            after = str(page["next"])
            yield after, (page["data"] or [{"type": "stream.cursor", "data": {}}])[0]
        async with aclosing(self._follow("/v1/events", query, after, patient=True)) as frames:
            async for found in frames:
                yield found

    async def resume(self, *, force: bool = False) -> dict[str, Any]:
        """Let the queue move after a restore; `hold` is what held it."""
        return await self._call("POST", "/v1/resume", json={"force": force})

    async def backup(self, path: Path) -> int:
        """Save a copy of the relay's database as a new file, whole or not at all; the number of bytes."""
        draft, digest, size = path.with_name(f".{path.name}.part"), hashlib.sha256(), 0
        if await asyncio.to_thread(path.exists):
            raise ClientError(f"{path} exists already")
        try:
            async with self._http.stream("POST", "/v1/backup", timeout=BACKUP_TIMEOUT_S) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise _refusal(answer)
                with await asyncio.to_thread(open, draft, "wb", opener=_private) as file:
                    async for chunk in answer.aiter_raw():
                        size += await asyncio.to_thread(file.write, chunk)
                        digest.update(chunk)
                    await asyncio.to_thread(_synced, file)
            if f"sha-256=:{base64.b64encode(digest.digest()).decode()}:" != answer.headers.get("repr-digest"):
                raise ClientError("the copy did not come as it was sent; try again")
            draft.rename(path)
        except httpx2.HTTPError as error:
            raise ClientError(f"the copy did not come whole: {error}") from error
        finally:
            draft.unlink(missing_ok=True)
        return size

    async def download(self, url: str, path: Path) -> int:
        """Save an artifact by its signed address; the number of bytes. No token is sent."""
        size = 0
        try:
            async with (
                httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http,
                http.stream("GET", url) as answer,
            ):
                if answer.status_code != 200:
                    raise ClientError(f"the file cannot be had: {answer.status_code}", http_status=answer.status_code)
                with await asyncio.to_thread(path.open, "wb") as file:
                    async for chunk in answer.aiter_bytes():
                        size += await asyncio.to_thread(file.write, chunk)
        except httpx2.HTTPError as error:
            raise ClientError(f"the file did not come whole: {error}") from error
        return size

    async def _follow(
        self, path: str, query: _Query, last: str | None, *, patient: bool = False
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """Events and notices of a stream with the position behind each; a stream that breaks is opened again there."""
        failures, was_open, retry_s = 0, False, 0.0
        while True:
            try:
                async with aclosing(self._stream(path, query, last)) as frames:
                    async for frame in frames:
                        failures, was_open, last = 0, True, frame.id or last
                        retry_s = retry_s if frame.retry is None else frame.retry / 1000
                        if frame.data:
                            yield last or "", _told(frame)
                raise _Again("it has ended")
            except (httpx2.HTTPError, _Again) as error:
                if failures >= len(RECONNECT_S) and not (patient and was_open):
                    raise ClientError(f"the stream broke, and the relay does not answer ({error})") from error
                reason = f"the stream broke ({error}), and is opened again"
                asked_s = error.wait_s if isinstance(error, _Again) else 0.0
            except _Over:
                return
            yield last or "", {"type": "stream.broken", "data": {"reason": reason}}
            # What the stream said of itself spreads those who all lost it at the same moment.
            own_s = retry_s if retry_s and not failures else RECONNECT_S[min(failures, len(RECONNECT_S) - 1)]
            await self._clock.sleep(min(max(own_s, asked_s), WAIT_MAX_S))
            failures += 1

    async def _stream(self, path: str, query: _Query, last: str | None) -> AsyncGenerator[httpx2.ServerSentEvent]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        timeout = httpx2.Timeout(TIMEOUT_S, read=SILENCE_S)
        async with self._http.stream("GET", path, params=query, headers=headers, timeout=timeout) as answer:
            if answer.status_code == _ENDED:
                raise _Over
            if answer.status_code in (429, 502, 503, 504):
                after = answer.headers.get("retry-after", "")
                raise _Again(f"{answer.status_code}", float(after) if after.isdecimal() else 0.0)
            if answer.status_code != 200:
                await answer.aread()
                raise _refusal(answer)
            async for frame in httpx2.EventSource(answer):
                yield frame

    async def _all(
        self, path: str, cursor: str, filters: _Query = MappingProxyType({}), limit: int | None = None
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        query: dict[str, Sequence[str]] = {}
        while True:
            size = PAGE if limit is None else min(PAGE, limit - len(found))
            page = await self._call("GET", path, params={"limit": str(size), **filters, **query})
            found += page["data"]
            # The log of events has no end; a list may have little on a page, or nothing, and more behind it.
            over = len(page["data"]) < size if cursor == "last_event_id" else page["next"] is None
            if over or len(found) == limit:
                return found
            query = {cursor: page["next"]}

    async def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        try:
            answer = await self._http.request(method, path, **more)
        except httpx2.HTTPError as error:
            raise ClientError(f"the relay cannot be reached: {error}") from error
        if not answer.is_success:
            raise _refusal(answer)
        try:
            body: dict[str, Any] = answer.json() if answer.content else {}
        except ValueError as error:
            raise ClientError(f"what answers at {self._http.base_url} is no relay: it is not JSON") from error
        return body


def verify(secret: str, headers: Mapping[str, str], body: bytes, *, clock: Clock | None = None) -> None:
    """Check a webhook as its subscriber: returns when the signature holds, else raises `SignatureInvalid`."""
    signature.verify([secret], headers, body, now_s=(clock or SystemClock()).now_ms() // 1000)


class Signer:
    """Signs events with a secret of one's own as the relay signs its webhooks."""

    def __init__(self, secret: str, *, clock: Clock | None = None) -> None:
        """`InvalidRequest` when `secret` is not `whsec_` and base64 of 24 to 64 bytes."""
        signature.check_secret(secret)
        self._secret = secret
        self._clock = clock or SystemClock()

    def __call__(self, event: dict[str, Any]) -> tuple[dict[str, str], bytes]:
        """Headers and body of a webhook, stamped now."""
        body, timestamp_s = encode(event), self._clock.now_ms() // 1000
        headers = {
            "content-type": "application/json",
            signature.ID_HEADER: event["id"],
            signature.TIMESTAMP_HEADER: str(timestamp_s),
            signature.SIGNATURE_HEADER: signature.sign([self._secret], event["id"], timestamp_s, body),
        }
        return headers, body


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _synced(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Over(Exception):
    """204: the job has ended, and everything has been read."""


class _Again(Exception):
    """The stream is over, or somebody in front of the relay, or it itself, asks to come again after `wait_s`."""

    def __init__(self, said: str, wait_s: float = 0.0) -> None:
        super().__init__(said)
        self.wait_s = wait_s


def _told(frame: httpx2.ServerSentEvent) -> dict[str, Any]:
    told: Any = frame.json()
    return {"type": frame.event, "data": told} if frame.event.startswith(NOTICE) else told


def _refusal(answer: httpx2.Response) -> ClientError:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    problem = problem if isinstance(problem, dict) else {}
    detail = problem.get("detail") or f"the relay answered {answer.status_code}"
    return ClientError(str(detail), http_status=answer.status_code, problem=problem)
