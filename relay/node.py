"""The running relay: builds every part once, starts and stops them in order; alone knows them all."""

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette

from relay import __version__, observe
from relay import settings as config
from relay.address import Addresses
from relay.clock import Clock, SteadyClock, SystemClock
from relay.core.artifacts import HOLD_MS, Keeping
from relay.core.event import FINAL_TYPES, OPERATOR_TYPES, TYPES, Event
from relay.core.target import own_doors
from relay.crew import Crew
from relay.errors import ConfigurationError, RelayError
from relay.feed import Feed
from relay.net.artifacts import UpstreamArtifacts
from relay.net.upstream import Upstream
from relay.net.webhook import WebhookSender
from relay.serve import bound, hosted
from relay.settings import Settings, load_catalogue
from relay.store import sqlite
from relay.store.bucket import Bucket
from relay.store.contract import Store
from relay.store.disk import Disk
from relay.store.files import Folder
from relay.vault import Vault, load_keys, new_hex
from relay.web.app import build
from relay.web.guard import Guard
from relay.web.metrics import alone
from relay.web.ports import Answered
from relay.web.streams import Streams
from relay.work.deliverer import Deliverer
from relay.work.loop import Worker
from relay.work.mirror import House, Mirror


class Node:
    """One relay. `app` is its ASGI application, whose lifespan runs everything; `drain` ends the open streams."""

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        # Nobody but the timekeeper sees the wall clock itself.
        self.clock = SteadyClock(clock or SystemClock())
        self.metrics = observe.Metrics()
        self.metrics.events.know(*TYPES)
        self.metrics.build.labels(__version__).set(1)
        self.feed = Feed()
        # Most commits are progress, which only readers of the log want to know of.
        self.work = Feed()
        self.workers: list[Worker] = []
        self.failure: RelayError | None = None
        self.app = build(self._lifespan, settings.cors_origins, settings.trusted_proxies)
        self._log = observe.logger("node")

    def drain(self) -> None:
        """Say goodbye to every open stream, so that the server can stop; may be called from a signal handler."""
        self.feed.close()

    def _committed(self, head: int, events: Sequence[Event] = ()) -> None:
        """Wake the readers, and write a line about each outcome: without its subject, which may be an e-mail."""
        self.feed.committed(head, events)
        for event in events:
            if event.type in FINAL_TYPES or event.type == "job.in_doubt":
                self._log.info(event.type, job=event.job_id, event_id=event.id)
            elif event.type in OPERATOR_TYPES:
                self._log.warning(event.type, event_id=event.id)

    @property
    def base_url(self) -> str:
        """Where subscribers reach this relay."""
        host = self.settings.host
        return self.settings.public_url or f"http://{f'[{host}]' if ':' in host else host}:{self.settings.port}"

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            try:
                await self._start(app, stack)
            except RelayError as error:
                self.failure = error
                raise
            yield

    async def _start(self, app: Starlette, stack: AsyncExitStack) -> None:
        """Store first, then what calls out, then the workers; the stack closes them in the opposite order."""
        settings, clock = self.settings, self.clock
        catalogue = load_catalogue(settings.catalogue)
        key, *older = load_keys(settings.key_path, settings.given_keys)
        vault = Vault(key, older)
        store = await self._open_store()
        stack.push_async_callback(store.close)
        folder = None
        if settings.artifacts != "none":
            folder = await asyncio.to_thread(_folder, settings, store.instance)
            stack.push_async_callback(folder.aclose)
        self.feed.committed(await store.head())
        upstream = Upstream(
            settings.upstream_url, settings.upstream_token.get_secret_value(), clock=clock, metrics=self.metrics
        )
        stack.push_async_callback(upstream.aclose)
        allow = replace(settings.allow_targets, own=own_doors(settings.host, settings.port, settings.public_url))
        sender = WebhookSender(allow, clock=clock, mark=store.instance, metrics=self.metrics)
        stack.push_async_callback(sender.aclose)
        artifacts = UpstreamArtifacts(upstream, allow, clock=clock)
        stack.push_async_callback(artifacts.aclose)
        addresses = Addresses(self.base_url, vault, clock, settings.artifact_url_ttl)
        deliverer = Deliverer(store, self.work, clock, sender, vault, addresses.of)
        mirror = Mirror(store, self.work, clock, artifacts, _house(folder, settings) if folder else None)
        self._fill(
            app,
            store=store,
            feed=self.feed,
            clock=clock,
            settings=settings,
            catalogue=catalogue,
            vault=vault,
            allow=allow,
            addresses=addresses,
            artifacts=artifacts,
            folder=folder,
            mirror=mirror,
            passage=_Passage(upstream),
            tasks=upstream,
            guard=Guard(
                store,
                vault,
                settings.admin_token.get_secret_value(),
                settings.callback_inbox_token.get_secret_value() if settings.callback_inbox_token else None,
                settings.public_url,
                own_names=(urlsplit(url).hostname or "" for url in (self.base_url, *settings.cors_origins)),
            ),
            ping=deliverer.ping,
        )
        await self._be_watched(app, stack)
        crew = Crew(
            settings, store, self.work, clock, upstream, catalogue=catalogue, deliverer=deliverer, mirror=mirror
        )
        self.workers = crew.workers
        stack.push_async_callback(crew.stop)
        await crew.start()
        stack.callback(self.drain)
        stack.enter_context(_drained_by_signals(self))

    async def _open_store(self) -> Store:
        settings, given = self.settings, self._parts_of_store()
        if not settings.on_postgres:
            return await sqlite.open_store(settings.database_path, checkpoint=settings.sqlite_checkpoint, **given)
        try:
            from relay.store import postgres
        except ImportError as error:
            message = "RELAY_DATABASE_URL: PostgreSQL needs the extra: pip install 'video-callback-relay[postgres]'"
            raise ConfigurationError(message) from error
        return await postgres.open_store(settings.database_url.get_secret_value(), **given)

    def _parts_of_store(self) -> dict[str, Any]:
        return {
            "new_hex": new_hex,
            "committed": self._committed,
            "metrics": self.metrics,
            "for_workers": lambda: self.work.committed(self.feed.head),
            "keeping": _keeping(self.settings),
        }

    async def _be_watched(self, app: Starlette, stack: AsyncExitStack) -> None:
        self._fill(app, metrics=self.metrics, disk=Disk(self.settings.database_path), streams=Streams())
        self.metrics.watch_loop()
        stack.callback(self.metrics.unwatch)
        if self.settings.metrics_port is not None:
            await stack.enter_async_context(_metrics_served(app, self.settings.host, self.settings.metrics_port))

    @staticmethod
    def _fill(app: Starlette, **parts: Any) -> None:
        for name, part in parts.items():
            setattr(app.state, name, part)


