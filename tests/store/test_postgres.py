"""What PostgreSQL alone has to prove: the order of several writers, a lost connection, the lead, texts as they were."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.core.delivering import SubscriptionSaved
from relay.core.event import Event
from relay.errors import ConfigurationError, Unavailable
from relay.store import postgres as engine
from relay.store.contract import EventFilter, JobFilter
from relay.store.dialect import numbered, placed
from relay.store.due import LATE_MS
from relay.store.link import SETTINGS, WRITERS_KEPT_S
from relay.store.postgres import PostgresStore
from relay.store.rows import update
from tests.core.builders import NOW_MS, job, subscription
from tests.postgres import Cluster
from tests.store.serving import new_hex, queued

pytestmark = pytest.mark.anyio


async def opened(stack: AsyncExitStack, url: str, seen: list[Event] | None = None) -> PostgresStore:
    """A relay's store; it appends the events that it is told of to `seen`."""
    store = await engine.open_store(
        url, new_hex=new_hex, committed=lambda head, events: seen.extend(events) if seen is not None else None
    )
    stack.push_async_callback(store.close)
    return store


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - the server tells of nothing else
            await asyncio.sleep(0.005)


async def test_readers_that_resume_anywhere_see_every_event_of_several_writers_once_and_in_order(
    tmp_path: Path, postgres: Cluster
) -> None:
    url = await postgres.database(str(tmp_path))
    told: list[list[Event]] = [[], [], []]
    async with AsyncExitStack() as stack:
        stores = [await opened(stack, url, seen) for seen in told]
        read: list[int] = []

        async def follow() -> None:
            after = 0
            while after < 120:
                for event in await stores[2].events_after(after, EventFilter(), 7):
                    read.append(event.seq)
                    after = event.seq

        async def write(n: int) -> None:
            for m in range(40):
                await stores[n].apply(queued(f"job-{n}-{m}", queue_per_token=1_000))

        await asyncio.gather(follow(), write(0), write(1), write(2))
        await until(lambda: all(len(seen) >= 120 for seen in told))

    assert read == list(range(1, 121))
    for seen in told:
        assert [event.seq for event in seen] == list(range(1, 121))
    assert len({event.job_id for event in told[0]}) == 120


@pytest.mark.parametrize("text", ["a\0b", "\0", "\ufdd0", "\ufdd00", "\ufdd0m\0", "'$1 :name ?", "ünï 🎬"], ids=repr)
async def test_texts_come_back_as_they_went_in_and_are_found(tmp_path: Path, postgres: Cluster, text: str) -> None:
    url = await postgres.database(str(tmp_path))
    async with AsyncExitStack() as stack:
        store = await opened(stack, url)
        await store.apply(queued("one", reply_ref=text, request={"text_prompt": text}, priority=-10))
        found = await store.job("one")
        assert found is not None
        assert (found.reply_ref, found.request["text_prompt"]) == (text, text)
        assert [row.id for row in await store._list(type(found), "WHERE reply_ref = :ref", {"ref": text})] == ["one"]


async def test_one_leads_and_when_it_is_gone_another_one_does(tmp_path: Path, postgres: Cluster) -> None:
    url = await postgres.database(str(tmp_path))
    async with AsyncExitStack() as stack:
        first = await opened(stack, url)
        async with first.leading() as lost:
            second = await opened(stack, url)
            follower = asyncio.create_task(second._leading.wait())
            await second.apply(queued("by-a-follower"))
            assert not follower.done()
            await first.close()
            assert lost.is_set()
        await asyncio.wait_for(follower, 20)


async def test_relays_with_a_schema_each_in_one_database_do_not_wait_for_each_other(
    tmp_path: Path, postgres: Cluster
) -> None:
    async with AsyncExitStack() as stack:
        first = await opened(stack, await postgres.database(f"{tmp_path} first"))
        other = await opened(stack, await postgres.database(f"{tmp_path} other"))
        async with asyncio.timeout(20), first.leading(), other.leading(), first._pool.acquire() as holding:
            await holding.execute("SELECT pg_advisory_lock($1)", first._link.writing)
            await other.apply(queued("of the other"))
            await holding.execute("SELECT pg_advisory_unlock($1)", first._link.writing)


async def test_what_relays_that_are_gone_wrote_of_themselves_goes_when_another_one_starts(
    tmp_path: Path, postgres: Cluster
) -> None:
    url = await postgres.database(str(tmp_path))
    async with AsyncExitStack() as stack:
        store = await opened(stack, url)
        await store.apply(queued("one"))
        for name, ago_s in (("gone", WRITERS_KEPT_S + 10), ("young", WRITERS_KEPT_S - 1_000)):
            mark = f"'7 ' || extract(epoch FROM now())::bigint - {ago_s}"
            await store._execute(f"INSERT INTO meta VALUES ('writer:{name}', {mark})")  # noqa: S608 - names of this test
        await opened(stack, url)
        rows = await store._fetch("SELECT name FROM meta WHERE name LIKE 'writer:%'", {})

    assert {row["name"] for row in rows} == {"writer:young", store._name}


