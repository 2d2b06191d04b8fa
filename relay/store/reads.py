"""Every question that the relay asks its store, as SQL that both engines understand."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from relay.core.delivery import Delivery, Subscription
from relay.core.dispatch import Account, Waiting
from relay.core.estimate import Running
from relay.core.event import Event
from relay.core.job import Attempt, Job
from relay.core.ledger import Adoption, Callback, Quarantined, Token, UsedKey
from relay.store.contract import DeliveryFilter, EventFilter, JobFilter
from relay.store.rows import TABLES, columns, from_row
from relay.store.statements import BUSY

T = TypeVar("T")
Fetch = Callable[[str, dict[str, Any]], Awaitable[Sequence[Mapping[str, Any]]]]

ACCOUNTS_MAX: Final = 1_000
SUBSCRIPTIONS_MAX: Final = 1_000
TOKENS_MAX: Final = 1_000
ATTEMPTS_MAX: Final = 1_000

_WAITING: Final = "id AS job_id, pinned, token_id, model, mode"
_OCCUPYING: Final = "state IN ('sending', 'created', 'unknown')"
_ACTIVE: Final = "SELECT id FROM subscriptions WHERE state = 'active'"


class Reads:
    """The reading half of a store, over one `fetch(SQL, parameters)` of an engine."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def head(self) -> int:
        rows = await self._fetch("SELECT value FROM meta WHERE name = 'head'", {})
        return int(rows[0]["value"])

    async def earliest(self) -> int:
        rows = await self._fetch("SELECT min(seq) AS seq FROM events", {})
        return rows[0]["seq"] if rows[0]["seq"] is not None else await self.head() + 1

    async def seq_at(self, at_ms: int) -> int:
        sql = "SELECT max(seq) AS seq FROM events WHERE at_ms < :at_ms"
        rows = await self._fetch(sql, {"at_ms": at_ms})
        return rows[0]["seq"] or 0

    async def events_after(self, seq: int, wanted: EventFilter, limit: int) -> list[Event]:
        where = _Where("seq > :after", after=seq)
        where.any_of("job_id", wanted.job_id).any_of("reply_ref", wanted.reply_ref)
        where.any_of("model", wanted.model).any_of("type", wanted.type)
        # Operator events are nobody's, and `of_jobs_only` alone decides on them.
        where.any_of("token_id", wanted.token_id, or_null=True)
        if wanted.of_jobs_only:
            where.also("job_id IS NOT NULL")
        return await self._list(Event, f"WHERE {where} ORDER BY seq LIMIT :limit", where.values | {"limit": limit})

    async def event(self, seq: int) -> Event | None:
        return await self._one(Event, "WHERE seq = :seq", {"seq": seq})

    async def job(self, any_id: str) -> Job | None:
        where = "WHERE id = :id OR task_id = :id OR upstream_task_id = :id LIMIT 1"
        return await self._one(Job, where, {"id": any_id})

    async def jobs(self, wanted: JobFilter, before_seq: int | None, limit: int) -> list[Job]:
        where = _Where("seq < :before", before=before_seq if before_seq is not None else 2**62)
        for name in ("state", "model", "reply_ref", "account", "origin", "token_id"):
            where.any_of(name, getattr(wanted, name))
        if wanted.since_ms is not None:
            where.also("created_at_ms >= :since_ms", since_ms=wanted.since_ms)
        if wanted.until_ms is not None:
            where.also("created_at_ms < :until_ms", until_ms=wanted.until_ms)
        return await self._list(Job, f"WHERE {where} ORDER BY seq DESC LIMIT :limit", where.values | {"limit": limit})

    async def queue_position(self, job: Job) -> int | None:
        if job.state != "queued":
            return None
        # In each turn every token with a job left has one: this token's place, and no more than that of each other.
        sql = (
            "SELECT token_id, count(*) AS waiting, count(CASE WHEN token_id = :token_id AND "
            "(priority > :priority OR (priority = :priority AND seq < :seq)) THEN 1 END) AS ahead "
            "FROM jobs WHERE state = 'queued' GROUP BY token_id"
        )
        values = {"token_id": job.token_id, "priority": job.priority, "seq": job.seq}
        rows = await self._fetch(sql, values)
        place = next((row["ahead"] for row in rows if row["token_id"] == job.token_id), 0) + 1
        others = sum(min(row["waiting"], place) for row in rows if row["token_id"] != job.token_id)
        return int(place + others)

    async def waiting(self, accounts: Sequence[str], explorable: Sequence[str], limit: int) -> list[Waiting]:
        if not accounts:
            return []
        paid, values = _listed("pinned", "IN", accounts)
        explore, more = _listed("pinned", "IN", explorable, name="explore")
        runnable = f"(mode = 'credits' AND (pinned IS NULL OR {paid}))"
        if explorable:
            runnable += f" OR (mode = 'explore' AND (pinned IS NULL OR {explore}))"
        first = f"SELECT seq FROM jobs WHERE state = 'queued' AND token_id = t.token AND ({runnable})"
        # One token after the other along the index of the queue: the length of the queue is of no account.
        sql = (
            "WITH RECURSIVE t (token) AS (SELECT '' UNION ALL SELECT (SELECT min(token_id) FROM jobs "
            "WHERE state = 'queued' AND token_id > t.token) FROM t WHERE t.token IS NOT NULL) "
            f"SELECT {_WAITING} FROM t JOIN jobs ON seq = ({first} ORDER BY priority DESC, seq LIMIT 1) LIMIT :limit"
        )
        return [Waiting(**dict(row)) for row in await self._fetch(sql, values | more | {"limit": limit})]

    async def stranded(self, accounts: Sequence[str], limit: int) -> list[Waiting]:
        where = _Where("state = 'queued' AND pinned IS NOT NULL").none_of("pinned", accounts)
        sql = f"SELECT {_WAITING} FROM jobs WHERE {where} LIMIT :limit"
        return [Waiting(**dict(row)) for row in await self._fetch(sql, where.values | {"limit": limit})]

    async def queue(self, limit: int) -> list[Waiting]:
        sql = (
            f"SELECT {_WAITING} FROM (SELECT id, pinned, token_id, model, mode, "
            "row_number() OVER (PARTITION BY token_id ORDER BY priority DESC, seq) AS place "
            "FROM jobs WHERE state = 'queued') AS queue ORDER BY place, token_id LIMIT :limit"
        )
        return [Waiting(**dict(row)) for row in await self._fetch(sql, {"limit": limit})]

    async def took_ms(self, model: str, mode: str, limit: int) -> list[int]:
        sql = (
            "SELECT finished_at_ms - submitted_at_ms AS took_ms FROM jobs WHERE state = 'succeeded' "
            "AND model = :model AND mode = :mode ORDER BY finished_at_ms DESC LIMIT :limit"
        )
        rows = await self._fetch(sql, {"model": model, "mode": mode, "limit": limit})
        return [row["took_ms"] for row in rows if row["took_ms"] is not None]

    async def overdue(self, now_ms: int, limit: int) -> list[str]:
        sql = "SELECT id FROM jobs WHERE state = 'queued' AND deadline_ms < :now_ms ORDER BY deadline_ms LIMIT :limit"
        return [row["id"] for row in await self._fetch(sql, {"now_ms": now_ms, "limit": limit})]

    async def next_deadline_ms(self) -> int | None:
        sql = "SELECT min(deadline_ms) AS at_ms FROM jobs WHERE state = 'queued' AND deadline_ms IS NOT NULL"
        return (await self._fetch(sql, {}))[0]["at_ms"]  # type: ignore[no-any-return]

    async def running(self, limit: int) -> list[Running]:
        sql = (
            "SELECT a.account AS account, j.mode AS mode, a.sent_at_ms AS since_ms, a.expected_ms AS expected_ms "
            "FROM attempts a JOIN jobs j ON j.id = a.job_id "
            "WHERE a.state IN ('sending', 'created', 'unknown') LIMIT :limit"
        )
        return [Running(**dict(row)) for row in await self._fetch(sql, {"limit": limit})]

    async def count_by_state(self) -> dict[str, int]:
        sql = (
            "SELECT state, count(*) AS jobs FROM jobs "
            "WHERE state IN ('queued', 'submitting', 'in_doubt', 'running') GROUP BY state"
        )
        return {row["state"]: row["jobs"] for row in await self._fetch(sql, {})}

    async def accounts(self) -> list[Account]:
        return await self._list(Account, "ORDER BY email LIMIT :limit", {"limit": ACCOUNTS_MAX})

    async def busy(self) -> dict[str, int]:
        return {row["account"]: row["busy"] for row in await self._fetch(BUSY, {})}

    async def exploring(self) -> set[str]:
        sql = (
            "SELECT DISTINCT a.account FROM attempts a JOIN jobs j ON j.id = a.job_id "
            "WHERE a.state IN ('sending', 'created', 'unknown') AND j.mode = 'explore'"
        )
        return {row["account"] for row in await self._fetch(sql, {})}

    async def attempts(self, job_id: str) -> list[Attempt]:
        where = "WHERE job_id = :job_id ORDER BY number LIMIT :limit"
        return await self._list(Attempt, where, {"job_id": job_id, "limit": ATTEMPTS_MAX})

    async def attempts_due(self, now_ms: int, limit: int) -> list[Attempt]:
        where = "WHERE ask_at_ms IS NOT NULL AND ask_at_ms <= :now_ms ORDER BY ask_at_ms LIMIT :limit"
        return await self._list(Attempt, where, {"now_ms": now_ms, "limit": limit})

    async def next_ask_ms(self, after_ms: int) -> int | None:
        sql = "SELECT min(ask_at_ms) AS at_ms FROM attempts WHERE ask_at_ms > :after_ms"
        return (await self._fetch(sql, {"after_ms": after_ms}))[0]["at_ms"]  # type: ignore[no-any-return]

    async def attempts_sending(self) -> list[Attempt]:
        return await self._list(Attempt, f"WHERE {_OCCUPYING} AND state = 'sending' LIMIT :limit", {"limit": 100})

    async def adoptions_due(self, now_ms: int, limit: int) -> list[Adoption]:
        where = "WHERE ask_at_ms <= :now_ms ORDER BY ask_at_ms LIMIT :limit"
        return await self._list(Adoption, where, {"now_ms": now_ms, "limit": limit})

    async def next_adoption_ms(self, after_ms: int) -> int | None:
        sql = "SELECT min(ask_at_ms) AS at_ms FROM adoptions WHERE ask_at_ms > :after_ms"
        return (await self._fetch(sql, {"after_ms": after_ms}))[0]["at_ms"]  # type: ignore[no-any-return]

    async def callbacks(self, job_id: str, after_seq: int, limit: int) -> list[Callback]:
        where = "WHERE job_id = :job_id AND seq > :after_seq ORDER BY seq LIMIT :limit"
        return await self._list(Callback, where, {"job_id": job_id, "after_seq": after_seq, "limit": limit})

    async def quarantine(self, before_seq: int | None, limit: int) -> list[Quarantined]:
        values = {"before": before_seq if before_seq is not None else 2**62, "limit": limit}
        return await self._list(Quarantined, "WHERE seq < :before ORDER BY seq DESC LIMIT :limit", values)

    async def used_key(self, key: str) -> UsedKey | None:
        return await self._one(UsedKey, "WHERE id = :id", {"id": key})

    async def subscriptions(self) -> list[Subscription]:
        where = "WHERE job_id IS NULL ORDER BY seq LIMIT :limit"
        return await self._list(Subscription, where, {"limit": SUBSCRIPTIONS_MAX})

    async def subscription(self, subscription_id: str) -> Subscription | None:
        return await self._one(Subscription, "WHERE id = :id", {"id": subscription_id})

    async def tokens(self) -> list[Token]:
        return await self._list(Token, "ORDER BY seq LIMIT :limit", {"limit": TOKENS_MAX})

    async def token(self, token_id: str) -> Token | None:
        return await self._one(Token, "WHERE id = :id", {"id": token_id})

    async def token_of_hash(self, token_hash: str) -> Token | None:
        return await self._one(Token, "WHERE hash = :hash", {"hash": token_hash})

    async def deliveries_due(self, now_ms: int, room: int, full: Sequence[str], limit: int) -> list[Delivery]:
        where = _Where("state = 'due' AND due_at_ms <= :now_ms", now_ms=now_ms, room=room, limit=limit)
        where.also(f"subscription_id IN ({_ACTIVE})").none_of("subscription_id", full)
        sql = (
            f"SELECT {columns(Delivery)} FROM (SELECT {columns(Delivery)}, "
            "row_number() OVER (PARTITION BY subscription_id ORDER BY due_at_ms, seq) AS place "
            f"FROM deliveries WHERE {where}) AS due WHERE place <= :room ORDER BY due_at_ms, seq LIMIT :limit"
        )
        return [from_row(Delivery, row) for row in await self._fetch(sql, where.values)]

    async def next_due_ms(self, full: Sequence[str]) -> int | None:
        where = _Where(f"state = 'due' AND subscription_id IN ({_ACTIVE})").none_of("subscription_id", full)
        sql = f"SELECT min(due_at_ms) AS at_ms FROM deliveries WHERE {where}"
        return (await self._fetch(sql, where.values))[0]["at_ms"]  # type: ignore[no-any-return]

    async def deliveries_sending(self, lease_before_ms: int | None, limit: int) -> list[Delivery]:
        values = {"before": lease_before_ms if lease_before_ms is not None else 2**62, "limit": limit}
        return await self._list(Delivery, "WHERE state = 'sending' AND lease_until_ms < :before LIMIT :limit", values)

    async def deliveries(self, wanted: DeliveryFilter, before_seq: int | None, limit: int) -> list[Delivery]:
        where = _Where("seq < :before", before=before_seq if before_seq is not None else 2**62, limit=limit)
        for name in ("state", "subscription_id", "job_id"):
            where.any_of(name, getattr(wanted, name))
        return await self._list(Delivery, f"WHERE {where} ORDER BY seq DESC LIMIT :limit", where.values)

    async def delivery(self, delivery_id: str) -> Delivery | None:
        return await self._one(Delivery, "WHERE id = :id", {"id": delivery_id})

    async def _list(self, record_type: type[T], tail: str, values: dict[str, Any]) -> list[T]:
        from_table = f"SELECT {columns(record_type)} FROM {TABLES[record_type][0]} {tail}"
        return [from_row(record_type, row) for row in await self._fetch(from_table, values)]

    async def _one(self, record_type: type[T], tail: str, values: dict[str, Any]) -> T | None:
        return next(iter(await self._list(record_type, tail, values)), None)


class _Where:
    """Conditions joined by AND, and the values of their parameters."""

    def __init__(self, first: str, **values: Any) -> None:
        self._conditions = [first]
        self.values: dict[str, Any] = values

    def also(self, condition: str, **values: Any) -> "_Where":
        self._conditions.append(condition)
        self.values |= values
        return self

    def any_of(self, column: str, alternatives: Sequence[str], *, or_null: bool = False) -> "_Where":
        """One of these; no condition when there are none of them."""
        if alternatives:
            condition, values = _listed(column, "IN", alternatives)
            self.also(f"({column} IS NULL OR {condition})" if or_null else condition, **values)
        return self

    def none_of(self, column: str, excluded: Sequence[str]) -> "_Where":
        if excluded:
            condition, values = _listed(column, "NOT IN", excluded)
            self.also(condition, **values)
        return self

    def __str__(self) -> str:
        return " AND ".join(self._conditions)


def _listed(column: str, operator: str, given: Sequence[str], *, name: str = "") -> tuple[str, dict[str, str]]:
    values = {f"{name or column}_{n}": value for n, value in enumerate(given)}
    return f"{column} {operator} ({', '.join(':' + name for name in values)})", values
