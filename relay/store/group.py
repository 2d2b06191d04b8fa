"""A group of happenings, decided one after the other, each seeing what those before it change.

The same for all engines: one drives it, answers what is asked and writes what it is given, all in one transaction.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relay.core.artifacts import Keeping
from relay.core.ledger import Happening
from relay.store.held import Held
from relay.store.statements import BODIES_OF_JOB, Pending, Query, Rows, loaded, queries
from relay.store.writer import Written


@dataclass(frozen=True, slots=True)
class Ask:
    """Wants the rows of each of these queries, by their names."""

    queries: Sequence[Query]


@dataclass(frozen=True, slots=True)
class Write:
    """`(SQL, rows of parameters)`, to be written in this order."""

    statements: Iterable[tuple[str, list[tuple[Any, ...]]]]


Steps = Generator[Ask | Write, Mapping[str, Rows], Written]


def together(
    group: Sequence[Happening[Any]], head: int, epoch: str, *, held: Held | None, keeping: Keeping | None
) -> Steps:
    """Decide all, and write what came of it in as few steps as can be.

    `held`: what is known without asking, where nobody else writes. A refusal, or a defect of ours, is the result of its
    happening alone.
    """
    written, pending = Written(head), Pending()
    for happening in group:
        needs = happening.needs()
        before = held.find(needs, epoch, written.head + 1) if held is not None else None
        if before is None:
            yield Write(pending.take())
            rows = yield Ask(queries(needs))
            before = loaded(rows, epoch=epoch, next_seq=written.head + 1, keeping=keeping)
            if held is not None and needs.token_hash and before.job is not None:
                bodies = yield Ask([("bodies", BODIES_OF_JOB, {"job_id": before.job.id})])
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
        written.add(changes)
    yield Write(pending.take())
    return written
