"""Knows an attempt of this relay by its replyRef, wherever the upstream names it."""

from relay.core.adopting import LateTaskFound
from relay.core.submitting import AttemptLooked
from relay.core.task import Report
from relay.store.contract import Store
from relay.vault import new_uuid7


async def recognise(store: Store, report: Report, in_doubt_after_ms: int, now_ms: int) -> None:
    """The upstream has named a task: if it is that of an attempt in doubt, the attempt is found, and if it is that of
    one that was given up, it is adopted.
    """
    prefix = f"relay:{store.instance}:"
    if report.reply_ref is None or not report.reply_ref.startswith(prefix):
        return
    known = await store.job(report.task_id) if report.task_id else None
    if known is not None and (known.error is None or known.error["code"] != "lost"):
        return
    job_id, _, number = report.reply_ref.removeprefix(prefix).rpartition(":")
    if number.isascii() and number.isdecimal() and len(number) < 9:
        job = await store.apply(AttemptLooked(job_id, int(number), report, in_doubt_after_ms, now_ms))
        if job is not None and (job.upstream_task_id != report.task_id or job.state == "failed"):
            await store.apply(LateTaskFound(job_id, int(number), report, new_uuid7(now_ms), now_ms))
