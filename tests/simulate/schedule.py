"""One schedule by its seed: jobs, an upstream with its faults, crashes and clock jumps, until everything has ended."""

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from relay.core import job as jobs
from relay.core.delivery import Subscription
from relay.core.job import Job
from relay.core.submitting import JobSubmitted
from relay.work import submitter
from tests.core.builders import subscription
from tests.simulate.clockwork import World
from tests.simulate.ledger import Broken, Ledger, must
from tests.simulate.relay import Relay
from tests.simulate.upstream import MINUTE_MS, Faults, Site, Vendor

DAY_MS = 24 * 60 * MINUTE_MS
LIMIT_MS = 10 * DAY_MS
STEPS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a schedule."""

    seed: int
    jobs: int
    steps: int
    crashes: int
    tasks: int
    states: dict[str, int]


def run(seed: int, crashes: frozenset[int] | None = None) -> Outcome:
    """Play a schedule to its end; `Broken` says which promise did not hold, and how to see it again.

    `crashes` are half steps, before and after a commit, in the place of those that the seed has.
    """
    try:
        return _Schedule(seed, crashes).play()
    except Broken as error:
        raise Broken(f"{error}\n  again: python -m tests.simulate {seed}") from error


class _Schedule:
    def __init__(self, seed: int, crashes: frozenset[int] | None = None) -> None:
        chance = self.chance = random.Random(seed)  # noqa: S311
        self.seed = seed
        self.world = World(seed)
        slow, own = chance.random() < 0.5, self._crashes()
        self.ledger = Ledger(self.world, slow=slow, crashes=own if crashes is None else crashes)
        retries = chance.choice([0, 0, 1, 2])
        self.relay = Relay(self.world, self.ledger, hears=chance.random() < 0.8, bad_output_retries=retries)
        made = (self._sites(), self._faults(), self._takes())
        self.vendor = Vendor(self.world, self.ledger, *made, self.relay.callback, shut=self._shut())
        self.relay.vendor = self.vendor
        self.relay.subscriber_fails = chance.choice([0, 0, 0.3])
        self.count = chance.randint(1, 8)
        self.submitted = 0

    def _crashes(self) -> frozenset[int]:
        """A schedule in four is killed at a run of neighbouring half steps."""
        chance = self.chance
        if chance.random() < 0.25:
            first = chance.randint(2, 120)
            return frozenset(range(first, first + 12))
        return frozenset(chance.randint(2, 400) for _ in range(chance.choice([0, 1, 3])))

    def _faults(self) -> Faults:
        def perhaps(most: float) -> float:
            return self.chance.choice([0.0, 0.0, most / 4, most])

        return Faults(
            not_sent=perhaps(0.3), cut_before=perhaps(0.3), cut_after=perhaps(0.3), appears_late=perhaps(0.3),
            refused=perhaps(0.2), unanswered=perhaps(0.4), throttled=perhaps(0.4), missing=perhaps(0.3),
            lost=perhaps(1.0), doubled=perhaps(0.5), late=perhaps(0.5), fails=perhaps(0.4), empty=perhaps(0.5),
        )  # fmt: skip

    def _sites(self) -> dict[str, Site]:
        chance = self.chance
        made = {}
        for name in ("a", "b")[: chance.randint(1, 2)]:
            rooms = [chance.randint(1, 3) for _ in range(64)]
            every_ms = chance.choice([10, 30, 600]) * MINUTE_MS
            troubles = [chance.choice([None, None, None, "no credits", "broken"]) for _ in range(6)]
            made[f"{name}@example.com"] = Site(
                chance.randint(1, 3),
                lambda at_ms, rooms=rooms, every_ms=every_ms: rooms[int(at_ms / every_ms) % 64],  # type: ignore[misc]
                lambda at_ms, troubles=troubles: (
                    troubles[min(5, int(at_ms / (20 * MINUTE_MS)))]  # type: ignore[misc]
                    if at_ms < 100 * MINUTE_MS
                    else None
                ),
            )
        return made

    def _shut(self) -> Callable[[float], bool]:
        if self.chance.random() < 0.8:
            return lambda at_ms: False
        first = self.chance.random() * 60 * MINUTE_MS
        return lambda at_ms: first <= at_ms < first + 20 * MINUTE_MS

    def _takes(self) -> Callable[[str], float]:
        return lambda job_id: self.world.chance.lognormvariate(0, 0.6) * 5 * MINUTE_MS

    def _submit(self, number: int) -> None:
        """A job comes in; the door answers only what is committed, so a crash here is nobody's loss."""
        chance = self.world.chance
        job_id = str(uuid.UUID(int=(number << 64) + 1))
        explore = chance.random() < 0.15
        job = Job(
            id=job_id,
            model=chance.choice(["gen4.5", "veo-3.1"]),
            mode="explore" if explore else "credits",
            token_id=chance.choice(["one", "two"]),
            submitted_by="one",
            priority=chance.choice([0, 0, 5]),
            pinned=chance.choice([None, None, None, *self.vendor.sites]),
            task_id=jobs.task_id_of(job_id),
            request={"exploreMode": True} if explore else {},
            created_at_ms=self.world.now_ms(),
            updated_at_ms=self.world.now_ms(),
        )
        own = subscription(f"own-{number}", job_id=job_id) if chance.random() < 0.5 else None
        self.ledger.apply_now(JobSubmitted(job, 1_000, 1_000, own))
        self.submitted += 1

    def play(self) -> Outcome:
        shared = subscription("everybody", types=[])
        self.ledger.subscriptions_table[shared.id,] = shared
        with tokens_of(self.relay):
            for number in range(self.count):
                wait_ms = self.chance.choice([0.0, 0.0, self.chance.random() * 30 * MINUTE_MS])
                self.world.after(wait_ms, lambda number=number: self._submit(number))  # type: ignore[misc]
            for by_s in self.chance.choice([[], [], [-3_600], [345_600], [600, -600]]):
                at_ms = self.chance.random() * 60 * MINUTE_MS
                self.world.after(at_ms, lambda by_s=by_s: self.relay.jump(by_s * 1_000))  # type: ignore[misc]
            self.relay.start()
            ended = self.world.run(self._ended, LIMIT_MS)
        left = [f"{job.id} is {job.state}" for job in self.ledger.jobs.values() if not job.final]
        left += [*self._thrown_away(), *self.ledger.open]
        must(ended, f"after {self.world.elapsed_ms / DAY_MS:.1f} days it has not ended: {'; '.join(left)}")
        self._nothing_is_lost()
        states: dict[str, int] = {}
        for job in self.ledger.jobs.values():
            states[job.state] = states.get(job.state, 0) + 1
        tasks = len(self.vendor.all)
        return Outcome(self.seed, self.count, self.ledger.steps, self.relay.crashes, tasks, states)

    def _ended(self) -> bool:
        must(self.ledger.steps < STEPS_MAX, "it runs hot")
        ledger = self.ledger
        return (
            self.submitted == self.count
            and not ledger.occupying
            and not ledger.open
            and all(job.final for job in ledger.jobs.values())
            and not any(True for _ in self._thrown_away())
        )

    def _thrown_away(self) -> Iterator[str]:
        """Tasks that were paid for and succeeded, and that no job shows; a task of a job that failed is adopted."""
        shown = {job.upstream_task_id for job in self.ledger.jobs.values() if job.state == "succeeded"}
        for task in self.vendor.all.values():
            job = self.ledger.jobs[task.reply_ref.split(":")[2]]
            without_film = (job.error or {}).get("code") == "no_artifact"
            if task.task_id not in shown and not task.failure and not without_film:
                yield f"{job.id} is {job.state} ({job.error}), and its paid task {task.reply_ref} succeeded"

    def _nothing_is_lost(self) -> None:
        ledger = self.ledger
        for job in ledger.jobs.values():
            must(ledger.final_events[job.id] == 1, f"{job.id} ended without an event")
        owed: list[Subscription] = list(ledger.subscriptions_table.values())
        for event in ledger.events:
            for one in owed if event.final else ():
                if one.job_id in (None, event.job_id):
                    delivery = ledger.deliveries.get(f"{event.id}.{one.id}")
                    must(delivery, f"{event.id} is owed to nobody")
                    assert delivery is not None
                    dead = delivery.state == "dead"
                    must(dead or (one.id, event.id) in self.relay.received, f"{event.id} never reached {one.id}")


@contextmanager
def tokens_of(relay: Relay) -> Iterator[None]:
    """The submitter's chance is the simulation's: the same seed makes the same tokens."""
    module: Any = submitter
    before, module.new_token = module.new_token, relay.new_token
    try:
        yield
    finally:
        module.new_token = before
