"""Deliveries: what became of each, with every attempt; one tried again, many replayed."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from relay.core.delivery import Delivery, Replay, Selection
from relay.core.event import PROGRESS
from relay.core.job import iso
from relay.core.replaying import (
    REPLAYABLE,
    REPLAYED_TYPES,
    RUNNING_MAX,
    DeliveryRetried,
    ReplayStarted,
    wanted,
)
from relay.errors import Conflict, InvalidRequest, NotFound
from relay.store.contract import PAGE_MAX
from relay.vault import new_uuid7
from relay.web.audit import asked_for
from relay.web.jobs import find
from relay.web.problem import Json, listed, read_object, read_query, whole
from relay.web.subscriptions import read_model

PAGE_DEFAULT: Final = 50
SAMPLE: Final = 10
STATES: Final = ("waiting", "due", "sending", "delivered", "superseded", "dead", "held")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _at_ms(value: object) -> object:
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(str(value))
        return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise ValueError("must be an ISO 8601 time") from error


Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Names = Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=list[str] | str), Field(max_length=50)]
AtMs = Annotated[int | None, BeforeValidator(_at_ms, json_schema_input_type=Time | None)]


def _closed(known: tuple[str, ...]) -> Any:
    """Says in the document of which names `_check` takes one or several."""
    name = {"type": "string", "enum": [*known]}
    return WithJsonSchema({"anyOf": [{"type": "array", "items": name, "maxItems": 50}, name]})


class ReplayFilter(BaseModel):
    """Which deliveries to replay: a name or several of each kind, dead letters if no state is given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    state: Annotated[Names, _closed(REPLAYABLE)] = ["dead"]
    subscription: Names = []
    type: Annotated[Names, _closed(REPLAYED_TYPES)] = []
    since: AtMs = None
    until: AtMs = None


class NewReplay(BaseModel):
    """The body of `POST /v1/deliveries/replay`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    filter: ReplayFilter
    dryRun: bool = True  # noqa: N815 # the name on the wire


async def index(request: Request) -> Response:
    """A page of deliveries, newest first."""
    query = read_query(request, many=("state", "subscription", "job"), one=("cursor", "limit"))
    chosen = Selection(state=listed(query, "state", STATES), subscription_id=query["subscription"], job_id=query["job"])
    return await _page(request, query, chosen)


async def of_job(request: Request) -> Response:
    """A page of one job's deliveries, newest first."""
    job = await find(request, request.path_params["id"])
    query = read_query(request, many=("state",), one=("cursor", "limit"))
    return await _page(request, query, Selection(state=listed(query, "state", STATES), job_id=(job.id,)))


async def show(request: Request) -> Response:
    read_query(request)
    return Json((await _views(request, [await _find(request)]))[0])


async def retry(request: Request) -> Response:
    """202 and the delivery, which is due now: one that has ended from the start of its schedule, with the same id."""
    state: Any = request.app.state
    read_query(request)
    wanted_again = await _find(request)
    if await state.store.event(wanted_again.event_seq) is None:
        raise Conflict("the event is not kept any more: there is nothing to send")
    retried = DeliveryRetried(wanted_again.id, state.clock.now_ms())
    await state.store.apply(asked_for(request, retried, wanted_again.id))
    return Json((await _views(request, [await _find(request)]))[0], 202)


async def replay(request: Request) -> Response:
    """200 and what would be replayed (`dryRun`, the default), or 202 and the replay that has begun."""
    state: Any = request.app.state
    read_query(request)
    given = read_model(NewReplay, await read_object(request))
    _check("state", given.filter.state, REPLAYABLE)
    _check("type", given.filter.type, REPLAYED_TYPES)
    now_ms = state.clock.now_ms()
    made = Replay(
        id=new_uuid7(now_ms),
        selection={
            "state": given.filter.state,
            "subscription_id": given.filter.subscription,
            "event_type": given.filter.type or list(REPLAYED_TYPES),
            "since_ms": given.filter.since,
            "until_ms": given.filter.until,
            "sendable": True,
        },
        total=0,
        until_seq=0,
        created_at_ms=now_ms,
    )
    total, until_seq = await state.store.count_deliveries(wanted(made))
    if given.dryRun:
        sample = await state.store.deliveries(wanted(made), None, SAMPLE)
        return Json({"dryRun": True, "count": total, "sample": await _views(request, sample)})
    if len(await state.store.replays_running(RUNNING_MAX)) >= RUNNING_MAX:
        raise Conflict(f"{RUNNING_MAX} replays are running already; wait for one to end")
    started = ReplayStarted(replace(made, total=total, until_seq=until_seq))
    begun = await state.store.apply(asked_for(request, started, made.id))
    return Json(replay_view(begun), 202, {"Location": f"/v1/replays/{begun.id}"})


async def show_replay(request: Request) -> Response:
    """How far a replay has come."""
    read_query(request)
    found = await request.app.state.store.replay(request.path_params["id"])
    if found is None:
        raise NotFound("there is no such replay")
    return Json(replay_view(found))


def _check(name: str, given: list[str], known: tuple[str, ...]) -> None:
    for value in given:
        if value not in known:
            why = "progress is never replayed" if value == PROGRESS else f"{name} {value!r} cannot be replayed"
            raise InvalidRequest.field(f"filter.{name}", "one_of", why, given=value, allowed=list(known))


async def _find(request: Request) -> Delivery:
    delivery_id = request.path_params["id"]
    found: Delivery | None = await request.app.state.store.delivery(delivery_id)
    if found is None:
        raise NotFound(f"there is no delivery {delivery_id[:80]}")
    return found


async def _page(request: Request, query: dict[str, tuple[str, ...]], chosen: Selection) -> Response:
    limit = whole(query, "limit", PAGE_DEFAULT, 1, PAGE_MAX)
    before = whole(query, "cursor", 0, 1, 10**18) or None
    found: list[Delivery] = await request.app.state.store.deliveries(chosen, before, limit + 1)
    page = found[:limit]
    more = str(page[-1].seq) if len(found) > limit else None
    return Json({"data": await _views(request, page), "next": more})


async def _views(request: Request, found: list[Delivery]) -> list[dict[str, Any]]:
    urls = await request.app.state.store.shown_urls(sorted({one.subscription_id for one in found}))
    return [delivery_view(one, urls.get(one.subscription_id)) for one in found]


def delivery_view(delivery: Delivery, url: str | None) -> dict[str, Any]:
    """A delivery with its attempts' answers; `attempts` counts those of its present schedule."""
    return {
        "id": delivery.id,
        "subscription": delivery.subscription_id,
        "url": url,
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


def replay_view(replay: Replay) -> dict[str, Any]:
    """A replay: `total` were meant when it began, `requeued` are owed anew, `skipped` could not be any more."""
    return {
        "id": replay.id,
        "state": replay.state,
        "total": replay.total,
        "requeued": replay.requeued,
        "skipped": replay.skipped,
        "createdAt": iso(replay.created_at_ms),
        "finishedAt": iso(replay.finished_at_ms),
    }
