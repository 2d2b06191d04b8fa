"""The SQL of this room as PostgreSQL takes it: numbered parameters, and the same values back that went in."""

import re
from functools import lru_cache
from typing import Any, Final

from relay.store.rows import kinds

# Strings are passed over; a name behind a colon is a parameter.
_NAMED: Final = re.compile(r"'[^']*'|::\w+|:(\w+)")
_UPDATE: Final = re.compile(r"UPDATE (\w+) SET (.+) FROM \(VALUES \((\?(?:, \?)*)\)\) AS new WHERE (.+)", re.DOTALL)
_SET: Final = re.compile(r"(\w+) = new\.column(\d+)")
_NUMBER: Final = re.compile(r"\$(\d+)")
_TYPES: Final = {int: "bigint", bool: "bigint", float: "float8", str: "text", bytes: "bytea"}
# PostgreSQL's text has no NUL. It, and the mark itself, are written as the mark and a letter.
_MARK: Final = "\ufdd0"


async def prepare(connection: Any) -> None:
    """Whole numbers come back as such, whatever sum they are; texts as they were."""
    await connection.set_type_codec("numeric", encoder=str, decoder=_number, schema="pg_catalog", format="text")
    await connection.set_type_codec("text", encoder=_escaped, decoder=_plain, schema="pg_catalog", format="binary")


@lru_cache(2_000)
def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """`(SQL, names)`: each `:name` as `$n`, and whose value the n-th parameter is."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return match[0]
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    return _NAMED.sub(number, sql), tuple(names)


@lru_cache(2_000)
def placed(sql: str) -> str:
    """Each `?` as `$n`; where values stand in a table of their own, nothing else says of which type they are."""
    update = _UPDATE.fullmatch(sql)
    if update is not None:
        table, sets, marks, where = update.groups()
        of = {int(place): kinds(table)[name] for name, place in _SET.findall(f"{sets} {where}")}
        typed = ", ".join(f"?::{_TYPES[of[n]]}" for n in range(1, marks.count("?") + 1))
        sql = f"UPDATE {table} SET {sets} FROM (VALUES ({typed})) AS new WHERE {where}"
    parts = sql.split("?")
    return "".join(f"{part}${n}" for n, part in enumerate(parts[:-1], 1)) + parts[-1]


@lru_cache(500)
def asked(queries: tuple[str, ...], types: tuple[type, ...] | None) -> tuple[str, tuple[tuple[int, str], ...]]:
    """One statement for all these queries: of each a list of rows. `(SQL, (which query's, which of its values))`.

    With `types`, those of the values, it takes a list of each value, and gives a row for each of the lists' places.
    """
    places: list[tuple[int, str]] = []

    def one(which: int, sql: str) -> str:
        def place(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0]
            if (which, match[1]) not in places:
                places.append((which, match[1]))
            n = places.index((which, match[1])) + 1
            return f"${n}" if types is None else f"given.p{n}"

        return f"ARRAY(SELECT row(found.*) FROM ({_NAMED.sub(place, sql)}) AS found)"

    found = ", ".join(one(which, sql) for which, sql in enumerate(queries))
    if types is None:
        return f"SELECT {found}", tuple(places)
    lists = ", ".join(f"${n}::{_TYPES[kind]}[]" for n, kind in enumerate(types, 1))
    names = ", ".join(f"p{n}" for n in range(1, len(types) + 1))
    given = f"FROM unnest({lists}) WITH ORDINALITY AS given({names}, place) ORDER BY given.place"
    return f"SELECT {found} {given}", tuple(places)


def is_of_one(statement: str) -> bool:
    """Whether it adds or changes rows that no other statement of the same happenings adds or changes."""
    return statement.startswith("INSERT ") or _UPDATE.fullmatch(statement) is not None


@lru_cache(500)
def as_one(statements: tuple[str, ...]) -> str:
    """All of them as one statement, which takes the parameters of one after the other."""
    texts, taken = [], 0
    for statement in statements:
        text = placed(statement)
        numbers = {int(number) for number in _NUMBER.findall(text)}
        texts.append(_NUMBER.sub(lambda match, before=taken: f"${int(match[1]) + before}", text))  # type: ignore[misc]
        taken += len(numbers)
    *first, last = texts
    before = ", ".join(f"w{n} AS ({text})" for n, text in enumerate(first))
    return f"WITH {before} {last}" if first else last


def _escaped(text: str) -> bytes:
    if "\0" in text or _MARK in text:
        text = text.replace(_MARK, f"{_MARK}m").replace("\0", f"{_MARK}0")
    return text.encode()


def _plain(data: bytes) -> str:
    text = bytes(data).decode()
    return text.replace(f"{_MARK}0", "\0").replace(f"{_MARK}m", _MARK) if _MARK in text else text


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)
