"""`relay artifacts`: the files that the relay keeps: list them, fetch what is missing, verify, prune."""

import sys
from typing import Any

import click

from relay.cli.remote import ask, of_relay, print_json, print_table
from relay.client import RelayClient


@click.group(help="List the files that the relay keeps, fetch missing ones, verify and prune them.")
def command() -> None:
    pass


@command.command("list", help="List the newest files.")
@click.option("--state", multiple=True, help="kept, wanted, failed or doomed; may be repeated, as --job.")
@click.option("--job", multiple=True, metavar="ID")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@of_relay
def list_all(url: str, token: str, as_json: bool, limit: int, **filters: tuple[str, ...]) -> None:
    found = ask(url, token, lambda client: client.artifacts(limit, **filters))
    if as_json:
        print_json(found)
        return
    rows = [
        (row["id"], row["state"], row["contentType"], row["sizeBytes"], row["keptUntil"], row["reason"])
        for row in found
    ]
    print_table(rows, "id", "state", "type", "bytes", "kept until", "reason")


@command.command(help="Fetch what is missing, of one job or of all, now.")
@click.option("--job", metavar="ID")
@of_relay
def fetch(url: str, token: str, as_json: bool, job: str | None) -> None:
    _say(ask(url, token, lambda client: client.artifacts_do("fetch", job=job)), as_json, "to be fetched")


@command.command(help="Read every kept file from end to end; what is damaged is fetched anew. Exit code 1 if any is.")
@click.option("--limit", default=10_000, show_default=True, type=click.IntRange(1, 1_000_000))
@of_relay
def verify(url: str, token: str, as_json: bool, limit: int) -> None:
    async def each(client: RelayClient) -> list[dict[str, Any]]:
        kept = await client.artifacts(limit, state=("kept",))
        return [await client.artifacts_do(f"{row['id']}/verify") for row in kept]

    checked = ask(url, token, each)
    damaged = [row for row in checked if not row["sound"]]
    if as_json:
        print_json(checked)
    else:
        for row in damaged:
            click.echo(f"{row['id']}: {row['reason']}")
        click.echo(f"{len(checked) - len(damaged)} of {len(checked)} files are sound")
    sys.exit(1 if damaged else 0)


@command.command(help="Remove what the retention lets go, or what is older; nothing of which a delivery is owed.")
@click.option("--older-than", type=click.IntRange(0), metavar="SECONDS")
@of_relay
def prune(url: str, token: str, as_json: bool, older_than: int | None) -> None:
    _say(ask(url, token, lambda client: client.artifacts_do("prune", olderThanS=older_than)), as_json, "removed")


def _say(answer: dict[str, Any], as_json: bool, what: str) -> None:
    print_json(answer) if as_json else click.echo(f"{answer['files']} files {what}")
