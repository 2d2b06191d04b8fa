"""Looks at PostgreSQL as the settings name it; changes nothing in it."""

from typing import Final

from relay.doctor.finding import Finding
from relay.settings import Settings

# Settings of PostgreSQL, with the value that a relay cannot live with.
SERVER_NEEDS: Final = {"synchronous_commit": "off", "fsync": "off", "transaction_read_only": "on"}


async def examine(settings: Settings) -> Finding:
    """Whether the server is reached, new enough, durable, and to be written."""
    try:
        import asyncpg

        from relay.store import link, refusals
    except ImportError:
        return Finding("database", "failure", "PostgreSQL needs the extra", "pip install '.[postgres]'")
    try:
        sql = await link.Link(settings.database_url.get_secret_value()).connect()
        try:
            version = sql.get_server_version()
            is_on = {name: await sql.fetchval("SELECT current_setting($1)", name) for name in SERVER_NEEDS}
        finally:
            await sql.close(timeout=link.CONNECT_S)
    except (*refusals.AWAY, asyncpg.PostgresError) as error:
        said = f"the server of RELAY_DATABASE_URL cannot be used: {str(error) or type(error).__name__}"
        return Finding("database", "failure", said, "start it, or correct host, name, user and password")
    except ValueError:  # what is wrong with an address may quote the password
        return Finding(
            "database", "failure", "RELAY_DATABASE_URL is no address", "postgresql://user:password@host/name"
        )
    if version.major < link.VERSION_MIN:
        return Finding("database", "failure", f"PostgreSQL {version}", f"{link.VERSION_MIN} or later is needed")
    for name, wrong in SERVER_NEEDS.items():
        if is_on[name] == wrong:
            remedy = f"set {name}, or use the primary: else what was answered 2xx could be lost, or nothing be written"
            return Finding("database", "failure", f"PostgreSQL {version} has {name} = {wrong}", remedy)
    shown = ", ".join(f"{name} = {value}" for name, value in is_on.items())
    return Finding("database", "ok", f"PostgreSQL {version}, {shown}")
