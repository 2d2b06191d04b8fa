"""Conditions of a question as SQL, each value a parameter."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from relay.core.delivery import Selection

SHOWN_STATE: Final = (
    "CASE WHEN state IN ('waiting', 'due') AND subscription_id IN "
    "(SELECT id FROM subscriptions WHERE state <> 'active') THEN 'held' ELSE state END"
)


class Where:
    """Conditions joined by AND, and the values of their parameters."""

    def __init__(self, first: str, **values: Any) -> None:
        self._conditions = [first]
        self.values: dict[str, Any] = values

    def also(self, condition: str, **values: Any) -> "Where":
        self._conditions.append(condition)
        self.values |= values
        return self

    def any_of(self, column: str, alternatives: Sequence[str], *, or_null: bool = False, name: str = "") -> "Where":
        """One of these; no condition when there are none of them. `name`: for a column that is none."""
        if alternatives:
            condition, values = listed(column, "IN", alternatives, name=name)
            self.also(f"({column} IS NULL OR {condition})" if or_null else condition, **values)
        return self

    def none_of(self, column: str, excluded: Sequence[str]) -> "Where":
        if excluded:
            condition, values = listed(column, "NOT IN", excluded)
            self.also(condition, **values)
        return self

    def __str__(self) -> str:
        return " AND ".join(self._conditions)


def listed(column: str, operator: str, given: Sequence[str], *, name: str = "") -> tuple[str, dict[str, str]]:
    values = {f"{name or column}_{n}": value for n, value in enumerate(given)}
    return f"{column} {operator} ({', '.join(':' + name for name in values)})", values


def selected(wanted: Selection) -> Where:
    """The conditions of a selection of deliveries."""
    where = Where("TRUE")
    for name in ("subscription_id", "job_id", "event_type"):
        where.any_of(name, getattr(wanted, name))
    for condition, name in (
        ("created_at_ms >= :since_ms", "since_ms"),
        ("created_at_ms < :until_ms", "until_ms"),
        ("seq > :after_seq", "after_seq"),
        ("seq <= :until_seq", "until_seq"),
    ):
        if (value := getattr(wanted, name)) is not None:
            where.also(condition, **{name: value})
    if wanted.sendable:
        where.also("subscription_id IN (SELECT id FROM subscriptions) AND event_seq IN (SELECT seq FROM events)")
    return where.any_of("state", wanted.state)


def selected_as_shown(wanted: Selection) -> Where:
    """The same by the states that the doors show, of which `held` is none of the stored ones."""
    where = selected(replace(wanted, state=()))
    return where.any_of(SHOWN_STATE, wanted.state, name="state")
