"""When a waiting job should start and end, from the catalogue's typical times: a list schedule over the slots."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from relay.core.catalogue import Catalogue
from relay.core.dispatch import Account
from relay.core.job import Outlook

UNKNOWN_MODEL_S: Final = 600.0
# A task that is later than usual is expected to take this part of its usual time more.
LATE_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Running:
    """A task that takes a slot: since when, and which model."""

    account: str
    model: str
    since_ms: int


def typical_ms(catalogue: Catalogue, model: str) -> int:
    """How long a task of this model usually takes from submission to its end."""
    known = catalogue.models.get(model)
    seconds = known.typical_queue_s + known.typical_render_s if known else UNKNOWN_MODEL_S
    return int(seconds * 1000)


def ends_at_ms(catalogue: Catalogue, model: str, since_ms: int, now_ms: int) -> int:
    """When a task that began at `since_ms` should end."""
    usual_ms = typical_ms(catalogue, model)
    return max(since_ms + usual_ms, now_ms + int(usual_ms * LATE_SHARE))


def outlooks(
    now_ms: int,
    catalogue: Catalogue,
    accounts: Sequence[Account],
    running: Sequence[Running],
    waiting: Sequence[str],
) -> list[Outlook]:
    """The outlook of each waiting job (`waiting` holds their models, in the queue's order).

    Without any account nothing can be said: positions only.
    """
    free_at = [max(now_ms, account.retry_at_ms) for account in accounts for _ in range(account.slots)]
    for task in running:
        ends_ms = ends_at_ms(catalogue, task.model, task.since_ms, now_ms)
        # A running task takes the place of one free slot.
        if free_at:
            free_at.remove(min(free_at))
            free_at.append(ends_ms)
    heapq.heapify(free_at)
    found = []
    for position, model in enumerate(waiting, 1):
        if not free_at:
            found.append(Outlook(queue_position=position))
            continue
        starts_ms = heapq.heappop(free_at)
        ends_ms = starts_ms + typical_ms(catalogue, model)
        heapq.heappush(free_at, ends_ms)
        found.append(Outlook(position, starts_ms, ends_ms))
    return found
