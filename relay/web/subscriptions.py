"""Subscriptions: who is told of events, and what became of each delivery."""

from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from relay.core.delivering import SubscriptionRemoved, SubscriptionSaved
from relay.core.delivery import Delivery, Subscription
from relay.core.event import FINAL_TYPES, TYPES
from relay.core.job import iso
from relay.core.signature import check_secret
from relay.core.target import check_url
from relay.errors import Conflict, InvalidRequest, NotFound, Problem
from relay.store.contract import PAGE_MAX, DeliveryFilter
from relay.vault import new_uuid7, new_webhook_secret
from relay.web.jobs import find
from relay.web.problem import Json, listed, read_object, read_query, whole

SUBSCRIPTIONS_MAX: Final = 500
PAGE_DEFAULT: Final = 50
STATES: Final = ("waiting", "due", "sending", "delivered", "superseded", "dead")

Model = TypeVar("Model", bound=BaseModel)

_MESSAGES: Final = {
    "missing": "required",
    "extra_forbidden": "unknown",
    "literal_error": "one_of",
    "greater_than_equal": "range",
    "less_than_equal": "range",
}


class NewSubscription(BaseModel):
    """The body of `POST /v1/subscriptions`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str = Field(max_length=2048)
    types: list[str] = Field(default_factory=list, max_length=len(TYPES))
    models: list[str] = Field(default_factory=list, max_length=50)
    replyRef: str | None = Field(default=None, max_length=1024)  # noqa: N815 # the name on the wire
    format: Literal["event"] = "event"
    description: str = Field(default="", max_length=500)
    secret: str | None = None


def read_model(model: type[Model], body: dict[str, Any]) -> Model:
    """The body as a model; an `InvalidRequest` names every broken rule."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        problems = []
        for found in error.errors(include_url=False, include_context=False):
            field = ".".join(str(part) for part in found["loc"]) or "body"
            rule = _MESSAGES.get(found["type"], found["type"])
            # What was given may be a secret or an address that is one.
            problems.append(Problem(field, rule, f"{field}: {found['msg']}"))
        raise InvalidRequest.of(problems) from None


async def create(request: Request) -> Response:
    """201 and the subscription with its secret, which is shown this once."""
    state: Any = request.app.state
    given = read_model(NewSubscription, await read_object(request))
    for type_name in given.types:
        if type_name not in TYPES:
            message = f"there is no event type {type_name!r}"
            raise InvalidRequest.field("types", "one_of", message, given=type_name, allowed=list(TYPES))
    target = check_url(given.url, state.allow)
    if given.secret is not None:
        check_secret(given.secret)
    if len(await state.store.subscriptions()) >= SUBSCRIPTIONS_MAX:
        raise Conflict(f"there are {SUBSCRIPTIONS_MAX} subscriptions, and no more are kept; remove one first")
    secret = given.secret or new_webhook_secret()
    now_ms = state.clock.now_ms()
    subscription = Subscription(
        id=new_uuid7(now_ms),
        url_sealed=state.vault.seal(given.url, "subscription-url"),
        url_shown=f"{target.scheme}://{target.authority}/…{given.url[-4:]}",
        secrets=[{"sealed": state.vault.seal(secret, "webhook-secret"), "expiresAtMs": None}],
        types=given.types or sorted(FINAL_TYPES),
        models=given.models,
        reply_ref=given.replyRef,
        format=given.format,
        description=given.description,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
    await state.store.apply(SubscriptionSaved(subscription))
    return Json(
        {**subscription_view(subscription), "secret": secret},
        201,
        {"Location": f"/v1/subscriptions/{subscription.id}"},
    )


async def index(request: Request) -> Response:
    read_query(request)
    found = await request.app.state.store.subscriptions()
    return Json({"data": [subscription_view(subscription) for subscription in found], "next": None})


async def show(request: Request) -> Response:
    return Json(subscription_view(await _find(request)))


async def remove(request: Request) -> Response:
    """204; what it was still owed is kept as dead letters."""
    subscription = await _find(request)
    state: Any = request.app.state
    await state.store.apply(SubscriptionRemoved(subscription.id, state.clock.now_ms()))
    return Response(status_code=204)


async def deliveries(request: Request) -> Response:
    """A page of deliveries, newest first."""
    query = read_query(request, many=("state", "subscription", "job"), one=("cursor", "limit"))
    wanted = DeliveryFilter(
        state=listed(query, "state", STATES), subscription_id=query["subscription"], job_id=query["job"]
    )
    return await _page(request, query, wanted)


async def deliveries_of_job(request: Request) -> Response:
    """A page of one job's deliveries, newest first."""
    job = await find(request, request.path_params["id"])
    query = read_query(request, many=("state",), one=("cursor", "limit"))
    return await _page(request, query, DeliveryFilter(state=listed(query, "state", STATES), job_id=(job.id,)))


async def _page(request: Request, query: dict[str, tuple[str, ...]], wanted: DeliveryFilter) -> Response:
    limit = whole(query, "limit", PAGE_DEFAULT, 1, PAGE_MAX)
    before = whole(query, "cursor", 0, 1, 10**18) or None
    found: list[Delivery] = await request.app.state.store.deliveries(wanted, before, limit + 1)
    page = found[:limit]
    more = str(page[-1].seq) if len(found) > limit else None
    return Json({"data": [delivery_view(delivery) for delivery in page], "next": more})


async def _find(request: Request) -> Subscription:
    subscription_id = request.path_params["id"]
    found: Subscription | None = await request.app.state.store.subscription(subscription_id)
    if found is None:
        raise NotFound(f"there is no subscription {subscription_id[:80]}")
    return found


def subscription_view(subscription: Subscription) -> dict[str, Any]:
    """A subscription without its address and its secrets."""
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
        "createdAt": iso(subscription.created_at_ms),
        "updatedAt": iso(subscription.updated_at_ms),
    }


def delivery_view(delivery: Delivery) -> dict[str, Any]:
    """A delivery with its attempts' answers."""
    return {
        "id": delivery.id,
        "subscription": delivery.subscription_id,
        "event": delivery.event_id,
        "type": delivery.event_type,
        "job": delivery.job_id,
        "state": delivery.state,
        "reason": delivery.reason,
        "attempts": delivery.attempts,
        "answers": delivery.answers,
        "dueAt": iso(delivery.due_at_ms) if delivery.state == "due" else None,
        "createdAt": iso(delivery.created_at_ms),
        "finishedAt": iso(delivery.finished_at_ms),
    }
