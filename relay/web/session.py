"""`/session`: signing in with a token, for people at a browser; the cookie is the session, and nothing is stored.

The cookie holds the hash of the token, sealed: it survives a restart of the relay, and dies with the token.
"""

import ipaddress
from collections import OrderedDict
from contextlib import suppress
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from relay.core.job import iso
from relay.errors import LimitReached, Unauthorized
from relay.observe import about
from relay.web.guard import SESSION_S, TOKEN_MAX_CHARS, Principal, check_origin
from relay.web.problem import Json, read_object, read_query
from relay.web.subscriptions import read_model

FAILURES_MAX: Final = 10
FAILURE_FORGOTTEN_S: Final = 6.0
ADDRESSES_MAX: Final = 4_096
ADDRESS_MAX_CHARS: Final = 64


class SignIn(BaseModel):
    """The body of `POST /session`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=TOKEN_MAX_CHARS)]


class Attempts:
    """Wrong tokens by address: ten at once, then one every six seconds. Of too many addresses the oldest is let go."""

    def __init__(self) -> None:
        # When all failures of an address will be forgotten, in the clock's monotonic seconds.
        self._until_s: OrderedDict[str, float] = OrderedDict()

    def check(self, address: str, now_s: float) -> None:
        """Raises `LimitReached` while there have been too many."""
        over_s = self._until_s.get(address, now_s) - now_s - (FAILURES_MAX - 1) * FAILURE_FORGOTTEN_S
        if over_s > 0:
            raise LimitReached("too many wrong tokens from your address; wait a little", retry_after_s=int(over_s) + 1)

    def failed(self, address: str, now_s: float) -> None:
        self._until_s[address] = max(self._until_s.pop(address, now_s), now_s) + FAILURE_FORGOTTEN_S
        if len(self._until_s) > ADDRESSES_MAX:
            self._until_s.popitem(last=False)


async def create(request: Request) -> Response:
    """201 and the cookie; 401 for a token that is not known, 429 after too many of those."""
    state: Any = request.app.state
    read_query(request)
    state.guard.check_host(request)
    check_origin(request, state.settings.public_url)
    address, now_s = _network(request.client.host if request.client else ""), state.clock.monotonic_s()
    about(client=address)
    state.sign_ins.check(address, now_s)
    given = read_model(SignIn, await read_object(request))
    try:
        sealed, principal = await state.guard.sign_in(given.token, state.clock.now_ms())
    except Unauthorized:
        state.sign_ins.failed(address, now_s)
        raise
    answer = Json(session_view(principal), 201, {"Cache-Control": "no-store"})
    answer.set_cookie(state.guard.cookie(request), sealed, max_age=SESSION_S, **_kept(request))
    return answer


async def show(request: Request) -> Response:
    """Who has signed in here, or whose token came."""
    read_query(request)
    return Json(session_view(request.state.principal), headers={"Cache-Control": "no-store"})


async def end(request: Request) -> Response:
    """204, and the browser forgets the cookie; with it or without."""
    state: Any = request.app.state
    read_query(request)
    check_origin(request, state.settings.public_url)
    answer = Response(status_code=204)
    answer.delete_cookie(state.guard.cookie(request), **_kept(request))
    return answer


def session_view(principal: Principal) -> dict[str, Any]:
    """What the page must know to show only what its reader may do."""
    return {"name": principal.name, "scopes": sorted(principal.scopes), "expiresAt": iso(principal.until_ms)}


def _kept(request: Request) -> dict[str, Any]:
    secure = request.app.state.guard.is_secure(request)
    return {"path": "/", "secure": secure, "httponly": True, "samesite": "strict"}


def _network(host: str) -> str:
    """The address; for IPv6 the network that one customer has, of whose addresses they may use a new one each time."""
    with suppress(ValueError):
        if ":" in host:
            return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
    return host[:ADDRESS_MAX_CHARS]
