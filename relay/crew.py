"""The workers of a relay: all of them at work where it leads; where another one on the same database does, few."""

import asyncio
import contextlib
from typing import Any

from relay import observe
from relay.clock import SteadyClock
from relay.core.catalogue import Catalogue
from relay.core.holding import SubmittingHeld
from relay.errors import RelayError
from relay.feed import Feed
from relay.net.upstream import CREATE_DEADLINE_S, Upstream
from relay.settings import Settings
from relay.store.contract import Store
from relay.store.disk import Disk
from relay.store.mark import Mark
from relay.work.accounts import AccountKeeper
from relay.work.deadlines import Deadlines
from relay.work.deliverer import Deliverer
from relay.work.janitor import Janitor, Retention
from relay.work.lookout import Lookout
from relay.work.loop import Worker
from relay.work.mirror import Mirror
from relay.work.reconciler import Reconciler
from relay.work.replayer import Replayer
from relay.work.searcher import Searcher
from relay.work.submitter import Submitter
from relay.work.timekeeper import Timekeeper

AGAIN_S = 1.0
# Longer than any create: whoever sent it and has not written its answer by then is gone, or cannot reach the database.
SENDING_LEASE_S = CREATE_DEADLINE_S + 30


class Crew:
    """`start` returns once everybody works, or, where several relays share the database, at once."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        work: Feed,
        clock: SteadyClock,
        upstream: Upstream,
        *,
        catalogue: Catalogue,
        deliverer: Deliverer,
        mirror: Mirror,
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._log = observe.logger("crew")
        shared, in_doubt_after_s = (store, work, clock), float(settings.in_doubt_after)
        resubmit = settings.in_doubt == "resubmit"
        if resubmit:
            self._log.warning("in_doubt.resubmits", meaning="a job in doubt is sent again, and may be paid for twice")
        self._mark = None if store.shared else Mark(settings.database_path)
        self._deliverer, self._mirror = deliverer, mirror
        self._timekeeper = Timekeeper(*shared, upstream.off_ms)
        self._submitter = Submitter(
            *shared,
            upstream,
            catalogue=catalogue,
            callback_url=f"{settings.public_url}/callbacks" if settings.public_url else None,
            in_doubt_after_s=in_doubt_after_s,
            lease_s=SENDING_LEASE_S if store.shared else 0.0,
            mark=None if self._mark is None else self._mark.sent,
        )
        self._reconciler = Reconciler(
            *shared,
            upstream,
            in_doubt_after_s=in_doubt_after_s,
            bad_output_retries=settings.retry_bad_output,
            resubmit=resubmit,
        )
        self.workers: list[Worker] = [
            self._timekeeper,
            AccountKeeper(*shared, upstream, given=settings.accounts),
            self._submitter,
            Searcher(
                *shared,
                upstream,
                given=settings.accounts,
                in_doubt_after_s=in_doubt_after_s,
                retention_s=settings.retention_jobs,
            ),
            self._reconciler,
            deliverer,
            Replayer(*shared),
            mirror,
            Deadlines(*shared),
            Lookout(*shared, upstream.silent_s, Disk(settings.database_path).free_bytes),
            Janitor(*shared, retention=_retention(settings)),
        ]
        self._always = {self._timekeeper, deliverer} if store.shared else set[Worker]()
        self._leading: asyncio.Task[None] | None = None

    def _led(self) -> list[Worker]:
        """All but those that relays on one database do together, each of them for as long as it runs."""
        return [worker for worker in self.workers if worker not in self._always]

    async def start(self) -> None:
        begun = asyncio.get_running_loop().create_future()
        self._timekeeper.leads = not self._store.shared
        for worker in self._always:
            worker.start()
        self._leading = asyncio.create_task(self._lead(begun), name="crew")
        if not self._store.shared:
            await asyncio.wait({begun, self._leading}, return_when=asyncio.FIRST_COMPLETED)
            if self._leading.done():
                self._leading.result()

    async def stop(self) -> None:
        if self._leading is not None:
            self._leading.cancel()
            await asyncio.gather(self._leading, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self.workers))

    async def _lead(self, begun: asyncio.Future[None]) -> None:
        while True:
            async with self._store.leading() as lost:
                try:
                    await self._begin()
                except Exception as error:  # whoever has the lead and does nothing keeps all others from working
                    if not self._store.shared:
                        raise
                    known = isinstance(error, RelayError)
                    self._log.warning("crew.not_started", reason=str(error), exc_info=None if known else error)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(lost.wait(), AGAIN_S)
                    continue
                if not begun.done():
                    begun.set_result(None)
                await lost.wait()
                self._log.warning("crew.lost_the_lead", meaning="another relay's workers take over")
            self._timekeeper.leads = False
            await asyncio.gather(*(worker.stop() for worker in self._led()))

    async def _begin(self) -> None:
        """What was cut off by the last end is settled first, then everybody begins."""
        store = self._store
        await self._timekeeper.recover()
        if self._mark is not None:
            if older := await self._mark.older(store):
                await store.apply(SubmittingHeld(older, self._clock.now_ms()))
            await self._mark.made(store)
        if hold := await store.hold():
            self._log.warning("submitting.held", reason=hold.reason, remedy="relay resume, once the search is done")
        found: dict[str, Any] = {
            "attempts_in_doubt": await self._submitter.recover(),
            "deliveries_released": 0 if store.shared else await self._deliverer.recover(),
            "files_cut": await self._mirror.recover(),
        }
        await self._reconciler.recover()
        self._timekeeper.leads = True
        for worker in self._led():
            worker.start()
        polls = "by callbacks and polls" if self._settings.public_url else "by polls alone: no RELAY_PUBLIC_URL"
        self._log.info(
            "relay.started",
            instance=store.instance,
            upstream=self._settings.upstream_url,
            finds_ends=polls,
            **found,
        )


def _retention(settings: Settings) -> Retention:
    return Retention(
        jobs_ms=settings.retention_jobs * 1000,
        events_ms=settings.retention_events * 1000,
        callbacks_ms=settings.retention_callbacks * 1000,
    )
