"""A group of happenings, decided one after the other, each seeing what those before it change.

The same for all engines: one drives it, answers what is asked and writes what it is given, all in one transaction.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.core.artifacts import Keeping
from relay.core.delivery import Delivery
from relay.core.ledger import Changes, Happening, Loaded, Needs
from relay.store.held import Held
from relay.store.statements import BODIES_OF_JOB, Pending, Query, Rows, loaded, queries
from relay.store.writer import Written


@dataclass(frozen=True, slots=True)
class Ask:
    """Wants for each of these the rows of its queries, by their names; all of them ask the same of other values."""

    each: Sequence[Sequence[Query]]


@dataclass(frozen=True, slots=True)
class Write:
    """`(SQL, rows of parameters)`, to be written in this order."""

    statements: Iterable[tuple[str, list[tuple[Any, ...]]]]


Steps = Generator[Ask | Write, Sequence[Mapping[str, Rows]], Written]


def together(
    group: Sequence[Happening[Any]], head: int, epoch: str, *, held: Held | None, keeping: Keeping | None
) -> Steps:
    """Decide all, and write what came of it in as few steps as can be.

    `held`: what is known without asking, where nobody else writes. A refusal, or a defect of ours, is the result of its
    happening alone.
    """
    written, pending = Written(head), Pending()
    # Of the happenings that follow what was asked for along with another's, and whom has changed what since then.
    ahead: list[Mapping[str, Rows]] = []
    touched: set[str] = set()
    for place, happening in enumerate(group):
        needs = happening.needs()
        before = held.find(needs, epoch, written.head + 1) if held is not None else None
        if ahead:
            before = loaded(ahead.pop(0), epoch=epoch, next_seq=written.head + 1, keeping=keeping)
            before = before if touched.isdisjoint(_looked_at(before)) else None
        if before is None:
            yield Write(pending.take())
            alike = _alike(group[place:]) if held is None else [needs]
            rows, *ahead = yield Ask([queries(one) for one in alike])
            touched.clear()
            before = loaded(rows, epoch=epoch, next_seq=written.head + 1, keeping=keeping)
            if held is not None and needs.token_hash and before.job is not None:
                [bodies] = yield Ask([[("bodies", BODIES_OF_JOB, {"job_id": before.job.id})]])
                held.keep(before, ((row["number"], row["sha256"]) for row in bodies["bodies"]))
        try:
            changes = happening.decide(before)
        except MemoryError:
            raise
        except Exception as error:
            written.results.append(error)
            continue
        pending.add(changes, before)
        if held is not None:
            held.apply(changes)
        elif ahead:
            touched.update(_changed(changes))
        written.add(changes)
    yield Write(pending.take())
    return written


def _alike(group: Sequence[Happening[Any]]) -> list[Needs]:
    """What the first of them needs, and those behind it that need the same of other jobs: callbacks, and deliveries."""
    needs = [group[0].needs()]
    for happening in group[1:] if _can_be_many(needs[0]) else ():
        one = happening.needs()
        if not _can_be_many(one) or bool(one.token_hash) != bool(needs[0].token_hash):
            break
        needs.append(one)
    return needs


def _can_be_many(needs: Needs) -> bool:
    """Whether nothing is needed but what `_looked_at` names."""
    if needs.token_hash and needs.sha256:
        return needs == Needs(token_hash=needs.token_hash, sha256=needs.sha256)
    return bool(needs.delivery_id) and needs == Needs(delivery_id=needs.delivery_id)


def _looked_at(before: Loaded) -> Iterator[str]:
    """The job, the subscription and the place that a decision rests on."""
    if before.job is not None:
        yield before.job.id
    if before.delivery is not None:
        yield _lane(before.delivery)
    if before.subscription is not None:
        yield from (before.subscription.id, before.subscription.place)


def _lane(delivery: Delivery) -> str:
    """Of the deliveries of a job only those to the same subscription wait for each other."""
    return f"{delivery.job_id or delivery.id} {delivery.subscription_id}"


def _changed(changes: Changes[Any]) -> Iterator[str]:
    """The same of what was decided."""
    for record in (*changes.puts, *changes.drops):
        if isinstance(record, Delivery):
            yield _lane(record)
            continue
        for name in ("job_id", "id", "place"):
            if value := getattr(record, name, None):
                yield value
