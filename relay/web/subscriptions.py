"""Subscriptions: who is told of events; made, changed, tried out, given new secrets, brought back."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from relay.core.breaker import Breaker
from relay.core.delivering import SecretRotated, SubscriptionChanged, SubscriptionRemoved, SubscriptionSaved
from relay.core.delivery import SECRET_SEAL, URL_SEAL, Subscription
from relay.core.event import FINAL_TYPES, JOB_TYPES, TYPES
from relay.core.job import iso
from relay.core.replaying import BacklogDropped
from relay.core.retry import arrived, shown
from relay.core.signature import check_secret
from relay.core.target import check_url
from relay.errors import Conflict, InvalidRequest, NotFound, Problem, Unavailable
from relay.observe import about
from relay.settings import Duration
from relay.vault import new_uuid7, new_webhook_secret
from relay.web.accept import shown_url
from relay.web.audit import asked_for
from relay.web.problem import PROBLEMS_MAX, Json, read_object, read_query

SUBSCRIPTIONS_MAX: Final = 500
PINGS_AT_ONCE: Final = 8
KEEP_OLD_MAX_S: Final = 7 * 24 * 3600
_ONCE: Final = {"Cache-Control": "no-store"}

Model = TypeVar("Model", bound=BaseModel)

_MESSAGES: Final = {
    "missing": "required",
    "extra_forbidden": "unknown",
    "literal_error": "one_of",
    "greater_than_equal": "range",
    "less_than_equal": "range",
}


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Url = Annotated[str, Field(max_length=2048)]
# Whether a type exists depends on the format, too: `_check_types` judges.
Type = Annotated[str, Field(json_schema_extra={"enum": [*TYPES]})]
Types = Annotated[list[Type], Field(max_length=len(TYPES))]
Secret = Annotated[
    str, Field(description="`whsec_` and base64 of 24 to 64 bytes; made by the relay where there is none")
]
Models = Annotated[list[str], Field(max_length=50)]
ReplyRef = Annotated[str, Field(max_length=1024)]
Format = Literal["event", "task"]
Description = Annotated[str, Field(max_length=500)]


class NewSubscription(_Asked):
    """The body of `POST /v1/subscriptions`."""

    url: Url
    types: Types = []
    models: Models = []
    replyRef: ReplyRef | None = None  # noqa: N815 # the name on the wire
    format: Format = "event"
    description: Description = ""
    secret: Secret | None = None


class ChangedSubscription(_Asked):
    """The body of `PATCH /v1/subscriptions/{id}`: what is absent stays as it is."""

    url: Url = ""
    types: Types = []
    models: Models = []
    replyRef: ReplyRef | None = None  # noqa: N815 # the name on the wire
    format: Format = "event"
    description: Description = ""


class Rotation(_Asked):
    """The body of `POST /v1/subscriptions/{id}/rotate`."""

    secret: Secret | None = None
    keepOldFor: Annotated[Duration, Field(ge=0, le=KEEP_OLD_MAX_S, validate_default=True)] = "24h"  # type: ignore[assignment] # noqa: N815


class Enabling(_Asked):
    """The body of `POST /v1/subscriptions/{id}/enable`."""

    backlog: Literal["all", "final", "none"] = "all"


def read_model(model: type[Model], body: dict[str, Any]) -> Model:
    """The body as a model; an `InvalidRequest` names the broken rules, as many as are told at once."""
    # JSON has one kind of number: 5.0 is the whole number 5.
    whole = {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in body.items()
    }
    try:
        return model.model_validate(whole)
    except ValidationError as error:
        problems = []
        for found in error.errors(include_url=False, include_context=False)[:PROBLEMS_MAX]:
            field = ".".join(str(part) for part in found["loc"]) or "body"
            rule = _MESSAGES.get(found["type"], found["type"])
            # What was given may be a secret or an address that is one.
            problems.append(Problem(field, rule, f"{field}: {found['msg']}"))
        raise InvalidRequest.of(problems) from None


async def create(request: Request) -> Response:
    """201 and the subscription with its secret, which is shown this once."""
    state: Any = request.app.state
    given = read_model(NewSubscription, await read_object(request))
    types = given.types or sorted(FINAL_TYPES)
    _check_types(types, given.format)
    address = _address(state, given.url)
    secret, sealed = _secret(state, given.secret)
    if len(await state.store.subscriptions()) >= SUBSCRIPTIONS_MAX:
        raise Conflict(f"there are {SUBSCRIPTIONS_MAX} subscriptions, and no more are kept; remove one first")
    now_ms = state.clock.now_ms()
    subscription = Subscription(
        id=new_uuid7(now_ms),
        **address,
        secrets=[{"sealed": sealed, "expiresAtMs": None}],
        types=types,
        models=given.models,
        reply_ref=given.replyRef,
        format=given.format,
        description=given.description,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
    await state.store.apply(asked_for(request, SubscriptionSaved(subscription), subscription.id))
    about(made=subscription.id)
    return Json(
        {**subscription_view(subscription), "secret": secret},
        201,
        {"Location": f"/v1/subscriptions/{subscription.id}", **_ONCE},
    )


async def change(request: Request) -> Response:
    """200 and the subscription with what was given changed; a new address is judged like a first one."""
    state: Any = request.app.state
    read_query(request)
    given = read_model(ChangedSubscription, await read_object(request))
    before = await _find(request)
    changes = {name: getattr(given, name) for name in given.model_fields_set}
    if "types" in changes:
        changes["types"] = changes["types"] or sorted(FINAL_TYPES)
    _check_types(changes.get("types", before.types), changes.get("format", before.format))
    if "url" in changes:
        changes |= _address(state, changes.pop("url"))
    if "replyRef" in changes:
        changes["reply_ref"] = changes.pop("replyRef")
    now_ms = state.clock.now_ms()
    changed = SubscriptionChanged(before.id, changes, now_ms, afresh="url_sealed" in changes)
    return await _seen(request, await state.store.apply(asked_for(request, changed, before.id)))


async def rotate(request: Request) -> Response:
    """200 and a new secret, shown this once; those before it sign for as long as `keepOldFor` says."""
    state: Any = request.app.state
    read_query(request)
    given = read_model(Rotation, await read_object(request))
    secret, sealed = _secret(state, given.secret)
    now_ms = state.clock.now_ms()
    old_until_ms = now_ms + given.keepOldFor * 1000
    rotated = SecretRotated(request.path_params["id"], sealed, old_until_ms, now_ms)
    changed = await state.store.apply(asked_for(request, rotated, rotated.subscription_id))
    return Json({**subscription_view(changed), "secret": secret, "oldUntil": iso(old_until_ms)}, 200, _ONCE)


async def ping(request: Request) -> Response:
    """200 and what came back for a signed test event, in whatever state the subscription is; nothing is kept of it."""
    state: Any = request.app.state
    read_query(request)
    subscription = await _find(request)
    if state.pings >= PINGS_AT_ONCE:
        raise Unavailable(f"{PINGS_AT_ONCE} pings are under way already; try again", retry_after_s=1)
    state.pings += 1
    try:
        ping_id, answer = await state.ping(subscription)
    finally:
        state.pings -= 1
    return Json({"id": ping_id, "arrived": arrived(answer), **shown(answer)})


async def enable(request: Request) -> Response:
    """200 and the subscription, active; `backlog` says what of that which it is owed it gets, by default all.

    What it is not to get ends before anything is sent, in many steps where it is much; asked again it goes on.
    """
    state: Any = request.app.state
    read_query(request)
    given = read_model(Enabling, await read_object(request))
    subscription = await _find(request)
    changed = SubscriptionChanged(
        subscription.id, {"state": "active", "reason": None}, state.clock.now_ms(), afresh=True
    )
    if given.backlog != "all":
        dropped = BacklogDropped(subscription.id, given.backlog == "final", state.clock.now_ms())
        while await state.store.apply(dropped):
            pass
    return await _seen(request, await state.store.apply(asked_for(request, changed, subscription.id)))


async def index(request: Request) -> Response:
    read_query(request)
    return Json({"data": await _views(request, await request.app.state.store.subscriptions()), "next": None})


async def show(request: Request) -> Response:
    read_query(request)
    return await _seen(request, await _find(request))


async def remove(request: Request) -> Response:
    """204; what it was still owed is kept as dead letters."""
    subscription = await _find(request)
    state: Any = request.app.state
    removed = SubscriptionRemoved(subscription.id, state.clock.now_ms())
    await state.store.apply(asked_for(request, removed, subscription.id))
    return Response(status_code=204)


async def _find(request: Request) -> Subscription:
    subscription_id = request.path_params["id"]
    found: Subscription | None = await request.app.state.store.subscription(subscription_id)
    if found is None:
        raise NotFound(f"there is no subscription {subscription_id[:80]}")
    return found


async def _seen(request: Request, subscription: Subscription) -> Response:
    return Json((await _views(request, [subscription]))[0])


async def _views(request: Request, found: Sequence[Subscription]) -> list[dict[str, Any]]:
    store: Any = request.app.state.store
    owed, breakers = await store.owed(), {breaker.place: breaker for breaker in await store.breakers()}
    return [subscription_view(one, owed.get(one.id, 0), breakers.get(one.place)) for one in found]


def subscription_view(subscription: Subscription, owed: int = 0, breaker: Breaker | None = None) -> dict[str, Any]:
    """A subscription without its address and its secrets; how much it is owed, and since when nothing arrives."""
    return {
        "id": subscription.id,
        "url": subscription.url_shown,
        "types": subscription.types,
        "models": subscription.models,
        "replyRef": subscription.reply_ref,
        "format": subscription.format,
        "description": subscription.description,
        "state": subscription.state,
        "reason": subscription.reason,
        "owed": owed,
        "failingSince": iso(breaker.since_ms) if breaker else None,
        "failures": breaker.failures if breaker else 0,
        "triedAgainAt": iso(breaker.open_until_ms) if breaker and breaker.opened else None,
        "createdAt": iso(subscription.created_at_ms),
        "updatedAt": iso(subscription.updated_at_ms),
    }


def _check_types(types: Sequence[str], format_name: str) -> None:
    known = JOB_TYPES if format_name == "task" else TYPES
    for type_name in types:
        if type_name not in known:
            of_task = " that a task could tell" if format_name == "task" else ""
            message = f"there is no event type {type_name!r}{of_task}"
            raise InvalidRequest.field("types", "one_of", message, given=type_name, allowed=list(known))


def _address(state: Any, url: str) -> dict[str, Any]:
    """An address as it is kept, once it has been judged."""
    target = check_url(url, state.allow)
    shown = shown_url(url, target.authority, target.scheme)
    return {"url_sealed": state.vault.seal(url, URL_SEAL), "url_shown": shown}


def _secret(state: Any, given: str | None) -> tuple[str, str]:
    """A secret, brought or new, and as it is kept."""
    if given is not None:
        check_secret(given)
    secret = given or new_webhook_secret()
    return secret, state.vault.seal(secret, SECRET_SEAL)
