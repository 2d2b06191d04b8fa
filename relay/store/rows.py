"""Records to rows and back: a record's fields are its table's columns, JSON fields are text, bodies are packed."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final, TypeVar

from pydantic_core import from_json, to_json

from relay.core.delivery import Delivery, Subscription
from relay.core.dispatch import Account
from relay.core.event import Event
from relay.core.job import Attempt, Job
from relay.core.ledger import Adoption, Callback, Quarantined, Record

T = TypeVar("T")

# A 2 KB body stored plainly costs 4 KB of pages; at level 1 well under 1 KB.
PACK_LEVEL: Final = 1
UNPACKED_MAX_BYTES: Final = 2 * 1024 * 1024

TABLES: Final[dict[type[Any], tuple[str, tuple[str, ...]]]] = {
    Job: ("jobs", ("id",)),
    Attempt: ("attempts", ("job_id", "number")),
    Event: ("events", ("seq",)),
    Subscription: ("subscriptions", ("id",)),
    Delivery: ("deliveries", ("id",)),
    Account: ("accounts", ("email",)),
    Callback: ("callbacks", ("seq",)),
    Quarantined: ("quarantine", ("seq",)),
    Adoption: ("adoptions", ("task_id",)),
}


def columns(record_type: type[Any]) -> str:
    """The columns of a record's table, for a SELECT."""
    return _COLUMNS[record_type]


def to_row(record: Record) -> dict[str, Any]:
    """The values of a record's columns, by name."""
    layout = _LAYOUTS[type(record)]
    return _encoded(layout, dict(zip(layout.names, layout.values(record), strict=True)))


def update(before: Record, after: Record) -> tuple[str, dict[str, Any]] | None:
    """`(SQL, parameters)` that make the row of `before` that of `after`; None when nothing differs.

    Only what differs is written: every index over a column that is set is written anew, whatever its value.
    """
    layout, (table, key) = _LAYOUTS[type(after)], TABLES[type(after)]
    pairs = zip(layout.names, layout.values(before), layout.values(after), strict=True)
    changed = {name: new for name, old, new in pairs if old is not new and old != new}
    if not changed:
        return None
    sets = ", ".join(f"{name} = :{name}" for name in changed)
    where = " AND ".join(f"{name} = :{name}" for name in key)
    keys = {name: getattr(after, name) for name in key}
    return f"UPDATE {table} SET {sets} WHERE {where}", _encoded(layout, changed) | keys


def from_row(record_type: type[T], row: Mapping[str, Any]) -> T:
    """A record from a row that has its columns and no others."""
    layout, values = _LAYOUTS[record_type], dict(row)
    for name in layout.json:
        if values[name] is not None:
            values[name] = from_json(values[name])
    for name in layout.packed:
        values[name] = zlib.decompressobj().decompress(values[name], UNPACKED_MAX_BYTES)
    return record_type(**values)


def key_of(record: Record) -> tuple[Any, ...]:
    """The type and the key of a record: the same for all versions of one row."""
    return (type(record), *(getattr(record, name) for name in TABLES[type(record)][1]))


def put(record: Record) -> str:
    """The SQL that inserts a record or replaces the row of the same key."""
    numbered_by_table = getattr(record, "seq", None) == 0
    return _PUTS[type(record), numbered_by_table]


def drop(record: Record) -> str:
    """The SQL that deletes the row of a record."""
    table, key = TABLES[type(record)]
    return f"DELETE FROM {table} WHERE {' AND '.join(f'{name} = :{name}' for name in key)}"


def _encoded(layout: "_Layout", row: dict[str, Any]) -> dict[str, Any]:
    for name in layout.json:
        if row.get(name) is not None:
            row[name] = to_json(row[name]).decode()
    for name in layout.packed:
        if name in row:
            row[name] = zlib.compress(row[name], PACK_LEVEL)
    return row


def _put(record_type: type[Any], numbered_by_table: bool) -> str:
    table, key = TABLES[record_type]
    names = [name for name in _LAYOUTS[record_type].names if not (numbered_by_table and name == "seq")]
    changed = [name for name in names if name not in key and name != "seq"]
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in changed)}"
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns of a record, worked out once: a callback reads and writes some two hundred of them."""

    names: tuple[str, ...]
    json: tuple[str, ...]
    packed: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]


def _layout(record_type: type[Any]) -> _Layout:
    found = fields(record_type)
    names = tuple(field.name for field in found)
    return _Layout(
        names,
        tuple(field.name for field in found if field.metadata.get("json")),
        tuple(field.name for field in found if field.metadata.get("packed")),
        attrgetter(*names),
    )


_LAYOUTS: Final[dict[type[Any], _Layout]] = {record_type: _layout(record_type) for record_type in TABLES}
_COLUMNS: Final = {record_type: ", ".join(layout.names) for record_type, layout in _LAYOUTS.items()}
_PUTS: Final = {(record_type, fresh): _put(record_type, fresh) for record_type in TABLES for fresh in (False, True)}
