"""`relay sandbox`: the imitated upstream on a port of its own."""

import random

import click

from relay import observe
from relay.clock import SystemClock
from relay.errors import InvalidRequest
from relay.sandbox.api import Sandbox
from relay.sandbox.faults import parse_fault
from relay.sandbox.shapes import Account
from relay.sandbox.vendor import DEFAULT_ACCOUNTS, Vendor
from relay.serve import bound, run

MOUNT = "/v1/runwayml"


@click.command(help="Run the imitated upstream. It forgets everything when it stops.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=9000, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--speed", default=60.0, show_default=True, type=click.FloatRange(0.01, 100_000), help="Divides its times."
)
@click.option("--token", help="The only bearer token to take; any by default.")
@click.option("--account", "accounts", multiple=True, metavar="EMAIL=SLOTS", help="May be repeated.")
@click.option(
    "--fault", "faults", multiple=True, metavar="NAME[=VALUE]", help="May be repeated; see PUT /sandbox/faults."
)
def command(
    host: str, port: int, speed: float, token: str | None, accounts: tuple[str, ...], faults: tuple[str, ...]
) -> None:
    observe.configure()
    try:
        chosen = tuple(Account.parse(text) for text in accounts) or DEFAULT_ACCOUNTS
        wrong = dict(parse_fault(text) for text in faults)
        listening = bound(host, port)
    except (ValueError, InvalidRequest, OSError) as error:
        raise click.UsageError(str(error)) from error
    vendor = Vendor(random.SystemRandom(), accounts=chosen, speed=speed, token=token, faults=wrong)
    sandbox = Sandbox(vendor, SystemClock())
    shown_host, shown_port = listening.getsockname()[:2]
    click.echo(
        f"sandbox: http://{shown_host}:{shown_port}{MOUNT} (state: http://{shown_host}:{shown_port}/sandbox/state)"
    )
    run(sandbox, listening)
    listening.close()
