"""An upstream that does what the real one may do: changing room, ambiguous creates, late lists, lost callbacks."""

import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.core import task as tasks
from relay.core.accounts import SeenAccount
from relay.core.outcome import (
    Accepted,
    BadToken,
    Busy,
    Found,
    Missing,
    NoCredits,
    NotSent,
    Outcome,
    Refused,
    RunningTask,
    TaskAnswer,
    Unanswered,
    Unknown,
)
from relay.core.task import Report
from tests.simulate.clockwork import Pause, World
from tests.simulate.ledger import Ledger, must

MINUTE_MS = 60_000.0
CREATE_TIMEOUT_MS = 90_000.0
VIDEO = {"url": "https://files.example.com/film.mp4", "fileSize": "1", "previewUrls": []}
FAILURES = {
    "bad": {"reason": "INTERNAL.BAD_OUTPUT.CODE01", "errorMessage": "bad output"},
    "safety": {"reason": "SAFETY.INPUT.TEXT", "errorMessage": "not allowed"},
    "other": {"reason": "", "errorMessage": "it broke"},
}


@dataclass
class Faults:
    """How likely what goes wrong is, each 0…1; all 0 is an upstream without faults."""

    not_sent: float = 0
    cut_before: float = 0
    cut_after: float = 0
    appears_late: float = 0
    refused: float = 0
    unanswered: float = 0
    throttled: float = 0
    missing: float = 0
    lost: float = 0
    doubled: float = 0
    late: float = 0
    fails: float = 0
    empty: float = 0
    progress: bool = True


@dataclass
class Task:
    """A task that was created, and with that paid for."""

    task_id: str
    email: str
    reply_ref: str
    reply_url: str | None
    explore: bool
    began_ms: float
    ends_ms: float
    failure: str | None
    named_ms: float
    listed_ms: float
    filled_ms: float


@dataclass
class Site:
    """One account: how many tasks it runs from when on, and when it is out of order."""

    told: int
    room: Callable[[float], int]
    trouble: Callable[[float], str | None] = lambda at_ms: None


