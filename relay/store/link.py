"""How PostgreSQL is reached: connections that are all alike, the locks, and what is looked at before it is used."""

from collections.abc import Callable
from typing import Any, Final

import asyncpg

from relay.errors import ConfigurationError
from relay.store.dialect import prepare
from relay.store.migrate import pending

READERS: Final = 4
CONNECT_S: Final = 10.0
COMMAND_S: Final = 30.0
# The listening connection asks something every second. One that does not, for so long, leads and shares no more.
IDLE_S: Final = 10
# Advisory locks: who writes now, and whose workers work.
WRITING: Final = 0x72656C61
LEADING: Final = 0x72656C62
# Each relay holds a lock of its own. Which of them it is, of how many: so the places that are sent to are shared out.
_RELAYS: Final = "to_regclass('meta')::oid::bigint & 2147483647"
TAKE_SHARE: Final = f"SELECT pg_advisory_lock(({_RELAYS})::int, pg_backend_pid())"
SHARE: Final = (
    "SELECT count(*) FILTER (WHERE objid::bigint < pg_backend_pid()) AS relay, greatest(count(*), 1) AS relays "
    "FROM pg_locks "
    f"WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid::bigint = {_RELAYS} "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
# What each relay writes of itself, in `meta`; those of relays that are gone for so long are deleted.
WRITER: Final = "writer:"
WRITERS_KEPT_S: Final = 3_600
VERSION_MIN: Final = 14
SETTINGS: Final = {
    "application_name": "relay",
    # A relay that is cut off while it holds the lock must not keep the others waiting.
    "idle_in_transaction_session_timeout": "10000",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_FORGET: Final = (
    f"DELETE FROM meta WHERE starts_with(name, '{WRITER}') "
    f"AND nullif(split_part(value, ' ', 2), '')::bigint < extract(epoch FROM now()) - {WRITERS_KEPT_S}"
)


class Link:
    """How to reach the database, and what it said of itself when it was opened."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.instance = self.epoch = ""
        self.head = self.writing = self.leading = 0

    async def connect(self) -> asyncpg.Connection:
        connection = await asyncpg.connect(
            self._url, timeout=CONNECT_S, command_timeout=COMMAND_S, server_settings=SETTINGS
        )
        await prepare(connection)
        return connection

    async def pool(self) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=READERS,
            timeout=CONNECT_S,
            command_timeout=COMMAND_S,
            server_settings=SETTINGS,
            init=prepare,
            reset=_as_it_is,
        )

    async def open(self, new_hex: Callable[[int], str], *, moving: bool = False) -> None:
        """Look at the server, and bring the schema up to date. Only who moves a database opens one that is `moving`."""
        sql = await self.connect()
        try:
            await _examine(sql)
            async with sql.transaction():
                await sql.execute("SELECT pg_advisory_xact_lock($1)", await _lock(sql, WRITING))
                await _migrate(sql, new_hex)
                await sql.execute(_FORGET)
            self.writing, self.leading = await _lock(sql, WRITING), await _lock(sql, LEADING)
            meta = dict(await sql.fetch("SELECT name, value FROM meta"))
            if "moving" in meta and not moving:
                raise ConfigurationError(
                    "a move to this database was not finished: call relay migrate --from --to again"
                )
            self.instance, self.epoch, self.head = meta["instance"], meta["epoch"], int(meta["head"])
        finally:
            await closed(sql)

    async def has_lead(self, sql: asyncpg.Connection) -> bool:
        """Whether the lead is this connection's now, because it is nobody else's."""
        return bool(await sql.fetchval("SELECT pg_try_advisory_lock($1)", self.leading))


async def _lock(sql: asyncpg.Connection, which: int) -> int:
    """A lock's number: of these tables alone, for several relays may each have a schema of one database."""
    return which << 32 | (await sql.fetchval("SELECT to_regclass('meta')::oid") or 0)


async def _examine(sql: asyncpg.Connection) -> None:
    if sql.get_server_version().major < VERSION_MIN:
        raise ConfigurationError(f"PostgreSQL {VERSION_MIN} or later is needed, and this is {sql.get_server_version()}")
    for name in ("synchronous_commit", "fsync"):
        if await sql.fetchval("SELECT current_setting($1)", name) == "off":
            raise ConfigurationError(
                f"the server has {name} = off, so that what was answered 2xx could be lost: set it on"
            )


async def _migrate(sql: asyncpg.Connection, new_hex: Callable[[int], str]) -> None:
    version = 0
    if await sql.fetchval("SELECT to_regclass('meta')::text") is not None:
        version = int(await sql.fetchval("SELECT value FROM meta WHERE name = 'schema'") or 0)
    for step in pending("postgres", version):
        await sql.execute(step.sql)
        await sql.execute(
            "INSERT INTO meta VALUES ('schema', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            str(step.version),
        )
    for name, value in (("instance", new_hex(8)), ("epoch", new_hex(8)), ("head", "0"), ("touched", "0")):
        await sql.execute("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, value)


async def _as_it_is(connection: Any) -> None:
    """Readers change nothing of their connection: it needs no trip to the server to be used again."""


async def closed(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=1.0)
    except Exception:
        connection.terminate()
