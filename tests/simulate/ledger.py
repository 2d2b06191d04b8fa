"""A store without a disk: the real happenings, one small memory a job, and what must hold after each of them."""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from relay.core.breaker import Breaker, lets_through, room
from relay.core.delivery import OPEN, Delivery, Subscription
from relay.core.dispatch import Account, Waiting
from relay.core.event import Event
from relay.core.job import Attempt, Job
from relay.core.ledger import Adoption, Happening, Loaded, Needs, Record
from tests.core.builders import INSTANCE
from tests.core.memory import Memory
from tests.simulate.clockwork import Crash, Pause, World

R = TypeVar("R")
EPOCH = "0000cafe"
TURN_MS = 20.0


class Broken(AssertionError):
    """Something that the relay promises did not hold."""


def must(holds: object, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


class _Part(Memory):
    """The records of one job; accounts, subscriptions and breakers are everybody's."""

    def __init__(self, ledger: "Ledger") -> None:
        super().__init__()
        self._ledger = ledger
        self._tables[Account] = ledger.accounts_table
        self._tables[Subscription] = ledger.subscriptions_table
        self._tables[Breaker] = ledger.breakers_table

    def _load(self, needs: Needs) -> Loaded:
        busy = dict(self._ledger.busy_now) if needs.busy else {}
        return replace(super()._load(needs), epoch=EPOCH, next_seq=self._ledger.head + 1, busy=busy)

    def _under_way(self, places: dict[str, str]) -> Counter[str]:
        return self._ledger.under_way()

    def _shift(self, by_ms: int) -> None:
        self._ledger.shift(by_ms)

    def keep(self, record: Record) -> None:
        if isinstance(record, Job) and record.seq == 0:
            record = replace(record, seq=self._ledger.seq_of(record.id))
        self._ledger.kept(record)
        super().keep(record)


class Ledger:
    """As much of `relay.store.contract.Store` as the workers use; `crashes` are the half steps that end the relay."""

    instance = INSTANCE

    def __init__(self, world: World, *, slow: bool, crashes: frozenset[int] = frozenset()) -> None:
        self._world = world
        self._slow = slow
        self._crashes = crashes
        self.steps = 0
        self.head = 0
        self.accounts_table: dict[Any, Any] = {}
        self.subscriptions_table: dict[Any, Any] = {}
        self.breakers_table: dict[Any, Any] = {}
        self.jobs: dict[str, Job] = {}
        self.attempts_of: dict[tuple[str, int], Attempt] = {}
        self.occupying: dict[tuple[str, int], Attempt] = {}
        self.to_ask: dict[tuple[str, int], Attempt] = {}
        self.busy_now: Counter[str] = Counter()
        self.queued: dict[str, Job] = {}
        self.open: dict[str, Delivery] = {}
        self.deliveries: dict[str, Delivery] = {}
        self.events: list[Event] = []
        self.final_events: Counter[str] = Counter()
        self.took: dict[tuple[str, str], deque[int]] = {}
        self.committed: Callable[[], None] = lambda: None
        self.told: Callable[[Event], None] = lambda event: None
        self._parts: dict[str, _Part] = {}
        self._part = _Part(self)
        self._job_of: dict[str, str] = {}

    async def apply(self, happening: Happening[R]) -> R:
        """Decide and keep; the relay may be killed before it and after it."""
        if self._slow:
            await Pause(self._world.chance.random() * TURN_MS)
        self.steps += 1
        if self.steps * 2 in self._crashes:
            raise Crash
        result = self.apply_now(happening)
        if self.steps * 2 + 1 in self._crashes:
            raise Crash
        return result

    def apply_now(self, happening: Happening[R]) -> R:
        needs = happening.needs()
        key = needs.job_id or self._job_of.get(
            needs.token_hash or needs.delivery_id or "".join(needs.delivery_ids) or needs.upstream_task_id or "",
            "nobody's",
        )
        self._part = self._parts.get(key) or self._parts.setdefault(key, _Part(self))
        result = self._part.apply(happening)
        self.committed()
        return result

    def shift(self, by_ms: int) -> None:
        """Move every open wait once, though accounts and breakers are in each of the parts."""
        accounts, breakers = dict(self.accounts_table), dict(self.breakers_table)
        self.accounts_table.clear()
        self.breakers_table.clear()
        for part in {id(part): part for part in self._parts.values()}.values():
            Memory._shift(part, by_ms)
        self.accounts_table.update(accounts)
        shifted = Memory(*accounts.values(), *breakers.values())
        shifted._shift(by_ms)
        self.accounts_table.update(shifted._table(Account))
        self.breakers_table.update(shifted._table(Breaker))

    def seq_of(self, job_id: str) -> int:
        known = self.jobs.get(job_id)
        return known.seq if known else len(self.jobs) + 1

    def kept(self, record: Record) -> None:
        """Bring the indexes up to date, and see that what was promised still holds."""
        match record:
            case Job():
                self._kept_job(record)
            case Attempt():
                self._kept_attempt(record)
            case Event():
                must(record.seq == self.head + 1, f"event {record.seq} after {self.head}")
                self.head = record.seq
                self.events.append(record)
                self.told(record)
                if record.final and record.job_id:
                    self.final_events[record.job_id] += 1
                    must(self.final_events[record.job_id] == 1, f"two final events of {record.job_id}")
            case Delivery():
                before = self.deliveries.get(record.id)
                must(before is None or before.state in OPEN or before == record, f"{record.id} went on after its end")
                self.deliveries[record.id] = record
                self._job_of[record.id] = record.job_id or "nobody's"
                if record.state in OPEN:
                    self.open[record.id] = record
                else:
                    self.open.pop(record.id, None)
            case _:
                pass

    def _kept_job(self, job: Job) -> None:
        self._parts.setdefault(job.id, self._part)
        before = self.jobs.get(job.id)
        if before is not None and before.final:
            must(before.state == job.state, f"{job.id} went from {before.state} to {job.state}")
        self.jobs[job.id] = job
        if job.upstream_task_id:
            self._job_of[job.upstream_task_id] = job.id
        if job.state == "queued":
            self.queued[job.id] = job
        else:
            self.queued.pop(job.id, None)
        if job.state == "succeeded" and (before is None or not before.final) and job.submitted_at_ms:
            took = self.took.setdefault((job.model, job.mode), deque(maxlen=20))
            took.appendleft((job.finished_at_ms or 0) - job.submitted_at_ms)

    def _kept_attempt(self, attempt: Attempt) -> None:
        key = (attempt.job_id, attempt.number)
        was, self.attempts_of[key] = self.occupying.pop(key, None), attempt
        self._job_of[attempt.token_hash] = attempt.job_id
        self.to_ask.pop(key, None)
        if attempt.ask_at_ms is not None:
            self.to_ask[key] = attempt
        if was is not None:
            self.busy_now[was.account] -= 1
        if attempt.occupying:
            self.occupying[key] = attempt
            self.busy_now[attempt.account] += 1
            others = [a for a in self.occupying.values() if a.job_id == attempt.job_id and a.number != attempt.number]
            must(not others, f"{attempt.job_id} has two attempts that may have been paid for")

    # What the workers ask.

    async def hold(self) -> None:
        return None

    async def accounts(self) -> list[Account]:
        return sorted(self.accounts_table.values(), key=lambda account: account.email)

    async def busy(self) -> dict[str, int]:
        return {email: busy for email, busy in self.busy_now.items() if busy}

    async def exploring(self) -> set[str]:
        return {a.account for a in self.occupying.values() if self.jobs[a.job_id].mode == "explore"}

    async def waiting(self, accounts: Sequence[str], explorable: Sequence[str], limit: int) -> list[Waiting]:
        first: dict[str, Job] = {}
        for job in self.queued.values():
            may = explorable if job.mode == "explore" else accounts
            if (may and job.pinned is None) or job.pinned in may:
                best = first.setdefault(job.token_id, job)
                if (-job.priority, job.seq) < (-best.priority, best.seq):
                    first[job.token_id] = job
        return [_waiting(first[token]) for token in sorted(first)][:limit]

    async def stranded(self, accounts: Sequence[str], limit: int) -> list[Waiting]:
        return [_waiting(job) for job in self.queued.values() if job.pinned and job.pinned not in accounts][:limit]

    async def took_ms(self, model: str, mode: str, limit: int) -> list[int]:
        return list(self.took.get((model, mode), ()))[:limit]

    async def job(self, any_id: str) -> Job | None:
        return self.jobs.get(any_id) or self.jobs.get(self._job_of.get(any_id, ""))

    async def attempts(self, job_id: str) -> list[Attempt]:
        return [attempt for (of, _), attempt in self.attempts_of.items() if of == job_id]

    async def attempts_due(self, now_ms: int, limit: int) -> list[Attempt]:
        due = [a for a in self.to_ask.values() if (a.ask_at_ms or 0) <= now_ms]
        return sorted(due, key=lambda attempt: attempt.ask_at_ms or 0)[:limit]

    async def next_ask_ms(self, after_ms: int) -> int | None:
        times = (a.ask_at_ms or 0 for a in self.to_ask.values())
        return min((at_ms for at_ms in times if at_ms > after_ms), default=None)

    async def attempts_sending(self, before_ms: int = 2**62) -> list[Attempt]:
        return [a for a in self.occupying.values() if a.state == "sending" and a.sent_at_ms <= before_ms]

    async def adoptions_due(self, now_ms: int, limit: int) -> list[Adoption]:
        return []

    async def next_adoption_ms(self, after_ms: int) -> int | None:
        return None

    def deliveries_due(self, now_ms: int) -> list[Delivery]:
        return [d for d, breaker in self._due() if d.due_at_ms <= now_ms and lets_through(breaker, now_ms)]

    def next_due_ms(self) -> int | None:
        return min(
            (max(d.due_at_ms, breaker.open_until_ms if breaker else 0) for d, breaker in self._due()), default=None
        )

    def _due(self) -> list[tuple[Delivery, Breaker | None]]:
        """What is due to places that have room."""
        due, under_way = [d for d in self.open.values() if d.state == "due"], self.under_way()
        failing = {breaker.place: breaker for breaker in self.breakers_table.values()}
        to = [(d, self._place_of(d)) for d in due]
        return [(d, failing.get(place)) for d, place in to if under_way[place] < room(failing.get(place))]

    def _place_of(self, delivery: Delivery) -> str:
        place: str = next(s.place for s in self.subscriptions_table.values() if s.id == delivery.subscription_id)
        return place

    def under_way(self) -> Counter[str]:
        return Counter(map(self._place_of, self.deliveries_sending()))

    def deliveries_sending(self) -> list[Delivery]:
        return [d for d in self.open.values() if d.state == "sending"]


def _waiting(job: Job) -> Waiting:
    return Waiting(job.id, job.pinned, job.token_id, job.model, job.mode)
