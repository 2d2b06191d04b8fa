"""Tickets: what a browser may have in an address, to watch one job, or those of one reference, and nothing else.

A ticket is sealed, not stored: it says whose it is, what it opens and until when. It dies with its maker's token.
"""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from relay.core.job import iso
from relay.web.guard import Principal, Ticket
from relay.web.jobs import find
from relay.web.problem import Json, read_object, read_query
from relay.web.subscriptions import read_model

TTL_DEFAULT_S: Final = 3_600
TTL_MAX_S: Final = 86_400


class NewTicket(BaseModel):
    """The body of `POST /v1/tickets`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: str | None = Field(default=None, min_length=1, max_length=400)
    replyRef: str | None = Field(default=None, min_length=1, max_length=1024)  # noqa: N815 # the name on the wire
    ttlS: int = Field(default=TTL_DEFAULT_S, ge=1, le=TTL_MAX_S)  # noqa: N815 # the name on the wire

    @model_validator(mode="after")
    def _opens_one_thing(self) -> "NewTicket":
        if (self.job is None) == (self.replyRef is None):
            raise PydanticCustomError("one_of", "a ticket opens either a job or a replyRef: give one of the two")
        return self


async def create(request: Request) -> Response:
    """201 and the ticket, with the address of the stream that it opens."""
    state: Any = request.app.state
    read_query(request)
    given = read_model(NewTicket, await read_object(request))
    principal: Principal = request.state.principal
    job_id = (await find(request, given.job)).id if given.job is not None else None
    ticket = Ticket(job_id, given.replyRef, state.clock.now_ms() + given.ttlS * 1000)
    sealed = state.guard.seal(principal, ticket)
    path = f"/v1/jobs/{job_id}/events" if job_id else "/v1/events"
    events_url = f"{state.addresses.base_url}{path}?ticket={sealed}"
    body = {"ticket": sealed, "eventsUrl": events_url, "expiresAt": iso(ticket.expires_at_ms)}
    return Json(body, 201, {"Cache-Control": "no-store"})
