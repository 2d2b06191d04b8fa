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
from relay.errors import BodyTooLarge, InvalidRequest
from relay.sandbox import shapes
from relay.sandbox.answer import Answer, refusal
from relay.sandbox.files import Files
from relay.sandbox.sender import SENDING_MAX, Sender
from relay.sandbox.vendor import Vendor

PREFIX: Final = "/v1/runwayml"
BODY_MAX_BYTES: Final = 1024 * 1024
FORM_FIELDS_MAX: Final = 100
HELD_MAX_S: Final = 600.0
TRANSPORT: Final = "sandbox.transport"

Endpoint = Callable[[Request], Awaitable[Answer]]


class Sandbox(Starlette):
    """The app. `release()` ends every request that hangs, so that a server can stop."""

    released: asyncio.Event

    def release(self) -> None:
        self.released.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # ASGI cannot cut a connection. Under uvicorn `send` is a method of an object that has the transport.
        scope[TRANSPORT] = getattr(getattr(send, "__self__", None), "transport", None)
        await super().__call__(scope, receive, send)


def build(
    vendor: Vendor,
    clock: Clock,
    *,
    base_url: str | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> Sandbox:
    """The sandbox as an ASGI app; its lifespan runs the task that sends callbacks.

    Artifact addresses begin with `base_url`, or else with the scheme and Host of the request that created the task.
    `transport` takes the place of the network for callbacks.
    """
    face = _Face(vendor, clock, base_url)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        limits = httpx2.Limits(max_connections=SENDING_MAX, max_keepalive_connections=SENDING_MAX)
        async with httpx2.AsyncClient(transport=transport, trust_env=False, timeout=None, limits=limits) as client:
            face.sender = Sender(vendor, clock, client)
            running = asyncio.create_task(face.sender.run())
            try:
                yield
            finally:
                app_.release()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    app_ = Sandbox(routes=face.routes(), lifespan=lifespan, exception_handlers={HTTPException: _not_served})
    app_.router.redirect_slashes = False
    app_.released = face.released
    return app_


class _Face:
    """One method a route; each counts its request, checks the token, asks the vendor and carries out the answer."""

    def __init__(self, vendor: Vendor, clock: Clock, base_url: str | None) -> None:
        self.sender: Sender | None = None  # only while the lifespan runs
        self._vendor = vendor
        self._clock = clock
        self._base_url = base_url.rstrip("/") if base_url else None
        self._files = Files(vendor, clock)
        self.released = asyncio.Event()

    def routes(self) -> list[Route]:
        return [
            *self._both("/videos/create", self.create, "POST"),
            *self._both("/tasks/", self.tasks, "GET"),
            self._route("/tasks/{taskId}", self.task, "GET", path=PREFIX + "/tasks/{id:path}"),
            *self._both("/scheduler/", self.scheduler, "GET"),
            *self._both("/accounts", self.accounts, "GET"),
            *self._both("/features/", self.features, "GET"),
            *self._both("/assets/", self.add_asset, "POST"),
            *self._both("/assets/", self.assets, "GET"),
            self._route("/assets/{assetId}", self.asset, "GET", path=PREFIX + "/assets/{id:path}"),
            self._route("/assets/{assetId}", self.delete_asset, "DELETE", path=PREFIX + "/assets/{id:path}"),
            Route("/artifacts/{name}", self.artifact, methods=["GET"]),
            Route("/sandbox/state", self.state, methods=["GET"]),
            Route("/sandbox/faults", self.faults, methods=["GET"]),
            Route("/sandbox/faults", self.set_faults, methods=["PUT"]),
        ]

    # The upstream's addresses.

    async def create(self, request: Request) -> Answer:
        form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
        try:
            fields = await (_form(request) if form else _json(request))
        except (ValueError, MultiPartException, HTTPException):
            return refusal(shapes.error(400, "Unable to read the request body."))
        made = self._vendor.create(self._clock.now_ms(), fields, self._origin(request))
        self._wake()
        return made

    async def task(self, request: Request) -> Answer:
        return self._vendor.asking.task(self._clock.now_ms(), _raw_id(request, "/tasks/"))

    async def tasks(self, request: Request) -> Answer:
        return self._vendor.asking.tasks(self._clock.now_ms(), request.query_params)

    async def scheduler(self, request: Request) -> Answer:
        return self._vendor.asking.scheduler(self._clock.now_ms())

    async def accounts(self, request: Request) -> Answer:
        return self._vendor.accounts.listed(self._clock.now_ms())

    async def features(self, request: Request) -> Answer:
        return self._vendor.accounts.features(request.query_params)

    async def add_asset(self, request: Request) -> Answer:
        return await self._files.add(request, self._origin(request))

    async def assets(self, request: Request) -> Answer:
        return self._files.listed(request.query_params, self._origin(request))

    async def asset(self, request: Request) -> Answer:
        return self._files.one(_raw_id(request, "/assets/"), self._origin(request))

    async def delete_asset(self, request: Request) -> Answer:
        return self._files.delete(_raw_id(request, "/assets/"), self._origin(request))

    # The host of its artifacts, and the sandbox's own addresses: no token.

    async def artifact(self, request: Request) -> Response:
        self._vendor.count("/artifacts/{name}")
        served = self._files.serve(request)
        return served if isinstance(served, Response) else await self._carried_out(request, served)

    async def state(self, request: Request) -> Response:
        return JSONResponse(self._vendor.state(self._clock.now_ms()))

    async def faults(self, request: Request) -> Response:
        return JSONResponse(self._vendor.faults.as_json())

    async def set_faults(self, request: Request) -> Response:
        try:
            specs = await _json(request)
            if not isinstance(specs, dict):
                raise InvalidRequest.field("body", "object", "faults are a JSON object, name to value")
            self._vendor.faults.replace(specs)
        except InvalidRequest as error:
            problems = [problem.as_json() for problem in error.problems]
            return JSONResponse(shapes.error(400, error.message, problems=problems), 400)
        except ValueError as error:
            return JSONResponse(shapes.error(400, f"not JSON: {error}"), 400)
        self._wake()
        return JSONResponse(self._vendor.faults.as_json())

    # How an answer is given.

    def _both(self, path: str, endpoint: Endpoint, method: str) -> list[Route]:
        # With and without the slash at the end: a redirect would lose a POST's body, and the upstream sends none.
        bare = PREFIX + path.rstrip("/")
        return [self._route(path, endpoint, method, path=bare), self._route(path, endpoint, method, path=bare + "/")]

    def _route(self, name: str, endpoint: Endpoint, method: str, *, path: str) -> Route:
        async def serve(request: Request) -> Response:
            self._vendor.count(name)
            answer = self._vendor.authorize(request.headers.get("authorization"))
            if answer is None:
                try:
                    answer = await endpoint(request)
                except BodyTooLarge as error:
                    answer = refusal(shapes.error(413, error.message))
                except ClientDisconnect:
                    answer = Answer(cut=True)
            return await self._carried_out(request, self._vendor.dressed(answer))

        return Route(path, serve, methods=[method])

    async def _carried_out(self, request: Request, answer: Answer) -> Response:
        if answer.after_first_callback is not None and self.sender is not None:
            await self.sender.sent(answer.after_first_callback)
        if answer.wait_ms:
            await self._silence(request, answer.wait_ms / 1000)
        if answer.hang:
            await self._silence(request, HELD_MAX_S)
        if answer.hang or answer.cut:
            return _Cut()
        return Response(answer.body, answer.status, {"content-type": answer.content_type})

    async def _silence(self, request: Request, most_s: float) -> None:
        """Until the caller hangs up, the server stops, or so much time has passed."""
        gone = asyncio.create_task(_disconnected(request))
        released = asyncio.create_task(self.released.wait())
        late = asyncio.create_task(self._clock.sleep(most_s))
        await asyncio.wait({gone, released, late}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (gone, released, late):
            waiting.cancel()

    def _wake(self) -> None:
        if self.sender is not None:
            self.sender.wake()

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
        while (await receive())["type"] != "http.disconnect":
            pass


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_MAX_BYTES:
            raise BodyTooLarge(f"The request body is larger than {BODY_MAX_BYTES} bytes.")
    return bytes(body)


async def _json(request: Request) -> Any:
    try:
        return json.loads(await _body(request))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


async def _form(request: Request) -> dict[str, str]:
    form = await request.form(max_files=0, max_fields=FORM_FIELDS_MAX, max_part_size=BODY_MAX_BYTES)
    return {name: value for name, value in form.multi_items() if isinstance(value, str)}


def _raw_id(request: Request, after: str) -> str:
    """The id as it stood in the path: servers decode `path`, and what was percent-encoded must stay visible."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.decode("latin-1").partition("?")[0].removeprefix(PREFIX + after)


async def _not_served(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = "Not found." if status == 404 else str(getattr(error, "detail", ""))
    return JSONResponse(shapes.error(status, message), status)
