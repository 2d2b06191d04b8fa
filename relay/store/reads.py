"""Every question that the relay asks its store, as SQL that both engines understand."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from relay.core.artifacts import StoredFile
from relay.core.breaker import Breaker
from relay.core.delivery import Delivery, Replay, Selection, Subscription
from relay.core.dispatch import Account, Waiting
from relay.core.estimate import Running
from relay.core.event import Event
from relay.core.job import Attempt, Job
from relay.core.ledger import Adoption, Callback, Deed, Hold, Quarantined, Token, UsedKey
from relay.core.record import made
from relay.core.stats import Tally
from relay.store.contract import LOOKED_AT_MAX, Due, EventFilter, JobFilter, JobPage, Totals
from relay.store.due import FIRST_DUE, LATE_MS, OWED
from relay.store.rows import TABLES, columns, from_row
from relay.store.statements import BUSY, SUBSCRIPTIONS_MAX
from relay.store.where import SHOWN_STATE, WORDS, Where, chosen_jobs, listed, selected, selected_as_shown

T = TypeVar("T")
Fetch = Callable[[str, dict[str, Any]], Awaitable[Sequence[Mapping[str, Any]]]]

ACCOUNTS_MAX: Final = 1_000
TOKENS_MAX: Final = 1_000
ATTEMPTS_MAX: Final = 1_000
# Of the jobs near a time, to find the first and the last of them.
NEIGHBOURS: Final = 1_000

_ALL: Final = 2**62
# What may be long is not read for a list, which does not show it.
_LISTED: Final = columns(Job).replace(" request, task,", " '{}' AS request, NULL AS task,")

_WAITING: Final = "id AS job_id, pinned, token_id, model, mode"
_OCCUPYING: Final = "state IN ('sending', 'created', 'unknown')"


class Reads:
    """The reading half of a store, over one `fetch(SQL, parameters)` of an engine."""

    # SQLite keeps to the order of the loops, in which the left side comes newest first: nothing is sorted.
    each_job = "CROSS JOIN jobs USING (seq)"
    newest_first = ""
    by_words = WORDS
    first_due = f"JOIN deliveries AS d ON d.seq IN (SELECT seq {FIRST_DUE})"
    # Whether it is for this relay to send to a `place`, and the values that this asks for.
    own = "TRUE"
    share: Mapping[str, int] = {}

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def head(self) -> int:
        return int((await self._fetch("SELECT value FROM meta WHERE name = 'head'", {}))[0]["value"])

    async def earliest(self) -> int:
        # By one statement: between two, the first events of all may be committed, and would seem to be gone.
        sql = (
            "SELECT COALESCE((SELECT min(seq) FROM events), CAST(value AS BIGINT) + 1) AS seq "
            "FROM meta WHERE name = 'head'"
        )
        return int((await self._fetch(sql, {}))[0]["seq"])

    async def seq_at(self, at_ms: int) -> int:
        sql = "SELECT max(seq) AS seq FROM events WHERE at_ms < :at_ms"
        return (await self._fetch(sql, {"at_ms": at_ms}))[0]["seq"] or 0

    async def events_after(self, seq: int, wanted: EventFilter, limit: int) -> list[Event]:
        where = Where("seq > :after", after=seq)
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
        rows, _ = await self._jobs(columns(Job), wanted, before_seq, limit, _ALL)
        return [from_row(Job, row) for row in rows]

    async def job_page(self, wanted: JobFilter, before_seq: int | None, limit: int) -> JobPage:
        rows, looked_at = await self._jobs(_LISTED, wanted, before_seq, limit + 1, LOOKED_AT_MAX)
        found = [from_row(Job, row) for row in rows[:limit]]
        if len(rows) > limit:
            return JobPage(found, found[-1].seq)
        # Fewer than were asked for: is this the end, or only as far as was looked?
        sql = f"SELECT count(*) AS jobs, min(seq) AS seq FROM ({looked_at[0]}) AS looked"
        [row] = await self._fetch(sql, looked_at[1])
        return JobPage(found, row["seq"] if row["jobs"] >= LOOKED_AT_MAX else None)

    async def _jobs(
        self, names: str, wanted: JobFilter, before_seq: int | None, limit: int, looked_at: int
    ) -> tuple[Sequence[Mapping[str, Any]], tuple[str, dict[str, Any]]]:
        """Rows with these columns, newest first; and the question for the numbers of all that were looked at."""
        chosen, where = chosen_jobs(wanted, self.by_words)
        behind, before = await self._seqs_between(wanted)
        values = where.values | {"before": before if before_seq is None else min(before, before_seq), "behind": behind}
        values |= {"looked_at": looked_at if str(where) != "TRUE" else min(looked_at, limit), "limit": limit}
        sql = f"SELECT {names} FROM ({chosen}) AS chosen {self.each_job} WHERE {where} {self.newest_first} LIMIT :limit"
        return await self._fetch(sql, values), (chosen, values)

    async def _seqs_between(self, wanted: JobFilter) -> tuple[int, int]:
        """Numbers before and behind all jobs of that time, so that a list does not go through all others.

        Jobs are numbered in order of time, but where a clock was set back: the first and the last of a time are looked
        for among so many that neither can hide.
        """
        part = "SELECT seq FROM jobs WHERE created_at_ms"
        first = f"SELECT min(seq) FROM ({part} >= :since_ms ORDER BY created_at_ms LIMIT :limit) AS first"
        last = f"SELECT max(seq) FROM ({part} < :until_ms ORDER BY created_at_ms DESC LIMIT :limit) AS last"
        since_ms, until_ms = wanted.since_ms, wanted.until_ms
        if since_ms is None and until_ms is None:
            return 0, _ALL
        values = {"since_ms": since_ms or 0, "until_ms": _ALL if until_ms is None else until_ms, "limit": NEIGHBOURS}
        [row] = await self._fetch(f"SELECT ({first}) AS first, ({last}) AS last", values)
        return (row["first"] or _ALL) - 1, (row["last"] or 0) + 1

    async def queue_positions(self, jobs: Sequence[Job]) -> dict[str, int]:
        ids = {job.seq: job.id for job in jobs if job.state == "queued"}
        if not ids:
            return {}
        queued = "FROM jobs WHERE state = 'queued'"
        of_token = f"SELECT token_id, count(*) AS waiting {queued} GROUP BY token_id"
        waiting = {row["token_id"]: row["waiting"] for row in await self._fetch(of_token, {})}
        place = "row_number() OVER (PARTITION BY token_id ORDER BY priority DESC, seq) AS place"
        wanted = ", ".join(map(str, ids))
        sql = f"SELECT * FROM (SELECT seq, token_id, {place} {queued}) AS queue WHERE seq IN ({wanted})"
        # In each turn every token with a job left has one: this token's place, and no more than that of each other.
        return {
            ids[row["seq"]]: row["place"]
            + sum(min(many, row["place"]) for token_id, many in waiting.items() if token_id != row["token_id"])
            for row in await self._fetch(sql, {})
        }

    async def waiting(self, accounts: Sequence[str], explorable: Sequence[str], limit: int) -> list[Waiting]:
        if not accounts:
            return []
        paid, values = listed("pinned", "IN", accounts)
        explore, more = listed("pinned", "IN", explorable, name="explore")
        runnable = f"(mode = 'credits' AND (pinned IS NULL OR {paid}))"
        if explorable:
            runnable += f" OR (mode = 'explore' AND (pinned IS NULL OR {explore}))"
        first = f"SELECT seq FROM jobs WHERE state = 'queued' AND token_id = t.token AND ({runnable})"
        # One token after the other along the index of the queue: the length of the queue is of no account.
        sql = (
            "WITH RECURSIVE t (token) AS (SELECT min(token_id) FROM jobs WHERE state = 'queued' UNION ALL "
            "SELECT (SELECT min(token_id) FROM jobs "
            "WHERE state = 'queued' AND token_id > t.token) FROM t WHERE t.token IS NOT NULL) "
            f"SELECT {_WAITING} FROM t JOIN jobs ON seq = ({first} ORDER BY priority DESC, seq LIMIT 1) LIMIT :limit"
        )
        return [Waiting(**dict(row)) for row in await self._fetch(sql, values | more | {"limit": limit})]

    async def stranded(self, accounts: Sequence[str], limit: int) -> list[Waiting]:
        where = Where("state = 'queued' AND pinned IS NOT NULL").none_of("pinned", accounts)
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
            "SELECT job_id, a.account AS account, mode, sent_at_ms AS since_ms, expected_ms FROM attempts a "
            "JOIN jobs j ON j.id = a.job_id WHERE a.state IN ('sending', 'created', 'unknown') LIMIT :limit"
        )
        return [Running(**dict(row)) for row in await self._fetch(sql, {"limit": limit})]

    async def count_by_state(self) -> dict[str, int]:
        sql = (
            "SELECT state, count(*) AS jobs FROM jobs "
            "WHERE state IN ('queued', 'submitting', 'in_doubt', 'running') GROUP BY state"
        )
        return {row["state"]: row["jobs"] for row in await self._fetch(sql, {})}

    async def hold(self) -> Hold | None:
        return await self._one(Hold, "WHERE TRUE", {})

    async def knows_attempts(self) -> bool:
        return bool(await self._fetch("SELECT 1 FROM attempts LIMIT 1", {}))

    async def tallies(self, since_ms: int) -> list[Tally]:
        sql = (
            "SELECT 0 AS at_ms, figure, model, account, bucket, sum(counted) AS counted FROM tallies "
            "WHERE at_ms >= :since_ms GROUP BY figure, model, account, bucket "
            "UNION ALL SELECT 0, state, model, coalesce(account, ''), 0, count(*) FROM jobs "
            "WHERE state IN ('queued', 'submitting', 'in_doubt', 'running') GROUP BY state, model, account"
        )
        return [made(Tally, tuple(row)) for row in await self._fetch(sql, {"since_ms": since_ms})]

    async def ends_by_time(self, since_ms: int, step_ms: int) -> list[Tally]:
        sql = (
            "SELECT at_ms / :step_ms * :step_ms AS at_ms, figure, sum(counted) AS counted FROM tallies "
            "WHERE at_ms >= :since_ms AND figure IN ('succeeded', 'failed', 'cancelled') GROUP BY 1, 2"
        )
        return [Tally(**dict(row)) for row in await self._fetch(sql, {"since_ms": since_ms, "step_ms": step_ms})]

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

    async def attempts_sending(self, before_ms: int = 2**62) -> list[Attempt]:
        where = f"WHERE {_OCCUPYING} AND state = 'sending' AND sent_at_ms <= :before_ms LIMIT :limit"
        return await self._list(Attempt, where, {"before_ms": before_ms, "limit": 100})

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
        return await self._newest(Quarantined, Where("TRUE"), before_seq, limit)

    async def deeds(self, wanted: Mapping[str, str], before_seq: int | None, limit: int) -> list[Deed]:
        where = Where("TRUE")
        for name, value in wanted.items():
            where.also(f":{name} IN (actor, token_id)" if name == "actor" else f"{name} = :{name}", **{name: value})
        return await self._newest(Deed, where, before_seq, limit)

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

    async def deliveries_due(self, now_ms: int, room: int, limit: int) -> list[Due]:
        values = {"now_ms": now_ms, "late_ms": now_ms - LATE_MS, "room": room, "limit": limit, **self.share}
        sql = (
            f"{OWED} SELECT delivery_id, place FROM (SELECT d.id AS delivery_id, r.place, r.room, "
            "d.due_at_ms, d.seq, row_number() OVER (PARTITION BY r.place ORDER BY d.due_at_ms, d.seq) AS n "
            f"FROM ready AS r {self.first_due} WHERE r.room > 0 AND open_until_ms <= :now_ms "
            f"AND ({self.own} OR (r.under_way = 0 AND d.due_at_ms < :late_ms))"
            ") AS due WHERE n <= room ORDER BY due_at_ms, seq LIMIT :limit"
        )
        return [Due(row["delivery_id"], row["place"]) for row in await self._fetch(sql, values)]

    async def next_due_ms(self, room: int) -> int | None:
        first = "(SELECT min(due_at_ms) FROM deliveries WHERE state = 'due' AND subscription_id = r.id)"
        sql = (
            f"{OWED} SELECT min(CASE WHEN at_ms > open_until_ms THEN at_ms ELSE open_until_ms END) AS at_ms "
            f"FROM (SELECT {first} AS at_ms, r.open_until_ms FROM ready AS r WHERE r.room > 0 AND {self.own}) AS next"
        )
        return (await self._fetch(sql, {"room": room, **self.share}))[0]["at_ms"]  # type: ignore[no-any-return]

    async def deliveries_sending(self, lease_before_ms: int | None, limit: int) -> list[Delivery]:
        values = {"before": lease_before_ms if lease_before_ms is not None else 2**62, "limit": limit}
        return await self._list(Delivery, "WHERE state = 'sending' AND lease_until_ms < :before LIMIT :limit", values)

    async def deliveries(self, wanted: Selection, before_seq: int | None, limit: int) -> list[Delivery]:
        where = selected_as_shown(wanted)
        where.also("seq < :before", before=before_seq if before_seq is not None else 2**62, limit=limit)
        return await self._shown(f"WHERE {where} ORDER BY seq DESC LIMIT :limit", where.values)

    async def delivery(self, delivery_id: str) -> Delivery | None:
        return next(iter(await self._shown("WHERE id = :id", {"id": delivery_id})), None)

    async def count_deliveries(self, wanted: Selection) -> tuple[int, int]:
        where = selected(wanted)
        sql = f"SELECT count(*) AS total, coalesce(max(seq), 0) AS seq FROM deliveries WHERE {where}"
        row = (await self._fetch(sql, where.values))[0]
        return row["total"], row["seq"]

    async def owed(self) -> dict[str, int]:
        sql = "SELECT subscription_id, count(*) AS owed FROM deliveries WHERE state IN ('waiting', 'due', 'sending') "
        return {row["subscription_id"]: row["owed"] for row in await self._fetch(f"{sql} GROUP BY subscription_id", {})}

    async def totals(self, owed_max: int) -> Totals:
        sql = (
            "WITH owed AS (SELECT seq FROM deliveries WHERE state IN ('waiting', 'due', 'sending') LIMIT :owed_max) "
            "SELECT (SELECT count(*) FROM owed) AS owed, "
            "(SELECT created_at_ms FROM deliveries WHERE seq = (SELECT min(seq) FROM owed)) AS oldest_owed_at_ms, "
            "(SELECT count(*) FROM breakers WHERE opened > 0) AS breakers_open, "
            "(SELECT count(*) FROM quarantine) AS quarantined, "
            "(SELECT count(*) FROM artifacts WHERE state = 'kept') AS files, "
            "(SELECT coalesce(sum(size_bytes), 0) FROM artifacts WHERE state = 'kept') AS file_bytes"
        )
        by_state = "SELECT state, count(*) AS n FROM subscriptions WHERE job_id IS NULL GROUP BY state"
        totals = dict((await self._fetch(sql, {"owed_max": owed_max}))[0])
        return Totals(**totals, subscriptions={row["state"]: row["n"] for row in await self._fetch(by_state, {})})

    async def shown_urls(self, subscription_ids: Sequence[str]) -> dict[str, str]:
        where = Where("TRUE").any_of("id", subscription_ids or [""])
        sql = f"SELECT id, url_shown FROM subscriptions WHERE {where}"
        return {row["id"]: row["url_shown"] for row in await self._fetch(sql, where.values)}

    async def breakers(self) -> list[Breaker]:
        return await self._list(Breaker, "ORDER BY since_ms LIMIT :limit", {"limit": SUBSCRIPTIONS_MAX})

    async def replay(self, replay_id: str) -> Replay | None:
        return await self._one(Replay, "WHERE id = :id", {"id": replay_id})

    async def replays_running(self, limit: int) -> list[Replay]:
        return await self._list(Replay, "WHERE state = 'running' ORDER BY seq LIMIT :limit", {"limit": limit})

    async def _shown(self, tail: str, values: dict[str, Any]) -> list[Delivery]:
        """Deliveries with the state that the doors show."""
        names = columns(Delivery).replace(" state,", f" {SHOWN_STATE} AS state,")
        return [from_row(Delivery, row) for row in await self._fetch(f"SELECT {names} FROM deliveries {tail}", values)]

    async def file(self, file_id: str) -> StoredFile | None:
        return await self._one(StoredFile, "WHERE id = :id", {"id": file_id})

    async def files(
        self, state: Sequence[str], job_id: Sequence[str], before_seq: int | None, limit: int
    ) -> list[StoredFile]:
        where = Where("TRUE").any_of("state", state).any_of("job_id", job_id)
        return await self._newest(StoredFile, where, before_seq, limit)

    async def files_due(self, now_ms: int, limit: int) -> list[StoredFile]:
        where = "WHERE state = 'wanted' AND next_at_ms <= :now_ms ORDER BY next_at_ms LIMIT :limit"
        return await self._list(StoredFile, where, {"now_ms": now_ms, "limit": limit})

    async def files_doomed(self, limit: int) -> list[StoredFile]:
        return await self._list(StoredFile, "WHERE state = 'doomed' ORDER BY seq LIMIT :limit", {"limit": limit})

    async def next_file_ms(self, after_ms: int) -> int | None:
        sql = (
            "SELECT min(at_ms) AS at_ms FROM (SELECT min(next_at_ms) AS at_ms FROM artifacts "
            "WHERE state = 'wanted' AND next_at_ms > :after_ms UNION ALL SELECT min(held_until_ms) FROM artifacts "
            "WHERE held_until_ms > :after_ms) AS next"
        )
        return (await self._fetch(sql, {"after_ms": after_ms}))[0]["at_ms"]  # type: ignore[no-any-return]

    async def files_held(self, until_ms: int, limit: int) -> list[str]:
        sql = "SELECT DISTINCT job_id FROM artifacts WHERE held_until_ms IS NOT NULL AND held_until_ms <= :until_ms"
        rows = await self._fetch(f"{sql} LIMIT :limit", {"until_ms": until_ms, "limit": limit})
        return [row["job_id"] for row in rows]

    async def files_to_go(self, kept_before_ms: int, max_bytes: int | None, limit: int) -> list[str]:
        kept, goes = "artifacts", "k.state = 'kept' AND k.kept_at_ms < :before_ms"
        if max_bytes is not None:
            # Newest first along the index: of what does not fit any more the oldest are the ones beyond the sum.
            sizes = "sum(size_bytes) OVER (ORDER BY kept_at_ms DESC, seq DESC)"
            kept = f"(SELECT job_id, kept_at_ms, {sizes} AS bytes FROM artifacts WHERE state = 'kept')"
            goes = "(k.kept_at_ms < :before_ms OR k.bytes > :max_bytes)"
        sql = (
            f"SELECT k.job_id, min(k.kept_at_ms) AS at_ms FROM {kept} AS k WHERE {goes} "
            "AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.job_id = k.job_id "
            "AND d.state IN ('waiting', 'due', 'sending')) GROUP BY k.job_id ORDER BY at_ms LIMIT :limit"
        )
        values = {"before_ms": kept_before_ms, "max_bytes": max_bytes or 0, "limit": limit}
        return [row["job_id"] for row in await self._fetch(sql, values)]

    async def jobs_to_go(self, ended_before_ms: int, limit: int) -> list[str]:
        sql = (
            "SELECT id FROM jobs WHERE finished_at_ms < :before_ms AND NOT EXISTS (SELECT 1 FROM deliveries AS d "
            "WHERE d.job_id = jobs.id AND d.state IN ('waiting', 'due', 'sending')) AND NOT EXISTS (SELECT 1 "
            f"FROM attempts WHERE job_id = jobs.id AND {_OCCUPYING}) ORDER BY finished_at_ms LIMIT :limit"
        )
        return [row["id"] for row in await self._fetch(sql, {"before_ms": ended_before_ms, "limit": limit})]

    async def files_kept(self, file_ids: Sequence[str]) -> dict[str, str]:
        where = Where("state = 'kept'").any_of("id", file_ids or [""])
        rows = await self._fetch(f"SELECT id, path FROM artifacts WHERE {where}", where.values)
        return {row["id"]: row["path"] for row in rows}

    async def _newest(self, record_type: type[T], where: Where, before_seq: int | None, limit: int) -> list[T]:
        where.also("seq < :before", before=_ALL if before_seq is None else before_seq, limit=limit)
        return await self._list(record_type, f"WHERE {where} ORDER BY seq DESC LIMIT :limit", where.values)

    async def _list(self, record_type: type[T], tail: str, values: dict[str, Any]) -> list[T]:
        from_table = f"SELECT {columns(record_type)} FROM {TABLES[record_type]} {tail}"
        return [from_row(record_type, row) for row in await self._fetch(from_table, values)]

    async def _one(self, record_type: type[T], tail: str, values: dict[str, Any]) -> T | None:
        return next(iter(await self._list(record_type, tail, values)), None)
