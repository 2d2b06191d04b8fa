"""`relay token`: make named tokens, list them, revoke one."""

from typing import Any

import click

from relay.cli.remote import ask, of_relay, print_json, print_table
from relay.client import RelayClient
from relay.errors import ClientError


@click.group(help="Make named tokens, list them, revoke one.")
def command() -> None:
    pass


@command.command(help="Make a token. It is printed this once, and can never be shown again.")
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True, help="submit, read or manage; give it again for another one."
)
@click.option("--max-waiting", type=int, help="How many of its jobs may wait at a time.")
@click.option("--max-per-day", type=int, help="How many jobs it may submit in 24 hours.")
@click.option("--ttl", "ttl_s", type=int, metavar="SECONDS", help="After how long it opens nothing any more.")
@of_relay
def create(
    url: str,
    token: str,
    as_json: bool,
    name: str,
    scopes: tuple[str, ...],
    max_waiting: int | None,
    max_per_day: int | None,
    ttl_s: int | None,
) -> None:
    limits = {"maxWaiting": max_waiting, "maxPerDay": max_per_day, "ttlS": ttl_s}
    made = ask(url, token, lambda client: client.create_token(name, scopes, **limits))
    if as_json:
        print_json(made)
    else:
        click.echo(made["token"])


@command.command("list", help="List the living tokens.")
@of_relay
def list_all(url: str, token: str, as_json: bool) -> None:
    found = ask(url, token, lambda client: client.tokens())
    if as_json:
        print_json(found)
        return
    rows = [
        (
            *(row["id"], row["name"], row["scopes"], row["createdAt"][:10]),
            *((row["expiresAt"] or "never")[:10], row["maxWaiting"], row["maxPerDay"]),
        )
        for row in found
    ]
    print_table(rows, "id", "name", "scopes", "made", "ends", "waiting", "per day")


@command.command(help="Revoke a token, by its name or id: it opens nothing from now on.")
@click.argument("name")
@of_relay
def revoke(url: str, token: str, as_json: bool, name: str) -> None:
    async def named(client: RelayClient) -> dict[str, Any]:
        found = next((row for row in await client.tokens() if name in (row["name"], row["id"])), None)
        if found is None:
            raise ClientError(f"there is no token {name}")
        await client.revoke_token(found["id"])
        return found

    gone = ask(url, token, named)
    if as_json:
        print_json(gone)
    else:
        click.echo(f"revoked {gone['name']}")
