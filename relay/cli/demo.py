"""`relay demo`: one job on its whole journey, with real sockets, each step shown and checked."""

import asyncio
import hashlib
import json
import logging
import sys
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from relay import observe
from relay.cli.local import Local, local
from relay.client import verify
from relay.clock import SystemClock
from relay.errors import RelayError

# The page's own example.
EXAMPLE: Final[dict[str, Any]] = {
    "model": "gen4.5",
    "text_prompt": "A cinematic aerial shot of a coastal city at golden hour",
    "duration": 5,
    "aspect_ratio": "16:9",
}
DEADLINE_S: Final = 60.0


class DemoFailed(Exception):
    """A step did not come out as it must."""


@click.command(help="Send one job on the whole journey on the sandbox; exit code 0 when everything arrived.")
@click.option("--speed", default=90.0, show_default=True, type=click.FloatRange(1, 10_000), help="Of the sandbox.")
def command(speed: float) -> None:
    observe.configure(level=logging.WARNING)
    console = Console(highlight=False)
    try:
        asyncio.run(asyncio.wait_for(_demo(console, speed), DEADLINE_S))
    except TimeoutError:
        console.print(f"[bold red]The demo failed:[/] it was not done within {DEADLINE_S:g} s")
        sys.exit(1)
    except (DemoFailed, RelayError, OSError) as error:
        console.print(f"[bold red]The demo failed:[/] {error}")
        sys.exit(1)


async def _demo(console: Console, speed: float) -> None:
    async with local(speed=speed) as here:
        console.print(f"[bold]sandbox[/]     {here.sandbox_url}  imitates the upstream, {speed:g} times as fast")
        console.print(f"[bold]relay[/]       {here.relay_url}  queues, submits, receives, relays")
        console.print(f"[bold]subscriber[/]  {here.subscriber.url}  is told when the video is there")
        made = await here.client.subscribe(here.subscriber.url)
        job = await here.client.submit(**EXAMPLE, replyRef="demo-1")
        console.print(f"\nPOST /v1/jobs → 202, and on disk: job [bold]{job['id']}[/]")
        final = await _follow(console, here, job["id"])
        if final["type"] != "job.succeeded":
            raise DemoFailed(f"the job ended with {final['type']}: {final['data']['job']['error']}")
        webhook = await _webhook(console, here, made["secret"], final)
        await _video(console, here, webhook["data"]["job"]["artifacts"][0])
        await _history(console, here, job["id"])
    console.print("\nEverything arrived; sandbox, relay, subscriber and database are gone again.")


async def _follow(console: Console, here: Local, job_id: str) -> dict[str, Any]:
    """A progress bar that is fed by nothing but the event stream; the final event."""
    columns = (TextColumn("{task.description:<14}"), BarColumn(30), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("queued", total=1.0)
        async for event in here.client.watch(job_id):
            shown = event["data"]["job"]
            progress.update(bar, completed=shown["progress"], description=shown["state"])
            if event["type"] in ("job.succeeded", "job.failed", "job.cancelled"):
                return event
    raise DemoFailed("the event stream ended without a final event")


async def _webhook(console: Console, here: Local, secret: str, final: dict[str, Any]) -> dict[str, Any]:
    """What came to the subscriber, verified as the subscriber would: with the secret that it was given."""
    webhook = await here.subscriber.got.get()
    verify(secret, webhook.headers, webhook.body)
    event: dict[str, Any] = json.loads(webhook.body)
    if event["id"] != final["id"] or webhook.headers["webhook-id"] != final["id"]:
        raise DemoFailed(f"the webhook is event {event['id']}, and the stream ended with {final['id']}")
    console.print(f"webhook {event['type']}: signature verified, event {event['id']} as in the stream")
    return event


async def _video(console: Console, here: Local, artifact: dict[str, Any]) -> None:
    """Fetch the file by the address in the webhook, which needs no token."""
    path = here.folder / "video.mp4"
    size = await here.client.download(artifact["url"], path)
    content = await asyncio.to_thread(path.read_bytes)
    if content[4:8] != b"ftyp" or size != artifact["sizeBytes"]:
        raise DemoFailed(f"the file at the artifact's address is no MP4 of {artifact['sizeBytes']} bytes")
    digest = hashlib.sha256(content).hexdigest()[:12]
    shape = f"{artifact['width']}x{artifact['height']}, {artifact['durationS']:g} s"
    console.print(f"video from the relay: {size:,} bytes of MP4, {shape}, sha256 {digest}\n")


async def _history(console: Console, here: Local, job_id: str) -> None:
    """What the relay has kept of the job, and where each thing came from."""
    callbacks = await here.client.callbacks(job_id)
    called = {callback["at"] for callback in callbacks}
    rows = [
        (event["timestamp"], f"{event['type']} {event['data']['job']['progress']:.0%}", _source(event, called))
        for event in await here.client.events(job_id)
    ]
    rows += [(row["at"], f"  callback {row['status']}", row["effect"]) for row in callbacks]
    rows += [
        (answer["at"], f"  webhook {row['type']}", f"the subscriber answered {answer['status']}, {answer['tookMs']} ms")
        for row in await _settled_deliveries(here, job_id)
        for answer in row["answers"]
    ]
    table = Table(title=f"History of job {job_id}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("time", "what", "came from"):
        table.add_column(column, no_wrap=True)
    for at, what, where in sorted(rows):
        table.add_row(at[11:23], what, where)
    console.print(table)


async def _settled_deliveries(here: Local, job_id: str) -> list[dict[str, Any]]:
    """The subscriber has the webhook a moment before the relay has its answer on disk."""
    clock = SystemClock()
    while True:
        found = await here.client.deliveries(job_id)
        if all(row["state"] == "delivered" for row in found):
            return found
        await clock.sleep(0.02)


def _source(event: dict[str, Any], called: set[str]) -> str:
    """Progress comes by callback or by poll; the end only from the upstream's answer when the relay asks."""
    sources = {
        "job.queued": "POST /v1/jobs",
        "job.submitted": "the upstream's answer to the create",
        "job.progress": "a callback" if event["timestamp"] in called else "the upstream, asked",
    }
    return sources.get(event["type"], "the upstream, asked: GET /tasks/…")
