"""What both doors do with a checked request: make the job, and the subscription of its own replyUrl."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from starlette.requests import Request

from relay.core import job as jobs
from relay.core.delivery import URL_SEAL, Subscription
from relay.core.event import FINAL_TYPES, PROGRESS
from relay.core.job import Job, Origin
from relay.core.ledger import Happening, UsedKey
from relay.core.request import Checked
from relay.core.submitting import JobSubmitted
from relay.core.target import check_url
from relay.core.terms import Terms
from relay.errors import InvalidRequest, Problem, TargetRefused
from relay.observe import about
from relay.vault import new_uuid7
from relay.web.guard import Principal

REPLY_TYPES: Final = (PROGRESS, *sorted(FINAL_TYPES))
KEY_HEADER: Final = "Idempotency-Key"
KEY_MAX_CHARS: Final = 255
KEY_FORM: Final = rf"[!-~](?:[ -~]{{0,{KEY_MAX_CHARS - 2}}}[!-~])?"


def key_of(request: Request) -> str | None:
    """What the request's `Idempotency-Key` is stored as: a hash of it and of the token that sent it; None without."""
    given = request.headers.getlist(KEY_HEADER)
    if not given:
        return None
    if len(given) > 1 or not re.fullmatch(KEY_FORM, given[0]):
        allowed = f"1 to {KEY_MAX_CHARS} visible ASCII characters, spaces within them"
        message = f"{KEY_HEADER} must be sent once and have {allowed}"
        raise InvalidRequest.field(KEY_HEADER, "key_form", message, given=given[0][:80], allowed=allowed)
    principal: Principal = request.state.principal
    return hashlib.sha256(f"{principal.token_id}\0{given[0]}".encode()).hexdigest()


def fingerprint(origin: Origin, asked: Any) -> str:
    """A hash of what was asked for, the same for the same request at the same door."""
    text = json.dumps([origin, asked], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


async def accept(
    state: Any,
    principal: Principal,
    checked: Checked,
    origin: Origin,
    *,
    key: str | None = None,
    terms: Terms = Terms(),  # noqa: B008 # frozen
    asked: Any = None,
) -> Job:
    """Put the job on disk, in the queue, or find the one that `key` has made of the same request.

    `asked` is what the client sent beside the request. `InvalidRequest` for a replyUrl that the relay would not call.
    """
    now_ms, request = state.clock.now_ms(), dict(checked.request)
    job_id, hashed = new_uuid7(now_ms), fingerprint(origin, [request, asked])
    reply_url = request.pop("replyUrl", None)
    default = state.settings.default_reply_url
    if reply_url is None and default is not None:
        reply_url = default.get_secret_value()
    reply_ref = request.get("replyRef")
    job = Job(
        id=job_id,
        model=str(request["model"]),
        mode=jobs.mode_of(request),
        reply_ref=reply_ref if isinstance(reply_ref, str) else None,
        origin=origin,
        token_id=principal.token_id,
        submitted_by=principal.name,
        priority=terms.priority,
        deadline_ms=terms.deadline_ms,
        pinned=checked.account,
        task_id=jobs.task_id_of(job_id),
        request=request,
        problems=[problem.as_json() for problem in checked.problems],
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
    used_key = key and UsedKey(id=key, request_hash=hashed, job_id=job_id, at_ms=now_ms)
    return await queue(state, job, str(reply_url) if reply_url is not None else None, used_key or None)


async def queue(
    state: Any,
    job: Job,
    reply_url: str | None,
    used_key: UsedKey | None = None,
    *,
    audited: Callable[[Happening[Job]], Happening[Job]] = lambda submitted: submitted,
) -> Job:
    """Put a job into the queue with the subscription of its client; the job that the ledger has for it."""
    subscription = None if reply_url is None else _subscription(state, job.id, reply_url, job.created_at_ms)
    job = replace(job, reply_url_sealed=subscription.url_sealed if subscription else None)
    settings = state.settings
    submitted = JobSubmitted(job, settings.queue_per_token, settings.queue_max, subscription, used_key)
    accepted: Job = await state.store.apply(audited(submitted))
    about(job=accepted.id)
    return accepted


def reply_url_of(state: Any, principal: Principal, job: Job) -> str | None:
    """The client's replyUrl, for its submitter alone."""
    if job.reply_url_sealed is None or job.token_id != principal.token_id:
        return None
    url: bytes = state.vault.open(job.reply_url_sealed, URL_SEAL)
    return url.decode()


def shown_url(url: str, authority: str, scheme: str) -> str:
    """What lists show of a subscriber's address: where it goes, and its end to tell it from others."""
    return f"{scheme}://{authority}/…{url[-4:]}"


def _subscription(state: Any, job_id: str, url: str, now_ms: int) -> Subscription:
    try:
        target = check_url(url, state.allow)
    except TargetRefused as error:
        problems = [Problem("replyUrl", found.rule, found.message) for found in error.problems]
        raise InvalidRequest.of(problems) from error
    return Subscription(
        id=new_uuid7(now_ms),
        url_sealed=state.vault.seal(url, URL_SEAL),
        url_shown=shown_url(url, target.authority, target.scheme),
        secrets=[],
        types=list(REPLY_TYPES),
        format="task",
        job_id=job_id,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
