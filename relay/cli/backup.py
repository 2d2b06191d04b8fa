"""`relay backup`, `relay restore`: a copy of a running relay's database, and one put into its place."""

import asyncio
import sys
from pathlib import Path

import click

from relay import settings as config
from relay.cli.remote import ask, of_relay, print_json
from relay.clock import SystemClock
from relay.restore import failed_over
from relay.restore import restore as put_into_place

NO_KEY = "The key that its secrets are sealed with is not in it: keep relay.db.key, or RELAY_SECRET_KEY, apart."


@click.command(help="Write a copy of a running relay's database to FILE, which must not exist yet.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@of_relay
def backup(url: str, token: str, as_json: bool, file: Path) -> None:
    size_bytes = ask(url, token, lambda client: client.backup(file))
    if as_json:
        print_json({"file": str(file), "sizeBytes": size_bytes})
    else:
        click.echo(f"{file}: {size_bytes:,} bytes, checked.\n{NO_KEY}")


@click.command(help="Put the backup FILE into the place of the database of RELAY_DATABASE_URL, while no relay runs.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--replace", is_flag=True, help="Put a database that is there aside, under another name.")
@click.option(
    "--after-failover",
    is_flag=True,
    help="PostgreSQL, without FILE: the database was restored, or is a standby that may lack the last commits.",
)
def restore(file: Path | None, replace: bool, after_failover: bool) -> None:
    settings = config.load()
    if after_failover and file is None:
        epoch = asyncio.run(failed_over(settings, SystemClock().now_ms()))
        click.echo(f"The database's events go on in a new epoch, {epoch}.")
        click.echo("Submitting is held: start the relays, let them search the upstream, then call `relay resume`.")
        return
    if after_failover or file is None:
        raise click.UsageError("give the FILE to restore, or --after-failover without one")
    made = put_into_place(file, settings, SystemClock().now_ms(), put_aside=replace)
    click.echo(f"{file} is now {made.target}; its events go on in a new epoch, {made.epoch}.")
    if made.aside is not None:
        click.echo(f"What was there is now {made.aside}.")
    click.echo("Submitting is held: start the relay, let it search the upstream, then call `relay resume`.")
    if not made.opens:
        click.echo(
            f"relay: its secrets are sealed with the key {made.key_id}, which is not here: put that key at "
            f"{settings.key_path} (mode 0600) or into RELAY_SECRET_KEY before the relay starts",
            err=True,
        )
        sys.exit(1)
