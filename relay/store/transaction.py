"""What goes on within a transaction on PostgreSQL: a group is decided and written in few trips to the server."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import asyncpg

from relay.core.artifacts import Keeping
from relay.core.ledger import Happening
from relay.store import group as groups
from relay.store.dialect import as_one, asked, is_of_one, numbered, placed
from relay.store.group import Ask
from relay.store.refusals import OF_ONE
from relay.store.statements import Query
from relay.store.writer import Written

_COLUMNS: Final[dict[str, list[str]]] = {}


async def together(
    sql: asyncpg.Connection, group: Sequence[Happening[Any]], head: int, epoch: str, keeping: Keeping | None
) -> Written:
    """What came of a group of which nothing fails, written; the log's end was `head`."""
    # Nothing is held: other relays write as well.
    steps = groups.together(group, head, epoch, held=None, keeping=keeping)
    rows: Sequence[Mapping[str, Any]] = ()
    step = next(steps)
    while True:
        if isinstance(step, Ask):
            rows = await _answered(sql, step.each)
        else:
            await _write(sql, step.statements)
        try:
            step = steps.send(rows)
        except StopIteration as end:
            written: Written = end.value
            return written


async def apart(
    sql: asyncpg.Connection, group: Sequence[Happening[Any]], head: int, epoch: str, keeping: Keeping | None
) -> Written:
    """The same of a group of which some cannot be written: their results are the errors."""
    written = Written(head)
    for happening in group:
        await sql.execute("SAVEPOINT one")
        try:
            one = await together(sql, [happening], written.head, epoch, keeping)
        except OF_ONE as error:
            await sql.execute("ROLLBACK TO one")
            one = Written(written.head, [error])
        await sql.execute("RELEASE one")
        written.take(one)
    return written


async def _write(sql: asyncpg.Connection, statements: Iterable[tuple[str, list[tuple[Any, ...]]]]) -> None:
    single: list[tuple[str, tuple[Any, ...]]] = []

    async def written() -> None:
        if single:
            await sql.execute(
                as_one(tuple(statement for statement, _ in single)), *(value for _, row in single for value in row)
            )
            single.clear()

    for statement, rows in statements:
        if len(rows) == 1 and is_of_one(statement):
            single.append((statement, rows[0]))
            continue
        await written()
        await sql.executemany(placed(statement), rows)
    await written()


class _Row:
    """Values by place, as records are made of them, and by name."""

    __slots__ = ("_names", "_values")

    def __init__(self, names: list[str], values: tuple[Any, ...]) -> None:
        self._names, self._values = names, values

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __getitem__(self, name: str) -> Any:
        return self._values[self._names.index(name)]


async def _answered(sql: asyncpg.Connection, each: Sequence[Sequence[Query]]) -> list[dict[str, Any]]:
    """The rows of all these queries, by one statement."""
    texts = tuple(query for _, query, _ in each[0])
    if not texts:
        return [{}] * len(each)
    names = [await _columns(sql, query) for query in texts]
    _, places = asked(texts, None)
    values = [[queries[which][2][name] for which, name in places] for queries in each]
    if len(each) == 1:
        found = [await sql.fetchrow(asked(texts, None)[0], *values[0])]
    else:
        found = await sql.fetch(asked(texts, tuple(map(type, values[0])))[0], *map(list, zip(*values, strict=True)))
    return [
        {name: [_Row(of, row) for row in rows] for (name, _, _), of, rows in zip(each[0], names, one, strict=True)}
        for one in found
    ]


async def _columns(sql: asyncpg.Connection, query: str) -> list[str]:
    """The names of the columns that a query gives, asked of the server once."""
    if query not in _COLUMNS:
        statement = await sql.prepare(numbered(query)[0])
        _COLUMNS[query] = [attribute.name for attribute in statement.get_attributes()]
    return _COLUMNS[query]


async def rolled_back(sql: asyncpg.Connection) -> None:
    with contextlib.suppress(Exception):
        await sql.execute("ROLLBACK")
