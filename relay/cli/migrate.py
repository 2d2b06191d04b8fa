"""`relay migrate`: bring the database up to date, or carry all of it from SQLite to PostgreSQL."""

import asyncio
from pathlib import Path

import click

from relay import settings as config
from relay.clock import SystemClock
from relay.errors import ConfigurationError
from relay.migrate import Moved, move, up_to_date


@click.command(help="Bring the database of RELAY_DATABASE_URL up to date; with --from and --to, move it to PostgreSQL.")
@click.option("--from", "source", help="sqlite:///relay.db; no relay may be running on it.")
@click.option("--to", "target", help="postgresql://…, a new database.")
def command(source: str | None, target: str | None) -> None:
    if (source is None) != (target is None):
        raise click.UsageError("--from and --to go together")
    if source is None or target is None:
        click.echo(asyncio.run(up_to_date(config.load().database_url.get_secret_value())))
        return
    if not source.startswith("sqlite:///") or not target.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError("a database can be moved from sqlite:///… to postgresql://… only")
    path = Path(source.removeprefix("sqlite:///"))
    asyncio.run(move(path, target, at_ms=SystemClock().now_ms(), moved=_say))
    click.echo("All of it is there, verified.")
    click.echo(f"Set RELAY_DATABASE_URL, and RELAY_SECRET_KEY where it was not: what {path}.key holds.")


def _say(one: Moved) -> None:
    click.echo(f"{one.table:14} {one.rows:>9,} rows  {one.sha256[:16]}")
