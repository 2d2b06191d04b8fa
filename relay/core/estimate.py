"""When a waiting job should start and end: a list schedule over the slots, by what jobs of its model took of late."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from relay.core.catalogue import Catalogue
from relay.core.dispatch import Account, Waiting, in_turn
from relay.core.job import UNKNOWN_MS, Outlook

# A task that is later than usual is expected to take this part of its usual time more.
LATE_SHARE: Final = 0.1
LEARNED_FROM: Final = 20


@dataclass(frozen=True, slots=True)
class Running:
    """A job that takes a slot: since when, and how long its task should take."""

    job_id: str
    account: str
    mode: str
    since_ms: int
    expected_ms: int


def typical_ms(catalogue: Catalogue, model: str, took_ms: Sequence[int] = ()) -> int:
    """How long a task usually takes from submission to its end: as the last ones did, else as the catalogue says."""
    if took_ms:
        return int(median(took_ms[:LEARNED_FROM]))
    known = catalogue.models.get(model)
    return int((known.typical_queue_s + known.typical_render_s) * 1000) if known else UNKNOWN_MS


def ends_at_ms(usual_ms: int, since_ms: int, now_ms: int) -> int:
    """When a task that began at `since_ms` should end."""
    return max(since_ms + usual_ms, now_ms + int(usual_ms * LATE_SHARE))


def outlooks(
    now_ms: int,
    accounts: Sequence[Account],
    running: Sequence[Running],
    waiting: Sequence[Waiting],
    usual_ms: Mapping[tuple[str, str], int],
) -> dict[str, Outlook]:
    """The outlook of each waiting job by its id; `usual_ms` has the times of each `(model, mode)` that waits.

    Where no account can run a job, nothing can be said but its position. A job that is in both lists has left the
    queue while they were read, and counts as one that runs.
    """
    gone = {task.job_id for task in running}
    waiting = [job for job in waiting if job.job_id not in gone]
    free_at = {
        account.email: [max(now_ms, account.retry_at_ms)] * max(account.allowed, min(account.slots, 1))
        for account in accounts
    }
    for task in running:
        # A running task takes the place of one free slot.
        if slots := free_at.get(task.account):
            heapq.heapreplace(slots, ends_at_ms(task.expected_ms, task.since_ms, now_ms))
    last = max(accounts, key=lambda account: account.updated_at_ms, default=None)
    found = {}
    for position, job in enumerate(in_turn(waiting, last.turn if last else ""), 1):
        open_ = [slots for email, slots in free_at.items() if slots and job.pinned in (None, email)]
        if not open_:
            found[job.job_id] = Outlook(queue_position=position)
            continue
        slots = min(open_)
        ends_ms = slots[0] + usual_ms[job.model, job.mode]
        found[job.job_id] = Outlook(position, heapq.heapreplace(slots, ends_ms), ends_ms)
    return found
