"""`relay models`: what the catalogue says of each model, or everything of one."""

import sys
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from relay.cli.remote import ask, of_relay, print_json


@click.command(help="List the models and what they take, or show one of them.")
@click.argument("name", required=False)
@of_relay
def command(url: str, token: str, as_json: bool, name: str | None) -> None:
    catalogue = ask(url, token, lambda client: client.models())
    found = [model for model in catalogue["data"] if name in (None, model["name"])]
    if not found:
        known = ", ".join(model["name"] for model in catalogue["data"])
        click.echo(f"relay: there is no model {name}: {known}", err=True)
        sys.exit(1)
    if as_json:
        print_json(found[0] if name else catalogue)
    elif name:
        _show(found[0], catalogue["dated"])
    else:
        _list(found, catalogue["dated"])


def _list(models: list[dict[str, Any]], dated: str) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), caption=f"catalogue of {dated}", caption_justify="left")
    for column in ("model", "seconds", "prompt", "images", "videos", "resolution", "explore"):
        table.add_column(column, no_wrap=column == "model")
    for model in models:
        table.add_row(
            model["name"],
            _said(model["duration"]["offered"]),
            model["prompt"]["need"],
            _said(model["images"]["count"]),
            _said(model["videos"]["count"]),
            _said(model["resolution"]["offered"]),
            _said(model["exploreMode"]),
        )
    Console(highlight=False).print(table)


def _show(model: dict[str, Any], dated: str) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, caption=f"catalogue of {dated}")
    for key, value in model.items():
        rows = value.items() if isinstance(value, dict) and not value.keys() <= {"from", "to"} else [("", value)]
        for inner, shown in rows:
            table.add_row(f"{key} {inner}".strip(), _said(shown))
    Console(highlight=False).print(table)


def _said(value: Any) -> str:
    """A value of the catalogue as a person would write it."""
    if value in (None, [], {}):
        return "—"
    match value:
        case bool():
            return "yes" if value else "no"
        case {"from": first, "to": last}:
            return str(first) if first == last else f"{first} to {last}"
        case dict():
            return ", ".join(f"{key} {_said(inner)}" for key, inner in value.items())
        case list():
            return (
                " ".join(_said(item) for item in value) if isinstance(value[0], str) else ", ".join(map(_said, value))
            )
        case _:
            return str(value)
