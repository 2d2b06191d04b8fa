"""`relay rekey`: seal every secret at rest with a new key."""

import asyncio

import click

from relay import settings as config
from relay.rekey import rekey


@click.command(
    help="""Seal every secret at rest with a new key.

    With a key file, while no relay runs: a new key is made in it. With RELAY_SECRET_KEY: put the new key before the
    older ones (with commas), start the relay with them, then call this with the same settings.

    Older keys go on opening sessions and tickets and verifying addresses of artifacts until they are forgotten."""
)
@click.option("--forget", is_flag=True, help="Make no new key; seal all with the current one, and drop the older ones.")
def command(forget: bool) -> None:
    settings = config.load()
    done = asyncio.run(rekey(settings, forget=forget))
    click.echo(f"{done.resealed} sealed texts were sealed anew; all are sealed with the key {done.key_id} now.")
    if settings.given_keys is not None:
        if done.older:
            click.echo(
                "The older keys may go from RELAY_SECRET_KEY; sessions, tickets and addresses made with them end then."
            )
        else:
            click.echo("RELAY_SECRET_KEY holds one key alone: to change it, put the new one before it, with a comma.")
    elif done.older:
        click.echo(f"Older keys in {settings.key_path}: {done.older}. `relay rekey --forget` drops them;")
        click.echo(
            "what they signed (sessions, tickets, addresses of artifacts) is void then. Keep a copy for older backups."
        )
    else:
        click.echo(f"{settings.key_path} holds this key alone. Keep older copies of it for backups from before.")
