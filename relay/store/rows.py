"""Records to rows and back: a record's fields are its table's columns, JSON fields are text, bodies are packed."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

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
    return ", ".join(name for name, *_ in _LAYOUTS[record_type])


def to_row(record: Record) -> dict[str, Any]:
    """The values of a record's columns, by name."""
    row = {}
    for name, is_json, is_packed in _LAYOUTS[type(record)]:
        value = getattr(record, name)
        if is_json and value is not None:
            value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        elif is_packed:
            value = zlib.compress(value, PACK_LEVEL)
        row[name] = value
    return row


def from_row(record_type: type[T], row: Mapping[str, Any]) -> T:
    """A record from a row that has all its columns."""
    values = {}
    for name, is_json, is_packed in _LAYOUTS[record_type]:
        value = row[name]
        if is_json and value is not None:
            value = json.loads(value)
        elif is_packed:
            value = zlib.decompressobj().decompress(value, UNPACKED_MAX_BYTES)
        values[name] = value
    return record_type(**values)


def put(record: Record) -> str:
    """The SQL that inserts a record or replaces the row of the same key."""
    numbered_by_table = getattr(record, "seq", None) == 0
    return _PUTS[type(record), numbered_by_table]


def drop(record: Record) -> str:
    """The SQL that deletes the row of a record."""
    table, key = TABLES[type(record)]
    return f"DELETE FROM {table} WHERE {' AND '.join(f'{name} = :{name}' for name in key)}"


def _put(record_type: type[Any], numbered_by_table: bool) -> str:
    table, key = TABLES[record_type]
    names = [name for name, *_ in _LAYOUTS[record_type] if not (numbered_by_table and name == "seq")]
    changed = [name for name in names if name not in key and name != "seq"]
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in changed)}"
    )


# (name, is JSON, is packed) of each column, and the SQL of each put, worked out once.
_LAYOUTS: Final[dict[type[Any], tuple[tuple[str, bool, bool], ...]]] = {
    record_type: tuple(
        (field.name, bool(field.metadata.get("json")), bool(field.metadata.get("packed")))
        for field in fields(record_type)
    )
    for record_type in TABLES
}
_PUTS: Final = {(record_type, fresh): _put(record_type, fresh) for record_type in TABLES for fresh in (False, True)}