@dataclass
class Vendor:
    """Implements `relay.work.ports.Upstream`. `call` is told of each callback, as `(replyUrl, body)`."""

    world: World
    ledger: Ledger
    sites: dict[str, Site]
    faults: Faults
    takes_ms: Callable[[str], float]
    call: Callable[[str, dict[str, Any]], None]
    latency_ms: float = 300.0
    shut: Callable[[float], bool] = lambda at_ms: False
    all: dict[str, Task] = field(default_factory=dict)
    of_account: dict[str, list[Task]] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)

    def chance(self, part: float) -> bool:
        return part > 0 and self.world.chance.random() < part

    def delay(self) -> Pause:
        return Pause(self.latency_ms * self.world.chance.lognormvariate(0, 0.3))

    def running(self, email: str) -> list[Task]:
        now = self.world.elapsed_ms
        kept = self.of_account[email] = [task for task in self.of_account.get(email, []) if task.ends_ms > now]
        return kept

    # What the relay asks.

    async def create(self, fields: Mapping[str, Any]) -> Outcome:
        reply_ref = str(fields["replyRef"])
        job_id, _, number = reply_ref.rpartition(":")[0].rpartition(":")[2], None, reply_ref.rpartition(":")[2]
        stored = self.ledger.attempts_of.get((job_id, int(number)))
        must(stored and stored.state == "sending", f"{reply_ref} was sent and is not stored")
        if self.chance(self.faults.not_sent):
            return NotSent("no connection")
        # The request is on its way, whatever becomes of the process that has sent it.
        answered: list[Outcome] = []
        up = self.latency_ms * self.world.chance.lognormvariate(0, 0.3)
        self.world.after(up, lambda: answered.append(self._create(dict(fields), job_id)))
        await Pause(up)
        await self.delay()
        outcome = answered[0]
        self.answers[type(outcome).__name__] += 1
        if isinstance(outcome, Unknown):
            await Pause(self.world.chance.choice([0.0, 1_000.0, CREATE_TIMEOUT_MS]))
        return outcome

    def _create(self, fields: dict[str, Any], job_id: str) -> Outcome:
        email, explore, now = str(fields["email"]), fields.get("exploreMode") is True, self.world.elapsed_ms
        site = self.sites[email]
        if self.chance(self.faults.cut_before):
            return Unknown("cut before the upstream saw it")
        if self.shut(now):
            return BadToken("Unauthorized")
        if self.chance(self.faults.appears_late):
            wait_ms = self.world.chance.random() * 10 * MINUTE_MS
            self.world.after(wait_ms, lambda: self._appears(fields, job_id))
            return Unknown("522, and the task appears later")
        trouble = site.trouble(now)
        if trouble == "no credits":
            return NoCredits("You do not have enough credits to run this task.")
        if self.chance(self.faults.refused):
            return Refused("moderated", "the prompt was refused")
        running = self.running(email)
        if len(running) >= site.room(now) or (explore and any(task.explore for task in running)):
            rows = [RunningTask(task.task_id, task.reply_ref) for task in running]
            return Busy("full", tuple(rows) if self.world.chance.random() < 0.5 else ())
        task = self._begin(fields, job_id, hidden=False)
        if self.chance(self.faults.cut_after):
            return Unknown("cut after the task was created")
        return Accepted(self.report(task))

    def _appears(self, fields: dict[str, Any], job_id: str) -> None:
        self._begin(fields, job_id, hidden=True)

    def _begin(self, fields: dict[str, Any], job_id: str, *, hidden: bool) -> Task:
        now, chance = self.world.elapsed_ms, self.world.chance
        for task in self.all.values():
            if job_id in task.reply_ref:
                ended = task.ends_ms <= now and task.failure is not None
                must(ended, f"{job_id} is paid for twice: {task.reply_ref} and {fields['replyRef']}")
        email = str(fields["email"])
        failure = chance.choice(list(FAILURES)) if self.chance(self.faults.fails) else None
        ends_ms = now + self.takes_ms(job_id)
        named = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        task = Task(
            task_id=f"user:7-runwayml:{email}-task:{named}",
            email=email,
            reply_ref=str(fields["replyRef"]),
            reply_url=fields.get("replyUrl"),
            explore=fields.get("exploreMode") is True,
            began_ms=now,
            ends_ms=ends_ms,
            failure=failure,
            named_ms=now,
            listed_ms=now + (chance.random() * 5 * MINUTE_MS if hidden else 0),
            filled_ms=ends_ms + (chance.random() * 8 * MINUTE_MS if self.chance(self.faults.empty) else 0),
        )
        self.all[task.task_id] = task
        self.of_account.setdefault(email, []).append(task)
        self._calls(task)
        return task

    def body(self, task: Task, at_ms: float) -> dict[str, Any]:
        status, done = "RUNNING", (at_ms - task.began_ms) / max(1.0, task.ends_ms - task.began_ms)
        if at_ms >= task.ends_ms:
            status = "FAILED" if task.failure else "SUCCEEDED"
        return {
            "taskId": task.task_id,
            "status": status,
            "progressRatio": str(round(min(1.0, done), 2)),
            "replyRef": task.reply_ref,
            "updatedAt": None,
            "error": FAILURES[task.failure] if task.failure and status == "FAILED" else None,
            "artifacts": [VIDEO] if status == "SUCCEEDED" and at_ms >= task.filled_ms else [],
        }

    def report(self, task: Task) -> Report:
        read = tasks.read(self.body(task, self.world.elapsed_ms))
        assert read is not None
        return read

    def _calls(self, task: Task) -> None:
        """Its callbacks: progress on the way and the end, each lost, doubled or late."""
        if task.reply_url is None:
            return
        shares = (0.25, 0.5, 0.75, 1.0) if self.faults.progress else (1.0,)
        for share in shares:
            at_ms = task.began_ms + share * (task.ends_ms - task.began_ms)
            if self.chance(self.faults.lost):
                continue
            for _ in range(2 if self.chance(self.faults.doubled) else 1):
                late_ms = self.latency_ms * self.world.chance.lognormvariate(0, 0.5)
                if self.chance(self.faults.late):
                    late_ms += self.world.chance.random() * 30 * MINUTE_MS
                body = self.body(task, at_ms)
                wait_ms = at_ms + late_ms - self.world.elapsed_ms
                self.world.after(wait_ms, lambda body=body: self.call(str(task.reply_url), body))  # type: ignore[misc]

    async def task(self, task_id: str) -> TaskAnswer:
        await self.delay()
        self.answers["asked"] += 1
        if self.chance(self.faults.throttled):
            return Unanswered("slow down", throttled=True)
        if self.chance(self.faults.unanswered):
            return Unanswered("522")
        task = self.all.get(task_id)
        if task is None or self.chance(self.faults.missing):
            return Missing()
        return Found(self.report(task))

    async def tasks(self, email: str, offset: int = 0) -> list[Report] | Unanswered:
        await self.delay()
        if self.chance(self.faults.unanswered):
            return Unanswered("522")
        now = self.world.elapsed_ms
        seen = [task for task in self.all.values() if task.email == email and task.listed_ms <= now]
        return [self.report(task) for task in seen[-200:]]

    async def scheduler(self) -> list[RunningTask] | Unanswered:
        await self.delay()
        if self.chance(self.faults.unanswered):
            return Unanswered("522")
        now = self.world.elapsed_ms
        rows = [task for email in self.sites for task in self.running(email) if task.listed_ms <= now]
        return [RunningTask(task.task_id, task.reply_ref) for task in rows]

    async def accounts(self) -> list[SeenAccount] | Unanswered:
        await self.delay()
        now = self.world.elapsed_ms
        if self.shut(now) or self.chance(self.faults.unanswered):
            return Unanswered("401", unauthorized=self.shut(now))
        broken = {
            email: "login failed" if site.trouble(now) == "broken" else None for email, site in self.sites.items()
        }
        return [SeenAccount(email, site.told, broken[email]) for email, site in self.sites.items()]
