"""Records to rows and back: a record's fields are its table's columns, JSON fields are text, bodies are packed."""

import zlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import compress
from operator import attrgetter, is_not
from typing import Any, Final, TypeVar, get_args, get_type_hints

from pydantic_core import from_json, to_json

from relay.core.artifacts import StoredFile
from relay.core.breaker import Breaker
from relay.core.delivery import Delivery, Replay, Subscription
from relay.core.dispatch import Account
from relay.core.event import Event
from relay.core.job import Attempt, Job
from relay.core.ledger import KEYS, Adoption, Callback, Deed, Hold, Quarantined, Record, Token, UsedKey
from relay.core.record import made

T = TypeVar("T")

# A 2 KB body stored plainly costs 4 KB of pages; at level 1 well under 1 KB. The small window is as good for it, and
# much cheaper: most of what zlib does for so little is to set up its tables.
PACK_LEVEL: Final = 1
PACK_WINDOW_BITS: Final = 12
PACK_MEMORY: Final = 5
UNPACKED_MAX_BYTES: Final = 2 * 1024 * 1024
UPDATES_KEPT: Final = 1_000

TABLES: Final[dict[type[Any], str]] = {
    Job: "jobs",
    Attempt: "attempts",
    Event: "events",
    Subscription: "subscriptions",
    Delivery: "deliveries",
    Breaker: "breakers",
    Replay: "replays",
    Account: "accounts",
    Callback: "callbacks",
    Quarantined: "quarantine",
    Adoption: "adoptions",
    Token: "tokens",
    UsedKey: "used_keys",
    StoredFile: "artifacts",
    Hold: "holds",
    Deed: "deeds",
}


def kinds(table: str) -> dict[str, type[Any]]:
    """Of which type what a table's columns hold is, by their names."""
    record_type = next(kind for kind, name in TABLES.items() if name == table)
    found: dict[str, type[Any]] = {}
    for field in fields(record_type):
        if field.metadata.get("json"):
            found[field.name] = str
            continue
        hint: Any = get_type_hints(record_type)[field.name]
        # An optional value, and words of which only some are allowed.
        parts = [part for part in get_args(hint) if part is not type(None)] if not isinstance(hint, type) else [hint]
        found[field.name] = parts[0] if isinstance(parts[0], type) else str
    return found


def columns(record_type: type[Any]) -> str:
    """The columns of a record's table, for a SELECT."""
    return _COLUMNS[record_type]


def to_row(record: Record) -> tuple[Any, ...]:
    """The values of a record's columns, in their order; without a `seq` that the table gives."""
    layout = _LAYOUTS[type(record)]
    values = _encoded(layout, layout.values(record))
    return values[1:] if _numbered_by_table(record) else values


def update(before: Record, after: Record) -> tuple[str, tuple[Any, ...]] | None:
    """`(SQL, parameters)` that make the row of `before` that of `after`; None when nothing differs.

    Only what differs is written: every index over a column that is set is written anew, whatever its value.
    """
    layout = _LAYOUTS[type(after)]
    was, now = layout.values(before), layout.values(after)
    others = compress(range(len(was)), map(is_not, was, now))
    differ = tuple(n for n in others if was[n] != now[n])
    if not differ:
        return None
    now = _encoded(layout, now, differ)
    sql = _UPDATES.get((type(after), differ)) or _update(type(after), differ)
    return sql, (*(now[n] for n in differ), *layout.key(after))


def from_row(record_type: type[T], row: Mapping[str, Any]) -> T:
    """A record from a row that has its columns and no others."""
    layout = _LAYOUTS[record_type]
    # By place: to look each column up by its name costs more than all the rest.
    values: list[Any] = list(row)
    for n in layout.json:
        if (text := values[n]) is not None:
            # Most of them are empty.
            values[n] = [] if text == "[]" else {} if text == "{}" else from_json(text)
    for n in layout.packed:
        values[n] = zlib.decompressobj().decompress(values[n], UNPACKED_MAX_BYTES)
    for n in layout.flags:
        values[n] = bool(values[n])
    return made(record_type, values)


