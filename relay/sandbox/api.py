"""The sandbox's HTTP face: the upstream's addresses under /v1/runwayml, its artifacts, and the sandbox's own switches.

POST /v1/runwayml/videos/create            GET /v1/runwayml/tasks/{taskId}     GET /v1/runwayml/tasks/
GET  /v1/runwayml/scheduler/               GET /v1/runwayml/accounts           GET /v1/runwayml/features/
POST, GET /v1/runwayml/assets/             GET, DELETE /v1/runwayml/assets/{assetId}
GET  /artifacts/{name}?_jwt=               GET /sandbox/state                  GET, PUT /sandbox/faults
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from relay.clock import Clock
from relay.errors import InvalidRequest
from relay.sandbox.answer import Answer, Refusal, not_found, refusal
from relay.sandbox.files import Files
from relay.sandbox.sender import SENDING_MAX, Sender
from relay.sandbox.vendor import Vendor

PREFIX: Final = "/v1/runwayml"
BODY_MAX_BYTES: Final = 1024 * 1024
FORM_FIELDS_MAX: Final = 100
HELD_MAX_S: Final = 600.0
TRANSPORT: Final = "sandbox.transport"

Endpoint = Callable[[Request], Answer | Response | Awaitable[Answer]]


class Sandbox(Starlette):
    """The sandbox as an ASGI app; its lifespan runs the task that sends callbacks.

    Every request is counted, its token checked, the vendor asked, the answer carried out. Artifact addresses begin with
    `base_url`, or else with the scheme and Host of the request that created the task.
    """

    def __init__(self, vendor: Vendor, clock: Clock, *, base_url: str | None = None) -> None:
        self._vendor = vendor
        self._clock = clock
        self._base_url = base_url.rstrip("/") if base_url else None
        self._files = Files(vendor, clock)
        limits = httpx2.Limits(max_connections=SENDING_MAX, max_keepalive_connections=SENDING_MAX)
        self._client = httpx2.AsyncClient(trust_env=False, timeout=None, limits=limits)
        self._sender = Sender(vendor.outbox, clock, self._client)
        self._released = asyncio.Event()
        handlers = {HTTPException: _not_served}
        super().__init__(routes=self._doors(), lifespan=Sandbox._running, exception_handlers=handlers)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        async with self._client:
            sending = asyncio.create_task(self._sender.run())
            try:
                yield
            finally:
                self.release()
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def release(self) -> None:
        """End every request that hangs, so that a server can stop."""
        self._released.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # ASGI cannot cut a connection. Under uvicorn `send` is a method of an object that has the transport.
        scope[TRANSPORT] = getattr(getattr(send, "__self__", None), "transport", None)
        if scope["type"] == "http":
            # With and without a slash at the end: a redirect would lose a POST's body, and the upstream sends none.
            scope["path"] = scope["path"].rstrip("/")
        await super().__call__(scope, receive, send)

    def _doors(self) -> list[Route]:
        now_ms, asking, accounts, files = self._clock.now_ms, self._vendor.asking, self._vendor.accounts, self._files
        return [
            self._route("POST", "/videos/create", self._create),
            self._route("GET", "/tasks/", lambda asked: asking.tasks(now_ms(), asked.query_params)),
            self._route("GET", "/tasks/{taskId}", lambda asked: asking.task(now_ms(), _raw_id(asked))),
            self._route("GET", "/scheduler/", lambda asked: asking.scheduler(now_ms())),
            self._route("GET", "/accounts", lambda asked: accounts.listed(now_ms())),
            self._route("GET", "/features/", lambda asked: accounts.features(asked.query_params)),
            self._route("POST", "/assets/", lambda asked: files.add(asked, self._origin(asked))),
            self._route("GET", "/assets/", lambda asked: files.listed(asked.query_params, self._origin(asked))),
            self._route("GET", "/assets/{assetId}", lambda asked: files.one(_raw_id(asked), self._origin(asked))),
            self._route("DELETE", "/assets/{assetId}", lambda asked: files.delete(_raw_id(asked), self._origin(asked))),
            # The host of its artifacts, and the sandbox's own addresses: no token.
            self._route("GET", "/artifacts/{name}", files.serve, upstream=False),
            Route("/sandbox/state", self._state, methods=["GET"]),
            Route("/sandbox/faults", self._set_faults, methods=["GET", "PUT"]),
        ]

    def _route(self, method: str, name: str, endpoint: Endpoint, *, upstream: bool = True) -> Route:
        async def serve(request: Request) -> Response:
            self._vendor.requests[name] += 1
            try:
                if upstream:
                    self._vendor.authorize(request.headers.get("authorization"))
                made = endpoint(request)
                answer = await made if isinstance(made, Awaitable) else made
            except Refusal as refused:
                answer = self._vendor.dressed(refused.answer) if upstream else refused.answer
            except ClientDisconnect:
                answer = Answer(cut=True)
            return answer if isinstance(answer, Response) else await self._carried_out(request, answer)

        path = (PREFIX if upstream else "") + name.replace("Id}", "Id:path}").rstrip("/")
        return Route(path, serve, methods=[method])

    async def _create(self, request: Request) -> Answer:
        form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
        fields = await (_form(request) if form else _json(request))
        try:
            return self._vendor.create(self._clock.now_ms(), fields, self._origin(request))
        finally:
            self._sender.wake()

    async def _state(self, request: Request) -> Response:
        return JSONResponse(self._vendor.state(self._clock.now_ms()))

    async def _set_faults(self, request: Request) -> Response:
        try:
            if request.method == "PUT":
                specs = await _json(request)
                if not isinstance(specs, dict):
                    raise InvalidRequest.field("body", "object", "faults are a JSON object, name to value")
                self._vendor.faults.replace(specs)
        except InvalidRequest as error:
            problems = [problem.as_json() for problem in error.problems]
            return _plain(refusal(400, error.message, problems=problems).answer)
        except Refusal as refused:
            return _plain(refused.answer)
        self._sender.wake()
        return JSONResponse(self._vendor.faults.as_json())

    async def _carried_out(self, request: Request, answer: Answer) -> Response:
        if answer.after_first_callback is not None:
            await self._sender.sent(answer.after_first_callback)
        if answer.wait_ms or answer.hang:
            await self._silence(request, HELD_MAX_S if answer.hang else answer.wait_ms / 1000)
        return _Cut() if answer.hang or answer.cut else _plain(answer)

    async def _silence(self, request: Request, most_s: float) -> None:
        """Until the caller hangs up, the server stops, or so much time has passed."""
        gone = asyncio.create_task(_disconnected(request.receive))
        released = asyncio.create_task(self._released.wait())
        late = asyncio.create_task(self._clock.sleep(most_s))
        await asyncio.wait({gone, released, late}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (gone, released, late):
            waiting.cancel()

    def _origin(self, request: Request) -> str:
        return self._base_url or f"{request.url.scheme}://{request.url.netloc}"


class _Cut(Response):
    """Closes the connection without a byte of an answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope.get(TRANSPORT)
        if transport is None:
            raise ConnectionAbortedError("the sandbox cuts this connection")
        transport.close()
        # To return before the server has noticed would make it answer a 500.
        await _disconnected(receive)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _json(request: Request) -> Any:
    """The body as JSON; raises Refusal for one that is none, or too large."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_MAX_BYTES:
            raise refusal(413, f"The request body is larger than {BODY_MAX_BYTES} bytes.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise refusal(400, f"Unable to read the request body: {error}.") from error


async def _form(request: Request) -> dict[str, str]:
    try:
        form = await request.form(max_files=0, max_fields=FORM_FIELDS_MAX, max_part_size=BODY_MAX_BYTES)
    except (MultiPartException, HTTPException) as error:
        raise refusal(400, "Unable to read the request body.") from error
    return {name: value for name, value in form.multi_items() if isinstance(value, str)}


def _raw_id(request: Request) -> str:
    """The id as it stood in the path: servers decode `path`, and what was percent-encoded must stay visible."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.decode("latin-1").partition("?")[0].split("/", 4)[4]


def _plain(answer: Answer) -> Response:
    return Response(answer.body, answer.status, {"content-type": answer.content_type})


async def _not_served(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    refused = not_found() if status == 404 else refusal(status, str(getattr(error, "detail", "")))
    return _plain(refused.answer)
