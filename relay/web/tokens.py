"""Named tokens: made, listed, revoked. A token is shown when it is made, and never again."""

from contextlib import suppress
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from relay.core.job import iso
from relay.core.ledger import Token
from relay.core.tokens import TokenCreated, TokenRevoked
from relay.errors import InvalidRequest, NotFound
from relay.observe import about
from relay.vault import hash_token, new_token, new_uuid7
from relay.web.audit import asked_for
from relay.web.guard import Scope
from relay.web.problem import Json, read_object, read_query
from relay.web.subscriptions import read_model

PREFIX: Final = "relay_"
NAME_MAX_CHARS: Final = 64
PER_DAY_MAX: Final = 100_000
TTL_MAX_S: Final = 10 * 366 * 86_400


def _name(text: str) -> str:
    # Two names that look alike would be two tokens.
    if not (0 < len(text) <= NAME_MAX_CHARS and text.isprintable() and text == text.strip()):
        sentence = f"a name has 1 to {NAME_MAX_CHARS} printable characters, and no space at either end"
        raise PydanticCustomError("name_form", sentence)
    return text


class NewToken(BaseModel):
    """The body of `POST /v1/tokens`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, AfterValidator(_name), Field(json_schema_extra={"minLength": 1, "maxLength": NAME_MAX_CHARS})]
    scopes: list[Scope] = Field(min_length=1, max_length=10)
    maxWaiting: int | None = Field(default=None, ge=1)  # noqa: N815 # the name on the wire
    maxPerDay: int | None = Field(default=None, ge=1, le=PER_DAY_MAX)  # noqa: N815 # the name on the wire
    ttlS: int | None = Field(default=None, ge=60, le=TTL_MAX_S)  # noqa: N815 # the name on the wire


async def create(request: Request) -> Response:
    """201 and the token, which is shown this once."""
    state: Any = request.app.state
    read_query(request)
    given = read_model(NewToken, await read_object(request))
    most = state.settings.queue_per_token
    if given.maxWaiting is not None and given.maxWaiting > most:
        message = f"maxWaiting: no token may have more than {most} waiting jobs (RELAY_QUEUE_PER_TOKEN)"
        raise InvalidRequest.field("maxWaiting", "range", message, given=given.maxWaiting, allowed=[1, most])
    now_ms, secret = state.clock.now_ms(), new_token(PREFIX)
    for over in await state.store.tokens():
        if not over.good_at(now_ms):  # its name is free again
            with suppress(NotFound):
                await state.store.apply(TokenRevoked(over.id))
    token = Token(
        id=new_uuid7(now_ms),
        name=given.name,
        hash=hash_token(secret),
        scopes=sorted(set(given.scopes)),
        max_waiting=given.maxWaiting,
        max_per_day=given.maxPerDay,
        expires_at_ms=now_ms + given.ttlS * 1000 if given.ttlS is not None else None,
        created_at_ms=now_ms,
    )
    await state.store.apply(asked_for(request, TokenCreated(token), token.id))
    about(made=token.id)
    return Json({**token_view(token), "token": secret}, 201, {"Cache-Control": "no-store"})


async def index(request: Request) -> Response:
    """All living tokens, oldest first."""
    read_query(request)
    state: Any = request.app.state
    now_ms, tokens = state.clock.now_ms(), await state.store.tokens()
    return Json({"data": [token_view(token) for token in tokens if token.good_at(now_ms)], "next": None})


async def revoke(request: Request) -> Response:
    """204, and the token opens nothing from now on; the jobs that it submitted go on."""
    token_id = request.path_params["id"]
    await request.app.state.store.apply(asked_for(request, TokenRevoked(token_id), token_id))
    return Response(status_code=204)


def token_view(token: Token) -> dict[str, Any]:
    """What is told of a token: never the token, nor its hash."""
    return {
        "id": token.id,
        "name": token.name,
        "scopes": token.scopes,
        "maxWaiting": token.max_waiting,
        "maxPerDay": token.max_per_day,
        "expiresAt": iso(token.expires_at_ms),
        "createdAt": iso(token.created_at_ms),
    }