def put(record: Record) -> str:
    """The SQL that inserts a record or replaces the row of the same key."""
    return _PUTS[type(record), _numbered_by_table(record)]


def drop(record: Record) -> tuple[str, tuple[Any, ...]]:
    """`(SQL, parameters)` that delete the row of a record."""
    table, key = TABLES[type(record)], KEYS[type(record)]
    where = " AND ".join(f"{name} = ?" for name in key)
    return f"DELETE FROM {table} WHERE {where}", _LAYOUTS[type(record)].key(record)


def _numbered_by_table(record: Record) -> bool:
    return getattr(record, "seq", None) == 0


def _encoded(layout: "_Layout", values: tuple[Any, ...], wanted: Container[int] | None = None) -> tuple[Any, ...]:
    """The values as they are stored, at least the `wanted` ones."""
    row = list(values)
    for n in layout.json:
        if row[n] is not None and (wanted is None or n in wanted):
            row[n] = to_json(row[n]).decode()
    for n in layout.packed:
        packer = zlib.compressobj(PACK_LEVEL, zlib.DEFLATED, PACK_WINDOW_BITS, PACK_MEMORY)
        row[n] = packer.compress(row[n]) + packer.flush()
    return tuple(row)


def _update(record_type: type[Any], differ: tuple[int, ...]) -> str:
    table, key, names = TABLES[record_type], KEYS[record_type], [_LAYOUTS[record_type].names[n] for n in differ]
    sets = ", ".join(f"{name} = new.column{n}" for n, name in enumerate(names, 1))
    where = " AND ".join(f"{table}.{name} = new.column{n}" for n, name in enumerate(key, len(names) + 1))
    sql = f"UPDATE {table} SET {sets} FROM (VALUES {_marks(len(names) + len(key))}) AS new WHERE {where}"
    if len(_UPDATES) < UPDATES_KEPT:
        _UPDATES[record_type, differ] = sql
    return sql


@lru_cache(1_000)
def for_many(sql: str, width: int, rows: int) -> str:
    """The SQL of `put` or `update` for so many rows of so many values at once: one call costs less than many."""
    return sql.replace(f"VALUES {_marks(width)}", f"VALUES {', '.join([_marks(width)] * rows)}")


def _marks(width: int) -> str:
    return f"({', '.join('?' * width)})"


def _put(record_type: type[Any], numbered_by_table: bool) -> str:
    table, key = TABLES[record_type], KEYS[record_type]
    names = [name for name in _LAYOUTS[record_type].names if not (numbered_by_table and name == "seq")]
    changed = [name for name in names if name not in key and name != "seq"]
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES {_marks(len(names))} "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in changed)}"
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of a record, worked out once: a callback reads and writes some two hundred of them."""

    names: tuple[str, ...]
    json: tuple[int, ...]
    packed: tuple[int, ...]
    flags: tuple[int, ...]
    values: Callable[[Any], tuple[Any, ...]]
    key: Callable[[Any], tuple[Any, ...]]


def _layout(record_type: type[Any]) -> _Layout:
    found = fields(record_type)
    names, key = tuple(field.name for field in found), KEYS[record_type]
    return _Layout(
        names,
        tuple(n for n, field in enumerate(found) if field.metadata.get("json")),
        tuple(n for n, field in enumerate(found) if field.metadata.get("packed")),
        tuple(n for n, field in enumerate(found) if field.type is bool),
        attrgetter(*names),
        attrgetter(*key) if len(key) > 1 else lambda record: (getattr(record, key[0]),),
    )


_LAYOUTS: Final[dict[type[Any], _Layout]] = {record_type: _layout(record_type) for record_type in TABLES}
_COLUMNS: Final = {record_type: ", ".join(layout.names) for record_type, layout in _LAYOUTS.items()}
_PUTS: Final = {(record_type, fresh): _put(record_type, fresh) for record_type in TABLES for fresh in (False, True)}
_UPDATES: Final[dict[tuple[type[Any], tuple[int, ...]], str]] = {}