async def test_places_are_shared_out_among_the_relays_and_what_is_late_is_anybodys(
    tmp_path: Path, postgres: Cluster
) -> None:
    url = await postgres.database(str(tmp_path))
    async with AsyncExitStack() as stack:
        stores = [await opened(stack, url) for _ in range(3)]
        for n in range(30):
            await stores[0].apply(SubscriptionSaved(subscription(f"place-{n}")))
        await stores[0].apply(queued("one"))

        async def due(store: PostgresStore, at_ms: int) -> set[str]:
            return {one.place for one in await store.deliveries_due(at_ms, 8, 99)}

        await until(lambda: {tuple(store.share.values()) for store in stores} == {(0, 3), (1, 3), (2, 3)})
        shares = [await due(store, NOW_MS) for store in stores]
        late = [await due(store, NOW_MS + LATE_MS + 1) for store in stores]
        await stores[2].close()
        await until(lambda: {tuple(store.share.values()) for store in stores[:2]} == {(0, 2), (1, 2)})
        after = [await due(store, NOW_MS) for store in stores[:2]]

    everything = {f"place-{n}" for n in range(30)}
    assert all(shares)
    assert (set.union(*shares), sum(map(len, shares))) == (everything, 30)
    assert late == [everything] * 3
    assert (set.union(*after), sum(map(len, after))) == (everything, 30)


async def test_a_server_that_restarts_is_unavailable_and_then_there_again(postgres: Cluster) -> None:
    from tests.postgres import cluster

    loop = asyncio.get_running_loop()
    with cluster() as own:
        async with AsyncExitStack() as stack:
            seen: list[Event] = []
            store = await opened(stack, own.url(), seen)
            await store.apply(queued("before"))
            await loop.run_in_executor(None, own.stop)
            with pytest.raises(Unavailable, match="cannot be written"):
                await store.apply(queued("meanwhile"))
            with pytest.raises(Unavailable, match="cannot be read"):
                await store.head()
            await loop.run_in_executor(None, own.start)
            await store.apply(queued("after"))
            assert await store.head() == 2
            await asyncio.wait_for(store._leading.wait(), 20)
            await until(lambda: [event.job_id for event in seen] == ["before", "after"])


async def test_a_commit_whose_answer_was_lost_is_found_out(tmp_path: Path, postgres: Cluster) -> None:
    url = await postgres.database(str(tmp_path))
    async with AsyncExitStack() as stack:
        store = await opened(stack, url)
        await store.apply(queued("before"))
        assert store._writing is not None
        real = store._writing

        class Cut:
            """The connection as it is, but for the answer to its commit, which never comes."""

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            async def execute(self, sql: str, *values: Any) -> None:
                await real.execute(sql, *values)
                if sql.endswith("COMMIT"):
                    raise ConnectionResetError("cut")

        store._writing = Cut()
        made = await store.apply(queued("cut"))
        assert made.id == "cut"
        assert await store.head() == 2


# Of each kind of refusal that is the server's state: disk, memory, connections, another limit, its machine, itself, its
# files, a deadlock, a lock that somebody has, a right that is gone, a statement that was told to stop.
STATES = ("53100", "53200", "53300", "53400", "58030", "58000", "XX000", "XX001", "40P01", "55P03", "42501", "57014")
DEFECT = "42703"


async def refuse(sql: asyncpg.Pool, state: str) -> None:
    """From now on the server answers to a new job with this SQLSTATE."""
    await sql.execute(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION 'a refusal' USING ERRCODE = '{state}'; END $$"
    )
    await sql.execute("CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION refuse()")


async def test_what_the_servers_state_forbids_is_unavailable_and_comes_back(tmp_path: Path, postgres: Cluster) -> None:
    async with AsyncExitStack() as stack:
        store = await opened(stack, await postgres.database(str(tmp_path)))
        for state in STATES:
            await refuse(store._pool, state)
            with pytest.raises(Unavailable, match="cannot be written: a refusal") as refused:
                await store.apply(queued(f"meanwhile {state}"))
            assert refused.value.retry_after_s
            assert await store.job(f"meanwhile {state}") is None
            await store._pool.execute("DROP TRIGGER refuse ON jobs")
            await store.apply(queued(f"after {state}"))
        await refuse(store._pool, DEFECT)
        with pytest.raises(asyncpg.UndefinedColumnError):  # ours, and to be seen as such
            await store.apply(queued("defect"))


