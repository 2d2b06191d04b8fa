"""A store in dictionaries: the ledger's happenings one after another, without a database."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from relay.core.artifacts import Keeping, StoredFile
from relay.core.breaker import Breaker
from relay.core.delivery import OPEN, Delivery, Replay, Selection, Subscription
from relay.core.dispatch import Account
from relay.core.event import Event
from relay.core.job import Attempt, Job
from relay.core.ledger import (
    ADDED,
    KEYS,
    Adoption,
    Callback,
    Happening,
    Hold,
    Loaded,
    Needs,
    Quarantined,
    Record,
    Token,
    UsedKey,
)
from relay.core.replaying import BATCH
from tests.core.builders import JOB_ID, accepted, account, answered, started, submitted

R = TypeVar("R")
T = TypeVar("T")
EPOCH = "0000cafe"


class Memory:
    """Loads what a happening needs, decides, and keeps what it changes, as an engine does."""

    def __init__(self, *records: Record, epoch: str = EPOCH, keeping: Keeping | None = None) -> None:
        self._epoch = epoch
        self._keeping = keeping
        self._tables: dict[type[Any], dict[Any, Any]] = {}
        self._count = 0
        for record in records:
            self.keep(record)

    def apply(self, happening: Happening[R]) -> R:
        changes = happening.decide(self._load(happening.needs()))
        if changes.shift_ms:
            self._shift(changes.shift_ms)
        for record in changes.puts:
            self.keep(record)
            if isinstance(record, Job) and record.erased_at_ms:
                self._empty_bodies(record.id)
        for record in changes.drops:
            del self._table(type(record))[self._key(record)]
            if isinstance(record, Subscription):
                self._bury(record)
        return changes.result

    def keep(self, record: Record) -> None:
        """Insert a record, or replace the one of the same key."""
        self._count += 1
        table, key = self._table(type(record)), self._key(record)
        if not isinstance(record, Attempt | Account | Adoption | UsedKey | Breaker | Hold) and record.seq == 0:
            record = replace(record, seq=table[key].seq if key in table else self._count)
        table[key] = record

    def apply_all(self, *happenings: Happening[Any]) -> None:
        for happening in happenings:
            self.apply(happening)

    def all(self, record_type: type[T]) -> list[T]:
        """Every record of this type, in the order in which they came."""
        return list(self._table(record_type).values())

    @property
    def job(self) -> Job:
        """The job that most tests are about."""
        return next(job for job in self.all(Job) if job.id == JOB_ID)

    @property
    def attempt(self) -> Attempt:
        """The newest attempt."""
        return max(self.all(Attempt), key=lambda attempt: attempt.number)

    @property
    def events(self) -> list[Event]:
        return self.all(Event)

    @property
    def types(self) -> list[str]:
        return [event.type.removeprefix("job.") for event in self.events]

    @property
    def deliveries(self) -> list[Delivery]:
        return self.all(Delivery)

    @property
    def effects(self) -> list[str]:
        """What each kept callback did, in a word."""
        return [callback.effect.partition(":")[0] for callback in self.all(Callback)]

    @property
    def quarantined(self) -> list[str]:
        return [row.reason for row in self.all(Quarantined)]

    def delivery(self, subscription_id: str, event_type: str) -> Delivery:
        """The newest delivery of an event of this type to this subscription."""
        found = [
            delivery
            for delivery in self.deliveries
            if delivery.subscription_id == subscription_id and delivery.event_type == f"job.{event_type}"
        ]
        return found[-1]

    def lanes(self) -> Iterator[list[Delivery]]:
        """The open deliveries of each subscription and job, oldest first."""
        lanes: dict[tuple[str, str | None], list[Delivery]] = {}
        for delivery in self.deliveries:
            if delivery.state in OPEN:
                lanes.setdefault((delivery.subscription_id, delivery.job_id), []).append(delivery)
        yield from lanes.values()

    def _shift(self, by_ms: int) -> None:
        """Move every open wait, as `relay.store.waits` does."""
        tables: tuple[tuple[type[Any], Callable[[Any], bool], str], ...] = (
            (Attempt, lambda a: a.occupying, "ask_at_ms sent_at_ms hinted_at_ms missing_since_ms empty_since_ms"),
            (Delivery, lambda d: d.state in OPEN, "due_at_ms lease_until_ms"),
            (Breaker, lambda b: True, "since_ms open_until_ms"),
            (Account, lambda a: a.retry_at_ms > 0, "retry_at_ms"),
            (Account, lambda a: a.probe_at_ms > 0, "probe_at_ms"),
            (Account, lambda a: a.explore_at_ms > 0, "explore_at_ms"),
            (Account, lambda a: a.freed_at_ms > 0, "freed_at_ms"),
            (Adoption, lambda a: True, "first_at_ms ask_at_ms"),
            (StoredFile, lambda f: f.state == "wanted", "next_at_ms held_until_ms"),
        )
        for kind, open_, names in tables:
            for row in [row for row in self.all(kind) if open_(row)]:
                waits = {name: getattr(row, name) for name in names.split()}
                self.keep(replace(row, **{name: at + by_ms for name, at in waits.items() if at is not None}))

    def _table(self, record_type: type[Any]) -> dict[Any, Any]:
        return self._tables.setdefault(record_type, {})

    def _key(self, record: Record) -> object:
        return self._count if type(record) in ADDED else tuple(getattr(record, name) for name in KEYS[type(record)])

    def _empty_bodies(self, job_id: str) -> None:
        for kind in (Callback, Quarantined):
            for key, row in self._table(kind).items():
                if row.job_id == job_id:
                    self._table(kind)[key] = replace(row, body=b"")

    def _bury(self, gone: Subscription) -> None:
        for delivery in self.deliveries:
            if delivery.subscription_id == gone.id and delivery.state in OPEN:
                self.keep(replace(delivery, state="dead", finished_at_ms=gone.updated_at_ms, lease_until_ms=None))

    def _load(self, needs: Needs) -> Loaded:
        delivery = next((d for d in self.deliveries if d.id == needs.delivery_id), None)
        by_token = (a.job_id for a in self.all(Attempt) if a.token_hash == needs.token_hash)
        by_task = (
            job.id for job in self.all(Job) if needs.upstream_task_id and job.upstream_task_id == needs.upstream_task_id
        )
        job_id = needs.job_id or next(by_token, None) or next(by_task, None)
        adoption = next((a for a in self.all(Adoption) if a.task_id == needs.upstream_task_id), None)
        reported = job_id or (adoption.job_id if adoption else None)
        lane_of = job_id or (delivery.job_id if delivery else None)
        subscription_id = needs.subscription_id or (delivery.subscription_id if delivery else None)
        subscription = next((s for s in self.all(Subscription) if s.id == subscription_id), None)
        place = subscription.place if subscription else None
        batch = self._batch(needs.batch) if needs.batch else [d for d in self.deliveries if d.id in needs.delivery_ids]
        to = {d.subscription_id for d in batch} if needs.delivery_ids else set()
        places = {s.id: s.place for s in self.all(Subscription)}
        lanes = {(d.subscription_id, d.job_id) for d in batch if d.job_id}
        queued = [job for job in self.all(Job) if job.state == "queued"]
        of_day = [
            job.created_at_ms
            for job in self.all(Job)
            if job.token_id == needs.queue_of_token and job.created_at_ms > needs.jobs_since_ms
        ]
        return Loaded(
            epoch=self._epoch,
            next_seq=len(self.events) + 1,
            events=tuple(event for event in self.events if needs.events_of and event.job_id == needs.events_of),
            files=tuple(f for f in self.all(StoredFile) if needs.files_of and f.job_id == needs.files_of),
            keeping=self._keeping,
            owner=next((j.id for j in self.all(Job) if needs.owner_of and j.upstream_task_id == needs.owner_of), None),
            job=next((job for job in self.all(Job) if job.id == job_id), None),
            attempts=tuple(a for a in self.all(Attempt) if a.job_id == job_id),
            subscriptions=tuple(
                s
                for s in self.all(Subscription)
                if s.id in to
                or (job_id and s.job_id == job_id)
                or (s.job_id is None and (job_id or needs.subscriptions))
            ),
            open_deliveries=tuple(
                d
                for d in self.deliveries
                if d.state in OPEN and ((lane_of and d.job_id == lane_of) or (d.subscription_id, d.job_id) in lanes)
            ),
            batch=tuple(batch),
            breakers=tuple(b for b in self.all(Breaker) if b.place in {places.get(one) for one in to}),
            under_way=self._under_way(places) if needs.delivery_ids else {},
            replay=next((r for r in self.all(Replay) if r.id == needs.replay_id), None),
            breaker=next((b for b in self.all(Breaker) if b.place == place), None),
            delivery=delivery,
            subscription=subscription,
            accounts=tuple(self.all(Account)) if needs.accounts else (),
            hold=next(iter(self.all(Hold)), None) if needs.hold else None,
            busy=Counter(a.account for a in self.all(Attempt) if a.occupying) if needs.busy else {},
            adoption=adoption,
            adoptions=len(self.all(Adoption)),
            callback_seen=any(
                row.sha256 == needs.sha256 and row.job_id == reported and self._came_to(row, needs.token_hash)
                for row in self.all(Callback)
            )
            or any(
                row.sha256 == needs.sha256 and row.job_id == (job_id if needs.token_hash else None)
                for row in self.all(Quarantined)
                if not needs.upstream_task_id
            ),
            queued=len(queued),
            queued_of_token=sum(job.token_id == needs.queue_of_token for job in queued),
            tokens=tuple(t for t in self.all(Token) if needs.tokens or t.id == needs.queue_of_token),
            jobs_since=len(of_day),
            oldest_since_ms=min(of_day, default=None),
            used_key=(used_key := next((k for k in self.all(UsedKey) if k.id == needs.used_key), None)),
            earlier=next(
                (
                    job
                    for job in self.all(Job)
                    if (used_key and job.id == used_key.job_id)
                    or (needs.retry_of and job.retry_of == needs.retry_of and not job.final)
                ),
                None,
            ),
        )

    def _under_way(self, places: dict[str, str]) -> Counter[str]:
        sending = (d.subscription_id for d in self.deliveries if d.state == "sending")
        return Counter(places[one] for one in sending if one in places)

    def _batch(self, wanted: Selection) -> list[Delivery]:
        found = [
            d
            for d in self.deliveries
            if all(
                not (values := getattr(wanted, name)) or getattr(d, name) in values
                for name in ("state", "subscription_id", "job_id", "event_type")
            )
            and (wanted.since_ms or 0) <= d.created_at_ms < (wanted.until_ms or 2**62)
            and (wanted.after_seq or 0) < d.seq <= (wanted.until_seq or 2**62)
        ]
        return sorted(found, key=lambda d: d.seq)[:BATCH]

    def _came_to(self, row: Callback, token_hash: str | None) -> bool:
        return token_hash is None or any(
            a.token_hash == token_hash for a in self.all(Attempt) if (a.job_id, a.number) == (row.job_id, row.number)
        )


def begun(*records: Record) -> Memory:
    """A job that has just begun to run, told to the subscriptions among `records` from its beginning."""
    memory = Memory(account(), *records)
    memory.apply_all(submitted(), started(), answered(accepted()))
    return memory
