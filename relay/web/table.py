"""What the document says of each door that the code does not say of itself: a title, the query, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from pydantic import BaseModel

from relay.core.artifacts import FILE_STATES
from relay.core.event import TYPES
from relay.core.job import STATES as JOB_STATES
from relay.core.job import Origin
from relay.store.contract import EVENTS_PAGE, PAGE_MAX
from relay.web import (
    audit,
    deliveries,
    dropin,
    files,
    jobs,
    operation,
    session,
    steering,
    stream,
    subscriptions,
    tickets,
    tokens,
)
from relay.web.accept import KEY_FORM, KEY_HEADER
from relay.web.problem import DROPIN_PREFIX
from relay.web.shapes import ANY, EVENT_ID, TEXT, TIME, Schema, each, page, ref, several, span, word

SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json"
FORM: Final = "multipart/form-data"
ANYTHING: Final = "*/*"


def q(name: str, schema: Schema = TEXT, *, many: bool = False, required: bool = False) -> Schema:
    """A parameter of the query; `many`: it may come again and again."""
    return {"name": name, "in": "query", "schema": several(schema) if many else schema} | (
        {"required": True} if required else {}
    )


def header(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "schema": schema}


def at_most(limit: int, default: int) -> tuple[Schema, ...]:
    """The parameters of a page."""
    return q("limit", span(1, limit, default)), q("cursor", span(1, 10**18 - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is said of a door. `ok`: the shape by status (None: no body); `fails`: the statuses of its own errors.

    `also`: further media types of a 200, of NDJSON the shape of a line. Statuses that follow from scopes, path, query
    and body are added.
    """

    title: str
    ok: Mapping[int, Schema | None]
    query: tuple[Schema, ...] = ()
    headers: tuple[Schema, ...] = ()
    body: type[BaseModel] | Mapping[str, Schema] | None = None
    fails: tuple[int, ...] = ()
    also: Mapping[str, Schema] = field(default_factory=dict)
    passes_on: bool = False


def said(title: str, ok: str | Schema | Mapping[int, Schema | None], *query: Schema, **more: Any) -> Said:
    """A line of the table; `ok` is the shape of a 200, or its name, or the shapes by status."""
    shape: Any = ref(ok) if isinstance(ok, str) else ok
    by_status = shape if isinstance(next(iter(shape)), int) else {200: shape}
    return Said(title=title, ok=by_status, query=query, **more)


def either(*names: str) -> Schema:
    return {"anyOf": [ref(name) for name in names]}


PAGE: Final = at_most(PAGE_MAX, jobs.PAGE_DEFAULT)
AGO: Final = {"anyOf": [TEXT | {"pattern": "^[0-9]{1,9}[smhd]$", "examples": ["10m"]}, TIME]}
EVENTS: Final = (
    q("type", word(*TYPES), many=True),
    q("last_event_id", EVENT_ID),
    q("since", {"anyOf": [word("now", "earliest"), *AGO["anyOf"]]}),
    q("limit", span(1, EVENTS_PAGE, stream.PAGE_DEFAULT)),
    q("wait", span(0, stream.WAIT_MAX_S, 0)),
)
LAST_EVENT_ID: Final = header("Last-Event-ID", TEXT | {"pattern": "^([0-9a-f]{8}-[0-9]{1,18})?$"})
KEY: Final = header(KEY_HEADER, TEXT | {"pattern": f"^{KEY_FORM}$"})
OF_DELIVERY: Final = q("state", word(*deliveries.STATES), many=True)
STREAMS: Final = {
    SSE: TEXT | {"description": "frames: `id`, `event`, and `data` as a webhook's body; notices are named `stream.…`"},
    NDJSON: ref("StreamLine"),
}
EVENT_PAGE: Final = page(ref("AnyEvent"))
UPSTREAMS: Final[Schema] = {"description": "as the upstream has it"}
ASSETS: Final = f"{DROPIN_PREFIX}assets"

