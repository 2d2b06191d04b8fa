"""Knows an attempt of this relay by its replyRef, wherever the upstream names it."""

from relay.core.submitting import AttemptLooked
from relay.core.task import Report
from relay.store.contract import Store


async def recognise(store: Store, report: Report, in_doubt_after_ms: int, now_ms: int) -> None:
    """The upstream has named a task: if it is that of an attempt in doubt, the attempt is found."""
    prefix = f"relay:{store.instance}:"
    if report.reply_ref is None or not report.reply_ref.startswith(prefix):
        return
    job_id, _, number = report.reply_ref.removeprefix(prefix).rpartition(":")
    if number.isascii() and number.isdecimal() and len(number) < 9:
        await store.apply(AttemptLooked(job_id, int(number), report, in_doubt_after_ms, now_ms))
