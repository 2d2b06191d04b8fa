"""What every client command has: where the relay is, the token, JSON or tables, and errors as one line."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import click
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from relay.client import RelayClient
from relay.errors import ClientError

CELL_MAX: Final = 60
WIDTH_MAX: Final = 1_000

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
        # The sentence of a refused request is that of its problems, which are easier to read a line each.
        problems = [f"{problem['field']}: {problem['message']}" for problem in error.problem.get("problems", [])]
        click.echo("\n".join(f"relay: {line}" for line in problems or [str(error)]), err=True)
        sys.exit(1)


def listed(text: str | None) -> tuple[str, ...]:
    """The words of a comma-separated list."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def shown(value: Any) -> str:
    """A value of the relay's JSON in a cell."""
    if value in (None, "", [], {}):
        return "—"
    if isinstance(value, list):
        return " ".join(map(shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items())
    return str(value)


def print_table(rows: Iterable[Sequence[Any]], *headings: str) -> None:
    """Rows for people; without headings the first column names the fields of one thing."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=bool(headings))
    for heading in headings or ("", ""):
        table.add_column(heading, max_width=CELL_MAX if headings else None)
    for row in rows:
        table.add_row(*map(shown, row))
    console = Console(highlight=False, markup=False)
    # On a narrow terminal the lines are longer than it is: an id that is cut in two cannot be copied.
    needed = Measurement.get(console, console.options.update(max_width=WIDTH_MAX), table).maximum
    console.width = max(console.width, needed)
    console.print(table)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