async def test_a_server_that_only_reads_is_unavailable_for_what_writes_and_comes_back() -> None:
    from tests.postgres import cluster

    with cluster() as own:
        async with AsyncExitStack() as stack:
            store = await opened(stack, own.url())
            await store.apply(queued("before"))
            assert store._writing is not None
            for value in ("on", "off"):
                await store._pool.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
                await store._pool.fetchval("SELECT pg_reload_conf()")
                async with asyncio.timeout(20):
                    while await store._writing.fetchval("SHOW default_transaction_read_only") != value:  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
                if value == "on":
                    await store._pool.expire_connections()
                    for write in (store.check(), store.apply(queued("meanwhile")), store.trim("keys", 1, 1)):
                        with pytest.raises(Unavailable, match="read-only transaction") as refused:
                            await write
                        assert refused.value.retry_after_s
                    assert (await store.head(), await store.job("meanwhile")) == (1, None)
                    store._writing = await store._link.connect()
            await store.apply(queued("after"))
            assert await store.head() == 2


@pytest.mark.parametrize("name", ["synchronous_commit", "fsync"])
async def test_a_server_that_may_lose_what_it_has_committed_is_refused(name: str) -> None:
    from tests.postgres import cluster

    with cluster() as own:
        own.stop()
        own.options = {name: "off"}
        own.start()
        with pytest.raises(ConfigurationError, match=f"{name} = off"):
            await engine.open_store(own.url(), new_hex=new_hex, committed=lambda head, events: None)


async def test_what_cannot_be_opened_is_said_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened") as refused:
        await engine.open_store(
            f"postgresql://me:hush@/db?host={tmp_path}", new_hex=new_hex, committed=lambda head, events: None
        )
    assert "hush" not in str(refused.value)


def test_the_sql_of_this_room_is_said_as_postgresql_takes_it() -> None:
    assert numbered("SELECT ':no', x::text FROM t WHERE a = :a AND (b < :b OR c = :a)") == (
        "SELECT ':no', x::text FROM t WHERE a = $1 AND (b < $2 OR c = $1)",
        ("a", "b"),
    )
    changed = update(job(), job(progress=0.5, state="running"))
    assert changed is not None
    assert placed(changed[0]) == (
        "UPDATE jobs SET state = new.column1, progress = new.column2 "
        "FROM (VALUES ($1::text, $2::float8, $3::text)) AS new WHERE jobs.id = new.column3"
    )


async def test_the_way_to_the_database_is_not_blocked_by_a_relay_that_hangs(tmp_path: Path, postgres: Cluster) -> None:
    url = await postgres.database(str(tmp_path))
    async with AsyncExitStack() as stack:
        store = await opened(stack, url)
        hung = await asyncpg.connect(url, server_settings=SETTINGS | {"idle_in_transaction_session_timeout": "200"})
        await hung.execute("BEGIN")
        await hung.execute("SELECT pg_advisory_xact_lock($1)", store._link.writing)
        assert (await store.apply(queued("in spite of it"))).id == "in spite of it"
        hung.terminate()


async def test_what_is_due_is_found_along_an_index_and_not_by_looking_at_every_delivery(
    tmp_path: Path, postgres: Cluster
) -> None:
    url = await postgres.database(str(tmp_path))
    async with AsyncExitStack() as stack:
        store = await opened(stack, url)
        fetch, plans = store._fetch, list[str]()

        async def explained(sql: str, values: dict[str, Any]) -> Any:
            plans.extend(row["QUERY PLAN"] for row in await fetch(f"EXPLAIN {sql}", values))
            return await fetch(sql, values)

        store._fetch = explained
        assert await store.deliveries_due(0, 8, 10) == []
        plan = "\n".join(plans)
        assert "deliveries_due" in plan
        assert "Join Filter: (SubPlan" not in plan, plan


async def test_a_commit_that_the_server_has_lost_is_not_taken_for_one_that_it_has(
    tmp_path: Path, postgres: Cluster
) -> None:
    url = await postgres.database(str(tmp_path))
    async with AsyncExitStack() as stack:
        store = await opened(stack, url)
        await store.apply(queued("before"))
        assert store._writing is not None
        real = store._writing

        class Cut:
            """The connection as it is, but its COMMIT is lost on the way, and another relay writes at once."""

            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            async def execute(self, sql: str, *values: Any) -> None:
                if sql.endswith("COMMIT"):
                    await real.execute("ROLLBACK")
                    other = await opened(stack, url)
                    await other.apply(queued("another's"))
                    raise ConnectionResetError("cut")
                await real.execute(sql, *values)

        store._writing = Cut()
        with pytest.raises(Unavailable, match="cannot be written"):
            await store.apply(queued("lost"))
        assert [job.id for job in await store.jobs(JobFilter(), None, 9)] == ["another's", "before"]


async def test_a_database_that_has_lost_what_it_had_committed_is_not_written_any_more(
    tmp_path: Path, postgres: Cluster
) -> None:
    url = await postgres.database(str(tmp_path))
    async with AsyncExitStack() as stack:
        store = await opened(stack, url)
        await store.apply(queued("one"))
        await store.apply(queued("two"))
        await store._execute("UPDATE meta SET value = '1' WHERE name = 'head'")
        with pytest.raises(Unavailable, match="--after-failover"):
            await store.apply(queued("three"))
        assert [job.id for job in await store.jobs(JobFilter(), None, 9)] == ["two", "one"]
