"""`python -m tests.simulate.figures`: how near the relay comes to the best schedule, and what it costs in 429s.

200 jobs wait from the start; each takes a time drawn from a lognormal distribution. Beside the relay run the greedy
schedule, which starts each job in the moment in which there is room, and the vendor's advice: one program that sends
one job after the other and sleeps 10 to 30 s after each 429. All see the same durations and the same room.
"""

import argparse
import heapq
import math
import random
import statistics
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from relay.core import job as jobs
from relay.core.event import Event
from relay.core.job import Job
from relay.core.submitting import JobSubmitted
from tests.simulate.clockwork import World
from tests.simulate.ledger import Ledger, must
from tests.simulate.relay import Relay
from tests.simulate.schedule import tokens_of
from tests.simulate.upstream import MINUTE_MS, Faults, Site, Vendor

JOBS = 200
SPREAD = 0.5
EMAIL = "me@example.com"
LIMIT_MS = 365 * 24 * 60 * MINUTE_MS
ADVICE_S = (10.0, 30.0)
Room = Callable[[float], int]


@dataclass(frozen=True, slots=True)
class Case:
    """`told` is what `/accounts` says; room None is one that changes between one and three."""

    name: str
    minutes: float
    told: int
    room: int | None
    hears: bool
    makespan_goal: float
    refusals_goal: float | None


