"""The peers of the callback benchmark: what the same body costs when nothing is stored.

`parse`: a Starlette route that reads and parses the body, as a receiver must at least. `bare`: an ASGI function without
a framework that reads the body and answers.
"""

import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send


async def _parse(request: Request) -> Response:
    body: dict[str, Any] = json.loads(await request.body())
    return JSONResponse({"result": body["status"]})


parse = Starlette(routes=[Route("/callbacks/{token}", _parse, methods=["POST"])])


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and answers 200."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})
