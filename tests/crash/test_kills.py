"""Killed at any step of its store, and at any moment under load, the relay keeps what it has promised.

The process is the real one, killed with SIGKILL and started again on its files; sandbox and subscriber live on in the
test. Its page cache survives, so this is about order and atomicity; `test_sync` is about power.
"""

import asyncio
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from random import Random
from signal import SIGQUIT
from typing import Any

import pytest

from relay.sandbox.shapes import Task
from relay.sandbox.vendor import Vendor
from tests.crash import audit
from tests.crash.load import (
    Bodies,
    Promise,
    Promises,
    call_back,
    missing,
    settled,
    submit,
    subscribe,
    together,
    unless_it_dies,
)
from tests.crash.processes import IMPATIENT, Away, Nursery, Relay, first, nursery, quiet_port
from tests.journeys import Surroundings, surroundings
from tests.postgres import Cluster, cluster, needed

pytestmark = pytest.mark.anyio

TIMES_S = (0.02, 0.1)
CLIENTS = 3
# The task is made at once and its answer comes later: often enough a kill falls in between.
SLOW_CREATE = {"create_slow": 0.1}
# Jobs that have not ended, so that some are always in each state.
GOING_MAX = 6
# A second life gets to about this step before it has taken up everything.
AGAIN_MAX = 60


@dataclass
class World:
    """A sandbox, a subscriber and files, between which relays live and die."""

    around: Surroundings
    forks: Nursery
    port: int
    promises: Promises = field(default_factory=Promises)
    bodies: Bodies = field(default_factory=Bodies)

    @property
    def tasks(self) -> list[Task]:
        return list(self.around.vendor.register.oldest_first())

    def relay(self, **plan: Any) -> AbstractAsyncContextManager[Relay]:
        return self.forks.relay(self.around, self.port, replace(IMPATIENT, **plan))

    async def check_files(self, *, settled: bool = False) -> None:
        """What must hold in a dead relay's database."""
        database = await self.around.stored()
        assert audit.lost(database, self.promises) == set()
        assert audit.faults_of(database, settled=settled) == []

    async def check_the_end(self) -> None:
        """Start again, let everything come to its end, and look for every promise through the doors."""
        async with self.relay() as relay:
            await settled(relay)
            assert await missing(relay, self.promises) == set()
        await self.check_files(settled=True)
        assert audit.unheard(self.around.database, self.around.subscriber) == set()
        assert audit.unpaid_for(self.around.database, self.around.vendor) == []


@asynccontextmanager
async def world(
    folder: Path, forks: Nursery, faults: dict[str, Any] | None = None, on: Cluster | None = None
) -> AsyncGenerator[World]:
    vendor = Vendor(Random(1), times_s=TIMES_S, faults=faults)  # noqa: S311 - chance, not a secret
    async with surroundings(folder, vendor=vendor, on=on) as around:
        made = World(around, forks, quiet_port())
        made.promises.listen(vendor)
        yield made


@dataclass
class Tally:
    """What a series of kills came to; a kill of a relay that had nothing to do is not counted."""

    kills: int = 0
    callbacks: int = 0
    jobs: int = 0
    lost: int = 0

    def add(self, here: World, kills: int) -> None:
        self.kills += kills
        self.lost += len(audit.lost(here.around.database, here.promises))
        self.callbacks += len(here.promises.callbacks)
        self.jobs += len(here.promises.jobs)

    def __str__(self) -> str:
        return f"{self.kills} kills, {self.callbacks} callbacks and {self.jobs} jobs acknowledged, {self.lost} lost"


# At the n-th step


async def one_job(here: World, relay: Relay) -> None:
    """Everything that happens to a job, with callbacks of all kinds, from several sides at once."""
    await subscribe(relay, here.around.subscriber)
    await submit(relay, here.promises)
    while not here.tasks:
        await relay.get("/healthz")
    (task,) = here.tasks
    body = here.bodies.of(task)
    bodies = [body, body, *(here.bodies.of(task) for _ in range(5)), b"no task at all"]
    await together(*(call_back(relay.client, task, one, here.promises) for one in bodies))
    await settled(relay)


async def dies_at(here: World, step: int) -> bool:
    """Kill a relay at a step of its first life; False when it came to the end of the job without getting there."""
    async with here.relay(kill_at=step) as relay:
        done = relay.ready.is_set() and await unless_it_dies(relay, one_job(here, relay))
    if relay.ready.is_set():
        await here.check_files()
    return not done


async def dies_again(here: World, step: int) -> bool:
    """Kill the next relay while it takes up what the first one left."""
    async with here.relay(kill_at=step) as relay:
        return not (relay.ready.is_set() and await unless_it_dies(relay, settled(relay)))


def folder_of(parent: Path, step: int) -> Path:
    (folder := parent / f"step-{step}").mkdir(exist_ok=True)
    return folder


async def killed_at(
    folder: Path,
    steps: Iterable[int],
    again: Random | None = None,
    missed_max: int = 1,
    on: Cluster | None = None,
) -> Tally:
    """Kill at each of these steps, until some in a row are not reached: not every life takes equally many."""
    tally, missed = Tally(), 0
    async with nursery() as forks:
        for step in steps:
            async with world(folder_of(folder, step), forks, on=on) as here:
                died = await dies_at(here, step)
                twice = died and again is not None and await dies_again(here, again.randrange(1, AGAIN_MAX))
                await here.check_the_end()
                tally.add(here, died + twice)
            shutil.rmtree(folder_of(folder, step))
            missed = 0 if died else missed + 1
            if missed == missed_max:
                break
    return tally


