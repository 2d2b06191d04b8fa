"""`relay trigger`: set up a named situation at the sandbox, and send a job into it."""

import sys
from typing import Any

import click
import httpx2
from rich.console import Console
from rich.table import Table

from relay.cli.remote import ask, of_relay, print_json
from relay.client import RelayClient
from relay.sandbox.scenarios import SCENARIOS, Scenario


@click.command(help="Set up SCENARIO at the sandbox and submit a job into it; --list tells them all.")
@click.argument("scenario", required=False, type=click.Choice(list(SCENARIOS)), metavar="SCENARIO")
@click.option("--list", "listed", is_flag=True, help="The scenarios.")
@click.option("--sandbox", default="http://127.0.0.1:9000", show_default=True, help="Where the sandbox is.")
@of_relay
def command(url: str, token: str, as_json: bool, scenario: str | None, listed: bool, sandbox: str) -> None:
    if listed:
        _print_list(as_json)
        return
    if scenario is None:
        raise click.UsageError("which scenario? --list tells them all")
    chosen = SCENARIOS[scenario]
    _set_up(sandbox, chosen)
    job: dict[str, Any] = ask(url, token, lambda client: _submit(client, chosen, scenario))
    if as_json:
        print_json(job)
    else:
        click.echo(f"{scenario}: {chosen.sentence}\njob {job['id']}")
        if (job["queuePosition"] or 1) > 1:
            click.echo("other jobs wait before it: what happens to creates happens to the first of them")


def _print_list(as_json: bool) -> None:
    if as_json:
        print_json({name: scenario.sentence for name, scenario in SCENARIOS.items()})
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, scenario in SCENARIOS.items():
        table.add_row(name, scenario.sentence)
    Console(highlight=False).print(table)


async def _submit(client: RelayClient, scenario: Scenario, name: str) -> dict[str, Any]:
    return await client.submit(**{"replyRef": name, **scenario.fields})


def _set_up(sandbox: str, scenario: Scenario) -> None:
    try:
        answer = httpx2.put(f"{sandbox}/sandbox/faults", json=dict(scenario.faults), trust_env=False)
    except httpx2.HTTPError as error:
        click.echo(f"relay: the sandbox at {sandbox} cannot be reached: {error}", err=True)
        sys.exit(1)
    if not answer.is_success:
        click.echo(f"relay: the sandbox refused the scenario: {answer.text[:500]}", err=True)
        sys.exit(1)
