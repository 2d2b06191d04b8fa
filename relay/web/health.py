"""`/healthz`: the process answers. `/readyz`: the store can be written."""

import asyncio
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.clock import Clock
from relay.errors import RelayError, Unavailable
from relay.store.contract import Store
from relay.web.operation import shown
from relay.web.problem import Json

WRITE_CHECK_EVERY_S: Final = 1.0


class WriteCheck:
    """Writes to the store for all who ask at once, and again when a second has passed or the last write failed."""

    def __init__(self) -> None:
        self._good_until_s = float("-inf")
        self._writing: asyncio.Task[None] | None = None

    async def check(self, store: Store, clock: Clock) -> None:
        """Raises `Unavailable` when the store cannot be written."""
        if self._writing is None:
            if clock.monotonic_s() < self._good_until_s:
                return
            self._writing = asyncio.create_task(self._write(store, clock))
        await asyncio.shield(self._writing)

    async def _write(self, store: Store, clock: Clock) -> None:
        began_s = clock.monotonic_s()
        try:
            await store.check()
            self._good_until_s = began_s + WRITE_CHECK_EVERY_S
        finally:
            self._writing = None


async def alive(request: Request) -> Response:
    return Json({"status": "ok"})


async def ready(request: Request) -> Response:
    """200 when a transaction could be written, a second ago at most, else 503. Accounts are for `read` tokens only."""
    state: Any = request.app.state
    try:
        await state.write_check.check(state.store, state.clock)
    except Unavailable as error:
        return Json({"status": "unavailable", "reason": error.message}, 503, {"Retry-After": "5"})
    body: dict[str, Any] = {"status": "ok", "jobs": await state.store.count_by_state()}
    if await _may_read(request):
        hold = await state.store.hold()
        body["hold"] = hold and shown(hold)
        body["accounts"] = [
            {"email": account.email, "slots": account.slots, "parked": account.parked}
            for account in await state.store.accounts()
        ]
    return Json(body)


async def _may_read(request: Request) -> bool:
    try:
        return "read" in (await request.app.state.guard.who(request)).scopes
    except RelayError:
        return False
