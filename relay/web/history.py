"""What the relay has kept and knows: callbacks of a job, the quarantine, accounts, models."""

import base64
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from relay.core.breaker import Breaker
from relay.core.delivery import Delivery, Selection, Subscription
from relay.core.job import iso
from relay.core.ledger import Callback, Quarantined
from relay.core.signature import public_key_text
from relay.core.why import explain
from relay.core.why_delivery import (
    breaker_facts,
    delivery_facts,
    delivery_sentence,
    of_job,
    subscription_sentences,
)
from relay.errors import NotFound
from relay.store.contract import PAGE_MAX
from relay.vault import WEBHOOK_KEY
from relay.web.forecast import outlook_of
from relay.web.jobs import find
from relay.web.problem import Json, read_query, whole

PAGE_DEFAULT: Final = 50


async def callbacks(request: Request) -> Response:
    """The callbacks of a job in the order in which they came, bodies as they came with the secret masked."""
    state: Any = request.app.state
    job = await find(request, request.path_params["id"])
    query = read_query(request, one=("cursor", "limit"))
    limit = whole(query, "limit", PAGE_DEFAULT, 1, PAGE_MAX)
    after = whole(query, "cursor", 0, 1, 10**18)
    found: list[Callback] = await state.store.callbacks(job.id, after, limit + 1)
    page = found[:limit]
    data = [
        {
            "at": iso(callback.at_ms),
            "attempt": callback.number,
            "status": callback.status,
            "progress": callback.progress,
            "effect": callback.effect,
            **_body(callback),
        }
        for callback in page
    ]
    return Json({"data": data, "next": str(page[-1].seq) if len(found) > limit else None})


async def why(request: Request) -> Response:
    """What a job has done, waits for and will do next, in sentences and with the facts behind them."""
    state: Any = request.app.state
    read_query(request)
    job = await find(request, request.path_params["id"])
    deliveries = await state.store.deliveries(Selection(job_id=(job.id,)), None, PAGE_MAX)
    waiting = {delivery.subscription_id for delivery in deliveries if delivery.finished_at_ms is None}
    found = [await state.store.subscription(one) for one in sorted(waiting)]
    return Json(
        explain(
            job,
            await state.store.attempts(job.id),
            deliveries,
            await state.store.accounts(),
            await state.store.busy(),
            await outlook_of(state, job),
            now_ms=state.clock.now_ms(),
            in_doubt_after_s=state.settings.in_doubt_after,
            hold=await state.store.hold(),
            subscriptions={one.id: one for one in found if one is not None},
            breakers={breaker.place: breaker for breaker in await state.store.breakers()},
        )
    )


async def why_delivery(request: Request) -> Response:
    """Why a delivery has, or has not, arrived."""
    state: Any = request.app.state
    read_query(request)
    delivery: Delivery | None = await state.store.delivery(request.path_params["id"])
    if delivery is None:
        raise NotFound(f"there is no delivery {request.path_params['id'][:80]}")
    to = await state.store.subscription(delivery.subscription_id)
    lane = [delivery]
    if delivery.job_id is not None:
        wanted = Selection(job_id=(delivery.job_id,), subscription_id=(delivery.subscription_id,))
        lane = await state.store.deliveries(wanted, None, PAGE_MAX)
    breaker = await _breaker_of(state, to)
    told = [delivery_sentence(delivery, to, breaker, lane, state.clock.now_ms())]
    if to is None:
        told.append("Its subscription was removed: nothing can be sent to it any more.")
    return Json({"sentences": told, "facts": delivery_facts(delivery, breaker, lane)})


async def why_subscription(request: Request) -> Response:
    """Why a subscriber gets, or does not get, what happens; with `?job=` why it was, or was not, told of that job."""
    state: Any = request.app.state
    query = read_query(request, one=("job",))
    to: Subscription | None = await state.store.subscription(request.path_params["id"])
    if to is None:
        raise NotFound(f"there is no subscription {request.path_params['id'][:80]}")
    now_ms, breaker = state.clock.now_ms(), await _breaker_of(state, to)
    job = await find(request, query["job"][0], to_manage=True) if query["job"] else None
    wanted = Selection(subscription_id=(to.id,), job_id=(job.id,) if job else ())
    newest = await state.store.deliveries(wanted, None, PAGE_MAX)
    owed = (await state.store.owed()).get(to.id, 0)
    told = subscription_sentences(to, breaker, owed, newest, now_ms) if job is None else []
    told += of_job(job, to, newest, breaker, now_ms) if job is not None else []
    return Json({"sentences": told, "facts": {"state": to.state, "owed": owed, **breaker_facts(breaker)}})


async def _breaker_of(state: Any, to: Subscription | None) -> Breaker | None:
    return next((one for one in await state.store.breakers() if to is not None and one.place == to.place), None)


async def quarantine(request: Request) -> Response:
    """Bodies that came to a callback address and are not reports on its task, newest first."""
    query = read_query(request, one=("cursor", "limit"))
    limit = whole(query, "limit", PAGE_DEFAULT, 1, PAGE_MAX)
    before = whole(query, "cursor", 0, 1, 10**18) or None
    found: list[Quarantined] = await request.app.state.store.quarantine(before, limit + 1)
    page = found[:limit]
    data = [{"at": iso(row.at_ms), "job": row.job_id, "reason": row.reason, **_body(row)} for row in page]
    return Json({"data": data, "next": str(page[-1].seq) if len(found) > limit else None})


async def accounts(request: Request) -> Response:
    """The upstream's accounts: slots, how many it admits and how many are taken, and why one is parked."""
    store: Any = request.app.state.store
    busy = await store.busy()
    data = [
        {
            "email": account.email,
            "slots": account.slots,
            "admits": account.allowed,
            "running": busy.get(account.email, 0),
            "others": account.others,
            "parked": account.parked,
            "reason": account.reason,
            "retryAt": iso(account.retry_at_ms or None),
        }
        for account in await store.accounts()
    ]
    return Json({"data": data, "next": None})


async def webhook_keys(request: Request) -> Response:
    """The public keys that verify `v1a` signatures."""
    seeds = request.app.state.vault.ed25519_seeds(WEBHOOK_KEY)
    return Json({"keys": [public_key_text(seed) for seed in seeds]})


async def models(request: Request) -> Response:
    """The catalogue: what each model takes, and the date of what it says."""
    catalogue = request.app.state.catalogue.as_json()
    return Json({"dated": catalogue["dated"], "data": catalogue["models"], "next": None})


def _body(row: Callback | Quarantined) -> dict[str, Any]:
    try:
        body = {"body": row.body.decode()}
    except UnicodeDecodeError:
        body = {"bodyBase64": base64.b64encode(row.body).decode()}
    return {"contentType": row.content_type, "sizeBytes": row.size_bytes, "sha256": row.sha256, **body}
