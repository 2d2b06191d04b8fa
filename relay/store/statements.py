"""The SQL of a happening, the same for every engine: what it needs is a list of queries, what it changes one of writes.

All queries of a happening are independent of each other, so that an engine may send them in one trip.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from relay.core.delivery import Delivery, Subscription
from relay.core.dispatch import Account
from relay.core.job import Attempt, Job
from relay.core.ledger import Adoption, Changes, Loaded, Needs, Record
from relay.store.rows import columns, drop, from_row, key_of, put, to_row, update

Query = tuple[str, str, dict[str, Any]]
Rows = Sequence[Mapping[str, Any]]

SUBSCRIPTIONS_MAX: Final = 1_000
# More than all subscriptions together can be owed of one job: a lane that is seen in part would move out of turn.
OPEN_DELIVERIES_MAX: Final = 8_000

_OF_DELIVERY: Final = "(SELECT job_id FROM deliveries WHERE id = :delivery_id)"


def queries(needs: Needs) -> list[Query]:
    """`(name, SQL, parameters)` for everything that a happening has to see."""
    found: list[Query] = []
    key: dict[str, Any]
    if needs.job_id or needs.token_hash or needs.upstream_task_id:
        of_job, key = _job_of(needs)
        found += [
            ("job", f"SELECT {columns(Job)} FROM jobs WHERE id = {of_job}", key),
            ("attempts", f"SELECT {columns(Attempt)} FROM attempts WHERE job_id = {of_job} ORDER BY number", key),
            (
                "subscriptions",
                f"SELECT {columns(Subscription)} FROM subscriptions "
                f"WHERE job_id IS NULL OR job_id = {of_job} ORDER BY seq LIMIT {SUBSCRIPTIONS_MAX}",
                key,
            ),
            _open_deliveries(of_job, key),
        ]
    if needs.upstream_task_id:
        key = {"task_id": needs.upstream_task_id}
        found += [
            ("adoption", f"SELECT {columns(Adoption)} FROM adoptions WHERE task_id = :task_id", key),
            ("adoptions", "SELECT count(*) AS adoptions FROM adoptions", {}),
        ]
    if needs.sha256:
        found.append(_callback_seen(needs))
    if needs.delivery_id:
        key = {"delivery_id": needs.delivery_id}
        found += [
            ("delivery", f"SELECT {columns(Delivery)} FROM deliveries WHERE id = :delivery_id", key),
            (
                "subscription",
                f"SELECT {columns(Subscription)} FROM subscriptions "
                "WHERE id = (SELECT subscription_id FROM deliveries WHERE id = :delivery_id)",
                key,
            ),
            _open_deliveries(_OF_DELIVERY, key),
        ]
    if needs.subscription_id:
        sql = f"SELECT {columns(Subscription)} FROM subscriptions WHERE id = :id"
        found.append(("subscription", sql, {"id": needs.subscription_id}))
    if needs.accounts:
        found.append(("accounts", f"SELECT {columns(Account)} FROM accounts ORDER BY email", {}))
    if needs.queue_of_token:
        found.append(
            (
                "queue",
                "SELECT count(*) AS queued, "
                "(SELECT count(*) FROM jobs WHERE state = 'queued' AND token_id = :token_id) AS of_token "
                "FROM jobs WHERE state = 'queued'",
                {"token_id": needs.queue_of_token},
            )
        )
    return found


def _job_of(needs: Needs) -> tuple[str, dict[str, Any]]:
    """SQL for the id of the job that is needed, by whichever of the three is given."""
    if needs.job_id:
        return ":job_id", {"job_id": needs.job_id}
    if needs.token_hash:
        return "(SELECT job_id FROM attempts WHERE token_hash = :token_hash)", {"token_hash": needs.token_hash}
    return "(SELECT id FROM jobs WHERE upstream_task_id = :task_id)", {"task_id": needs.upstream_task_id}


def _callback_seen(needs: Needs) -> Query:
    if needs.token_hash:
        of_attempt = "(job_id, number) = (SELECT job_id, number FROM attempts WHERE token_hash = :token_hash)"
        values = {"token_hash": needs.token_hash, "sha256": needs.sha256}
    else:
        of_attempt = (
            "job_id = COALESCE((SELECT id FROM jobs WHERE upstream_task_id = :task_id), "
            "(SELECT job_id FROM adoptions WHERE task_id = :task_id))"
        )
        values = {"task_id": needs.upstream_task_id, "sha256": needs.sha256}
    return "callback", f"SELECT 1 AS seen FROM callbacks WHERE {of_attempt} AND sha256 = :sha256", values


def _open_deliveries(of_job: str, key: dict[str, Any]) -> Query:
    return (
        "open_deliveries",
        f"SELECT {columns(Delivery)} FROM deliveries WHERE job_id = {of_job} "
        f"AND state IN ('waiting', 'due', 'sending') ORDER BY seq LIMIT {OPEN_DELIVERIES_MAX}",
        key,
    )


def loaded(rows: Mapping[str, Rows], *, epoch: str, next_seq: int) -> Loaded:
    """What the queries found, as the happening sees it."""

    def one(name: str) -> Mapping[str, Any] | None:
        return next(iter(rows.get(name, ())), None)

    adoption = one("adoption")
    job, delivery, subscription, queue = one("job"), one("delivery"), one("subscription"), one("queue")
    return Loaded(
        epoch=epoch,
        next_seq=next_seq,
        job=from_row(Job, job) if job else None,
        attempts=tuple(from_row(Attempt, row) for row in rows.get("attempts", ())),
        subscriptions=tuple(from_row(Subscription, row) for row in rows.get("subscriptions", ())),
        open_deliveries=tuple(from_row(Delivery, row) for row in rows.get("open_deliveries", ())),
        delivery=from_row(Delivery, delivery) if delivery else None,
        subscription=from_row(Subscription, subscription) if subscription else None,
        adoption=from_row(Adoption, adoption) if adoption else None,
        adoptions=rows["adoptions"][0]["adoptions"] if rows.get("adoptions") else 0,
        accounts=tuple(from_row(Account, row) for row in rows.get("accounts", ())),
        callback_seen=one("callback") is not None,
        queued=queue["queued"] if queue else 0,
        queued_of_token=queue["of_token"] if queue else 0,
    )


def _records(before: Loaded) -> Iterator[Record]:
    """The rows that a happening may have changed."""
    single: tuple[Record | None, ...] = (before.job, before.delivery, before.subscription, before.adoption)
    yield from (record for record in single if record is not None)
    yield from before.attempts
    yield from before.open_deliveries
    yield from before.accounts


def writes(changes: Changes[Any], before: Loaded) -> list[tuple[str, dict[str, Any]]]:
    """`(SQL, parameters)` for everything that a happening changes of what was loaded before it."""
    known = {key_of(record): record for record in _records(before)}
    made: list[tuple[str, dict[str, Any]]] = []
    for record in changes.puts:
        old = known.get(key_of(record))
        if old is None:
            made.append((put(record), to_row(record)))
        elif changed := update(old, record):
            made.append(changed)
    for record in changes.drops:
        made.append((drop(record), to_row(record)))
        if isinstance(record, Subscription):
            # What a removed subscription was owed cannot be sent any more; it stays to be seen.
            made.append(
                (
                    "UPDATE deliveries SET state = 'dead', reason = 'the subscription was removed', "
                    "lease_until_ms = NULL, finished_at_ms = :at_ms "
                    "WHERE subscription_id = :id AND state IN ('waiting', 'due', 'sending')",
                    {"id": record.id, "at_ms": record.updated_at_ms},
                )
            )
    return made
