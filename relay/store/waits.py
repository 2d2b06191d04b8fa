"""Moves every open wait at once, by one statement a table, when the clock that they follow has jumped."""

from collections.abc import Iterator
from typing import Final

# What a client was promised by the wall clock (a deadline), and what has been, stays where it is.
_OPEN: Final = (
    (
        "attempts",
        "state IN ('sending', 'created', 'unknown')",
        ("ask_at_ms", "sent_at_ms", "hinted_at_ms", "missing_since_ms", "empty_since_ms"),
    ),
    ("deliveries", "state IN ('waiting', 'due', 'sending')", ("due_at_ms", "lease_until_ms")),
    ("breakers", "TRUE", ("since_ms", "open_until_ms")),
    *(("accounts", f"{name} > 0", (name,)) for name in ("retry_at_ms", "probe_at_ms", "explore_at_ms", "freed_at_ms")),
    ("adoptions", "TRUE", ("first_at_ms", "ask_at_ms")),
    ("artifacts", "state = 'wanted'", ("next_at_ms", "held_until_ms")),
)


def moved(by_ms: int) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """`(SQL, rows of parameters)`; a time that is not set stays so."""
    for table, open_, names in _OPEN:
        sets = ", ".join(f"{name} = {name} + ?" for name in names)
        yield f"UPDATE {table} SET {sets} WHERE {open_}", [(by_ms,) * len(names)]
