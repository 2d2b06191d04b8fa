"""The SQL of a happening, the same for every engine: what it needs is a list of queries, what it changes one of writes.

All queries of a happening are independent of each other, so that an engine may send them in one trip.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from relay.core.artifacts import Keeping, StoredFile
from relay.core.breaker import Breaker
from relay.core.delivering import CLAIMS_MAX
from relay.core.delivery import Delivery, Replay, Selection, Subscription
from relay.core.dispatch import Account
from relay.core.event import Event
from relay.core.job import Attempt, Job
from relay.core.ledger import (
    Adoption,
    Changes,
    Hold,
    Loaded,
    Needs,
    Record,
    Token,
    UsedKey,
    key_of,
)
from relay.core.replaying import BATCH
from relay.core.stats import tallied
from relay.store.rows import columns, drop, from_row, put, to_row, update
from relay.store.waits import moved
from relay.store.where import listed, selected

Query = tuple[str, str, dict[str, Any]]
Rows = Sequence[Mapping[str, Any]]

SUBSCRIPTIONS_MAX: Final = 1_000
# More than all subscriptions together can be owed of one job: a lane that is seen in part would move out of turn.
OPEN_DELIVERIES_MAX: Final = 8_000

BUSY: Final = (
    "SELECT account, count(*) AS busy FROM attempts WHERE state IN ('sending', 'created', 'unknown') GROUP BY account"
)
_PLACE_OF: Final = "CASE WHEN s.job_id IS NULL THEN s.id ELSE s.url_shown END"
_PLACE: Final = f"SELECT {_PLACE_OF} FROM subscriptions AS s WHERE s.id"
# From what is under way, which is little, to whom it goes: in that order.
UNDER_WAY: Final = (
    f"SELECT {_PLACE_OF} AS place, count(*) AS n FROM deliveries AS d CROSS JOIN subscriptions AS s "
    "WHERE d.state = 'sending' AND s.id = d.subscription_id GROUP BY 1"
)
# A few lengths of lists, so that statements are prepared once: the rest is filled up with ids that nothing has.
_LENGTHS: Final = (8, CLAIMS_MAX)
_OF_DELIVERY: Final = "(SELECT job_id FROM deliveries WHERE id = :delivery_id)"
_OF_KEY: Final = "(SELECT job_id FROM used_keys WHERE id = :key)"


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
            _breaker("(SELECT subscription_id FROM deliveries WHERE id = :delivery_id)", key),
        ]
    if needs.subscription_id:
        sql = f"SELECT {columns(Subscription)} FROM subscriptions WHERE id = :id"
        found += [("subscription", sql, {"id": needs.subscription_id}), _breaker(":id", {"id": needs.subscription_id})]
    if needs.subscriptions:
        sql = f"SELECT {columns(Subscription)} FROM subscriptions WHERE job_id IS NULL ORDER BY seq"
        found.append(("subscriptions", f"{sql} LIMIT {SUBSCRIPTIONS_MAX}", {}))
    if needs.accounts:
        found.append(("accounts", f"SELECT {columns(Account)} FROM accounts ORDER BY email", {}))
    if needs.busy:
        found.append(("busy", BUSY, {}))
    if needs.queue_of_token:
        found += _of_token(needs)
    if needs.batch:
        found += _batch(needs.batch)
    if needs.replay_id:
        sql = f"SELECT {columns(Replay)} FROM replays WHERE id = :id"
        found.append(("replay", sql, {"id": needs.replay_id}))
    if needs.hold:
        found.append(("hold", f"SELECT {columns(Hold)} FROM holds", {}))
    if needs.tokens:
        found.append(("tokens", f"SELECT {columns(Token)} FROM tokens ORDER BY seq", {}))
    return found + _of_people(needs) + _to_claim(needs.delivery_ids)


def _of_people(needs: Needs) -> list[Query]:
    """What bears on a person's wish: whether it was asked for before, whose a task is, what has been told of a job."""
    found: list[Query] = []
    key: dict[str, Any]
    if needs.used_key:
        key = {"key": needs.used_key}
        found += [
            ("used_key", f"SELECT {columns(UsedKey)} FROM used_keys WHERE id = :key", key),
            ("earlier", f"SELECT {columns(Job)} FROM jobs WHERE id = {_OF_KEY}", key),
        ]
    if needs.retry_of:
        sql = f"SELECT {columns(Job)} FROM jobs WHERE retry_of = :retry_of AND finished_at_ms IS NULL LIMIT 1"
        found.append(("earlier", sql, {"retry_of": needs.retry_of}))
    if needs.owner_of:
        found.append(("owner", "SELECT id FROM jobs WHERE upstream_task_id = :task_id", {"task_id": needs.owner_of}))
    if needs.events_of:
        sql = f"SELECT {columns(Event)} FROM events WHERE job_id = :job_id ORDER BY seq"
        found.append(("events", sql, {"job_id": needs.events_of}))
    if needs.files_of:
        sql = f"SELECT {columns(StoredFile)} FROM artifacts WHERE job_id = :job_id ORDER BY seq"
        found.append(("files", sql, {"job_id": needs.files_of}))
    return found