@asynccontextmanager
async def _metrics_served(app: Starlette, host: str, port: int) -> AsyncGenerator[None]:
    """`/metrics` on a port of its own, for as long as the relay runs."""
    try:
        listening = bound(host, port)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigurationError(f"RELAY_METRICS_PORT: cannot listen on {host}:{port}: {reason}") from error
    async with hosted(alone(app.state), listening):
        yield


def app() -> Starlette:
    """The app factory: `uvicorn --factory relay.node:app`, with the settings of the environment."""
    observe.configure()
    return Node(config.load()).app


class _Passage:
    """The upstream's client as the drop-in door sees it: implements `relay.web.ports.Passage`."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def forward(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: AsyncIterator[bytes] | None,
    ) -> Answered:
        return Answered(*await self._upstream.forward(method, path, query, headers, body))


def _keeping(settings: Settings) -> Keeping | None:
    if settings.artifacts == "none":
        return None
    return Keeping(settings.retention_artifacts * 1000, HOLD_MS if settings.artifacts_before_final else None)


def _folder(settings: Settings, instance: str) -> Folder:
    """The storage of files; asks the network where it is a bucket."""
    if settings.artifacts.startswith("s3://"):
        return Bucket(settings.artifacts, settings.artifacts_path, instance)
    return Folder(settings.artifacts_path, instance)


def _house(folder: Folder, settings: Settings) -> House:
    max_bytes = settings.artifacts_max_gb and settings.artifacts_max_gb * 1024**3
    return House(folder, settings.retention_artifacts * 1000, max_bytes)


@contextmanager
def _drained_by_signals(node: Node) -> Iterator[None]:
    """Close the feed when the process is told to stop, before the server's own handler runs.

    The server waits for open connections before it ends the lifespan, and an open stream ends only when it is told to:
    without this a SIGTERM would wait for ever. Only the main thread may have signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(node.drain)
        previous = before[signal.Signals(number)]
        if callable(previous):
            previous(number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
