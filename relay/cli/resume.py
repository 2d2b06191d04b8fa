"""`relay resume`: after a restore, and once the upstream has been searched for what was lost, let the queue move."""

import click

from relay.cli.remote import ask, of_relay, print_json


@click.command(help="Let the queue move again after a restore, once the upstream's lists have been searched.")
@click.option("--force", is_flag=True, help="Do not wait for the search; jobs may be paid for twice.")
@of_relay
def command(url: str, token: str, as_json: bool, force: bool) -> None:
    answer = ask(url, token, lambda client: client.resume(force=force))
    if as_json:
        print_json(answer)
    elif (hold := answer["hold"]) is None:
        click.echo("submitting was not held")
    else:
        click.echo(f"the queue moves; tasks that the restore had lost and that were found again: {hold['found']}")
