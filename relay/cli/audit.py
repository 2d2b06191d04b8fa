"""`relay audit`: who changed what, for the holder of the admin token."""

import click

from relay.cli.remote import ask, of_relay, print_json, print_table


@click.command(help="List who changed what, newest first. It needs the admin token.")
@click.option("--actor", help="The name or the id of a token.")
@click.option("--action", help="A door, such as 'DELETE /v1/tokens/{id}'.")
@click.option("--object", help="The id of what was changed or made.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 100_000))
@of_relay
def command(url: str, token: str, as_json: bool, limit: int, **filters: str | None) -> None:
    found = ask(url, token, lambda client: client.audit(limit, **filters))
    if as_json:
        print_json(found)
    else:
        print_table(
            ((row["at"], row["actor"], row["action"], row["object"], row["request"]) for row in found),
            *("at", "actor", "action", "object", "request"),
        )