TABLE: Final[dict[str, Said]] = {
    "POST /callbacks/{token}": said("Report on a task", "Taken", body={ANYTHING: ANY}, fails=(429,)),
    "POST /callbacks/inbox/{token}": said(
        "Report on a task submitted elsewhere", "Taken", body={ANYTHING: ANY}, fails=(429,)
    ),
    "POST /v1/jobs": said(
        "Submit a job",
        {202: ref("Job"), 200: ref("DryRun")},
        q("dry_run", word("true", "false")),
        headers=(KEY,),
        body={JSON: ref("NewJob")},
        fails=(409, 429),
    ),
    "GET /v1/jobs": said(
        "List jobs",
        page(ref("JobInEvents")),
        q("state", word(*JOB_STATES), many=True),
        q("model", many=True),
        *(q(name, many=True) for name in ("replyRef", "account")),
        q("origin", word(*get_args(Origin)), many=True),
        q("since", AGO),
        q("until", AGO),
        q("q", TEXT | {"minLength": 1, "maxLength": jobs.WORDS_MAX_CHARS}),
        *PAGE,
        also={NDJSON: ref("JobInEvents")},
    ),
    "GET /v1/jobs/{id}": said("Read a job", either("Job", "PublicJob")),
    "DELETE /v1/jobs/{id}": said("Erase a job", {204: None}, fails=(409,)),
    "POST /v1/jobs/{id}/cancel": said("Cancel a job", either("CancelledJob", "CancelledJobInEvents"), fails=(409,)),
    "POST /v1/jobs/{id}/retry": said(
        "Try a failed job again",
        {status: either("Job", "JobInEvents") for status in (202, 200)},
        fails=(409, 429),
    ),
    "POST /v1/jobs/{id}/resolve": said(
        "Settle a doubt",
        either("Job", "JobInEvents"),
        body=steering.Resolution,
        fails=(409, 502),
    ),
    "GET /v1/jobs/{id}/events": said(
        "Follow a job", {200: EVENT_PAGE, 204: None}, *EVENTS, headers=(LAST_EVENT_ID,), also=STREAMS
    ),
    "GET /v1/jobs/{id}/why": said("Why a job is as it is", "Why"),
    "GET /v1/jobs/{id}/callbacks": said("List a job's callbacks", page(ref("Callback")), *PAGE),
    "GET /v1/jobs/{id}/deliveries": said("List a job's deliveries", page(ref("Delivery")), OF_DELIVERY, *PAGE),
    "GET /v1/events": said(
        "Follow everything",
        EVENT_PAGE,
        *(q(name, many=True) for name in ("job", "replyRef", "model")),
        *EVENTS,
        headers=(LAST_EVENT_ID,),
        also=STREAMS,
    ),
    "GET /v1/models": said("List the models", page(ref("Model"), dated=TEXT)),
    "GET /v1/accounts": said("List the upstream's accounts", page(ref("Account"))),
    "GET /v1/stats": said("Figures of a span of time", "Stats", q("since", AGO)),
    "GET /v1/quarantine": said("List what was no report on its task", page(ref("Quarantined")), *PAGE),
    "POST /v1/subscriptions": said(
        "Subscribe", {201: ref("SubscriptionWithSecret")}, body=subscriptions.NewSubscription, fails=(409,)
    ),
    "GET /v1/subscriptions": said("List subscriptions", page(ref("Subscription"))),
    "GET /v1/subscriptions/{id}": said("Read a subscription", "Subscription"),
    "GET /v1/subscriptions/{id}/why": said("Why a subscriber was told, or was not", "WhySubscription", q("job")),
    "PATCH /v1/subscriptions/{id}": said(
        "Change a subscription", "Subscription", body=subscriptions.ChangedSubscription, fails=(409,)
    ),
    "DELETE /v1/subscriptions/{id}": said("Remove a subscription", {204: None}, fails=(409,)),
    "POST /v1/subscriptions/{id}/rotate": said(
        "Make a new secret", "SubscriptionWithSecret", body=subscriptions.Rotation, fails=(409,)
    ),
    "POST /v1/subscriptions/{id}/ping": said("Send a test event", "PingAnswer"),
    "POST /v1/subscriptions/{id}/enable": said(
        "Bring a subscription back", "Subscription", body=subscriptions.Enabling, fails=(409,)
    ),
    "POST /v1/tickets": said("Make a ticket", {201: ref("Ticket")}, body=tickets.NewTicket, fails=(404,)),
    "POST /v1/tokens": said("Make a token", {201: ref("TokenWithSecret")}, body=tokens.NewToken, fails=(409,)),
    "GET /v1/tokens": said("List tokens", page(ref("Token"))),
    "DELETE /v1/tokens/{id}": said("Revoke a token", {204: None}),
    "GET /v1/deliveries": said(
        "List deliveries",
        page(ref("Delivery")),
        OF_DELIVERY,
        q("subscription", many=True),
        q("job", many=True),
        *PAGE,
    ),
    "POST /v1/deliveries/replay": said(
        "Replay deliveries",
        {200: ref("ReplayPreview"), 202: ref("Replay")},
        body=deliveries.NewReplay,
        fails=(409,),
    ),
    "GET /v1/deliveries/{id}": said("Read a delivery", "Delivery"),
    "GET /v1/deliveries/{id}/why": said("Why a delivery is as it is", "WhyDelivery"),
    "POST /v1/deliveries/{id}/retry": said("Send a delivery again", {202: ref("Delivery")}, fails=(409,)),
    "GET /v1/replays/{id}": said("Follow a replay", "Replay"),
    "GET /v1/artifacts": said(
        "List the files that are kept",
        page(ref("File")),
        q("state", word(*FILE_STATES), many=True),
        q("job", many=True),
        *PAGE,
    ),
    "POST /v1/artifacts/fetch": said(
        "Fetch missing files", {202: ref("Files")}, body=files.WhatToFetch, fails=(404, 409)
    ),
    "POST /v1/artifacts/prune": said("Let old files go", "Files", body=files.WhatToPrune, fails=(409,)),
    "POST /v1/artifacts/{id}/verify": said("Verify a file", "Verified"),
    "GET /v1/artifacts/{id}/{name}": said(
        "Download a file",
        {200: ANY, 206: ANY, 304: None, 307: None, 416: None},
        q("exp", required=True),
        q("sig", required=True),
        headers=tuple(header(name, TEXT) for name in ("Range", "If-Range", "If-None-Match")),
        fails=(410, 502),
    ),
    f"POST {DROPIN_PREFIX}videos/create": said(
        "Create a video",
        "Created",
        headers=(KEY,),
        body={JSON: ref("Create"), FORM: ref("Create")},
        fails=(409, 412, 422, 429),
    ),
    f"GET {DROPIN_PREFIX}tasks/": said(
        "List tasks",
        {200: UPSTREAMS},
        q("offset", span(0, dropin.OFFSET_MAX, 0)),
        q("limit", span(1, dropin.LIMIT_MAX, 50)),
        q("statuses"),
        q("email"),
        passes_on=True,
    ),
    f"GET {DROPIN_PREFIX}tasks/{{task_id}}": said("Read a task", "Task"),
    f"GET {DROPIN_PREFIX}scheduler/": said("List what runs", {200: UPSTREAMS}, passes_on=True),
    f"GET {DROPIN_PREFIX}accounts": said("List the accounts", each(each(ANY)), passes_on=True),
    f"GET {DROPIN_PREFIX}features/": said("List an account's features", {200: UPSTREAMS}, q("email"), passes_on=True),
    f"GET {ASSETS}/": said(
        "List assets",
        {200: UPSTREAMS},
        *(q(name) for name in ("mediaType", "email", "offset", "limit")),
        passes_on=True,
    ),
    f"POST {ASSETS}/": said(
        "Upload an asset",
        {200: UPSTREAMS},
        *(q(name) for name in ("name", "email", "duration", "width", "height")),
        body={ANYTHING: ANY},
        passes_on=True,
    ),
    f"GET {ASSETS}/{{asset_id}}": said("Read an asset", {200: UPSTREAMS}, passes_on=True),
    f"DELETE {ASSETS}/{{asset_id}}": said("Delete an asset", {200: UPSTREAMS}, passes_on=True),
    "GET /.well-known/webhooks-keys.json": said("The keys that verify webhooks", "WebhookKeys"),
    "GET /healthz": said("The process answers", "Alive"),
    "GET /metrics": said("What the relay counts", {200: None}, also={"text/plain": TEXT}),
    "GET /readyz": said("The store can be written", {200: ref("Ready"), 503: ref("NotReady")}),
    "POST /v1/backup": said("Copy the database", {200: None}, also={"application/vnd.sqlite3": ANY}),
    "POST /v1/resume": said("Let the queue move", "Resumed", body=operation.Resumption, fails=(409,)),
    "GET /v1/audit": said("Who changed what", page(ref("Deed")), *(q(name) for name in audit.FILTERS), *PAGE),
    "POST /session": said("Sign in", {201: ref("Session")}, body=session.SignIn, fails=(401, 403, 429)),
    "GET /session": said("Who has signed in", "Session"),
    "DELETE /session": said("Sign out", {204: None}, fails=(403,)),
    "GET /static/{path}": said("A file of a page", {200: ANY, 304: None}),
    "GET /": said("The dashboard", {200: None}, also={"text/html": TEXT}, fails=(403,)),
    "GET /openapi.json": said("This document", {200: {"type": "object"}}),
    "GET /docs": said("This document, to read and to try", {200: None}, also={"text/html": TEXT}),
}
