"""Carries replays on, batch after batch, from wherever the last one ended."""

from relay.core.replaying import RUNNING_MAX, ReplayContinued
from relay.work.loop import Worker


class Replayer(Worker):
    """The replays that run take turns, so that a small one does not wait for a large one."""

    name = "replayer"

    async def step(self) -> int | None:
        running = await self._store.replays_running(RUNNING_MAX)
        for replay in running:
            after = await self._store.apply(ReplayContinued(replay, self._clock.now_ms()))
            if after.state == "done":
                self._log.info("replay.done", replay=after.id, requeued=after.requeued, skipped=after.skipped)
        return self._clock.now_ms() if running else None
