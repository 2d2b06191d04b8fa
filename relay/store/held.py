"""What the writer knows without asking: the jobs that callbacks came for of late, so that the next one reads nothing.

Only the one process that owns the database may hold anything: each change passes through its writer, and what is held
is forgotten when a transaction fails or when rows were changed in any other way.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from relay.core.delivery import OPEN, Delivery, Subscription
from relay.core.job import Attempt, Job
from relay.core.ledger import Callback, Changes, Loaded, Needs, Quarantined, Record

HELD_MAX: Final = 512
# Stands in the place of an attempt's number for bodies that were put into quarantine.
QUARANTINE: Final = 0


@dataclass(slots=True)
class _Held:
    """A job with all that a callback has to see of it, and the hashes of the bodies that each attempt has had."""

    job: Job
    attempts: dict[int, Attempt]
    subscriptions: tuple[Subscription, ...]
    open_deliveries: tuple[Delivery, ...]
    bodies: dict[int, set[bytes]]


class Held:
    """The last `HELD_MAX` jobs that a callback came for."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Held] = {}
        self._of_token: dict[str, tuple[str, int]] = {}

    def find(self, needs: Needs, epoch: str, next_seq: int) -> Loaded | None:
        """What a callback has to see, if its job is held."""
        job_id, number = self._of_token.get(needs.token_hash or "", ("", 0))
        if not job_id:
            return None
        held = self._jobs[job_id] = self._jobs.pop(job_id)
        sha256 = bytes.fromhex(needs.sha256 or "")
        return Loaded(
            epoch=epoch,
            next_seq=next_seq,
            job=held.job,
            attempts=tuple(held.attempts.values()),
            subscriptions=held.subscriptions,
            open_deliveries=held.open_deliveries,
            callback_seen=any(sha256 in held.bodies.get(n, ()) for n in (number, QUARANTINE)),
        )

    def keep(self, before: Loaded, bodies: Iterable[tuple[int, str]]) -> None:
        """Hold a job as it was just loaded, with `(attempt number, SHA-256)` of each body that it was sent."""
        if before.job is None:
            return
        held = self._jobs[before.job.id] = _Held(
            before.job, {a.number: a for a in before.attempts}, before.subscriptions, before.open_deliveries, {}
        )
        for number, sha256 in bodies:
            held.bodies.setdefault(number, set()).add(bytes.fromhex(sha256))
        self._of_token |= {attempt.token_hash: (attempt.job_id, attempt.number) for attempt in before.attempts}
        while len(self._jobs) > HELD_MAX:
            self._drop(next(iter(self._jobs)))

    def apply(self, changes: Changes[Any]) -> None:
        """Bring what is held up to date with what is being written."""
        if changes.shift_ms:
            self.forget()
        for record in (*changes.drops, *changes.puts):
            match record:
                case Subscription(job_id=None):
                    self.forget()
                case Subscription(job_id=str(job_id)):
                    self._drop(job_id)
        for record in changes.drops:
            if isinstance(record, Attempt | Job):
                self._drop(record.id if isinstance(record, Job) else record.job_id)
        for record in changes.puts:
            held = self._jobs.get(record.id if isinstance(record, Job) else getattr(record, "job_id", None) or "")
            if held is not None:
                self._put(held, record)

    def _put(self, held: _Held, record: Record) -> None:
        match record:
            case Callback() | Quarantined():
                number = record.number if isinstance(record, Callback) else QUARANTINE
                held.bodies.setdefault(number, set()).add(bytes.fromhex(record.sha256))
            case Job():
                held.job = record
            case Attempt():
                self._of_token[record.token_hash] = (record.job_id, record.number)
                held.attempts[record.number] = record
            case Delivery():
                held.open_deliveries = _with(held.open_deliveries, record)
            case _:
                pass

    def forget(self) -> None:
        """Hold nothing: the next callback of each job loads it again."""
        self._jobs.clear()
        self._of_token.clear()

    def _drop(self, job_id: str) -> None:
        held = self._jobs.pop(job_id, None)
        for attempt in held.attempts.values() if held else ():
            self._of_token.pop(attempt.token_hash, None)


def _with(deliveries: tuple[Delivery, ...], changed: Delivery) -> tuple[Delivery, ...]:
    """The open deliveries in their order, one of them changed, ended or new."""
    if changed.id not in {delivery.id for delivery in deliveries}:
        return (*deliveries, changed) if changed.state in OPEN else deliveries
    now = (changed if delivery.id == changed.id else delivery for delivery in deliveries)
    return tuple(delivery for delivery in now if delivery.state in OPEN)
