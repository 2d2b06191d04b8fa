"""What every client command has: where the relay is, the token, JSON or tables, and errors as one line."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from relay.client import RelayClient
from relay.errors import ClientError

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


def of_relay(command: Command) -> Command:
    """The options of a command that speaks to a relay."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        click.option("--token", envvar="RELAY_TOKEN", required=True, help="A token of the relay; or RELAY_TOKEN."),
        click.option(
            "--url", envvar="RELAY_URL", default="http://127.0.0.1:8080", show_default=True, help="Or RELAY_URL."
        ),
    ):
        command = option(command)
    return command


def ask(url: str, token: str, question: Callable[[RelayClient], Awaitable[T]]) -> T:
    """Ask the relay, and end the command with a sentence when it refuses or cannot be reached."""

    async def asked() -> T:
        async with RelayClient(url, token) as client:
            return await question(client)

    try:
        return asyncio.run(asked())
    except ClientError as error:
        for problem in error.problem.get("problems", []):
            click.echo(f"{problem['field']}: {problem['message']}", err=True)
        click.echo(f"relay: {error}", err=True)
        sys.exit(1)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