async def test_killed_at_some_steps_of_its_store_it_loses_nothing(tmp_path: Path) -> None:
    tally = await killed_at(tmp_path, count(5, 24))
    assert tally.kills >= 6
    assert tally.callbacks > tally.kills


@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_killed_at_every_step_of_its_store_it_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = await killed_at(tmp_path, count(1), Random(7), missed_max=3)  # noqa: S311 - chance, not a secret
    with capsys.disabled():
        print(f"\ncrash, step by step: {tally}")
    assert tally.kills >= 600


@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_killed_at_many_steps_on_postgresql_it_loses_nothing(
    tmp_path: Path, postgres: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = await killed_at(tmp_path, count(1, 5), missed_max=3, on=postgres)
    with capsys.disabled():
        print(f"\ncrash, step by step on PostgreSQL: {tally}")
    assert tally.kills >= 10


# At random, under load


@dataclass
class Storm:
    """Clients that call back and submit without a pause, for as long as the relay lives; a kill ends all of them.

    `server`: where the relay's database is, if that may be killed as well.
    """

    here: World
    jobs_max: int
    server: Cluster | None = None
    checked: frozenset[Promise] = frozenset()

    async def blow(self, relay: Relay) -> None:
        clients = [self.submit, *[self.call_back] * CLIENTS]
        await together(*(self.until_the_end(relay, client) for client in clients))

    async def until_the_end(self, relay: Relay, client: Callable[[Relay], Awaitable[None]]) -> None:
        """A client that fails for any reason ends the relay, and so all the others."""
        try:
            while True:
                with suppress(Away) if self.server else nullcontext():
                    await client(relay)
        finally:
            await relay.stopped()

    async def submit(self, relay: Relay) -> None:
        going = (await relay.get("/readyz"))["jobs"]
        if sum(going.values()) < GOING_MAX and len(self.here.promises.jobs) < self.jobs_max:
            await submit(relay, self.here.promises)

    async def call_back(self, relay: Relay) -> None:
        tasks = self.here.tasks[-4:]
        for task in tasks:
            await call_back(relay.client, task, self.here.bodies.of(task), self.here.promises)
        if not tasks:
            await relay.get("/healthz")

    async def life(self, calls: int, **plan: Any) -> set[Any]:
        """One life: it is killed after so many more acknowledged callbacks, whatever it is doing then.

        Before that its server is, which comes back; then it must go on by itself.
        The promises of the lives before that the relay no longer knows of.
        """
        async with self.here.relay(**plan) as relay:
            lost = await missing(relay, self.here.promises, self.checked)
            self.checked = frozenset(self.here.promises.callbacks)
            storm = asyncio.ensure_future(unless_it_dies(relay, self.blow(relay)))
            await first(self.here.promises.grown(len(self.checked) + calls), storm)
            if self.server is not None:
                await asyncio.to_thread(self.server.stop, SIGQUIT)
                await asyncio.to_thread(self.server.start)
                await first(self.here.promises.grown(len(self.here.promises.callbacks) + calls), storm)
            await relay.stopped()
            await storm
        return lost


async def killed_under_load(folder: Path, lives: int, seed: int, server: Cluster | None = None) -> Tally:
    chance, tally = Random(seed), Tally()  # noqa: S311 - chance, not a secret
    async with nursery() as forks, world(folder, forks, SLOW_CREATE, server) as here:
        async with here.relay() as relay:
            await subscribe(relay, here.around.subscriber)
        storm = Storm(here, lives * 2, server)
        for _ in range(lives):
            assert await storm.life(chance.randrange(1, 40)) == set()
        await here.check_the_end()
        tally.add(here, lives)
    return tally


async def test_killed_at_random_under_load_it_loses_nothing(tmp_path: Path) -> None:
    tally = await killed_under_load(tmp_path, lives=8, seed=3)
    assert tally.jobs > 3
    assert tally.callbacks > 50


@needed
async def test_killed_at_random_as_its_postgresql_is_it_loses_nothing(tmp_path: Path) -> None:
    with cluster() as server:
        tally = await killed_under_load(tmp_path, lives=2, seed=3, server=server)
    assert tally.jobs > 0
    assert tally.callbacks > 50


async def test_a_build_that_answers_before_its_commit_is_found_out(tmp_path: Path) -> None:
    """The test above can fail: the same load, on a relay that answers callbacks and commits then."""
    lost: set[Any] = set()
    async with nursery() as forks, world(tmp_path, forks) as here:
        storm = Storm(here, jobs_max=1)
        for calls in range(5, 50):
            lost |= await storm.life(calls, broken="late_commit")
            if lost:
                break
    assert lost


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(4))
async def test_killed_at_random_a_thousand_times_it_loses_nothing(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = await killed_under_load(tmp_path, lives=250, seed=seed)
    with capsys.disabled():
        print(f"\ncrash, at random under load: {tally}")


@needed
@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_killed_at_random_a_hundred_times_as_its_postgresql_is_it_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cluster() as server:
        tally = await killed_under_load(tmp_path, lives=100, seed=5, server=server)
    with capsys.disabled():
        print(f"\ncrash, at random as PostgreSQL: {tally}")
