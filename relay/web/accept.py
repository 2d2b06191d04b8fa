"""What both doors do with a checked request: make the job, and the subscription of its own replyUrl."""

from typing import Any, Final

from relay.core import job as jobs
from relay.core.delivery import Subscription
from relay.core.event import FINAL_TYPES, PROGRESS
from relay.core.job import Job, Origin
from relay.core.request import Checked
from relay.core.submitting import JobSubmitted
from relay.core.target import check_url
from relay.errors import InvalidRequest, Problem, TargetRefused
from relay.vault import new_uuid7
from relay.web.guard import Principal

REPLY_TYPES: Final = (PROGRESS, *sorted(FINAL_TYPES))
URL_SEAL: Final = "subscription-url"


async def accept(state: Any, principal: Principal, checked: Checked, origin: Origin) -> Job:
    """Put the job on disk, in the queue; `InvalidRequest` for a replyUrl that the relay would not call."""
    now_ms, request = state.clock.now_ms(), dict(checked.request)
    job_id, reply_url = new_uuid7(now_ms), request.pop("replyUrl", None)
    default = state.settings.default_reply_url
    if reply_url is None and default is not None:
        reply_url = default.get_secret_value()
    subscription = None if reply_url is None else _subscription(state, job_id, str(reply_url), now_ms)
    reply_ref = request.get("replyRef")
    job = Job(
        id=job_id,
        model=str(request["model"]),
        reply_ref=reply_ref if isinstance(reply_ref, str) else None,
        reply_url_sealed=subscription.url_sealed if subscription else None,
        origin=origin,
        token_id=principal.token_id,
        submitted_by=principal.name,
        pinned=checked.account,
        task_id=jobs.task_id_of(job_id),
        request=request,
        problems=[problem.as_json() for problem in checked.problems],
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )
    settings = state.settings
    submitted = JobSubmitted(job, settings.queue_per_token, settings.queue_max, subscription)
    accepted: Job = await state.store.apply(submitted)
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
