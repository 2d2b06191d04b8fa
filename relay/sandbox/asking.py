"""What the sandbox says about its tasks: one of them, the list, the scheduler, and the bodies of callbacks."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

from relay.sandbox import shapes
from relay.sandbox.accounts import Accounts
from relay.sandbox.answer import Answer, answer, fail, not_found, refusal
from relay.sandbox.faults import Faults
from relay.sandbox.film import Film
from relay.sandbox.links import Links
from relay.sandbox.register import Register
from relay.sandbox.shapes import Json, Task
from relay.sandbox.timeline import Step

LINK_TTL_MS: Final = 24 * 3600 * 1000
OFFSET_MAX: Final = 1_000
LIMIT_MAX: Final = 1_000


class Asking:
    """Looks at the tasks and a moment, through the faults."""

    def __init__(self, register: Register, accounts: Accounts, faults: Faults, links: Links) -> None:
        self._register = register
        self._accounts = accounts
        self._faults = faults
        self._links = links

    def task(self, now_ms: int, raw_id: str) -> Answer:
        """`GET /tasks/{taskId}`; `raw_id` as it stood in the path, not decoded."""
        wait_ms = self._faults.take_wait_ms("get_slow")
        fail(self._faults.take("get_fails"))
        task = self._register.find(self.id_of(raw_id))
        if task is None or now_ms < task.created_ms + self._faults.wait_ms("not_found_after_create"):
            raise not_found()
        body = shapes.wrapped(self.flat(task, now_ms), self._faults.value("get_body") or "flat")
        return Answer(200, shapes.encode(body), wait_ms=wait_ms)

    def tasks(self, now_ms: int, query: Mapping[str, str]) -> Answer:
        """`GET /tasks/`: newest first."""
        fail(self._faults.take("lists_fail"))
        email = self._accounts.email_of(query, required=bool(self._faults.value("email_required")))
        offset = number_in(query, "offset", 0, OFFSET_MAX)
        limit = number_in(query, "limit", 1, LIMIT_MAX)
        statuses = {word.strip().upper() for word in query.get("statuses", "").split(",") if word.strip()}
        seen_ms = now_ms - self._faults.wait_ms("lists_lag")
        found = [
            task
            for task in self._register.newest_first()
            if task.created_ms <= seen_ms
            and email in (None, task.account)
            and (not statuses or self._step(task, seen_ms).status in statuses)
        ]
        page = (self.body(task, self._step(task, seen_ms), now_ms) for task in found[offset : offset + limit])
        return self.list_of(map(self._referenced, page))

    def scheduler(self, now_ms: int) -> Answer:
        """`GET /scheduler/`: what runs now, of all accounts."""
        fail(self._faults.take("lists_fail"))
        seen_ms = now_ms - self._faults.wait_ms("lists_lag")
        tasks = self._register.oldest_first()
        running = (task for task in tasks if task.created_ms <= seen_ms and not task.course.ended(seen_ms))
        return answer([self._referenced({"taskId": task.task_id, **shapes.references(task)}) for task in running])

    def list_of(self, page: Iterable[Json], name: str = "tasks") -> Answer:
        """A page as an array, or under a fault in the field `name` of an object."""
        listed = list(page)
        return answer({name: listed} if self._faults.value("list_body") == "object" else listed)

    def id_of(self, raw_id: str) -> str:
        """The id in a path; empty for one that is percent-encoded, which breaks the upstream's own match."""
        return unquote(raw_id) if "%" not in raw_id or self._faults.value("encoded_ids_accepted") else ""

    def flat(self, task: Task, now_ms: int) -> Json:
        """A task as asking for it shows it."""
        return self.body(task, self._step(task, now_ms), now_ms)

    def body(self, task: Task, step: Step, now_ms: int) -> Json:
        """A task at `step`, as asking shows it and callbacks report it; its links are made anew."""
        artifacts: list[Json] = []
        if step.status == "SUCCEEDED" and now_ms >= step.at_ms + self._faults.wait_ms("no_artifacts_at_first"):
            with_url = now_ms >= step.at_ms + self._faults.wait_ms("no_url_at_first")
            artifacts.append(self._artifact(task, now_ms, with_url=with_url))
        return shapes.task_object(
            task,
            step,
            progress_as=self._faults.value("progress") or "string",
            starts_in_ms=max(0, task.course.starts_ms - now_ms),
            artifacts=artifacts,
        )

    def link(self, origin: str, name: str, now_ms: int) -> str:
        """A fresh address of an artifact or asset."""
        expires_ms = now_ms + (self._faults.wait_ms("links_expire") or LINK_TTL_MS)
        return self._links.make(origin, name, expires_ms=expires_ms)

    def film(self, task: Task) -> Film:
        return Film(task.task_id, self._faults.value("artifact_bytes") or 0)

    def _referenced(self, listed: Json) -> Json:
        """A line of a list, which may leave out whose it is."""
        hidden = ("replyRef", "replyUrl") if self._faults.value("lists_without_refs") else ()
        return {name: value for name, value in listed.items() if name not in hidden}

    def _step(self, task: Task, now_ms: int) -> Step:
        """The step that asking shows, which may hang behind the callbacks."""
        ends_ms: Any = task.course.ends_ms
        behind_ms = self._faults.wait_ms("get_running_after_final")
        if ends_ms is not None and behind_ms and ends_ms <= now_ms < ends_ms + behind_ms:
            now_ms = ends_ms - 1
        return task.course.step_at(now_ms)

    def _artifact(self, task: Task, now_ms: int, *, with_url: bool) -> Json:
        name = task.artifact_id
        return shapes.artifact(
            task,
            url=self.link(task.origin, f"{name}.mp4", now_ms) if with_url else None,
            preview_url=self.link(task.origin, f"{name}-preview.png", now_ms),
            size=self.film(task).size,
            metadata_as=self._faults.value("metadata") or "nested",
        )


def number_in(query: Mapping[str, str], name: str, first: int, last: int, default: str = "") -> int:
    """A whole number of the query; raises Refusal where it is none from `first` to `last`."""
    text = query.get(name, default)
    if not re.fullmatch(r"\d{1,6}", text) or not first <= int(text) <= last:
        raise refusal(400, f"Parameter {name} must be a number from {first} to {last}.")
    return int(text)
