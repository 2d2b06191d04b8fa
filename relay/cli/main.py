"""`relay`: the commands, each loaded only when it is called, so that `relay --help` is quick."""

import importlib
import sys
from typing import Any, Final

import click

from relay import __version__
from relay.errors import RelayError

# As shells say that SIGINT ended a program.
STOPPED: Final = 130
CODES: Final = """Exit codes: 0 it is done; 1 it failed, or was refused; 2 it was not understood; 130 Ctrl-C ended it.
Errors are lines on stderr, which begin with "relay:"."""
COMMANDS: Final = {
    "serve": ("relay.cli.serve", "Run the relay, with the settings of the environment."),
    "sandbox": ("relay.cli.sandbox", "Run the imitated upstream."),
    "dev": ("relay.cli.dev", "Run relay, sandbox and a subscriber together, to try things out."),
    "doctor": ("relay.cli.doctor", "Check all that a relay needs, and the way to a running one; with remedies."),
    "submit": ("relay.cli.jobs:submit", "Queue a job, and follow it with --watch."),
    "watch": ("relay.cli.jobs:watch", "Follow a job to its end, or everything."),
    "jobs": ("relay.cli.jobs:jobs", "List jobs."),
    "job": ("relay.cli.jobs:show", "Show a job, and why it is as it is."),
    "models": ("relay.cli.catalogue", "List the models and what they take, or show one of them."),
    "stats": ("relay.cli.stats", "Show counts, success and times, by model and account."),
    "accounts": ("relay.cli.accounts", "Show the upstream's accounts, what runs on them, and why one is parked."),
    "token": ("relay.cli.token", "Make named tokens, list them, revoke one."),
    "audit": ("relay.cli.audit", "List who changed what."),
    "subscription": ("relay.cli.subscription", "Say who is told of events: make, list, change, rotate, ping, enable."),
    "delivery": ("relay.cli.delivery", "List what is owed and what became of it, retry one, replay many."),
    "artifacts": ("relay.cli.artifacts", "List the files that the relay keeps, fetch missing ones, verify, prune."),
    "quarantine": ("relay.cli.quarantine", "List what came to callback addresses and was no report on their task."),
    "listen": ("relay.cli.listen", "Forward events to a local address, signed as webhooks."),
    "resolve": ("relay.cli.resolve", "Say what became of a job that is in doubt."),
    "resume": ("relay.cli.resume", "Let the queue move again after a restore."),
    "backup": ("relay.cli.backup:backup", "Write a copy of a running relay's database to a file."),
    "restore": ("relay.cli.backup:restore", "Put a backup into the place of the database; submitting is held then."),
    "rekey": ("relay.cli.rekey", "Seal every secret at rest with a new key."),
    "migrate": ("relay.cli.migrate", "Bring the database up to date, or move it from SQLite to PostgreSQL."),
    "trigger": ("relay.cli.trigger", "Set up a named situation at the sandbox, and send a job into it."),
    "demo": ("relay.cli.demo", "Send one job on the whole journey, and show it."),
}


class _Lazy(click.Group):
    """Knows the commands by name and sentence, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name or "command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(STOPPED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])


@click.group(cls=_Lazy, epilog=CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="relay")
def relay() -> None:
    """Webhook receiver and callback relay for asynchronous video generation."""


def main() -> None:
    """Entry point: errors of ours become one message on stderr and exit code 1."""
    try:
        relay(standalone_mode=True)
    except RelayError as error:
        click.echo(f"relay: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