def _breaker(subscription: str, key: dict[str, Any]) -> Query:
    return "breaker", f"SELECT {columns(Breaker)} FROM breakers WHERE place = ({_PLACE} = {subscription})", key


def _to_claim(ids: Sequence[str]) -> list[Query]:
    if not ids:
        return []
    length = next(length for length in _LENGTHS if length >= len(ids))
    these, values = listed("id", "IN", [*ids, *[""] * (length - len(ids))])
    to = f"(SELECT subscription_id FROM deliveries WHERE {these})"
    return [
        ("batch", f"SELECT {columns(Delivery)} FROM deliveries WHERE {these}", values),
        ("subscriptions", f"SELECT {columns(Subscription)} FROM subscriptions WHERE id IN {to}", values),
        ("breakers", f"SELECT {columns(Breaker)} FROM breakers WHERE place IN ({_PLACE} IN {to})", values),
        ("under_way", UNDER_WAY, {}),
    ]


def _batch(wanted: Selection) -> list[Query]:
    """The first of these deliveries, and all open ones of their lanes."""
    where = selected(wanted)
    first = f"FROM deliveries WHERE {where} ORDER BY seq LIMIT {BATCH}"
    lanes = f"(job_id, subscription_id) IN (SELECT job_id, subscription_id {first})"
    return [
        ("batch", f"SELECT {columns(Delivery)} {first}", where.values),
        (
            "open_deliveries",
            f"SELECT {columns(Delivery)} FROM deliveries WHERE state IN ('waiting', 'due', 'sending') AND {lanes} "
            f"ORDER BY seq LIMIT {OPEN_DELIVERIES_MAX}",
            where.values,
        ),
    ]


def _of_token(needs: Needs) -> list[Query]:
    """What bears on whether a token may submit: its limits, and the jobs that count against them."""
    key = {"token_id": needs.queue_of_token, "since_ms": needs.jobs_since_ms}
    return [
        (
            "queue",
            "SELECT count(*) AS queued, "
            "(SELECT count(*) FROM jobs WHERE state = 'queued' AND token_id = :token_id) AS of_token "
            "FROM jobs WHERE state = 'queued'",
            key,
        ),
        ("tokens", f"SELECT {columns(Token)} FROM tokens WHERE id = :token_id", key),
        (
            "day",
            "SELECT count(*) AS jobs, min(created_at_ms) AS oldest_ms FROM jobs WHERE created_at_ms > :since_ms "
            "AND token_id = (SELECT id FROM tokens WHERE id = :token_id AND max_per_day IS NOT NULL)",
            key,
        ),
    ]


def _job_of(needs: Needs) -> tuple[str, dict[str, Any]]:
    """SQL for the id of the job that is needed, by whichever of the three is given."""
    if needs.job_id:
        return ":job_id", {"job_id": needs.job_id}
    if needs.token_hash:
        return "(SELECT job_id FROM attempts WHERE token_hash = :token_hash)", {"token_hash": needs.token_hash}
    return "(SELECT id FROM jobs WHERE upstream_task_id = :task_id)", {"task_id": needs.upstream_task_id}


