"""`relay quarantine`: bodies that came to a callback address and were no report on its task."""

import click

from relay.cli.remote import ask, of_relay, print_json, print_table


@click.command(help="List what came to callback addresses and was no report on their task, newest first.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@of_relay
def command(url: str, token: str, as_json: bool, limit: int) -> None:
    found = ask(url, token, lambda client: client.quarantine(limit))
    if as_json:
        print_json(found)
    else:
        print_table(((row["at"], row["reason"], row["job"]) for row in found), "at", "reason", "job")
