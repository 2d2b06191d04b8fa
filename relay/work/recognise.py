"""Knows an attempt of this relay by its replyRef, wherever the upstream names it."""

import re
from typing import Final

from relay.core.adopting import LateTaskFound
from relay.core.submitting import AttemptLooked
from relay.core.task import Report
from relay.store.contract import Store
from relay.vault import new_uuid7

_REPLY_REF: Final = re.compile(
    r"relay:(?P<instance>[0-9a-f]{8}):(?P<job_id>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):(?P<number>[0-9]{1,8})"
)


def named_attempt(report: Report, instance: str) -> tuple[str, int] | None:
    """`(job id, attempt number)` of the relay's own reference that a task carries; None when it carries another."""
    found = _REPLY_REF.fullmatch(report.reply_ref or "")
    return (found["job_id"], int(found["number"])) if found and found["instance"] == instance else None


async def recognise(store: Store, report: Report, in_doubt_after_ms: int, now_ms: int) -> None:
    """The upstream has named a task: if it is that of an attempt in doubt, the attempt is found, and if it is that of
    one that was given up, it is adopted.
    """
    named = named_attempt(report, store.instance)
    if named is None:
        return
    known = await store.job(report.task_id) if report.task_id else None
    if known is not None and (known.error is None or known.error["code"] != "lost"):
        return
    job = await store.apply(AttemptLooked(*named, report, in_doubt_after_ms, now_ms))
    if job is not None and (job.upstream_task_id != report.task_id or job.state == "failed"):
        await store.apply(LateTaskFound(*named, report, new_uuid7(now_ms), now_ms))
