"""`GET /openapi.json` and `GET /docs`: the document of all doors, and a page that shows it, all from here."""

import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.web.openapi import document

# The viewer writes its styles into the page; its scripts and what it asks for come from this relay alone.
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE: Final = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>relay: API</title>
<link rel="icon" href="/static/dashboard/icon.svg" type="image/svg+xml">
<script type="module" src="/static/docs/openapi-explorer.min.js"></script>
<openapi-explorer spec-url="/openapi.json" hide-server-selection="true"></openapi-explorer>
</html>
"""


async def openapi(request: Request) -> Response:
    """This document, as OpenAPI 3.1; made once, for it changes with the program and the catalogue alone."""
    state: Any = request.app.state
    if getattr(state, "document", None) is None:
        made = document(request.app.routes, state.catalogue, state.settings.validation)
        state.document = json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(state.document, media_type="application/json", headers={"Cache-Control": "no-cache"})


async def page(request: Request) -> Response:
    """A page that shows the document and tries the doors; it asks nobody but this relay."""
    return Response(PAGE, media_type="text/html", headers={"Content-Security-Policy": CSP, "Cache-Control": "no-cache"})
