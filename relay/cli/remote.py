"""What every client command has: where the relay is, the token, JSON or tables, and errors as one line."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from textwrap import fill
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
        click.option("--token", envvar="RELAY_TOKEN", default="", help="A token of the relay; or RELAY_TOKEN."),
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

    if not token:
        raise click.UsageError("a token of the relay is needed: --token, or RELAY_TOKEN")
    try:
        return asyncio.run(asked())
    except ClientError as error:
        # The sentence of a refused request is that of its problems, which are easier to read a line each.
        problems = [
            f"{problem['field']}: {problem['message'].removeprefix(problem['field'] + ': ')}"
            for problem in error.problem.get("problems", [])
        ]
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
    """Rows for people, the columns that matter most first; without headings the first one names fields of one thing.

    Nothing is cut in two, for half an id cannot be copied. In a terminal that is too narrow the last columns are left
    out, and named; a file or a pipe gets whole lines, however long.
    """
    cells = [[*map(shown, row)] for row in rows]
    if not headings:
        width = max((len(name) for name, _ in cells), default=0)
        click.echo("\n".join(f"{name:<{width}}  {value}" for name, value in cells))
        return
    console = Console(highlight=False, markup=False)
    for count in range(len(headings), 0, -1):
        table = _table(cells, headings[:count])
        needed = Measurement.get(console, console.options.update(max_width=WIDTH_MAX), table).maximum
        if needed <= console.width or not console.is_terminal:
            break
    console.width = max(console.width, needed)
    console.print(table)
    if not cells:
        click.echo("(none)", err=True)
    if count < len(headings):
        said = f"(too narrow for: {', '.join(headings[count:])}; --json shows all)"
        Console(stderr=True, highlight=False, markup=False).print(said)


def print_sentences(sentences: Iterable[str]) -> None:
    """Sentences for people, below what they explain; a terminal gets them broken between words."""
    console = Console()
    width = console.width if console.is_terminal else WIDTH_MAX
    for sentence in ("", *sentences):
        click.echo(fill(sentence, width, break_long_words=False, break_on_hyphens=False))


def _table(cells: Sequence[Sequence[str]], headings: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, max_width=CELL_MAX)
    for row in cells:
        table.add_row(*row[: len(headings)])
    return table


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
