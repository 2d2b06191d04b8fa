"""Addresses of files that outlive the upstream's links.

python -m tests.web.outlived [JOBS]    jobs whose links die after 5 s; a minute later every address is opened
"""

import asyncio
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from relay.clock import ManualClock
from relay.sandbox.film import preview
from relay.sandbox.vendor import Vendor
from tests.crash.load import job_of
from tests.journeys import WAIT_S, Journey, journey

LINKS_S, LATER_S = 5, 60
AT_ONCE = 20
# The page that follows is asked for until there is none.
PAGE = 200


@dataclass(frozen=True)
class Outlived:
    """What became of the addresses in events, webhooks, jobs and tasks; `wrong` ones gave no or other bytes."""

    jobs: int
    with_storage: bool
    dead_links: int
    opened: Counter[str]
    wrong: Sequence[str]
    questions: int

    def __str__(self) -> str:
        where = ", ".join(f"{count} of {name}" for name, count in self.opened.items())
        return (
            f"{'with' if self.with_storage else 'without'} storage: {self.jobs} jobs, {self.dead_links} of their links "
            f"dead after {LINKS_S} s; {LATER_S} s later {self.opened.total()} addresses ({where}) served "
            f"{self.opened.total() - len(self.wrong)} right files and {len(self.wrong)} wrong, "
            f"for {self.questions} questions to the upstream"
        )


async def outlived(folder: Path, count: int, *, with_storage: bool) -> Outlived:
    """So many jobs; then the sandbox's clock goes on by a minute, and with storage its files are gone, too."""
    clock, faults = ManualClock(), {"links_expire": LINKS_S, "callbacks": "none"}
    settings: dict[str, Any] = {"queue_per_token": 10_000}
    if with_storage:
        settings["artifacts"] = f"file://{folder / 'files'}"
    async with journey(folder, sandbox_clock=clock, faults=faults, times_s=(0.0, 0.0), **settings) as here:
        await here.subscribe(types=["job.succeeded"])
        jobs = [await here.submit(text_prompt=f"hill {n}") for n in range(count)]
        await here.subscriber.wait_for(count, 4 * WAIT_S)
        if with_storage:
            await here.until(
                lambda: pages(here, "/v1/artifacts?state=kept", "cursor"), lambda rows: len(rows) == 2 * count
            )
        clock.advance(LATER_S)
        if with_storage:
            here.vendor.faults.replace({"links_fail": "500"})
        asked = here.vendor.requests.get("/tasks/{taskId}", 0)
        found = [(name, url) for name, urls in (await addresses(here, jobs)).items() for url in urls]
        wrong = await wrong_ones([url for _, url in found], right(here.vendor))
        links = [artifact["sourceUrl"] for job in jobs for artifact in (await here.job(job["id"]))["artifacts"]]
        dead = len(await wrong_ones(links, {}))
        questions = here.vendor.requests.get("/tasks/{taskId}", 0) - asked
    return Outlived(count, with_storage, dead, Counter(name for name, _ in found), wrong, questions)


async def pages(here: Journey, path: str, cursor: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    more = ""
    while True:
        page = await here.get(f"{path}{'&' if '?' in path else '?'}limit={PAGE}{more}")
        rows += page["data"]
        if page["next"] is None or not page["data"]:
            return rows
        more = f"&{cursor}={page['next']}"


async def addresses(here: Journey, jobs: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Every address that the relay gives, by where it stands, made now but for the webhooks'."""
    events = await pages(here, "/v1/events?since=earliest", "last_event_id")
    tasks = [await here.get(f"/v1/runwayml/tasks/{job['taskId']}") for job in jobs]
    return {
        "events": list(of([event["data"]["job"] for event in events if "job" in event["data"]])),
        "webhooks": list(of([json.loads(body)["data"]["job"] for _, body in here.subscriber.got])),
        "jobs": list(of(await pages(here, "/v1/jobs", "cursor"))),
        "tasks": list(of(tasks)),
    }


def of(bodies: Sequence[dict[str, Any]]) -> Iterator[str]:
    for body in bodies:
        for artifact in body["artifacts"]:
            yield from (artifact["url"], *artifact["previewUrls"])


def right(vendor: Vendor) -> dict[str, str]:
    """The SHA-256 of each file as the sandbox has it, by the path of its address up to the extension."""
    found = {}
    for task in vendor.register.oldest_first():
        of_job = f"/v1/artifacts/{job_of(task.reply_ref)}-0/"
        found[f"{of_job}video"] = hashlib.sha256(b"".join(vendor.asking.film(task).read())).hexdigest()
        found[f"{of_job}preview-1"] = hashlib.sha256(preview(task.task_id)).hexdigest()
    return found


async def wrong_ones(urls: Sequence[str], wanted: dict[str, str]) -> list[str]:
    """Those that do not serve what is wanted of their path; opened by somebody without a token."""
    limit, said = asyncio.Semaphore(AT_ONCE), dict[str, str]()
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S) as stranger:

        async def is_right(url: str) -> bool:
            async with limit:
                answer = await stranger.get(url)
            path = httpx2.URL(url).path.rpartition(".")[0]
            is_good = answer.status_code == 200 and hashlib.sha256(answer.content).hexdigest() == wanted.get(path)
            if not is_good:
                said[url] = f"{answer.status_code}, {len(answer.content)} bytes: {answer.content[:200]!r}"
            return is_good

        good = await asyncio.gather(*map(is_right, urls))
    return [f"{url} ({said[url]})" for url, is_good in zip(urls, good, strict=True) if not is_good]


if __name__ == "__main__":
    for kept in (True, False):
        with TemporaryDirectory() as place:
            jobs_wanted = int(sys.argv[1]) if sys.argv[1:] else 200
            print(asyncio.run(outlived(Path(place), jobs_wanted, with_storage=kept)))
