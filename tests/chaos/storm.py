"""One run: relays that are killed, stopped and stand still, PostgreSQL that restarts, work all the while; the verdict.

What is done, and when, is drawn from one seed; the order in which sockets and processes get their turns is not.
"""

import asyncio
import signal
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import httpx2

from relay.core.event import FINAL_TYPES, JOB_TYPES, Event
from relay.sandbox.shapes import Account
from relay.sandbox.vendor import Vendor
from relay.store.dialect import prepare
from relay.store.rows import columns, from_row
from tests.chaos.fleet import Balancer, fleet
from tests.chaos.watcher import Watcher
from tests.crash.load import Bodies, Promises, job_of
from tests.faults.courses import Course, Verdict
from tests.faults.readers import NDJSON, PAUSE_S, SSE, Field, Reader
from tests.faults.storm import FILTERS
from tests.journeys import ADMIN_TOKEN, EXAMPLE, Surroundings, surroundings
from tests.postgres import Cluster, cluster

TIMES_S = (0.1, 1.5)
ACCOUNTS, SLOTS = 3, 10
PAUSES_S = (0.5, 3.0)
STANDSTILL_S = (0.5, 4.0)
CUT_S = (1.0, 10.0)
SETTLED_S = 90.0
# One subscription of so many is told of every event; and how long a subscriber takes for each.
TELLS_ALL = 4
TOOK_S = 0.03
REFERENCES = ("one", "two", "three")
HEADERS = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much goes on."""

    seconds: float
    replicas: int = 3
    subscribers: int = 50
    streams: int = 200
    job_every_s: float = 0.7
    callback_every_s: float = 0.05


SHORT = Size(seconds=9, subscribers=8, streams=24, job_every_s=0.15)


@dataclass
class Outcome:
    """What a run came to: `wrong` says in words what does not hold."""

    seed: int
    size: Size
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)

    def __str__(self) -> str:
        verdict = self.verdict
        lines = [
            f"seed {self.seed}, {self.size.seconds:.0f} s, {self.size.replicas} relays, "
            f"{self.size.subscribers} subscribers, {self.size.streams} streams",
            ", ".join(f"{count} {what}" for what, count in sorted(self.done.items())),
            ", ".join(f"{name} {count}" for name, count in self.counts.items()),
            f"streams: told {verdict.told}, lost {verdict.lost}, doubled {verdict.doubled}, "
            f"out of order {verdict.out_of_order}, not in the log {verdict.strange}, gaps {verdict.gaps}",
            *verdict.examples,
            *(f"WRONG: {what}" for what in self.wrong),
        ]
        return "\n".join(lines)


class Steady(Reader):
    """Comes back whenever its stream has ended, and cuts nothing itself."""

    async def run(self) -> None:
        while not self.over:
            await self._once(None, 2**60)
            await asyncio.sleep(PAUSE_S * 10)


@dataclass
class Storm:
    size: Size
    chance: Random
    server: Cluster
    around: Surroundings
    balancer: Balancer
    subscriber: Watcher
    outcome: Outcome
    promises: Promises = field(default_factory=Promises)
    # By its Idempotency-Key, the job that was acknowledged.
    keys: dict[str, str] = field(default_factory=dict)

    async def blow(self) -> None:
        self.promises.listen(self.around.vendor)
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{self.balancer.port}", headers=HEADERS, trust_env=False, timeout=20
        ) as client:
            for n in range(self.size.subscribers):
                wanted: dict[str, Any] = {"url": f"http://127.0.0.1:{self.subscriber.port}/{n}"}
                if n % TELLS_ALL == 0:
                    wanted |= {"types": list(JOB_TYPES)}
                await self._surely(partial(client.post, "/v1/subscriptions", json=wanted), 201)
            readers = self._readers()
            reading = [asyncio.create_task(reader.run()) for reader in readers]
            load = [asyncio.create_task(self._submit(client)), asyncio.create_task(self._call_back(client))]
            try:
                await self._break_things()
                for task in load:
                    task.cancel()
                ended = await asyncio.gather(*load, return_exceptions=True)
                assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended
                await self._settled()
                await self._judged(readers, reading)
            finally:
                for task in (*reading, *load):
                    task.cancel()
                await asyncio.gather(*reading, *load, return_exceptions=True)

    # What goes on

    async def _surely(self, send: Callable[[], Awaitable[httpx2.Response]], status: int) -> Any:
        """The body of an answer, however often it has to be asked for; 503 says that it may be asked again."""
        while True:
            with suppress(httpx2.HTTPError):
                answer = await send()
                if answer.status_code == status:
                    return answer.json()
                assert answer.status_code == 503, answer.text
                assert "retry-after" in answer.headers
                self.outcome.done["answers 503"] += 1
            await asyncio.sleep(0.1)

    async def _submit(self, client: httpx2.AsyncClient) -> None:
        while True:
            key = str(uuid.UUID(int=self.chance.getrandbits(128)))
            body = EXAMPLE | {"replyRef": self.chance.choice(REFERENCES)}
            post = partial(client.post, "/v1/jobs", json=body, headers={"Idempotency-Key": key})
            made = await self._surely(post, 202)
            self.keys[key] = made["id"]
            self.promises.job(made["id"])
            await asyncio.sleep(self.size.job_every_s)

    async def _call_back(self, client: httpx2.AsyncClient) -> None:
        """Callbacks beside the sandbox's own, each sent once; those that are acknowledged must be there."""
        bodies = Bodies()
        while True:
            await asyncio.sleep(self.size.callback_every_s)
            tasks = [task for task in self.around.vendor.register.oldest_first() if task.reply_url][-20:]
            if not tasks:
                continue
            task = self.chance.choice(tasks)
            body = bodies.of(task)
            with suppress(httpx2.HTTPError):
                answer = await client.post(task.reply_url or "", content=body)
                if answer.status_code == 200:
                    self.promises.callback(task.reply_ref, body)
                assert answer.status_code in (200, 503), answer.text
                self.outcome.done[f"callbacks answered {answer.status_code}"] += 1

    def _readers(self) -> list[Steady]:
        here = Field(self.balancer.port, 0, self.chance)
        here.up.set()
        names = list(FILTERS)
        made = []
        for n in range(self.size.streams):
            # Most want little: what is told in all is bounded by this one process.
            name = names[0] if n % 10 == 0 else names[1 + n % (len(names) - 1)]
            query, wants = FILTERS[name]
            form = NDJSON if n % 4 == 1 else SSE
            made.append(Steady(here, here.judged(Course(f"{form} {n}, {name}", wants)), "/v1/events", form, query))
        return made

    async def _break_things(self) -> None:
        loop, until_s = asyncio.get_running_loop(), time.monotonic() + self.size.seconds
        ways = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGSTOP", "restart", "crash", "partition")
        plan = list(ways)
        self.chance.shuffle(plan)
        while time.monotonic() < until_s:
            await asyncio.sleep(self.chance.uniform(*PAUSES_S))
            way = plan.pop() if plan else self.chance.choice(ways)
            self.outcome.done[f"{way} of " + ("PostgreSQL" if way in ("restart", "crash") else "a relay")] += 1
            replica = self.chance.choice(self.balancer.replicas)
            if way in ("SIGKILL", "SIGTERM"):
                replica.tell(signal.Signals[way])
            elif way == "partition":
                await replica.way.cut_for(self.chance.uniform(*CUT_S))
            elif way == "SIGSTOP":
                replica.tell(signal.SIGSTOP)
                await asyncio.sleep(self.chance.uniform(*STANDSTILL_S))
                replica.tell(signal.SIGCONT)
            else:
                by = signal.SIGINT if way == "restart" else signal.SIGQUIT
                await loop.run_in_executor(None, self.server.stop, by)
                await asyncio.sleep(self.chance.uniform(0, 1.5))
                await loop.run_in_executor(None, self.server.start)

    # What came of it

    async def _settled(self) -> None:
        """Once every job has ended and nothing is owed to anybody."""
        left: list[int] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_S):
                while not left or any(left):
                    await asyncio.sleep(0.2)
                    rows = await self._rows(
                        "SELECT (SELECT count(*) FROM jobs WHERE finished_at_ms IS NULL) AS jobs, "
                        "(SELECT count(*) FROM deliveries WHERE state IN ('waiting', 'due', 'sending')) AS deliveries"
                    )
                    left = [rows[0]["jobs"], rows[0]["deliveries"]]
        self._holds(not any(left), f"{left} jobs and deliveries did not come to their end")

    async def _rows(self, sql: str) -> list[Any]:
        connection = await asyncpg.connect(self.around.postgres_url)
        try:
            await prepare(connection)
            return list(await connection.fetch(sql))
        finally:
            await connection.close()

    def _holds(self, holds: object, otherwise: str) -> None:
        if not holds:
            self.outcome.wrong.append(otherwise)

    async def _judged(self, readers: list[Steady], reading: list[asyncio.Task[None]]) -> None:
        rows = await self._rows(f"SELECT {columns(Event)} FROM events ORDER BY seq")  # noqa: S608 - names of ours
        log = [from_row(Event, row) for row in rows]
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                await asyncio.gather(*(reader.catch_up(_last(reader.course, log)) for reader in readers))
        for reader in readers:
            self.outcome.verdict.judge(reader.course, log, len(log))
        self._holds(not self.outcome.verdict.wrong, "streams were not told all, once and in order")
        self._holds([event.seq for event in log] == list(range(1, len(log) + 1)), "the log has gaps")
        await self._jobs_hold(log)
        await self._deliveries_hold(log)
        # Some may still come: only those that were answered before are looked for.
        asked = set(self.promises.callbacks)
        kept = {
            row["sha256"]
            for row in await self._rows("SELECT sha256 FROM callbacks UNION ALL SELECT sha256 FROM quarantine")
        }
        lost = [one for one in asked if one[1] not in kept]
        self._holds(not lost, f"{len(lost)} acknowledged callbacks are not stored, as {lost[:3]}")
        self.outcome.counts |= {"acknowledged callbacks": len(asked), "events": len(log)}

    async def _jobs_hold(self, log: list[Event]) -> None:
        jobs = {row["id"]: row["state"] for row in await self._rows("SELECT id, state FROM jobs")}
        ends = Counter(event.job_id for event in log if event.type in FINAL_TYPES)
        self._holds(self.promises.jobs <= jobs.keys(), "an acknowledged job is not there")
        self._holds(
            len(set(self.keys.values())) == len(self.keys) and set(ends) == jobs.keys() and set(ends.values()) <= {1},
            "a job has not exactly one end",
        )
        own = [row["job_id"] for row in await self._rows("SELECT job_id FROM used_keys")]
        self._holds(len(own) == len(set(own)), "a key has made two jobs")
        tasks = list(self.around.vendor.register.oldest_first())
        of_attempt = Counter(task.reply_ref for task in tasks)
        of_job = Counter(job_of(task.reply_ref) for task in tasks)
        self._holds(set(of_attempt.values()) <= {1}, f"an attempt was paid for twice: {of_attempt.most_common(2)}")
        self._holds(set(of_job.values()) <= {1}, f"a job was paid for twice: {of_job.most_common(2)}")
        self.outcome.counts |= {"jobs": len(jobs), "tasks": len(tasks)}
        self.outcome.counts |= Counter(jobs.values())

    async def _deliveries_hold(self, log: list[Event]) -> None:
        got, finals = self.subscriber.got, [event for event in log if event.type in FINAL_TYPES]
        missing = [
            (n, event.id)
            for n in range(self.size.subscribers)
            for event in finals
            if not got[f"/{n} {event.id}".encode()]
        ]
        self._holds(not missing, f"{len(missing)} final events did not arrive, as {missing[:3]}")
        known = {event.id for event in log}
        strange = [one for one in got if one.decode().rpartition(" ")[2] not in known]
        self._holds(not strange, f"events came that are none: {strange[:3]}")
        self._holds(not self.subscriber.wrong, f"subscribers saw: {self.subscriber.wrong[:3]}")
        self.outcome.counts |= {"deliveries": len(got), "of them more than once": sum(n > 1 for n in got.values())}


