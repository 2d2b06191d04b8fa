"""Log lines, one an outcome with its ids, and metrics: never a secret or a whole URL, and no e-mail in a line."""

import asyncio
import itertools
import logging
import sys
from collections import Counter as Times
from collections.abc import Iterable
from typing import Any, Final

import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

# These write whole URLs, with their secrets, at INFO.
_TALKATIVE: Final = ("httpx2", "httpcore2", "uvicorn.access", "aiosqlite", "asyncio")


def configure(*, as_json: bool | None = None, level: int = logging.INFO) -> None:
    """Log to stderr: JSON lines, or readable ones on a terminal."""
    if as_json is None:
        as_json = not sys.stderr.isatty()
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if as_json else structlog.processors.StackInfoRenderer(),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def logger(room: str) -> Any:
    """The logger of one part of the relay."""
    return structlog.get_logger(room=room)


def about(**ids: str) -> None:
    """Add these to every line that is written while this request, or whatever else this task does, goes on."""
    structlog.contextvars.bind_contextvars(**ids)


# When something began to exist is of no use here, and would be another line for each.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

LAG_LOOKED_AT_EVERY_S: Final = 0.5
_QUICK_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SLOW_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)
_GROUP: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ByLabel(dict[str, Counter]):
    """A counter by the value of its one label, which is looked up once: `tally["stored"].inc()`."""

    def __init__(self, counter: Counter, *known: str) -> None:
        super().__init__()
        self._counter = counter
        self.know(*known)

    def know(self, *values: str) -> None:
        """Show these from the beginning, as 0: a rate misses whatever its first sight of a series has counted."""
        for value in values:
            self[value]

    def __missing__(self, value: str) -> Counter:
        child = self[value] = self._counter.labels(value)
        return child


class Metrics:
    """What a relay counts, in a registry of its own, under names by Prometheus' conventions.

    Labels have few values that are known beforehand: nothing is counted by job, subscription or address. Who counts is
    the place where it happens; `relay.web.metrics` sets the gauges when somebody looks.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"relay_{name}", what, labels, registry=registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"relay_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(f"relay_{name}", what, registry=registry, buckets=tuple(buckets))

        self.events = ByLabel(counter("events", "Events committed to the log, those for operators too.", "type"))
        self.callbacks = ByLabel(
            counter("callbacks", "Callbacks that came in, by what became of them.", "outcome"),
            *("stored", "duplicate", "quarantined", "not_found", "limit_reached", "unavailable"),
        )
        what = "Requests to the upstream: what for, and how it answered."
        self.upstream = counter("upstream_requests", what, "kind", "outcome")
        for kind, outcome in itertools.product(("create", "task"), ("2xx", "429", "5xx", "failed")):
            self.upstream.labels(kind, outcome)
        self.attempts = ByLabel(
            counter("delivery_attempts", "Attempts to deliver, pings too, by the answer.", "answer"), "2xx"
        )
        self.attempt_s = histogram("delivery_attempt_seconds", "Time of an attempt to deliver.", _SLOW_S)
        self.ended = ByLabel(
            counter("deliveries", "Deliveries that have ended, by how.", "outcome"), "delivered", "dead", "superseded"
        )
        self.commit_s = histogram("commit_seconds", "Time of a durable transaction.", _QUICK_S)
        self.group = histogram("commit_happenings", "Happenings in a transaction.", _GROUP)
        self.uncommitted = counter("commit_failures", "Transactions that could not be written.")
        self.lag_s = histogram("event_loop_lag_seconds", "How late the event loop woke, every half second.", _QUICK_S)
        self.jobs = gauge("jobs", "Jobs that have not ended.", "state")
        self.slots = gauge("account_slots", "Tasks that an account may run at once.", "account")
        self.slots_used = gauge("account_slots_used", "Slots that tasks of this relay take.", "account")
        self.parked = gauge("account_parked", "1 while an account gets no jobs.", "account")
        self.owed = gauge("deliveries_owed", "Deliveries that have not ended, those of paused subscriptions too.")
        self.oldest_owed_s = gauge("delivery_oldest_owed_seconds", "Age of the oldest of them, 0 without any.")
        self.breakers = gauge("breakers_open", "Subscribers that fail, and that are tried one delivery at a time.")
        self.subscriptions = gauge("subscriptions", "Subscriptions, those of single jobs left out.", "state")
        self.streams = gauge("streams_open", "Event streams and waiting pages that are open.")
        self.quarantine = gauge("quarantine_entries", "Bodies in quarantine.")
        self.kept = gauge("artifacts_kept", "Files of jobs that are kept.")
        self.kept_bytes = gauge("artifacts_kept_bytes", "What they take.")
        self.database_bytes = gauge("database_bytes", "Size of the database.")
        self.disk_free_bytes = gauge("disk_free_bytes", "What is free where the database lies.")
        self.build = gauge("build_info", "1; the label names the version that runs.", "version")
        self._lag_timer: asyncio.TimerHandle | None = None

    def asked(self, kind: str, status: int | None) -> None:
        """One request to the upstream; `status` None: no answer came."""
        self.upstream.labels(kind, _class_of(status)).inc()

    def attempted(self, kind: str, status: int | None, took_ms: int) -> None:
        """One attempt to deliver, by the kind of its answer, or that of its status when it was answered."""
        self.attempts[kind if kind != "answered" else _class_of(status)].inc()
        self.attempt_s.observe(took_ms / 1000)

    def wrote(self, happenings: int, took_s: float, events: Iterable[str], ended: Iterable[str]) -> None:
        """One transaction: the types of the events in it, and how deliveries have ended by it."""
        self.group.observe(happenings)
        self.commit_s.observe(took_s)
        for tally, found in ((self.events, events), (self.ended, ended)):
            for name, times in Times(found).items():
                tally[name].inc(times)

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)

    def watch_loop(self) -> None:
        """Measure how late this loop wakes, until `unwatch`."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + LAG_LOOKED_AT_EVERY_S

        def woken() -> None:
            self.lag_s.observe(max(0.0, loop.time() - due_s))
            self.watch_loop()

        self._lag_timer = loop.call_at(due_s, woken)

    def unwatch(self) -> None:
        if self._lag_timer is not None:
            self._lag_timer.cancel()


def _class_of(status: int | None) -> str:
    """`2xx`, `4xx`, …; 429 stands alone, for it says that there is no room."""
    return "failed" if status is None else "429" if status == 429 else f"{status // 100}xx"
