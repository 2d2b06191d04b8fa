"""`relay listen`: brings events to a machine without a public address, over the event stream, as signed webhooks."""

import asyncio
import hashlib
import json
import os
import signal
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import httpx2

from relay.cli.remote import ask, listed, of_relay
from relay.client import NOTICE, RelayClient, Signer
from relay.clock import SystemClock, within
from relay.errors import ConfigurationError
from relay.vault import new_webhook_secret

FINAL_TYPES: Final = ("job.succeeded", "job.failed", "job.cancelled")
RETRY_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
DEADLINE_S: Final = 15.0
ANSWER_MAX_BYTES: Final = 16 * 1024


@dataclass(slots=True)
class Checkpoint:
    """A small file: the position behind the last event that was taken, and the secret that was made here."""

    path: Path
    position: str | None = None
    secret: str | None = None

    def load(self) -> None:
        try:
            kept = json.loads(self.path.read_bytes())
            self.position, self.secret = kept["position"], kept["secret"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigurationError(
                f"{self.path} is no checkpoint of relay listen; remove it to begin anew"
            ) from error

    def save(self) -> None:
        """On disk when this returns, whole or not at all; for its owner's eyes, since it holds a secret."""
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                json.dump({"position": self.position, "secret": self.secret}, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        except OSError as error:
            raise ConfigurationError(f"the checkpoint {self.path} cannot be written: {error}") from error


@click.command(help="Forward events to a local address, signed as webhooks, each until it answers 2xx; in order.")
@click.option("--forward-to", required=True, metavar="URL", help="Such as http://localhost:3000/hook.")
@click.option(
    "--types", default=",".join(FINAL_TYPES), help="Comma-separated, or all; the three final ones if left out."
)
@click.option("--job", "jobs", multiple=True, metavar="ID", help="Events of this job alone; may be repeated.")
@click.option("--since", help="Begin here, whatever the checkpoint says: now, earliest, 10m, 2d or an ISO time.")
@click.option("--secret", help="A whsec_… to sign with; else one is made, printed and kept beside the checkpoint.")
@click.option(
    "--checkpoint", type=click.Path(path_type=Path, dir_okay=False), help="A file; else one in your state folder."
)
@of_relay
def command(
    url: str,
    token: str,
    as_json: bool,
    forward_to: str,
    types: str,
    jobs: tuple[str, ...],
    since: str | None,
    secret: str | None,
    checkpoint: Path | None,
) -> None:
    kept = Checkpoint(checkpoint or _default_path(url, forward_to))
    kept.load()
    shown = "is the one given"
    if secret is None:
        secret = kept.secret = kept.secret or new_webhook_secret()
        shown = secret
    forwarder = _Forwarder(_address(forward_to), Signer(secret), kept, as_json)
    kept.save()
    begin: dict[str, Any] = {"since": since} if since else {"after": kept.position}
    chosen = () if types == "all" else listed(types)
    click.echo(f"forwarding {url} to {forward_to}, checkpoint {kept.path}, secret {shown}", err=as_json)
    ask(url, token, lambda client: _until_stopped(forwarder.run(client, types=chosen, jobs=jobs, **begin)))


def _address(text: str) -> str:
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise click.UsageError(f"--forward-to {text}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise click.UsageError(f"--forward-to {text}: it begins with http:// or https:// and a host")
    return text


def _default_path(url: str, forward_to: str) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    name = hashlib.sha256(f"{url} {forward_to}".encode()).hexdigest()[:12]
    return Path(state) / "relay" / f"listen-{name}.json"


async def _until_stopped(work: Any) -> None:
    """Do it until SIGINT or SIGTERM; what is under way then comes again the next time."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


class _Forwarder:
    """Posts one event after the other; the checkpoint moves on only behind what was answered 2xx."""

    def __init__(self, target: str, sign: Signer, kept: Checkpoint, as_json: bool) -> None:
        self._target = target
        self._sign = sign
        self._kept = kept
        self._as_json = as_json
        self._clock = SystemClock()
        # The user's own machine, named by the user: no guard, and nothing from the environment.
        self._http = httpx2.AsyncClient(timeout=DEADLINE_S, trust_env=False)

    async def run(self, client: RelayClient, **chosen: Any) -> None:
        async with self._http, aclosing(client.listen(**chosen)) as events:
            async for position, event in events:
                if event["type"] in ("stream.gap", "stream.broken"):
                    click.echo(f"{event['type']}: {json.dumps(event['data'])}", err=True)
                    continue
                if not event["type"].startswith(NOTICE):
                    await self._surely(event)
                if position and position != self._kept.position:
                    self._kept.position = position
                    await asyncio.to_thread(self._kept.save)

    async def _surely(self, event: dict[str, Any]) -> None:
        tries = 0
        while True:
            began_s = self._clock.monotonic_s()
            status, detail = await self._post(event)
            done = status is not None and 200 <= status < 300
            wait_s = 0.0 if done else RETRY_S[min(tries, len(RETRY_S) - 1)]
            tries += 1
            self._tell(event, tries, status, detail, wait_s, round((self._clock.monotonic_s() - began_s) * 1000))
            if done:
                return
            await self._clock.sleep(wait_s)

    async def _post(self, event: dict[str, Any]) -> tuple[int | None, str]:
        headers, body = self._sign(event)  # anew for each try: a timestamp grows old
        try:
            status = await within(self._clock, DEADLINE_S, self._answered(headers, body))
        except TimeoutError:
            return None, f"no whole answer within {DEADLINE_S:g} s"
        except httpx2.HTTPError as error:
            return None, str(error) or type(error).__name__
        return status, f"{status}"

    async def _answered(self, headers: dict[str, str], body: bytes) -> int:
        size = 0
        async with self._http.stream("POST", self._target, headers=headers, content=body) as answer:
            async for piece in answer.aiter_raw():
                size += len(piece)
                if size > ANSWER_MAX_BYTES:
                    break
            return answer.status_code

    def _tell(
        self, event: dict[str, Any], tries: int, status: int | None, detail: str, wait_s: float, took_ms: int
    ) -> None:
        job = event["data"].get("job", {}).get("id")
        if self._as_json:
            told = {"event": event["id"], "type": event["type"], "job": job, "try": tries, "status": status}
            told |= {"detail": detail, "tookMs": took_ms, "againInS": wait_s or None}
            click.echo(json.dumps(told, ensure_ascii=False))
            return
        again = f", again in {wait_s:g} s" if wait_s else ""
        click.echo(f"{event['type']} {event['id']}" + (f" of job {job}" if job else "") + f": {detail}{again}")
