"""The relay as it is simulated: its real workers on the virtual clock, a door for callbacks, and its subscribers."""

import hashlib
import json
from collections.abc import Callable, Coroutine
from typing import Any

from relay.core import task as tasks
from relay.core.delivering import DeliveriesClaimed, DeliveryAttempted, DeliveryReleased
from relay.core.delivery import Delivery
from relay.core.receiving import Arrived, CallbackReceived
from relay.core.retry import Answer
from relay.core.skew import JUMP_MS, jumped
from relay.feed import Feed
from relay.sandbox.admission import built_in
from relay.vault import hash_token
from relay.work.accounts import AccountKeeper
from relay.work.loop import IDLE_MAX_S, Worker
from relay.work.reconciler import Reconciler
from relay.work.submitter import Submitter
from tests.simulate.clockwork import Crash, Life, Pause, World
from tests.simulate.ledger import Ledger
from tests.simulate.upstream import Vendor

CALLBACKS = "https://relay.example.com/callbacks"
IN_DOUBT_AFTER_S = 6 * 3_600.0
LEASE_MS = 60_000
RESTART_MS = 5_000.0


class Silent:
    """Takes every log line."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Loop:
    """What `Worker._run` does: a step after each commit, when its time has come, and at least once a minute."""

    def __init__(self, world: World, life: Life, step: Callable[[], Coroutine[Any, Any, int | None]]) -> None:
        self._world, self._life, self._step = world, life, step
        self._running = self._again = False
        self._turn = 0

    def wake(self) -> None:
        self._again = True
        if not self._running:
            self._turn += 1
            self._running = True
            self._world.after(0, self._go)

    def _go(self) -> None:
        if self._life.alive:
            self._again = False
            self._world.drive(self._life, self._once())

    async def _once(self) -> None:
        due_ms = await self._step()
        self._running = False
        if self._again:
            self.wake()
            return
        turn, idle_ms = self._turn, IDLE_MAX_S * 1000
        wait_ms = idle_ms if due_ms is None else min(idle_ms, due_ms - self._world.now_ms())
        self._world.after(max(1.0, wait_ms), lambda: self.wake() if turn == self._turn else None)


class Relay:
    """Starts, is killed at any of its steps, and starts again."""

    def __init__(self, world: World, ledger: Ledger, *, hears: bool, bad_output_retries: int = 0) -> None:
        self._world, self._ledger = world, ledger
        self._hears, self._retries = hears, bad_output_retries
        self._loops: list[Loop] = []
        self._tokens = 0
        self.vendor: Vendor
        self.received: set[tuple[str, str]] = set()
        self.subscriber_fails = 0.0
        self.crashes = 0
        self.known_after_ms: list[float] = []
        self.life = Life(self._died)
        ledger.committed = self._wake

    def start(self) -> None:
        life = self.life = Life(self._died)
        shared: Any = (self._ledger, Feed(), self._world, self.vendor)
        workers: list[Worker] = [
            AccountKeeper(*shared, given=()),
            Submitter(
                *shared,
                catalogue=built_in(),
                callback_url=CALLBACKS if self._hears else None,
                in_doubt_after_s=IN_DOUBT_AFTER_S,
            ),
            Reconciler(*shared, in_doubt_after_s=IN_DOUBT_AFTER_S, bad_output_retries=self._retries),
        ]
        for worker in workers:
            worker._log = Silent()
        self._loops = []
        self._world.drive(life, self._begin(life, workers))

    async def _begin(self, life: Life, workers: list[Worker]) -> None:
        _, sending, asking = workers
        assert isinstance(sending, Submitter)
        assert isinstance(asking, Reconciler)
        newest = max((event.at_ms for event in self._ledger.events[-1:]), default=0)
        if newest - self._world.now_ms() > JUMP_MS:
            await self._ledger.apply(jumped(self._world.now_ms() - newest, self._world.now_ms()))
        await sending.recover()
        for delivery in self._ledger.deliveries_sending():
            await self._ledger.apply(DeliveryReleased(delivery.id, self._world.now_ms()))
        await asking.recover()
        for worker in workers:
            loop = Loop(self._world, life, worker.step)
            worker.spawn = self._spawner(life, loop)  # type: ignore[assignment, method-assign]
            self._loops.append(loop)
        self._loops.append(Loop(self._world, life, self._deliver_due(life)))
        self._wake()

    def _spawner(self, life: Life, loop: Loop) -> Callable[[Coroutine[Any, Any, None]], None]:
        def spawn(work: Coroutine[Any, Any, None]) -> None:
            self._world.drive(life, work, loop.wake)
            if not life.alive:
                raise Crash  # whoever has begun this work is dead too

        return spawn

    def _wake(self) -> None:
        for loop in self._loops:
            loop.wake()

    def jump(self, by_ms: int) -> None:
        """The wall clock is set; a relay that runs moves its waits, one that is down sees it at its start if at all."""
        self._world.wall_ms += by_ms
        if self.life.alive:
            self._world.drive(self.life, self._ledger.apply(jumped(by_ms, self._world.now_ms())))

    def _died(self, life: Life) -> None:
        self.crashes += 1
        self._loops = []
        self._world.after(RESTART_MS, self.start)

    def new_token(self) -> str:
        self._tokens += 1
        return f"token-{self._tokens}"

    def callback(self, url: str, body: dict[str, Any]) -> None:
        """A callback arrives; while the relay is down it is lost."""
        life = self.life
        if not life.alive:
            return
        raw = json.dumps(body).encode()
        arrived = Arrived(
            body=raw,
            sha256=hashlib.sha256(raw).hexdigest(),
            size_bytes=len(raw),
            content_type="application/json",
            report=tasks.read(body),
            at_ms=self._world.now_ms(),
        )
        self._world.drive(life, self._ledger.apply(CallbackReceived(hash_token(url.rpartition("/")[2]), arrived)))

    def _deliver_due(self, life: Life) -> Callable[[], Coroutine[Any, Any, int | None]]:
        async def step() -> int | None:
            for due in self._ledger.deliveries_due(self._world.now_ms()):
                now_ms = self._world.now_ms()
                claim = DeliveriesClaimed((due.id,), now_ms + LEASE_MS, now_ms)
                for claimed, _ in await self._ledger.apply(claim):
                    self._world.drive(life, self._deliver(claimed), self._wake)
            return self._ledger.next_due_ms()

        return step

    async def _deliver(self, delivery: Delivery) -> None:
        chance = self._world.chance
        await Pause(200 * chance.lognormvariate(0, 0.5))
        fails = chance.random() < self.subscriber_fails
        if not fails or chance.random() < 0.5:
            self.received.add((delivery.subscription_id, delivery.event_id))
        await Pause(200 * chance.lognormvariate(0, 0.5))
        answer = Answer("timeout" if fails else "answered", None if fails else 200, None, "", "", 1)
        await self._ledger.apply(DeliveryAttempted(delivery.id, answer, chance.random(), self._world.now_ms()))
