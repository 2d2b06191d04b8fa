"""`relay doctor`: is everything there that the relay needs, and what to do where it is not."""

import asyncio
import sys
from dataclasses import asdict
from typing import Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relay.cli.remote import print_json
from relay.doctor import local, running, server, upstream
from relay.doctor.finding import Finding
from relay.settings import Settings

MARKS: Final = {
    "ok": "[green]ok[/]",
    "warning": "[yellow]warning[/]",
    "failure": "[red]failure[/]",
    "skipped": "[dim]skipped[/]",
}


@click.command(
    help="""Check what a relay needs, each with a remedy; exit code 1 when something fails.

    From this machine: settings, database, key, disk, storage, the upstream's token and accounts, the clock. From the
    relay that runs: what holds it, and that its public address leads back to it, for callbacks and for streams."""
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--url", envvar="RELAY_URL", help="Of the running relay; or RELAY_URL, else as the settings have it.")
@click.option(
    "--token", envvar="RELAY_TOKEN", help="Of the running relay; or RELAY_TOKEN, else, without --url, the admin token."
)
def command(as_json: bool, url: str | None, token: str | None) -> None:
    findings = asyncio.run(_examine(url, token))
    if as_json:
        print_json([asdict(row) for row in findings])
    else:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for row in findings:
            said = row.sentence if row.remedy is None else f"{row.sentence}\n→ {row.remedy}"
            table.add_row(MARKS[row.verdict], row.name, escape(said))
        Console(highlight=False).print(table)
    sys.exit(1 if any(row.verdict == "failure" for row in findings) else 0)


async def _examine(url: str | None, token: str | None) -> list[Finding]:
    settings, finding = local.configured(elsewhere=url is not None)
    found = [finding]
    if settings is not None:
        found += local.examine(settings)
        if settings.on_postgres:
            found.append(await server.examine(settings))
        found += await upstream.examine(settings)
    if url is not None:
        found += await running.examine(url.rstrip("/"), token, expected=True)
    elif settings is not None:
        # The admin token goes to this relay's own address alone.
        own = token or settings.admin_token.get_secret_value()
        found += await running.examine(_listening(settings), own, expected=False)
    return found


def _listening(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - it is not bound
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"
