"""The imitated upstream itself, without a socket, a clock or chance of its own: `now_ms` and a Random are handed in.

Faithful unless a fault says otherwise. Every time is divided by `speed`. A task's course is drawn when it is created
(timeline.py), so every later answer is a look at the tasks and a moment.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final
from uuid import UUID

from relay.core.fields import ASSET_FIELDS
from relay.core.request import Checked
from relay.sandbox import admission, film, shapes
from relay.sandbox.accounts import Accounts
from relay.sandbox.answer import Answer, answer, as_html, fail, not_found, refusal
from relay.sandbox.asking import Asking
from relay.sandbox.faults import Faults
from relay.sandbox.library import Library
from relay.sandbox.links import Links
from relay.sandbox.outbox import Outbox
from relay.sandbox.register import Register
from relay.sandbox.shapes import Account, Json, Task
from relay.sandbox.timeline import FINAL, Course, Ending, draw_course, draw_times_s

DEFAULT_ACCOUNTS: Final = (Account("sandbox@example.com", 2),)

_ENDINGS: Final = {
    "safety": Ending("FAILED", 0.2, "SAFETY.OUTPUT.VIDEO", "This generation did not pass moderation.", "sexual"),
    "late-word": Ending("FAILED", 0.2, "SAFETY.INPUT.TEXT", "The prompt did not pass moderation.", "violence"),
    "bad-output": Ending("FAILED", 0.8, "INTERNAL.BAD_OUTPUT.CODE01", "An unexpected error occurred."),
    "empty": Ending("FAILED", 0.8, "", "An unexpected error occurred."),
    "other": Ending("FAILED", 0.8, "INPUT_PREPROCESSING.INTERNAL", "The input could not be read."),
}


class Vendor:
    """Creates tasks, and holds the parts that do the rest: `asking`, `accounts`, `library`, `links`, `outbox`.

    `token`: the only bearer token taken (None: any). `reply_url`: the account-wide default. `times_s`: (queue, render)
    seconds of every task in the place of its model's own. Raises InvalidRequest for faults that cannot be set.
    """

    def __init__(
        self,
        rng: Random,
        *,
        accounts: Sequence[Account] = DEFAULT_ACCOUNTS,
        speed: float = 1.0,
        token: str | None = None,
        reply_url: str | None = None,
        times_s: tuple[float, float] | None = None,
        faults: Mapping[str, Any] | None = None,
    ) -> None:
        if not accounts or speed <= 0:
            raise ValueError("a sandbox needs an account and a speed above 0")
        self.faults = Faults(faults, speed=speed)
        self.register = Register(account.email for account in accounts)
        self.accounts = Accounts(accounts, self.register, self.faults, rng)
        self.links = Links(rng.randbytes(32))
        self.asking = Asking(self.register, self.accounts, self.faults, self.links)
        self.outbox = Outbox(self.faults, rng, self.asking.body)
        self.library = Library()
        self.submits = 0
        self.requests: Counter[str] = Counter()
        self.user_id = rng.randrange(1000, 100_000)
        self._rng = rng
        self._speed = speed
        self._token = token
        self._reply_url = reply_url
        self._times_s = times_s

    def state(self, now_ms: int) -> Json:
        """What `GET /sandbox/state` shows; `submits` counts the tasks that came into being, answered or not."""
        return {
            "submits": self.submits,
            "tasks": [_state_of(task, now_ms) for task in self.register.oldest_first()],
            "callbacks": list(self.outbox.log),
            "requests": dict(self.requests),
        }

    def authorize(self, header: str | None) -> None:
        """Raise the 401 for a missing or wrong bearer token."""
        scheme, _, token = (header or "").partition(" ")
        good = scheme.lower() == "bearer" and token.strip() and self._token in (None, token.strip())
        if not good or self.faults.take("unauthorized"):
            raise refusal(401, "Unauthorized")

    def dressed(self, plain: Answer) -> Answer:
        """An answer as it leaves: errors are HTML pages under the fault `html_errors`."""
        error = plain.status >= 400 and not plain.cut and not plain.hang
        return as_html(plain) if error and self.faults.take("html_errors") else plain

    def create(self, now_ms: int, fields: Any, origin: str) -> Answer:
        """`POST /videos/create`; `origin` is the scheme and host under which artifacts will be asked for."""
        fail(self.faults.take("create_fails"))
        taken = admission.admit(fields, admission.built_in(), unchecked=bool(self.faults.value("unchecked")))
        if self.faults.take("refused"):
            raise refusal(400, "The request was refused.")
        if self.faults.take("moderated"):
            raise refusal(422, admission.MODERATED)
        account = self.accounts.choose(now_ms, taken.request, self._owner(now_ms, taken.request))
        task = self._made(now_ms, taken, account, origin)
        self.submits += 1
        self.register.add(task)
        self.accounts.charge(task)
        first = bool(self.faults.take("callbacks_before_answer")) and task.reply_url is not None
        self.outbox.add(task, with_first=first)
        fail(self.faults.take("create_lost"))
        body = shapes.wrapped(self.asking.flat(task, now_ms), self.faults.value("create_body") or "nested")
        return replace(
            answer(body),
            wait_ms=self.faults.take_wait_ms("create_slow"),
            after_first_callback=task.task_id if first else None,
        )

    def any_account(self) -> str:
        return self._rng.choice(list(self.accounts.by_email))

    def new_uuid(self) -> str:
        return str(UUID(int=self._rng.getrandbits(128), version=4))

    def _owner(self, now_ms: int, fields: Mapping[str, Any]) -> str | None:
        """The account of a create's assets, which must be there."""
        owner = admission.owner_of(fields)
        for name in () if self.faults.value("assets_unchecked") else fields.keys() & set(ASSET_FIELDS):
            # What a task made is an asset, too.
            task = self.register.made(fields[name].rpartition(":")[2], now_ms)
            if self.library.get(fields[name]) is None and (task is None or task.asset_id != fields[name]):
                raise not_found()
        return owner

    def _made(self, now_ms: int, taken: Checked, account: Account, origin: str) -> Task:
        fields: Json = taken.request
        begins_ms = now_ms + self.faults.take_wait_ms("appears_after")
        return Task(
            uuid=self.new_uuid(),
            account=account.email,
            user_id=self.user_id,
            fields=fields,
            seconds=_seconds(taken),
            origin=origin,
            created_ms=begins_ms,
            course=self._course(now_ms, begins_ms, taken, account),
            seed=seed if isinstance(seed := fields.get("seed"), int) else self._rng.randrange(1, 4_294_967_295),
            asset_group=self.new_uuid(),
            artifact_id=self.new_uuid(),
            reply_url=fields.get("replyUrl") or self.faults.value("default_reply_url") or self._reply_url,
            reply_ref=fields.get("replyRef"),
        )

    def _course(self, now_ms: int, begins_ms: int, taken: Checked, account: Account) -> Course:
        explore = taken.request.get("exploreMode") is True
        queue_s, render_s = self._times_s or draw_times_s(taken.model, explore=explore, rng=self._rng)
        queue_ms = round(queue_s * 1000 / self._speed)
        if explore:
            # "When another explore mode job is still running, the new job will not start until it completes."
            running = self.register.running(account.email, now_ms)
            others = [task.course.ends_ms or 0 for task in running if task.fields.get("exploreMode") is True]
            queue_ms = max([queue_ms, *(ends_ms - begins_ms for ends_ms in others)])
        return draw_course(
            begins_ms,
            queue_ms=queue_ms,
            render_ms=round(render_s * 1000 / self._speed),
            ending=self._ending(taken.request),
            throttled_ms=self.faults.take_wait_ms("throttled"),
            running=self.faults.take("odd_status") or "RUNNING",
        )

    def _ending(self, fields: Json) -> Ending:
        if admission.MODERATED_LATE_WORD in str(fields.get("text_prompt", "")):
            return _ENDINGS["late-word"]
        if reason := self.faults.take("fails"):
            return _ENDINGS[reason]
        if status := self.faults.take("cancelled"):
            return Ending(status, 0.4)
        return Ending(None) if self.faults.take("never_ends") else Ending()


def _seconds(taken: Checked) -> float:
    """The length asked for, or the model's default."""
    asked = taken.request.get("duration")
    if isinstance(asked, int | float):
        return asked
    return taken.model.durations[0] if taken.model and taken.model.durations else film.DURATION_S


def _state_of(task: Task, now_ms: int) -> Json:
    step = task.course.step_at(now_ms)
    return {
        "taskId": task.task_id,
        "replyRef": task.reply_ref,
        "replyUrl": task.reply_url,
        "status": step.status,
        "final": step.status in FINAL,
        "progress": step.progress,
        "email": task.account,
        "model": task.model,
        "createdAt": shapes.iso(task.created_ms),
        "request": task.fields,
    }