def _last(course: Course, log: list[Event]) -> int:
    expected = course.expected(log)
    return expected[-1].seq if expected else 0


async def run(folder: Path, size: Size, seed: int, defect: str | None = None) -> Outcome:
    """Blow for as long as `size` says; `defect` is one of `tests.chaos.launcher`."""
    outcome, subscriber = Outcome(seed, size), Watcher(took_s=TOOK_S)
    subscriber.open.set()
    accounts = [Account(f"chaos{n}@example.com", SLOTS) for n in range(ACCOUNTS)]
    vendor = Vendor(Random(seed), accounts=accounts, times_s=TIMES_S)  # noqa: S311 - chance, not a secret
    async with AsyncExitStack() as stack:
        server = stack.enter_context(cluster())
        await stack.enter_async_context(subscriber.serving())
        around = await stack.enter_async_context(surroundings(folder, vendor=vendor, on=server))
        balancer = await stack.enter_async_context(
            fleet(
                around,
                size.replicas,
                server,
                defect=defect,
                allow_targets=f"{around.sandbox_url.removeprefix('http://')},127.0.0.1:{subscriber.port}",
            )
        )
        await Storm(size, Random(seed), server, around, balancer, subscriber, outcome).blow()  # noqa: S311
        outcome.done["starts of relays"] = sum(replica.lives for replica in balancer.replicas)
    return outcome
