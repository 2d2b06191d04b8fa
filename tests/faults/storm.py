"""One run: relays that are killed and come back, jobs and callbacks all the while, readers that are cut; the verdict.

Everything is drawn from one seed, but for the order in which sockets and processes get their turns.
"""

import asyncio
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import httpx2

from relay.core.event import FINAL_TYPES, Event
from relay.sandbox.shapes import Account
from relay.sandbox.vendor import Vendor
from tests.crash.load import settled
from tests.crash.processes import IMPATIENT, Nursery, Relay, first, nursery, quiet_port
from tests.faults.courses import Course, Verdict, Wants, log_of, seq_of
from tests.faults.cutter import cutting
from tests.faults.readers import NDJSON, PAGE, SSE, Field, Listener, Reader, Tally, follow_jobs, watch_by_client
from tests.journeys import EXAMPLE, WAIT_S, Surroundings, surroundings
from tests.postgres import Cluster

LAUNCHER = "tests.faults.launcher"
TIMES_S = (0.02, 3.0)
ACCOUNTS, SLOTS = 6, 10
CALLERS = 3
JOB_EVERY_S = 0.03
GOING_MAX = 30
# Progress never falls: one task can be reported on so often with something new each time.
REPORTS_MAX = 400
# How many cuts a relay lives to see: a quarter of all of them at most.
LIFE_CUTS_MIN, LIFE_CUTS_MAX = 25, 400
STEPS_MAX = 2_500
READERS_MAX = 30
REFERENCES = ("one", "two", "three")
FILTERS: dict[str, tuple[dict[str, Any], Wants]] = {
    "all": ({}, lambda event: True),
    "ends": ({"type": sorted(FINAL_TYPES)}, lambda event: event.type in FINAL_TYPES),
    "of one": ({"replyRef": "one"}, lambda event: event.reply_ref == "one"),
    "of two": ({"replyRef": ["two", "three"]}, lambda event: event.reply_ref in ("two", "three")),
    "of a model": (
        {"model": "veo-3.1", "type": "job.progress"},
        lambda event: (event.model, event.type) == ("veo-3.1", "job.progress"),
    ),
}
OTHER_MODEL = {"model": "veo-3.1", "duration": 4}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    seed: int
    seconds: float
    tally: Tally
    verdict: Verdict
    events: int

    def __str__(self) -> str:
        tally, verdict = self.tally, self.verdict
        cuts = f"{tally.rst} RST, {tally.fin} FIN, {tally.half_open} half-open, {tally.proxied} by a proxy"
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s",
            f"cuts {tally.cuts} ({cuts}), {tally.broken} more by relays that ended",
            f"stalls {tally.stalls} ({tally.slow} ended as slow)",
            f"kills {tally.kills}, SIGTERMs {tally.terms} ({tally.truncated} bodies truncated by them)",
            f"events {self.events}, clients {verdict.courses} ({tally.given_up} gave up), told {verdict.told}",
            f"lost {verdict.lost}, doubled {verdict.doubled}, out of order {verdict.out_of_order}, "
            f"not in the log {verdict.strange}, gaps {verdict.gaps}",
            *verdict.examples,
        ]
        return "\n".join(lines)