CASES = (
    Case("two slots", 10, 2, 2, True, 1.01, 1 / 5),
    Case("two slots, told one", 10, 1, 2, True, 1.01, 1 / 5),
    Case("two slots, told five", 10, 5, 2, True, 1.01, 1 / 5),
    Case("one to three", 10, 2, None, True, 1.03, 1 / 4),
    Case("two slots, no callbacks", 10, 2, 2, False, 1.02, None),
    Case("one to three, no callbacks", 10, 2, None, False, 1.04, None),
    Case("jobs of 90 s", 1.5, 2, 2, True, 1.03, None),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """Of one seed. Times are parts of the greedy schedule's, lags are in milliseconds."""

    relay: float
    advice: float
    relay_refusals: int
    advice_refusals: int
    lags_ms: tuple[float, ...]
    asked: int


def _rooms(case: Case, chance: random.Random) -> Room:
    if case.room is not None:
        fixed = case.room
        return lambda at_ms: fixed
    steps, at_ms = [], 0.0
    for _ in range(4_000):
        steps.append((at_ms, chance.randint(1, 3)))
        at_ms += chance.expovariate(1 / (30 * MINUTE_MS))
    starts = [start for start, _ in steps]

    def room(at_ms: float) -> int:
        low, high = 0, len(starts)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if starts[middle] <= at_ms else (low, middle)
        return steps[low][1]

    return room


def greedy_ms(takes: list[float], room: Room) -> float:
    """When the last job ends if each begins in the second in which there is room for it."""
    running: list[float] = []
    now = 0.0
    for takes_ms in takes:
        while running and running[0] <= now:
            heapq.heappop(running)
        while len(running) >= room(now):
            now += 1_000
            while running and running[0] <= now:
                heapq.heappop(running)
        heapq.heappush(running, now + takes_ms)
    return max(running)


def advised(takes: list[float], room: Room, chance: random.Random, latency_ms: float) -> tuple[float, int]:
    """The same for one program that does as the vendor says, and how many 429s it gets."""
    running: list[float] = []
    now, refusals = 0.0, 0
    for takes_ms in takes:
        while True:
            now += latency_ms
            while running and running[0] <= now:
                heapq.heappop(running)
            if len(running) < room(now):
                break
            refusals += 1
            now += latency_ms + chance.uniform(*ADVICE_S) * 1_000
        heapq.heappush(running, now + takes_ms)
        now += latency_ms
    return max(running), refusals


class _Known:
    """Takes down when the relay writes each final event, and how long after the task's end or its callback that was."""

    def __init__(self, world: World, ledger: Ledger, vendor: Vendor) -> None:
        self._world, self._ledger, self._vendor = world, ledger, vendor
        self.called_ms: dict[str, float] = {}
        self.lags_ms: list[float] = []

    def note(self, event: Event) -> None:
        if event.final and event.job_id:
            task = self._vendor.all[self._ledger.jobs[event.job_id].upstream_task_id or ""]
            self.lags_ms.append(self._world.elapsed_ms - self.called_ms.get(task.task_id, task.ends_ms))


def figure(case: Case, seed: int) -> Figure:
    """One seed of one case."""
    chance = random.Random(f"{case.name} {seed}")  # noqa: S311
    # The mean, and not the median, is what is named: it is what the length of the whole schedule follows.
    middle = math.log(case.minutes * MINUTE_MS) - SPREAD**2 / 2
    takes = [chance.lognormvariate(middle, SPREAD) for _ in range(JOBS)]
    room = _rooms(case, chance)
    world = World(seed)
    ledger = Ledger(world, slow=False)
    relay = Relay(world, ledger, hears=case.hears)
    order = {str(uuid.UUID(int=(n << 64) + 1)): takes_ms for n, takes_ms in enumerate(takes)}
    faults = Faults(progress=False)
    vendor = relay.vendor = Vendor(
        world, ledger, {EMAIL: Site(case.told, room)}, faults, order.__getitem__, relay.callback
    )
    known = _Known(world, ledger, vendor)
    ledger.told = known.note

    def call(url: str, body: dict[str, object]) -> None:
        known.called_ms[str(body["taskId"])] = world.elapsed_ms
        relay.callback(url, body)

    vendor.call = call
    with tokens_of(relay):
        for job_id in order:
            ledger.apply_now(JobSubmitted(_job(job_id, case, world), 1_000, 1_000))
        relay.start()
        done = world.run(lambda: len(known.lags_ms) == JOBS, LIMIT_MS)
    must(done and len(vendor.all) == JOBS, f"{case.name}, seed {seed}: {len(vendor.all)} tasks for {JOBS} jobs")
    best_ms = greedy_ms(takes, room)
    advice_ms, refusals = advised(takes, room, chance, vendor.latency_ms)
    return Figure(
        world.elapsed_ms / best_ms,
        advice_ms / best_ms,
        vendor.answers["Busy"],
        refusals,
        tuple(known.lags_ms),
        vendor.answers["asked"],
    )


def _job(job_id: str, case: Case, world: World) -> Job:
    return Job(
        id=job_id,
        model="a model of 90 s" if case.minutes < 2 else "a model of 10 min",
        token_id="one",
        submitted_by="one",
        task_id=jobs.task_id_of(job_id),
        request={},
        created_at_ms=world.now_ms(),
        updated_at_ms=world.now_ms(),
    )


def _p(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def report(case: Case, found: list[Figure]) -> tuple[str, bool]:
    """A line of the table, and whether the goals were met."""
    relay, advice = [f.relay for f in found], [f.advice for f in found]
    refused = statistics.median(f.relay_refusals for f in found)
    advised_refused = statistics.median(f.advice_refusals for f in found)
    lag_s = _p([lag for f in found for lag in f.lags_ms], 0.99) / 1_000
    asked = statistics.median(f.asked for f in found) / JOBS
    met = statistics.median(relay) <= case.makespan_goal and lag_s <= (2 if case.hears else 60)
    if case.refusals_goal is not None:
        met = met and refused <= advised_refused * case.refusals_goal
    line = (
        f"{case.name:28} {statistics.median(relay):6.4f} {_p(relay, 0.95):6.4f} (≤ {case.makespan_goal:.2f})  "
        f"{statistics.median(advice):6.4f} {_p(advice, 0.95):6.4f}  {refused:6.0f} of {advised_refused:6.0f} "
        f"= {refused / max(1, advised_refused):5.3f}  {lag_s:6.2f} s  {asked:5.1f}"
    )
    return f"{line}  {'met' if met else 'MISSED'}", met


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulate.figures", description=__doc__)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--case", default="")
    chosen = parser.parse_args()
    print(f"{JOBS} jobs, {chosen.seeds} seeds; parts of the greedy schedule, median and p95; 0 tasks paid twice")
    print(f"{'':28} relay   p95              advice   p95       429s                    known (p99)  asked a job")
    all_met = True
    for case in CASES:
        if chosen.case in case.name:
            line, met = report(case, [figure(case, seed) for seed in range(chosen.seeds)])
            print(line, flush=True)
            all_met = all_met and met
    return 0 if all_met else 1


if __name__ == "__main__":
    raise SystemExit(main())
