"""`relay accounts`: the upstream's accounts, how many tasks each runs, and why one is parked."""

import click

from relay.cli.remote import ask, of_relay, print_json, print_table

COLUMNS = ("account", "state", "running", "slots", "admits", "others'", "tried again")


@click.command(help="Show the upstream's accounts: their slots, what runs, and why one is parked.")
@of_relay
def command(url: str, token: str, as_json: bool) -> None:
    found = ask(url, token, lambda client: client.accounts())
    if as_json:
        print_json(found)
        return
    rows = []
    for row in found:
        state = f"{row['parked']}: {row['reason']}" if row["parked"] else "open"
        rows.append((row["email"], state, row["running"], row["slots"], row["admits"], row["others"], row["retryAt"]))
    print_table(rows, *COLUMNS)
