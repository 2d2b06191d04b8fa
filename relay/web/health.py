"""`/healthz`: the process answers. `/readyz`: the store can be written."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from relay.errors import RelayError, Unavailable
from relay.web.problem import Json


async def alive(request: Request) -> Response:
    return Json({"status": "ok"})


async def ready(request: Request) -> Response:
    """200 when a transaction can be written, else 503. Accounts are shown to `read` tokens only."""
    state: Any = request.app.state
    try:
        await state.store.check()
    except Unavailable as error:
        return Json({"status": "unavailable", "reason": error.message}, 503, {"Retry-After": "5"})
    body: dict[str, Any] = {"status": "ok", "jobs": await state.store.count_by_state()}
    if _may_read(request):
        body["accounts"] = [
            {"email": account.email, "slots": account.slots, "parked": account.parked}
            for account in await state.store.accounts()
        ]
    return Json(body)


def _may_read(request: Request) -> bool:
    try:
        return "read" in request.app.state.guard.who(request).scopes
    except RelayError:
        return False
