"""Who did what: each change that somebody asks for is handed to the store with its line, and the lines are listed."""

from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from relay.core.audit import Audited
from relay.core.job import iso
from relay.core.ledger import Deed, Happening
from relay.store.contract import PAGE_MAX
from relay.web.guard import Principal
from relay.web.problem import Json, read_query, whole

R = TypeVar("R")
PAGE_DEFAULT: Final = 50
FILTERS: Final = ("actor", "action", "object")


def asked_for(request: Request, happening: Happening[R], object_id: str | None = None) -> Audited[R]:
    """The happening with the line that says by whom; `object_id` is of what is changed or made."""
    return Audited(happening, deed(request, object_id))


def deed(request: Request, object_id: str | None = None) -> Deed:
    principal: Principal = request.state.principal
    return Deed(
        at_ms=request.app.state.clock.now_ms(),
        token_id=principal.token_id,
        actor=principal.name,
        action=f"{request.method} {request.scope['route'].path}",
        object=object_id,
        request_id=request.state.request_id,
    )


async def index(request: Request) -> Response:
    """Who changed what, newest first: `actor` is a token's name or id, `action` a door, `object` the id of anything."""
    state: Any = request.app.state
    query = read_query(request, one=(*FILTERS, "cursor", "limit"))
    limit = whole(query, "limit", PAGE_DEFAULT, 1, PAGE_MAX)
    before = whole(query, "cursor", 0, 1, 10**18) or None
    wanted = {name: query[name][0] for name in FILTERS if query[name]}
    found: list[Deed] = await state.store.deeds(wanted, before, limit + 1)
    page = found[:limit]
    return Json({"data": [_shown(row) for row in page], "next": str(page[-1].seq) if len(found) > limit else None})


def _shown(row: Deed) -> dict[str, Any]:
    return {
        "at": iso(row.at_ms),
        "actor": row.actor,
        "token": row.token_id,
        "action": row.action,
        "object": row.object,
        "request": row.request_id,
    }