def _callback_seen(needs: Needs) -> Query:
    """Whether this very body came before, for the attempt or task, or into quarantine: a duplicate changes nothing."""
    if needs.token_hash:
        of_attempt = "(job_id, number) = (SELECT job_id, number FROM attempts WHERE token_hash = :token_hash)"
        of_job = "(SELECT job_id FROM attempts WHERE token_hash = :token_hash)"
        values = {"token_hash": needs.token_hash, "sha256": needs.sha256}
    else:
        of_attempt = (
            "job_id = COALESCE((SELECT id FROM jobs WHERE upstream_task_id = :task_id), "
            "(SELECT job_id FROM adoptions WHERE task_id = :task_id))"
        )
        # A task that was turned away because too many waited is welcome when it is reported again.
        of_job = "NULL AND :task_id IS NULL"
        values = {"task_id": needs.upstream_task_id, "sha256": needs.sha256}
    sql = (
        f"SELECT 1 AS seen FROM callbacks WHERE {of_attempt} AND sha256 = :sha256 "
        f"UNION ALL SELECT 1 FROM quarantine WHERE sha256 = :sha256 AND job_id IS NOT DISTINCT FROM {of_job}"
    )
    return "callback", sql, values


BODIES_OF_JOB: Final = (
    "SELECT number, sha256 FROM callbacks WHERE job_id = :job_id "
    "UNION ALL SELECT 0, sha256 FROM quarantine WHERE job_id = :job_id"
)


def _open_deliveries(of_job: str, key: dict[str, Any]) -> Query:
    return (
        "open_deliveries",
        f"SELECT {columns(Delivery)} FROM deliveries WHERE job_id = {of_job} "
        f"AND state IN ('waiting', 'due', 'sending') ORDER BY seq LIMIT {OPEN_DELIVERIES_MAX}",
        key,
    )


def loaded(rows: Mapping[str, Rows], *, epoch: str, next_seq: int, keeping: Keeping | None = None) -> Loaded:
    """What the queries found, as the happening sees it."""

    def one(name: str) -> Mapping[str, Any] | None:
        return next(iter(rows.get(name, ())), None)

    adoption = one("adoption")
    job, delivery, subscription, queue = one("job"), one("delivery"), one("subscription"), one("queue")
    day, used_key, earlier = one("day"), one("used_key"), one("earlier")
    owner, breaker, replay, hold = one("owner"), one("breaker"), one("replay"), one("hold")
    return Loaded(
        epoch=epoch,
        next_seq=next_seq,
        job=from_row(Job, job) if job else None,
        attempts=tuple(from_row(Attempt, row) for row in rows.get("attempts", ())),
        subscriptions=tuple(from_row(Subscription, row) for row in rows.get("subscriptions", ())),
        open_deliveries=tuple(from_row(Delivery, row) for row in rows.get("open_deliveries", ())),
        delivery=from_row(Delivery, delivery) if delivery else None,
        subscription=from_row(Subscription, subscription) if subscription else None,
        breaker=from_row(Breaker, breaker) if breaker else None,
        breakers=tuple(from_row(Breaker, row) for row in rows.get("breakers", ())),
        under_way={row["place"]: row["n"] for row in rows.get("under_way", ())},
        batch=tuple(from_row(Delivery, row) for row in rows.get("batch", ())),
        replay=from_row(Replay, replay) if replay else None,
        adoption=from_row(Adoption, adoption) if adoption else None,
        adoptions=rows["adoptions"][0]["adoptions"] if rows.get("adoptions") else 0,
        accounts=tuple(from_row(Account, row) for row in rows.get("accounts", ())),
        busy={row["account"]: row["busy"] for row in rows.get("busy", ())},
        callback_seen=one("callback") is not None,
        queued=queue["queued"] if queue else 0,
        queued_of_token=queue["of_token"] if queue else 0,
        tokens=tuple(from_row(Token, row) for row in rows.get("tokens", ())),
        jobs_since=day["jobs"] if day else 0,
        oldest_since_ms=day["oldest_ms"] if day else None,
        used_key=from_row(UsedKey, used_key) if used_key else None,
        earlier=from_row(Job, earlier) if earlier else None,
        owner=owner["id"] if owner else None,
        events=tuple(from_row(Event, row) for row in rows.get("events", ())),
        files=tuple(from_row(StoredFile, row) for row in rows.get("files", ())),
        hold=from_row(Hold, hold) if hold else None,
        keeping=keeping,
    )


