"""`relay subscription`: who is told of events: make, list, change, rotate its secret, ping, enable, remove."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from relay.cli.remote import ask, listed, of_relay, print_json, print_sentences, print_table
from relay.client import RelayClient

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(help="Make, list, change and remove subscriptions, rotate their secrets, ping and enable them.")
def command() -> None:
    pass


def _of_subscription(command: Command) -> Command:
    """What a subscription can be given when it is made and later; an empty value takes a condition away."""
    for option in (
        click.option("--description", help="For people."),
        click.option(
            "--format", "kind", type=click.Choice(["event", "task"]), help="An event, or the upstream's task."
        ),
        click.option("--reply-ref", help="Only of jobs with this replyRef."),
        click.option("--models", help="Only of these models, comma-separated."),
        click.option("--types", help="Of events, comma-separated; the three final ones by default."),
    ):
        command = option(command)
    return command


def _fields(
    types: str | None, models: str | None, reply_ref: str | None, kind: str | None, description: str | None
) -> dict[str, Any]:
    given: dict[str, Any] = {"format": kind, "description": description}
    given |= {
        "types": None if types is None else [*listed(types)],
        "models": None if models is None else [*listed(models)],
    }
    given = {name: value for name, value in given.items() if value is not None}
    return given | ({} if reply_ref is None else {"replyRef": reply_ref or None})


@command.command(help="Have events posted to TARGET. Its secret is printed this once, and can never be shown again.")
@click.argument("target")
@click.option("--secret", help="A whsec_… of your own.")
@_of_subscription
@of_relay
def create(url: str, token: str, as_json: bool, target: str, secret: str | None, **given: Any) -> None:
    fields = _fields(**given) | ({"secret": secret} if secret else {})
    made = ask(url, token, lambda client: client.subscribe(target, **fields))
    print_json(made) if as_json else click.echo(f"subscription {made['id']}\nsecret {made['secret']}")


@command.command("list", help="List the subscriptions.")
@of_relay
def list_all(url: str, token: str, as_json: bool) -> None:
    found = ask(url, token, lambda client: client.subscriptions())
    if as_json:
        print_json(found)
        return
    columns = ("id", "state", "owed", "url", "reason", "failingSince", "types")
    print_table(([row[name] for name in columns] for row in found), *columns)


@command.command(help="Show one subscription and how it goes with it, or why it was, or was not, told of a job.")
@click.argument("subscription")
@click.option("--job", metavar="ID", help="Why it was, or was not, told of this one.")
@of_relay
def show(url: str, token: str, as_json: bool, subscription: str, job: str | None) -> None:
    async def both(client: RelayClient) -> tuple[dict[str, Any], dict[str, Any]]:
        return await client.subscription(subscription), await client.why_subscription(subscription, job)

    found, why = ask(url, token, both)
    _print({**found, "why": why} if as_json else found, as_json)
    if not as_json:
        print_sentences(why["sentences"])


@command.command(help="Change a subscription; what is not named stays, and an empty value takes a condition away.")
@click.argument("subscription")
@click.option("--to", "target", help="The new address.")
@_of_subscription
@of_relay
def update(url: str, token: str, as_json: bool, subscription: str, target: str | None, **given: Any) -> None:
    fields = _fields(**given) | ({"url": target} if target else {})
    if not fields:
        raise click.UsageError("nothing to change was given")
    _print(ask(url, token, lambda client: client.update_subscription(subscription, **fields)), as_json)


@command.command(help="Remove a subscription; what it is still owed ends as dead letters.")
@click.argument("subscription")
@of_relay
def remove(url: str, token: str, as_json: bool, subscription: str) -> None:
    ask(url, token, lambda client: client.unsubscribe(subscription))
    print_json({"removed": subscription}) if as_json else click.echo(f"removed {subscription}")


@command.command(help="Give it a new secret, printed this once; the old one goes on signing for a while.")
@click.argument("subscription")
@click.option("--secret", help="A whsec_… of your own.")
@click.option("--keep-old-for", metavar="DURATION", help="Such as 0s, 6h, 7d; 24h if left out.")
@of_relay
def rotate(
    url: str, token: str, as_json: bool, subscription: str, secret: str | None, keep_old_for: str | None
) -> None:
    fields = {"secret": secret, "keepOldFor": keep_old_for}
    given = {name: value for name, value in fields.items() if value is not None}
    now = ask(url, token, lambda client: client.subscription(subscription, "rotate", **given))
    print_json(now) if as_json else click.echo(now["secret"])


@command.command(help="Send it a signed test event now, and show what it answered; exit code 1 when it was not a 2xx.")
@click.argument("subscription")
@of_relay
def ping(url: str, token: str, as_json: bool, subscription: str) -> None:
    answer = ask(url, token, lambda client: client.subscription(subscription, "ping"))
    _print(answer, as_json)
    if not answer["arrived"]:
        sys.exit(1)


@command.command(help="Enable a paused or disabled one again.")
@click.argument("subscription")
@click.option(
    "--backlog",
    type=click.Choice(["all", "final", "none"]),
    default="all",
    show_default=True,
    help="What of that which it is owed is sent.",
)
@of_relay
def enable(url: str, token: str, as_json: bool, subscription: str, backlog: str) -> None:
    _print(ask(url, token, lambda client: client.subscription(subscription, "enable", backlog=backlog)), as_json)


def _print(found: dict[str, Any], as_json: bool) -> None:
    print_json(found) if as_json else print_table(found.items())
