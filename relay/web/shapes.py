"""What the doors answer, as JSON Schema: one table a shape, read beside the function that makes it.

Every field is there in every answer unless it is named in `optional`. The words of a closed set are those of the code.
The schemas stay open, so that a reader written today takes the fields of tomorrow; the tests close them.
"""

from typing import Any, Final, get_args

from relay.core.artifacts import FileState
from relay.core.delivery import ANSWERS_KEPT, DeliveryState, SubscriptionState
from relay.core.dispatch import Parked
from relay.core.dropin import STATUSES
from relay.core.event import JOB_TYPES, OPERATOR_TYPES, PING, TYPES
from relay.core.fields import FIELDS
from relay.core.intake import TEXT_MAX
from relay.core.job import STATES, AttemptState, ErrorCode, Origin, State
from relay.core.retry import AnswerKind
from relay.core.terms import DEADLINE_MAX_S, PRIORITY_MAX
from relay.errors import ClientError, ConfigurationError, RelayError, SignatureInvalid
from relay.web.guard import OWN, SCOPES

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
NUMBER: Final[Schema] = {"type": "number"}
WHOLE: Final[Schema] = {"type": "integer"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
UUID: Final[Schema] = {"type": "string", "format": "uuid"}
URL: Final[Schema] = {"type": "string", "format": "uri"}
EVENT_ID: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{8}-[0-9]{1,18}$"}
ANY: Final[Schema] = {}
OBJECT: Final[Schema] = {"type": "object"}
# Codes that no door answers with: of the start, of those who verify webhooks, and of the client.
UNANSWERED: Final = (ConfigurationError, SignatureInvalid, ClientError)


def word(*words: str) -> Schema:
    """One of a closed set."""
    return {"type": "string", "enum": list(words)}


def span(lowest: int, highest: int, default: int | None = None) -> Schema:
    schema: Schema = {"type": "integer", "minimum": lowest, "maximum": highest}
    return schema if default is None else schema | {"default": default}


def maybe(schema: Schema) -> Schema:
    """The same, or null."""
    if "enum" in schema:
        return {"type": [schema["type"], "null"], "enum": [*schema["enum"], None]}
    if isinstance(schema.get("type"), str):
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def several(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def each(schema: Schema) -> Schema:
    """An object whose keys are not known beforehand."""
    return {"type": "object", "additionalProperties": schema}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def record(*optional: str, **fields: Schema) -> Schema:
    return {
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if name not in optional],
    }


def whole(*optional: str, **fields: Schema) -> Schema:
    """An object of the upstream's: whatever else it has is passed on."""
    return record(*optional, **fields) | {"additionalProperties": True}


def page(of: Schema, **more: Schema) -> Schema:
    return record(data=several(of), next=maybe(TEXT), **more)


def codes() -> dict[str, int]:
    """Every `code` that a problem may have, with its status."""
    found, waiting = {"method_not_allowed": 405}, [RelayError]
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        if not issubclass(error, UNANSWERED):
            found[error.code] = error.status
    return dict(sorted(found.items()))


_ARTIFACT: Final = {
    "id": TEXT,
    "kind": word("video", "image", "audio", "other"),
    "url": URL,
    "contentType": TEXT,
    "sizeBytes": maybe(COUNT),
    "durationS": maybe(NUMBER),
    "width": maybe(WHOLE),
    "height": maybe(WHOLE),
    "previewUrls": several(URL),
    "keptUntil": maybe(TIME),
    "notKept": TEXT,
}
_IN_PUBLIC: Final = {
    "id": UUID,
    "state": word(*get_args(State)),
    "progress": {"type": "number", "minimum": 0, "maximum": 1},
    "queuePosition": maybe(WHOLE),
    "startsAt": maybe(TIME),
    "eta": maybe(TIME),
    "createdAt": TIME,
    "finishedAt": maybe(TIME),
}
_IN_EVENTS: Final = _IN_PUBLIC | {
    "replyRef": maybe(TEXT),
    "model": TEXT,
    "account": maybe(TEXT),
    "taskId": TEXT,
    "upstreamTaskId": maybe(TEXT),
    "upstreamStatus": maybe(TEXT),
    "attempts": COUNT,
    "error": maybe(ref("JobError")),
    "problems": several(ref("Problem")),
    "retryOf": maybe(UUID),
    "origin": word(*get_args(Origin)),
    "submittedBy": TEXT,
    "submittedAt": maybe(TIME),
    "startedAt": maybe(TIME),
    "updatedAt": TIME,
    "erasedAt": TIME,
}
_FULL: Final = _IN_EVENTS | {
    "artifacts": several(ref("FullArtifact")),
    "replyUrl": maybe(TEXT),
    "request": OBJECT,
    "task": maybe(OBJECT),
}
_SUBSCRIPTION: Final = {
    "id": UUID,
    "url": TEXT,
    "types": several(word(*TYPES)),
    "models": several(TEXT),
    "replyRef": maybe(TEXT),
    "format": word("event", "task"),
    "description": TEXT,
    "state": word(*get_args(SubscriptionState)),
    "reason": maybe(TEXT),
    "owed": COUNT,
    "failingSince": maybe(TIME),
    "failures": COUNT,
    "triedAgainAt": maybe(TIME),
    "createdAt": TIME,
    "updatedAt": TIME,
}
_TOKEN: Final = {
    "id": UUID,
    "name": TEXT,
    "scopes": several(word(*sorted(SCOPES))),
    **dict.fromkeys(("maxWaiting", "maxPerDay"), maybe(WHOLE)),
    "expiresAt": maybe(TIME),
    "createdAt": TIME,
}
_ANSWER: Final = {
    "kind": word(*get_args(AnswerKind)),
    "status": maybe(WHOLE),
    "detail": TEXT,
    "excerpt": TEXT,
    "tookMs": WHOLE,
    "phasesMs": each(NUMBER),
}
_BREAKER: Final = {"failures": COUNT, "failingSince": maybe(TIME), "breakerOpenUntil": maybe(TIME)}
_BODY: Final = {"contentType": TEXT, "sizeBytes": COUNT, "sha256": TEXT, "body": TEXT, "bodyBase64": TEXT}
_EITHER: Final = ("body", "bodyBase64")
_ACCOUNT: Final = {
    "email": TEXT,
    "slots": COUNT,
    "admits": maybe(COUNT),
    "running": COUNT,
    "parked": maybe(word(*get_args(Parked))),
    "retryAt": maybe(TIME),
}
_TASK: Final = {
    "taskId": TEXT,
    "status": word(*STATUSES),
    "progressRatio": TEXT,
    "updatedAt": TIME,
    "error": maybe(whole("errorMessage", "message", "reason", errorMessage=TEXT, message=maybe(TEXT), reason=ANY)),
    "artifacts": several(whole(url=URL, previewUrls=several(URL))),
    "replyUrl": maybe(TEXT),
    "replyRef": maybe(TEXT),
    "code": WHOLE,
    "jobId": UUID,
    "upstreamTaskId": maybe(TEXT),
    "estimatedTimeToStartSeconds": maybe(NUMBER),
}
_TIMES: Final = record(p50=maybe(NUMBER), p90=maybe(NUMBER))
_FIGURES: Final = {
    "jobs": record(**dict.fromkeys(STATES, COUNT)),
    "successRate": maybe({"type": "number", "minimum": 0, "maximum": 1}),
    "waitS": _TIMES,
    "renderS": _TIMES,
}
_RANGE: Final = {"anyOf": [record(**{"from": WHOLE, "to": WHOLE}), several(WHOLE), {"type": "null"}]}


def _event(schema: Schema, types: tuple[str, ...] = JOB_TYPES) -> Schema:
    return record(id=EVENT_ID, type=word(*types), timestamp=TIME, data=schema)


def _notice(name: str, data: Schema, *, with_id: bool = False) -> Schema:
    return record(type={"const": name}, data=data, **({"id": EVENT_ID} if with_id else {}))


SHAPES: Final[dict[str, Schema]] = {
    "Problem": record(field=TEXT, rule=TEXT, given=ANY, allowed=ANY, message=TEXT),
    "ProblemDetails": record(
        type=TEXT, title=TEXT, status=WHOLE, code=word(*codes()), detail=TEXT, problems=several(ref("Problem"))
    ),
    "JobError": record(code=word(*get_args(ErrorCode)), message=TEXT, reason=maybe(TEXT), retryable=FLAG),
    "Artifact": record("notKept", **_ARTIFACT),
    "FullArtifact": record("notKept", **_ARTIFACT, sourceUrl=maybe(TEXT), sourceExpiresAt=maybe(TIME)),
    "Job": record("erasedAt", **_FULL),
    "CancelledJob": record("erasedAt", **_FULL, notice=maybe(TEXT)),
    "JobInEvents": record("erasedAt", **_IN_EVENTS, artifacts=several(ref("Artifact"))),
    "CancelledJobInEvents": record("erasedAt", **_IN_EVENTS, artifacts=several(ref("Artifact")), notice=maybe(TEXT)),
    "PublicJob": record(
        **_IN_PUBLIC,
        artifacts=several(ref("Artifact")),
        error=maybe(record(code=word(*get_args(ErrorCode)), message=TEXT)),
    ),
    "DryRun": record(valid=FLAG, problems=several(ref("Problem")), request=OBJECT),
    "Event": _event(record(job=ref("JobInEvents"))),
    "PublicEvent": _event(record(job=ref("PublicJob"))),
    "OperatorEvent": _event(record(subject=TEXT, reason=TEXT), OPERATOR_TYPES),
    "Ping": record(id=TEXT, type={"const": PING}, timestamp=TIME, data=record(subscription=UUID)),
    "AnyEvent": {"anyOf": [ref("Event"), ref("OperatorEvent"), ref("PublicEvent")]},
    "StreamOpen": record(
        "job",
        epoch=TEXT,
        head=EVENT_ID,
        resumedFrom=maybe(EVENT_ID),
        gap=FLAG,
        heartbeatS=WHOLE,
        job={"anyOf": [ref("JobInEvents"), ref("PublicJob")]},
    ),
    "StreamGap": record(requested=EVENT_ID, earliest=EVENT_ID, missed=maybe(COUNT), snapshot=TEXT),
    "StreamBye": record(reason=word("drain", "slow", "expired", "max_age"), resume=EVENT_ID),
    "StreamLine": {
        "anyOf": [
            ref("AnyEvent"),
            _notice("stream.open", ref("StreamOpen")),
            _notice("stream.gap", ref("StreamGap")),
            _notice("stream.bye", ref("StreamBye")),
            _notice("stream.cursor", OBJECT, with_id=True),
            _notice("stream.heartbeat", record(at=WHOLE)),
        ]
    },
    "Callback": record(
        *_EITHER, at=TIME, attempt=WHOLE, status=maybe(TEXT), progress=maybe(NUMBER), effect=TEXT, **_BODY
    ),
    "Quarantined": record(*_EITHER, at=TIME, job=maybe(UUID), reason=TEXT, **_BODY),
    "Attempt": record(
        attempt=WHOLE,
        account=TEXT,
        state=word(*get_args(AttemptState)),
        detail=maybe(TEXT),
        sentAt=TIME,
        endedAt=maybe(TIME),
        asked=COUNT,
        callbacks=COUNT,
    ),
    "Why": record(
        sentences=several(TEXT),
        facts=record(
            state=word(*get_args(State)),
            queuePosition=maybe(WHOLE),
            startsAt=maybe(TIME),
            endsAt=maybe(TIME),
            attempts=COUNT,
            attemptState=maybe(word(*get_args(AttemptState))),
            tries=several(ref("Attempt")),
            askedNextAt=maybe(TIME),
            reportedFinishedAt=maybe(TIME),
            candidates=several(OBJECT),
            accounts=several(record(**_ACCOUNT)),
            deliveries=each(COUNT),
        ),
    ),
    "WhyDelivery": record(
        sentences=several(TEXT),
        facts=record(
            state=word(*get_args(DeliveryState)),
            attempts=COUNT,
            dueAt=maybe(TIME),
            waitsFor=maybe(TEXT),
            lastAnswer=maybe(OBJECT),
            **_BREAKER,
        ),
    ),
    "WhySubscription": record(
        sentences=several(TEXT), facts=record(state=word(*get_args(SubscriptionState)), owed=COUNT, **_BREAKER)
    ),
    "Account": record(**_ACCOUNT, others=COUNT, reason=maybe(TEXT)),
    "Model": record(
        name=TEXT,
        label=TEXT,
        family=TEXT,
        fields=several(word(*FIELDS)),
        duration=record(offered=_RANGE, follows=maybe(TEXT), ignoredIn=several(TEXT)),
        aspectRatio=record(textToVideo=several(TEXT), imageToVideo=several(TEXT), follows=maybe(TEXT)),
        resolution=record(offered=several(TEXT), default=maybe(TEXT), sizes=each(several(WHOLE))),
        prompt=record(need=TEXT, maxLength=maybe(WHOLE), references=several(TEXT)),
        images=record(count=_RANGE, slots=several(TEXT)),
        videos=record(count=_RANGE, slots=several(TEXT), seconds=_RANGE, longestSidePx=maybe(WHOLE)),
        imagesAndVideosMax=maybe(WHOLE),
        startFrame=TEXT,
        endFrame=maybe(TEXT),
        multishot=maybe(
            record(shots=_RANGE, secondsEach=_RANGE, secondsTotal=maybe(WHOLE), promptMaxLength=maybe(WHOLE))
        ),
        edit=maybe(record(imagesMax=WHOLE)),
        audio=ANY,
        seed=_RANGE,
        exploreMode=FLAG,
        characterOrientation=record(offered=several(TEXT), default=maybe(TEXT)),
        typicalS=record(total=_RANGE, queue=_RANGE, render=_RANGE),
        rules=several(TEXT),
    ),
    "Stats": record(
        since=TIME,
        until=TIME,
        **_FIGURES,
        busyAnswers=COUNT,
        models=several(record(model=TEXT, **_FIGURES)),
        accounts=several(record(account=TEXT, **_FIGURES, busyAnswers=COUNT, outOfCredits=FLAG)),
        stepS=WHOLE,
        series=several(record(at=TIME, succeeded=COUNT, failed=COUNT, cancelled=COUNT)),
    ),
    "Subscription": record(**_SUBSCRIPTION),
    "SubscriptionWithSecret": record("oldUntil", **_SUBSCRIPTION, secret=TEXT, oldUntil=TIME),
    "PingAnswer": record(id=TEXT, arrived=FLAG, **_ANSWER),
    "Token": record(**_TOKEN),
    "TokenWithSecret": record(**_TOKEN, token=TEXT),
    "Session": record(name=TEXT, scopes=several(word(*sorted(SCOPES), OWN)), expiresAt=maybe(TIME)),
    "Ticket": record(ticket=TEXT, eventsUrl=URL, expiresAt=TIME),
    "Delivery": record(
        id=TEXT,
        subscription=UUID,
        url=maybe(TEXT),
        event=EVENT_ID,
        type=word(*TYPES),
        job=maybe(UUID),
        state=word(*get_args(DeliveryState)),
        reason=maybe(TEXT),
        attempts=COUNT,
        answers=several(record(at=TIME, **_ANSWER)) | {"maxItems": ANSWERS_KEPT},
        dueAt=maybe(TIME),
        createdAt=TIME,
        finishedAt=maybe(TIME),
    ),
    "Replay": record(
        id=UUID,
        state=word("running", "done"),
        createdAt=TIME,
        finishedAt=maybe(TIME),
        **dict.fromkeys(("total", "requeued", "skipped"), COUNT),
    ),
    "Deed": record(at=TIME, actor=TEXT, token=TEXT, action=TEXT, object=maybe(TEXT), request=TEXT),
    "ReplayPreview": record(dryRun={"const": True}, count=COUNT, sample=several(ref("Delivery"))),
    "File": record(
        id=TEXT,
        job=UUID,
        artifact=TEXT,
        preview=maybe(WHOLE),
        state=word(*get_args(FileState)),
        sizeBytes=maybe(COUNT),
        contentType=maybe(TEXT),
        sha256=maybe(TEXT),
        attempts=COUNT,
        reason=maybe(TEXT),
        nextTryAt=maybe(TIME),
        keptAt=maybe(TIME),
        keptUntil=maybe(TIME),
    ),
    "Files": record(files=COUNT),
    "Verified": record(id=TEXT, sound=FLAG, reason=maybe(TEXT)),
    "Taken": record(result=word("stored", "duplicate", "quarantined")),
    "Alive": record(status={"const": "ok"}),
    "Hold": record(reason=TEXT, since=TIME, searchedAt=maybe(TIME), found=COUNT),
    "Resumed": record(held={"const": False}, hold=maybe(ref("Hold"))),
    "Ready": record(
        "accounts",
        "hold",
        hold=maybe(ref("Hold")),
        status={"const": "ok"},
        jobs=each(COUNT),
        accounts=several(record(email=TEXT, slots=COUNT, parked=maybe(word(*get_args(Parked))))),
    ),
    "NotReady": record(status={"const": "unavailable"}, reason=TEXT),
    "WebhookKeys": record(keys=several({"type": "string", "pattern": "^whpk_"})),
    "Task": whole("estimatedTimeToStartSeconds", **_TASK),
    "Created": record(
        task=ref("Task"), taskId=TEXT, jobId=UUID, replyUrl=maybe(TEXT), replyRef=maybe(TEXT), code=WHOLE
    ),
    "DropinError": record(
        "code",
        "problems",
        "jobId",
        "runningTasks",
        error=TEXT,
        code=WHOLE,
        problems=several(ref("Problem")),
        jobId=UUID,
        runningTasks=OBJECT,
    ),
}


def create_schema(models: list[str] | None) -> Schema:
    """The fields of a create, from the table that the check reads; `models`: the closed set where there is one."""
    fields: Schema = {field.name: maybe(field.schema()) for field in FIELDS.values()}
    for schema in fields.values():
        if "string" in schema["type"]:
            schema["maxLength"] = TEXT_MAX
    fields["model"] = FIELDS["model"].schema() | ({"enum": models} if models else {"minLength": 1})
    return {"type": "object", "properties": fields, "required": ["model"]}


def job_schema(models: list[str] | None) -> Schema:
    """The body of `POST /v1/jobs`: the upstream's fields, and what a job asks of the relay itself."""
    asked = create_schema(models)
    asked["properties"] |= {
        "priority": maybe(span(-PRIORITY_MAX, PRIORITY_MAX))
        | {"description": "orders one token's jobs, highest first"},
        "deadline": {
            "anyOf": [TIME, {"type": "number", "exclusiveMinimum": 0, "maximum": DEADLINE_MAX_S}, {"type": "null"}],
            "description": "the latest start: a time, or seconds from now; over it the job fails with `deadline`",
        },
    }
    # Whatever it is called, null means that it is absent.
    return asked | {"additionalProperties": {"type": "null"}}
