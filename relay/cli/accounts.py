"""`relay accounts`: the upstream's accounts, how many tasks each runs, and why one is parked."""

import click
from rich.console import Console
from rich.table import Table

from relay.cli.remote import ask, of_relay, print_json

COLUMNS = ("account", "slots", "admits", "running", "others'", "state", "tried again")


@click.command(help="Show the upstream's accounts: their slots, what runs, and why one is parked.")
@of_relay
def command(url: str, token: str, as_json: bool) -> None:
    found = ask(url, token, lambda client: client.accounts())
    if as_json:
        print_json(found)
        return
    table = Table(*COLUMNS, box=None, padding=(0, 2, 0, 0))
    for row in found:
        state = f"{row['parked']}: {row['reason']}" if row["parked"] else "open"
        counts = (row["slots"], row["admits"], row["running"], row["others"])
        table.add_row(row["email"], *map(str, counts), state, row["retryAt"] or "—")
    Console(highlight=False, markup=False).print(table)
