"""`relay dev`: sandbox, relay and a subscriber that stay up, with commands to copy."""

import asyncio
import contextlib
import json
import signal

import click

from relay import observe
from relay.cli.local import Local, local
from relay.client import verify
from relay.errors import SignatureInvalid


@click.command(help="Run relay, sandbox and a subscriber together until Ctrl-C, and print how to use them.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Of the relay.")
@click.option("--sandbox-port", default=9000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--subscriber-port", default=9001, show_default=True, type=click.IntRange(0, 65535))
@click.option("--speed", default=30.0, show_default=True, type=click.FloatRange(0.01, 10_000), help="Of the sandbox.")
def command(port: int, sandbox_port: int, subscriber_port: int, speed: float) -> None:
    observe.configure()
    try:
        asyncio.run(_dev(port, sandbox_port, subscriber_port, speed))
    except OSError as error:
        raise click.ClickException(f"a port is taken: {error}; choose others, 0 takes a free one") from error


async def _dev(port: int, sandbox_port: int, subscriber_port: int, speed: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with local(speed=speed, relay_port=port, sandbox_port=sandbox_port, subscriber_port=subscriber_port) as here:
        made = await here.client.subscribe(here.subscriber.url, description="relay dev")
        click.echo(_how_to(here, made["secret"]))
        showing = asyncio.create_task(_show_webhooks(here, made["secret"]))
        await stop.wait()
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing


def _how_to(here: Local, secret: str) -> str:
    return f"""
relay       {here.relay_url}   (dashboard: open it and sign in with the token)
sandbox     {here.sandbox_url}/v1/runwayml   (state: {here.sandbox_url}/sandbox/state)
subscriber  {here.subscriber.url}   (secret: {secret})
token       {here.token}

To copy, in another terminal:

export RELAY_URL={here.relay_url} RELAY_TOKEN={here.token}

curl -s $RELAY_URL/v1/jobs -H "Authorization: Bearer $RELAY_TOKEN" -H "Content-Type: application/json" \\
  -d '{{"model": "gen4.5", "text_prompt": "A cinematic aerial shot of a coastal city at golden hour", "duration": 5}}'

curl -sN $RELAY_URL/v1/events?since=earliest -H "Authorization: Bearer $RELAY_TOKEN" -H "Accept: text/event-stream"

curl -s $RELAY_URL/v1/jobs -H "Authorization: Bearer $RELAY_TOKEN"

Ctrl-C stops all three; the database goes with them.
"""


async def _show_webhooks(here: Local, secret: str) -> None:
    while True:
        webhook = await here.subscriber.got.get()
        try:
            verify(secret, webhook.headers, webhook.body)
            held = "signature verified"
        except SignatureInvalid as error:
            held = f"SIGNATURE INVALID: {error}"
        event = json.loads(webhook.body)
        job = event["data"].get("job", {})
        click.echo(f"subscriber got {event['type']} {event['id']} of job {job.get('id')}: {held}")
