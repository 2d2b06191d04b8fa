"""`relay delivery`: what is owed to subscribers and what became of it: list, show, retry one, replay many."""

import sys
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from relay.cli.remote import ask, of_relay, print_json, print_sentences, print_table
from relay.client import RelayClient
from relay.clock import SystemClock

LOOK_S: Final = 0.2
COLUMNS: Final = ("id", "state", "type", "tries", "last answer")


@click.group(help="List deliveries, show one, send one again, or many.")
def command() -> None:
    pass


@command.command("list", help="List the newest deliveries.")
@click.option("--state", multiple=True, help="Such as due or dead; may be repeated, as the others.")
@click.option("--subscription", multiple=True, metavar="ID")
@click.option("--job", multiple=True, metavar="ID")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@of_relay
def list_all(url: str, token: str, as_json: bool, limit: int, **filters: tuple[str, ...]) -> None:
    found = ask(url, token, lambda client: client.all_deliveries(limit, **filters))
    print_json(found) if as_json else print_table(map(_row, found), *COLUMNS)


@command.command(help="Show a delivery with the answer to each attempt, and why it has, or has not, arrived.")
@click.argument("delivery")
@of_relay
def show(url: str, token: str, as_json: bool, delivery: str) -> None:
    async def both(client: RelayClient) -> tuple[dict[str, Any], dict[str, Any]]:
        return await client.delivery(delivery), await client.why_delivery(delivery)

    found, why = ask(url, token, both)
    _print({**found, "why": why} if as_json else found, as_json)
    if not as_json:
        print_sentences(why["sentences"])


@command.command(help="Send a delivery again now, under the same id.")
@click.argument("delivery")
@of_relay
def retry(url: str, token: str, as_json: bool, delivery: str) -> None:
    _print(ask(url, token, lambda client: client.retry_delivery(delivery)), as_json)


@command.command(
    help="Send all deliveries again that the options choose. Without --yes, only say which ones these are."
)
@click.option(
    "--state", multiple=True, help="Such as delivered; dead if left out. May be repeated, as --subscription and --type."
)
@click.option("--subscription", multiple=True, metavar="ID")
@click.option("--type", multiple=True, help="Of events.")
@click.option("--since", help="A time (ISO 8601).")
@click.option("--until", help="A time (ISO 8601).")
@click.option("--yes", is_flag=True, help="Do it, and wait until it is done.")
@of_relay
def replay(url: str, token: str, as_json: bool, yes: bool, **options: Any) -> None:
    chosen = {name: [*value] if isinstance(value, tuple) else value for name, value in options.items() if value}
    if not yes:
        _preview(ask(url, token, lambda client: client.replay(chosen)), as_json)
        return

    async def done(client: RelayClient) -> dict[str, Any]:
        return await _follow(client, await client.replay(chosen, dry_run=False))

    _print(ask(url, token, done), as_json)


async def _follow(client: RelayClient, now: dict[str, Any]) -> dict[str, Any]:
    """The replay, once it is done; the bar goes to stderr, and only to a terminal."""
    clock, columns = SystemClock(), (TextColumn("requeued"), BarColumn(40), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("", total=now["total"])
        while now["state"] != "done":
            progress.update(bar, completed=now["requeued"] + now["skipped"])
            await clock.sleep(LOOK_S)
            now = await client.replay_of(now["id"])
        progress.update(bar, completed=now["total"])
    return now


def _preview(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_table(map(_row, found["sample"]), *COLUMNS)
    click.echo(f"to be sent again: {found['count']}; --yes does it")


def _row(delivery: dict[str, Any]) -> tuple[Any, ...]:
    last = delivery["answers"][-1] if delivery["answers"] else {"status": None, "kind": None}
    answer = last["status"] or last["kind"]
    return delivery["id"], delivery["state"], delivery["type"], delivery["attempts"], answer


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print_table((name, value) for name, value in found.items() if name != "answers")
    for answer in found.get("answers", ()):
        click.echo()
        print_table(answer.items())
