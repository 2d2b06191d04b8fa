"""`relay resolve`: say what became of a job that is in doubt."""

import click

from relay.cli.remote import ask, of_relay, print_json


@click.command(help="Say what became of the job JOB, which is in doubt. `relay` asks the upstream about a task itself.")
@click.argument("job")
@click.argument("outcome", type=click.Choice(["created", "not_created", "failed"]))
@click.option("--task", help="The upstream's taskId, with created.")
@of_relay
def command(url: str, token: str, as_json: bool, job: str, outcome: str, task: str | None) -> None:
    now = ask(url, token, lambda client: client.resolve(job, outcome, task))
    if as_json:
        print_json(now)
    else:
        click.echo(f"{now['id']} is {now['state']}")
