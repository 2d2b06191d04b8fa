"""`relay submit`, `watch`, `jobs`, `job`: queue a job, follow it, list what there is, and why it is as it is."""

import asyncio
import json
import sys
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from relay.cli.remote import ask, of_relay, print_json, print_sentences, print_table
from relay.client import GAP, NOTICE, RelayClient
from relay.errors import ClientError

COLUMNS: Final = ("id", "state", "progress", "model", "replyRef", "createdAt", "account")
SHOWN: Final = (
    *("id", "state", "progress", "model", "account", "attempts", "taskId", "upstreamTaskId", "replyRef", "submittedBy"),
    *("createdAt", "submittedAt", "startedAt", "eta", "finishedAt", "error"),
)

_save = click.option(
    "--save",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Save its files there at the end, and print their paths in the place of addresses.",
)


@click.command(help="Queue a job: relay submit model=gen4.5 text_prompt='A coast' duration=5")
@click.argument("fields", nargs=-1, required=True, metavar="FIELD=VALUE...")
@click.option("--watch", "follow", is_flag=True, help="Follow it to its end; exit code 1 unless it succeeds.")
@_save
@of_relay
def submit(url: str, token: str, as_json: bool, fields: tuple[str, ...], follow: bool, save: Path | None) -> None:
    given = dict(_field(field) for field in fields)
    job = ask(url, token, lambda client: client.submit(**given))
    if follow or save is not None:
        _follow(url, token, as_json, job["id"], save)
    elif as_json:
        print_json(job)
    else:
        click.echo(job["id"])


@click.command(help="Follow the job ID to its end, or without an ID every event from now on.")
@click.argument("job", required=False)
@_save
@of_relay
def watch(url: str, token: str, as_json: bool, job: str | None, save: Path | None) -> None:
    if job is not None:
        _follow(url, token, as_json, job, save)
        return
    if save is not None:
        raise click.UsageError("--save is for one job: name it")

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
    rows = ({**row, "progress": f"{row['progress']:.0%}"} for row in found)
    print_table(([row[name] for name in COLUMNS] for row in rows), *COLUMNS)


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
    print_sentences(why["sentences"])


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


def _follow(url: str, token: str, as_json: bool, job_id: str, save: Path | None) -> None:
    """A progress bar (or the events as lines of JSON) to the job's end; exit code 1 unless it has succeeded."""

    async def follow(client: RelayClient) -> tuple[dict[str, Any], list[str]]:
        last = await _to_the_end(client, as_json, job_id)
        addresses = [artifact["url"] for artifact in last["artifacts"]]
        if save is not None:
            addresses = [await _saved(client, job_id, n, address, save) for n, address in enumerate(addresses)]
        return last, addresses

    try:
        job, said = ask(url, token, follow)
    except KeyboardInterrupt:
        click.echo(f"relay: the job goes on; relay watch {job_id} follows it", err=True)
        raise
    if as_json and save is not None:
        click.echo(json.dumps({"type": "saved", "data": {"files": said}}, ensure_ascii=False))
    elif not as_json:
        ended = f"{job['id']} {job['state']}: {(job['error'] or {}).get('message', '')}"
        click.echo("\n".join(said) or ended.removesuffix(": "))
    if job["state"] != "succeeded":
        sys.exit(1)


async def _to_the_end(client: RelayClient, as_json: bool, job_id: str) -> dict[str, Any]:
    """The job as its last event shows it."""
    last = await client.job(job_id)
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
            last = event["data"]["job"]
            progress.update(bar, completed=last["progress"], description=last["state"])
    return last


async def _saved(client: RelayClient, job_id: str, number: int, address: str, folder: Path) -> str:
    """The path of a file once it is there, whole: `<job id>.mp4`, and `<job id>-2.mp4` for a second one."""
    name = f"{job_id}{f'-{number + 1}' if number else ''}{PurePosixPath(urlsplit(address).path).suffix}"
    draft, path = folder / f".{name}.part", folder / name
    try:
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        try:
            await client.download(address, draft)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ClientError(f"{path} cannot be written: {error.strerror}") from error
    return str(path)


def _line(event: dict[str, Any]) -> str:
    job = event["data"].get("job")
    if job is None:
        return f"{event['timestamp']} {event['type']} {event['data']['subject']}: {event['data']['reason']}"
    return f"{event['timestamp']} {event['type']:<14} {job['progress']:>4.0%} {job['id']} {job['model']}"
