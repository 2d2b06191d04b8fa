"""`relay doctor`: is everything there that the relay needs, and what to do where it is not."""

import json
import sys

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relay.doctor import examine

_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failure": "[red]failure[/]"}


@click.command(help="Check settings, database, SQLite's version, key, disk, storage; exit code 1 when something fails.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def command(as_json: bool) -> None:
    findings = examine()
    if as_json:
        rows = [
            {"name": row.name, "verdict": row.verdict, "sentence": row.sentence, "remedy": row.remedy}
            for row in findings
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for row in findings:
            said = row.sentence if row.remedy is None else f"{row.sentence}\n→ {row.remedy}"
            table.add_row(_MARKS[row.verdict], row.name, escape(said))
        Console(highlight=False).print(table)
    sys.exit(1 if any(row.verdict == "failure" for row in findings) else 0)
