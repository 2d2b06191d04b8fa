"""`relay serve`: the relay itself, until SIGTERM or SIGINT."""

import sys

import click

from relay import observe, settings
from relay.errors import ConfigurationError
from relay.node import Node
from relay.serve import bound, run


@click.command(help="Run the relay, with the settings of the environment, .env and relay.toml.")
def command() -> None:
    observe.configure()
    chosen = settings.load()
    try:
        listening = bound(chosen.host, chosen.port)
    except OSError as error:
        raise ConfigurationError(
            f"RELAY_HOST, RELAY_PORT: {chosen.host}:{chosen.port} cannot be used: {error}"
        ) from error
    node = Node(chosen)
    started = run(node.app, listening)
    listening.close()
    if node.failure is not None:
        raise node.failure
    sys.exit(0 if started else 1)
