"""Conditions of a question as SQL, each value a parameter."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from relay.core.delivery import Selection
from relay.store.contract import JobFilter

SHOWN_STATE: Final = (
    "CASE WHEN state IN ('waiting', 'due') AND subscription_id IN "
    "(SELECT id FROM subscriptions WHERE state <> 'active') THEN 'held' ELSE state END"
)


# The narrowest one first, as far as that can be told without counting: it is what the list is read along.
_BY: Final = ("reply_ref", "account", "model", "token_id", "origin", "state")


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


# Jobs with all of these words, newest first: never by rank, which would look at all of them.
WORDS: Final = (
    "SELECT rowid AS seq FROM jobs_text WHERE jobs_text MATCH :words AND rowid < :before AND rowid > :behind "
    "ORDER BY rowid DESC LIMIT :looked_at"
)


def chosen_jobs(wanted: JobFilter, by_words: str = WORDS) -> tuple[str, Where]:
    """SQL for the `seq` of the jobs that one of the filters chooses, newest first and lazily, and the other conditions.

    It takes `:before`, `:behind` and `:looked_at`. Several values of the filter are merged, each read along the index:
    with IN, SQLite would read the whole table, or sort all that it finds.
    """
    if wanted.words:
        return by_words, _rest(wanted, "", words=" ".join(map(_quoted, wanted.words)))
    # What has succeeded is most of all; what has not is little.
    rare = wanted.state and "succeeded" not in wanted.state
    by = "state" if rare and not wanted.reply_ref else next((name for name in _BY if getattr(wanted, name)), "")
    part = "SELECT seq FROM jobs WHERE {} AND seq < :before AND seq > :behind"
    values = {f"by_{n}": value for n, value in enumerate(getattr(wanted, by))} if by else {}
    parts = [part.format(f"{by} = :{name}") for name in values] or [part.format("TRUE")]
    return f"{' UNION ALL '.join(parts)} ORDER BY seq DESC LIMIT :looked_at", _rest(wanted, by, **values)


def _rest(wanted: JobFilter, by: str, **values: str) -> Where:
    where = Where("TRUE", **values)
    for name in _BY:
        if name != by:
            where.any_of(name, getattr(wanted, name))
    if wanted.since_ms is not None:
        where.also("created_at_ms >= :since_ms", since_ms=wanted.since_ms)
    if wanted.until_ms is not None:
        where.also("created_at_ms < :until_ms", until_ms=wanted.until_ms)
    return where


def _quoted(word: str) -> str:
    """A word as a string of the search language, in which nothing else means anything."""
    return '"' + word.replace("\0", " ").replace('"', '""') + '"'
