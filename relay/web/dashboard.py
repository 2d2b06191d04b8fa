"""`GET /`: the dashboard's shell. Everything that it shows, it asks of the public doors itself."""

from functools import cache
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.web.static import FOLDER

# A prompt, a file name or a callback's body that came through as a script would find nothing here that runs it.
POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "worker-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' blob:",
    "media-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "lit-html relay",
}
HEADERS: Final = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@cache
def shell() -> bytes:
    """The page before anything has been asked for; the same for everybody."""
    return (FOLDER / "dashboard" / "shell.html").read_bytes()


async def page(request: Request) -> Response:
    """The shell; files in a bucket come from its own address, and only those may come from elsewhere."""
    state: Any = request.app.state
    state.guard.check_host(request)
    policy = dict(POLICY)
    if state.settings.artifacts.startswith("s3://"):
        for kind in ("img-src", "media-src"):
            policy[kind] += " https:"
    headers = {"Content-Security-Policy": "; ".join(" ".join(rule) for rule in policy.items())}
    return Response(shell(), headers=headers | HEADERS, media_type="text/html")
