"""`relay submit`, `watch`, `jobs`, `job`: queue a job, follow it, list what there is, and why it is as it is."""

import json
import sys
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from relay.cli.remote import ask, of_relay, print_json, print_table
from relay.client import GAP, NOTICE, RelayClient

COLUMNS: Final = ("id", "state", "progress", "model", "account", "created", "replyRef")
SHOWN: Final = (
    *("id", "state", "progress", "model", "account", "attempts", "taskId", "upstreamTaskId", "replyRef", "submittedBy"),
    *("createdAt", "submittedAt", "startedAt", "eta", "finishedAt", "error"),
)


@click.command(help="Queue a job: relay submit model=gen4.5 text_prompt='A coast' duration=5")
@click.argument("fields", nargs=-1, required=True, metavar="FIELD=VALUE...")
@click.option("--watch", "follow", is_flag=True, help="Follow it to its end; exit code 1 unless it succeeds.")
@of_relay
def submit(url: str, token: str, as_json: bool, fields: tuple[str, ...], follow: bool) -> None:
    given = dict(_field(field) for field in fields)
    job = ask(url, token, lambda client: client.submit(**given))
    if follow:
        _follow(url, token, as_json, job["id"])
    elif as_json:
        print_json(job)
    else:
        click.echo(job["id"])


@click.command(help="Follow the job ID to its end, or without an ID every event from now on.")
@click.argument("job", required=False)
@of_relay
def watch(url: str, token: str, as_json: bool, job: str | None) -> None:
    if job is not None:
        _follow(url, token, as_json, job)
        return

    async def all_of_them(client: RelayClient) -> None:
        async for _, event in client.listen():
            if not event["type"].startswith(NOTICE):
                click.echo(json.dumps(event, ensure_ascii=False) if as_json else _line(event))

    ask(url, token, all_of_them)


@click.command(help="List jobs, the newest first.")
@click.option("--state", multiple=True, help="Such as running; may be repeated, as the others.")
@click.option("--model", multiple=True)
@click.option("--reply-ref", "replyRef", multiple=True)
@click.option("--account", multiple=True)
@click.option("--origin", multiple=True, help="api, dropin or adopted.")
@click.option("--since", help="A time (ISO 8601), or so long ago: 30s, 10m, 6h, 2d.")
@click.option("--until", help="Likewise.")
@click.option("--words", "q", help="All of them in the prompt.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@of_relay
def jobs(url: str, token: str, as_json: bool, limit: int, **filters: Any) -> None:
    chosen = {name: value for name, value in filters.items() if value}
    found = ask(url, token, lambda client: client.jobs(limit, **chosen))
    if as_json:
        print_json(found)
        return
    names = ("id", "state", "progress", "model", "account", "createdAt", "replyRef")
    rows = ({**row, "progress": f"{row['progress']:.0%}"} for row in found)
    print_table(([row[name] for name in names] for row in rows), *COLUMNS)


@click.command(help="Show a job, and in sentences what it has done, waits for and will do next.")
@click.argument("job")
@of_relay
def show(url: str, token: str, as_json: bool, job: str) -> None:
    async def both(client: RelayClient) -> tuple[dict[str, Any], dict[str, Any]]:
        return await client.job(job), await client.why(job)

    found, why = ask(url, token, both)
    if as_json:
        print_json({**found, "why": why})
        return
    print_table((name, f"{found[name]:.0%}" if name == "progress" else found[name]) for name in SHOWN)
    for artifact in found["artifacts"]:
        click.echo(artifact["url"])
    click.echo("\n" + "\n".join(why["sentences"]))


def _field(text: str) -> tuple[str, Any]:
    """`duration=5` is a number and `audio=true` a truth, as in JSON; everything else is text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{text!r} is not FIELD=VALUE")
    try:
        read = json.loads(value)
    except ValueError:
        return name, value
    return name, value if isinstance(read, str) else read


def _follow(url: str, token: str, as_json: bool, job_id: str) -> None:
    """A progress bar (or the events as lines of JSON) to the job's end; exit code 1 unless it has succeeded."""

    async def follow(client: RelayClient) -> dict[str, Any]:
        last: dict[str, Any] = {"type": "", "data": {"job": await client.job(job_id)}}
        columns = (TextColumn("{task.description:<10}"), BarColumn(30), TextColumn("{task.percentage:>3.0f} %"))
        console = Console(stderr=True)
        with Progress(*columns, TimeElapsedColumn(), console=console, disable=as_json) as progress:
            bar = progress.add_task("queued", total=1.0)
            async for event in client.watch(job_id):
                if as_json:
                    click.echo(json.dumps(event, ensure_ascii=False))
                if event["type"] == GAP:
                    click.echo("some of the job's events are no longer there", err=True)
                    continue
                last = event
                shown = last["data"]["job"]
                progress.update(bar, completed=shown["progress"], description=shown["state"])
        return last

    job = ask(url, token, follow)["data"]["job"]
    if not as_json:
        said = [artifact["url"] for artifact in job["artifacts"]]
        click.echo(
            "\n".join(said) if said else f"{job['id']} {job['state']}: {(job['error'] or {}).get('message', '')}"
        )
    if job["state"] != "succeeded":
        sys.exit(1)


def _line(event: dict[str, Any]) -> str:
    job = event["data"].get("job")
    if job is None:
        return f"{event['timestamp']} {event['type']} {event['data']['subject']}: {event['data']['reason']}"
    return f"{event['timestamp']} {event['type']:<14} {job['progress']:>4.0%} {job['id']} {job['model']}"