def _records(before: Loaded) -> Iterator[Record]:
    """The rows that a happening may have changed."""
    single: tuple[Record | None, ...] = (
        *(before.job, before.delivery, before.subscription, before.adoption),
        *(before.breaker, before.replay, before.hold),
    )
    yield from (record for record in single if record is not None)
    yield from before.batch
    yield from before.breakers
    yield from before.attempts
    yield from before.open_deliveries
    yield from before.accounts
    yield from before.events
    yield from before.files


class Pending:
    """What has been decided and is not yet written: of each row its first version and its last."""

    def __init__(self) -> None:
        self._rows: dict[Any, tuple[Record | None, Record]] = {}
        self._drops: list[Record] = []
        self._shift_ms = 0

    def add(self, changes: Changes[Any], before: Loaded) -> None:
        known = {key_of(record): record for record in _records(before)} if changes.puts else {}
        for record in changes.puts:
            key = key_of(record)
            first = self._rows[key][0] if key in self._rows else known.get(key)
            self._rows[key] = (first, record)
        self._drops += changes.drops
        # Whoever moves the waits has had to look into the database: what was decided before is written already.
        self._shift_ms += changes.shift_ms

    def _tallies(self) -> list[tuple[Any, ...]]:
        """How much each tally grows."""
        counted: Counter[tuple[Any, ...]] = Counter()
        for first, last in self._rows.values():
            for tally in tallied(first, last):
                counted[tally.at_ms, tally.figure, tally.model, tally.account, tally.bucket] += tally.counted
        return [(*key, more) for key, more in counted.items()]

    def take(self) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
        """`(SQL, rows of parameters)` for all of it, the same statement once; afterwards nothing is pending."""
        statements: dict[str, list[tuple[Any, ...]]] = {}
        for first, last in self._rows.values():
            if first is None:
                statements.setdefault(put(last), []).append(to_row(last))
            elif changed := update(first, last):
                statements.setdefault(changed[0], []).append(changed[1])
        if tallies := self._tallies():
            statements[_COUNT] = tallies
        erased = [(EMPTY, last.id) for _, last in self._rows.values() if isinstance(last, Job) and last.erased_at_ms]
        drops, self._rows, self._drops = self._drops, {}, []
        shift_ms, self._shift_ms = self._shift_ms, 0
        if shift_ms:
            yield from moved(shift_ms)
        yield from statements.items()
        if erased:
            yield "UPDATE callbacks SET body = ? WHERE job_id = ?", erased
            yield "UPDATE quarantine SET body = ? WHERE job_id = ?", erased
        for record in drops:
            sql, key = drop(record)
            yield sql, [key]
            if isinstance(record, Subscription):
                # What a removed subscription was owed cannot be sent any more; it stays to be seen.
                yield _BURY, [(record.updated_at_ms, record.id)]
            elif isinstance(record, Job):
                for table in _OF_JOB:
                    yield f"DELETE FROM {table} WHERE job_id = ?", [(record.id,)]


EMPTY: Final = zlib.compress(b"")
_COUNT: Final = (
    "INSERT INTO tallies (at_ms, figure, model, account, bucket, counted) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (at_ms, figure, model, account, bucket) DO UPDATE SET counted = tallies.counted + excluded.counted"
)
# Its events stay for as long as events do, and its files until the storage has let go of them.
_OF_JOB: Final = ("attempts", "callbacks", "quarantine", "deliveries", "subscriptions")
_BURY: Final = (
    "UPDATE deliveries SET state = 'dead', reason = 'the subscription was removed', lease_until_ms = NULL, "
    "finished_at_ms = ? WHERE subscription_id = ? AND state IN ('waiting', 'due', 'sending')"
)
