"""Ends the jobs that have not started by their deadline, when it comes and not when somebody next looks."""

from typing import Final

from relay.core.submitting import TOO_LATE, JobGivenUp
from relay.work.loop import Worker

AT_ONCE: Final = 100


class Deadlines(Worker):
    """A deadline is the client's wall-clock time. The ledger has the last word: a job that is being sent goes on."""

    name = "deadlines"

    async def step(self) -> int | None:
        now_ms = self._clock.now_ms()
        while late := await self._store.overdue(now_ms, AT_ONCE):
            for job_id in late:
                await self._store.apply(JobGivenUp(job_id, "deadline", TOO_LATE, now_ms))
        next_ms = await self._store.next_deadline_ms()
        return None if next_ms is None else next_ms + 1
