"""The imitated upstream itself, without a socket, a clock or chance of its own: `now_ms` and a Random are handed in.

Faithful unless a fault says otherwise. Every time is divided by `speed`. A task's course is drawn when it is created
(timeline.py), so every later answer is a look at the tasks and a moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, Final
from uuid import UUID

from relay.core.catalogue import Catalogue
from relay.sandbox import admission, film, shapes
from relay.sandbox.accounts import Accounts
from relay.sandbox.admission import Refused, Taken
from relay.sandbox.answer import Answer, answer, as_html, lost, refusal
from relay.sandbox.asking import Asking
from relay.sandbox.faults import Faults
from relay.sandbox.library import Asset, Library, Upload
from relay.sandbox.links import Links
from relay.sandbox.outbox import Callback, Outbox
from relay.sandbox.register import Register
from relay.sandbox.shapes import Account, Json, Task
from relay.sandbox.timeline import FINAL, Course, Ending, draw_course, draw_times_s

PATHS_MAX: Final = 200
DEFAULT_ACCOUNTS: Final = (Account("sandbox@example.com", 2),)

_ENDINGS: Final = {
    "safety": Ending("FAILED", 0.2, "SAFETY.OUTPUT.VIDEO", "This generation did not pass moderation.", "sexual"),
    "late-word": Ending("FAILED", 0.2, "SAFETY.INPUT.TEXT", "The prompt did not pass moderation.", "violence"),
    "bad-output": Ending("FAILED", 0.8, "INTERNAL.BAD_OUTPUT.CODE01", "An unexpected error occurred."),
    "empty": Ending("FAILED", 0.8, "", "An unexpected error occurred."),
    "other": Ending("FAILED", 0.8, "INPUT_PREPROCESSING.INTERNAL", "The input could not be read."),
}


class Vendor:
    """Creates tasks, owes callbacks, and holds the parts that answer: `asking`, `accounts`, `library`, `links`.

    `token`: the only bearer token taken (None: any). `reply_url`: the account-wide default. `times_s`: (queue, render)
    seconds of every task in the place of its model's own. `catalogue`: what creates are judged by (None: the one of the
    package). Raises InvalidRequest for faults that cannot be set.
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
        catalogue: Catalogue | None = None,
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
        self.requests: dict[str, int] = {}
        self._rng = rng
        self._speed = speed
        self._token = token
        self._reply_url = reply_url
        self._times_s = times_s
        self._catalogue = catalogue or admission.built_in()
        self._user_id = rng.randrange(1000, 100_000)

    def next_due_ms(self) -> int | None:
        """When the next callback is due; None without one."""
        return self.outbox.next_due_ms()

    def due(self, now_ms: int) -> list[Callback]:
        """Take the callbacks that are due, in the order in which they are to be sent."""
        return self.outbox.due(now_ms)

    def state(self, now_ms: int) -> Json:
        """What `GET /sandbox/state` shows; `submits` counts the tasks that came into being, answered or not."""
        return {
            "submits": self.submits,
            "tasks": [_state_of(task, now_ms) for task in self.register.oldest_first()],
            "callbacks": list(self.outbox.log),
            "requests": dict(self.requests),
        }

    def count(self, path: str) -> None:
        """Count a request; `path` is the route's, without ids."""
        if path in self.requests or len(self.requests) < PATHS_MAX:
            self.requests[path] = self.requests.get(path, 0) + 1

    def authorize(self, header: str | None) -> Answer | None:
        """The 401 for a missing or wrong bearer token, or None where the request may go on."""
        scheme, _, token = (header or "").partition(" ")
        good = scheme.lower() == "bearer" and token.strip() and self._token in (None, token.strip())
        return None if good and not self.faults.take("unauthorized") else refusal(shapes.UNAUTHORIZED)

    def dressed(self, plain: Answer) -> Answer:
        """An answer as it leaves: errors are HTML pages under the fault `html_errors`."""
        error = plain.status >= 400 and not plain.cut and not plain.hang
        return as_html(plain) if error and self.faults.take("html_errors") else plain

    def create(self, now_ms: int, fields: Any, origin: str) -> Answer:
        """`POST /videos/create`; `origin` is the scheme and host under which artifacts will be asked for."""
        if way := self.faults.take("create_fails"):
            return lost(way)
        taken = self._admitted(now_ms, fields)
        if isinstance(taken, Refused):
            return refusal(shapes.error(taken.status, taken.message))
        owner = admission.account_of(admission.assets_named(taken.fields))
        account = self.accounts.choose(now_ms, taken.fields, owner if isinstance(owner, str) else None)
        if isinstance(account, Answer):
            return account
        task = self._made(now_ms, taken, account, origin)
        self.submits += 1
        self.register.add(task)
        self.accounts.charge(task)
        first = bool(self.faults.take("callbacks_before_answer")) and task.reply_url is not None
        self.outbox.add(task, with_first=first)
        if way := self.faults.take("create_lost"):
            return lost(way)
        body = shapes.wrapped(self.asking.flat(task, now_ms), self.faults.value("create_body") or "nested")
        return replace(
            answer(body),
            wait_ms=self.faults.take_wait_ms("create_slow"),
            after_first_callback=task.task_id if first else None,
        )

    def add_asset(self, now_ms: int, upload: Upload, email: str | None) -> Asset:
        """Keep an upload; without `email` an account is picked."""
        account = email or self._rng.choice(list(self.accounts.by_email))
        uuid = self._uuid()
        asset_id = f"user:{self._user_id}-runwayml:{account}-asset:{uuid}"
        asset = Asset(asset_id, uuid, account, self._user_id, now_ms, upload)
        self.library.add(asset)
        return asset

    def _admitted(self, now_ms: int, fields: Any) -> Taken | Refused:
        unchecked = bool(self.faults.value("unchecked"))
        taken = admission.admit(fields, self._catalogue, unchecked=unchecked)
        if isinstance(taken, Refused):
            return taken
        if self.faults.take("refused"):
            return Refused(400, "The request was refused.")
        if self.faults.take("moderated"):
            return Refused(422, admission.MODERATED)
        if self.faults.value("assets_unchecked"):
            return taken
        return self._wrong_assets(now_ms, admission.assets_named(taken.fields)) or taken

    def _wrong_assets(self, now_ms: int, assets: Mapping[str, Any]) -> Refused | None:
        owner = admission.account_of(assets)
        if isinstance(owner, Refused):
            return owner
        for asset_id in assets.values():
            # What a task made is an asset, too.
            task = self.register.made(asset_id.rpartition(":")[2], now_ms)
            if self.library.get(asset_id) is None and (task is None or task.asset_id != asset_id):
                return Refused(404, "Not found.")
        return None

    def _made(self, now_ms: int, taken: Taken, account: Account, origin: str) -> Task:
        uuid = self._uuid()
        fields = taken.fields
        begins_ms = now_ms + self.faults.take_wait_ms("appears_after")
        return Task(
            task_id=f"user:{self._user_id}-runwayml:{account.email}-task:{uuid}",
            uuid=uuid,
            account=account.email,
            user_id=self._user_id,
            fields=fields,
            seconds=_seconds(taken),
            origin=origin,
            created_ms=begins_ms,
            course=self._course(now_ms, begins_ms, taken, account),
            seed=seed if isinstance(seed := fields.get("seed"), int) else self._rng.randrange(1, 4_294_967_295),
            asset_group=self._uuid(),
            artifact_id=self._uuid(),
            reply_url=fields.get("replyUrl") or self.faults.value("default_reply_url") or self._reply_url,
            reply_ref=fields.get("replyRef"),
        )

    def _course(self, now_ms: int, begins_ms: int, taken: Taken, account: Account) -> Course:
        explore = taken.fields.get("exploreMode") is True
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
            ending=self._ending(taken.fields),
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

    def _uuid(self) -> str:
        return str(UUID(int=self._rng.getrandbits(128), version=4))


def _seconds(taken: Taken) -> float:
    """The length asked for, or the model's default."""
    asked = taken.fields.get("duration")
    if isinstance(asked, int | float):
        return asked
    return taken.model.durations[0] if taken.model and taken.model.durations else film.DURATION_S


def _state_of(task: Task, now_ms: int) -> Json:
    step = task.course.steps[task.course.index_at(now_ms)]
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