@dataclass
class Storm:
    here: Field
    around: Surroundings
    forks: Nursery
    patience_s: float
    relay: Relay | None = None

    async def blow(self, cuts: int) -> tuple[Verdict, int]:
        """Until so many cuts were made; then everybody comes to the end, and is judged."""
        steady, listeners = self._readers(), self._listeners()
        async with asyncio.TaskGroup() as group:
            reports = Counter[str]()
            load = [group.create_task(self._submit())]
            load += [group.create_task(self._call_back(reports)) for _ in range(CALLERS)]
            reading = [group.create_task(reader.run()) for reader in steady]
            listening = [group.create_task(listener.run()) for listener in listeners]
            following = [group.create_task(follow_jobs(self.here, form)) for form in (SSE, SSE, NDJSON)]
            following += [group.create_task(watch_by_client(self.here)) for _ in range(2)]
            joining = group.create_task(self._join(group, steady, reading))
            await self._lives(cuts)
            async with self.forks.relay(self.around, self.here.port) as relay:
                self._rise(relay)
                self.here.calm = True
                for task in (*load, *reading, joining):
                    task.cancel()
                await settled(relay)
                log = log_of(await self.around.stored())
                head = len(log)
                readers: list[Reader | Listener] = [*steady, *listeners]
                await asyncio.gather(*(self._until(reader, log) for reader in readers), *following)
                for task in listening:
                    task.cancel()
                await relay.stopped(signal.SIGTERM)
        verdict, log = Verdict(), log_of(await self.around.stored())
        for course in self.here.courses:
            verdict.judge(course, log, head)
        return verdict, head

    async def _until(self, reader: Reader | Listener, log: list[Event]) -> None:
        """Whoever is not told what it waits for is judged by what it was told."""
        expected = reader.course.expected(log)
        with suppress(TimeoutError):
            async with asyncio.timeout(self.patience_s):
                await reader.catch_up(expected[-1].seq if expected else 0)

    async def _lives(self, cuts: int) -> None:
        here, chance = self.here, self.here.chance
        longest = max(2 * LIFE_CUTS_MIN, min(LIFE_CUTS_MAX, cuts // 4))
        while here.tally.cuts < cuts or not here.jobs:
            kill_at = chance.choice((None, None, chance.randrange(1, STEPS_MAX)))
            async with self.forks.relay(self.around, here.port, replace(IMPATIENT, kill_at=kill_at)) as relay:
                if relay.ready.is_set():
                    self._rise(relay)
                    goal = here.tally.cuts + chance.randrange(LIFE_CUTS_MIN, longest)
                    await first(self._cut_to(min(cuts, goal)), relay.ended)
                by = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
                here.up.clear()
                here.ending_well = by == signal.SIGTERM and not relay.ended.done()
                here.tally.terms += here.ending_well
                here.tally.kills += not here.ending_well
                truncated = here.tally.truncated
                if await relay.stopped(by) == -signal.SIGKILL and here.ending_well:
                    # It reached the step at which it dies while it was ending: no end that cuts nobody off.
                    here.ending_well, here.tally.truncated = False, truncated
                    here.tally.terms, here.tally.kills = here.tally.terms - 1, here.tally.kills + 1

    def _rise(self, relay: Relay) -> None:
        self.relay, self.here.ending_well = relay, False
        self.here.up.set()

    async def _cut_to(self, goal: int) -> None:
        """On a busy machine readers may be cut so often before there is anything to read."""
        while self.here.tally.cuts < goal or not self.here.jobs:
            self.here.more.clear()
            await self.here.more.wait()

    # Who reads

    def _readers(self) -> list[Reader]:
        made = []
        for name, (query, wants) in FILTERS.items():
            for form in (SSE, NDJSON, PAGE):
                course = self.here.judged(Course(f"{form}, {name}", wants))
                made.append(Reader(self.here, course, "/v1/events", form, query))
        return made

    def _listeners(self) -> list[Listener]:
        everything, ends = (Course(f"listen, {name}", FILTERS[name][1]) for name in ("all", "ends"))
        return [
            Listener(self.here, self.here.judged(everything)),
            Listener(self.here, self.here.judged(ends), types=tuple(sorted(FINAL_TYPES))),
        ]

    async def _join(self, group: asyncio.TaskGroup, readers: list[Reader], reading: list[Any]) -> None:
        """Now and then somebody new, who begins with what comes from now on, or at the very beginning."""
        while len(readers) < READERS_MAX:
            await asyncio.sleep(self.here.chance.uniform(0.5, 1.5))
            await self.here.up.wait()
            with suppress(httpx2.HTTPError):
                assert self.relay is not None
                page = await self.relay.get("/v1/events", since="now", limit=1)
                form = self.here.chance.choice((SSE, NDJSON, PAGE))
                now = "" if self.here.chance.random() < 0.5 else page["next"]
                base = seq_of(now) - len(page["data"]) if now else 0
                course = self.here.judged(Course(f"{form} from {base}", FILTERS["all"][1], base))
                course.last = f"{now.partition('-')[0]}-{base}" if now else None
                readers.append(reader := Reader(self.here, course, "/v1/events", form))
                reading.append(group.create_task(reader.run()))

    # What there is to read

    async def _submit(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(JOB_EVERY_S)
            await self.here.up.wait()
            assert self.relay is not None
            with suppress(httpx2.HTTPError):
                if sum((await self.relay.get("/readyz"))["jobs"].values()) > GOING_MAX:
                    continue
                turn += 1
                more = {"replyRef": REFERENCES[turn % 3]} | (OTHER_MODEL if turn % 2 else {})
                answer = await self.relay.client.post("/v1/jobs", json=EXAMPLE | more)
                if answer.status_code == 202:
                    self.here.jobs.append(answer.json()["id"])
                    if turn % 5 == 0:
                        await self.relay.client.post(f"/v1/jobs/{self.here.jobs[-1]}/cancel")

    async def _call_back(self, reports: Counter[str]) -> None:
        """Report on tasks that run, a little further each time."""
        while True:
            await self.here.up.wait()
            assert self.relay is not None
            task = self.here.chance.choice(list(self.around.vendor.register.oldest_first())[-SLOTS:] or [None])
            if task is None or reports[task.task_id] == REPORTS_MAX:
                await asyncio.sleep(JOB_EVERY_S)
                continue
            reports[task.task_id] += 1
            body = {"status": "RUNNING", "progressRatio": reports[task.task_id] / REPORTS_MAX, "taskId": task.task_id}
            with suppress(httpx2.HTTPError):
                await self.relay.client.post(task.reply_url or "", json=body | {"replyRef": task.reply_ref})


async def run(
    folder: Path,
    *,
    cuts: int,
    seed: int,
    defect: str | None = None,
    patience_s: float = WAIT_S,
    on: Cluster | None = None,
) -> Outcome:
    """Blow until so many cuts were made; `defect` is one of `tests.faults.launcher`, `on` a PostgreSQL.

    At the end, what a reader has not been told within `patience_s` is lost.
    """
    chance, began_s = Random(seed), time.monotonic()  # noqa: S311 - chance, not a secret
    accounts = [Account(f"faults{n}@example.com", SLOTS) for n in range(ACCOUNTS)]
    vendor = Vendor(Random(seed), accounts=accounts, times_s=TIMES_S)  # noqa: S311
    launcher = (LAUNCHER, *([defect] if defect else []))
    async with AsyncExitStack() as stack:
        around = await stack.enter_async_context(surroundings(folder, vendor=vendor, on=on))
        forks = await stack.enter_async_context(nursery(launcher))
        here = Field(quiet_port(), quiet_port(), chance)
        stack.callback(here.close)
        await stack.enter_async_context(cutting(here))
        verdict, events = await Storm(here, around, forks, patience_s).blow(cuts)
    return Outcome(seed, time.monotonic() - began_s, here.tally, verdict, events)
