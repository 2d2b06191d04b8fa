"""`GET /v1/jobs`: every filter at the door, words in prompts, only one's own; and all of it as lines of JSON."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from relay.store import reads
from tests.core.builders import job
from tests.journeys import EXAMPLE, Journey, eventually, journey
from tests.store.serving import Writes
from tests.wire import request, wire

pytestmark = pytest.mark.anyio

LINES = {"Accept": "application/x-ndjson"}
MANY = 2_000
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
async def full(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Journey]:
    """A relay with many jobs that have ended, a second apart; the oldest one is a day old."""
    async with journey(tmp_path_factory.mktemp("full")) as here:
        first_ms = here.node.clock.now_ms() - DAY_MS
        made = [
            job(
                id=f"job-{n}", task_id=f"task-{n}", state="failed" if n % 10 == 0 else "succeeded",
                model="sora-2" if n % 2 else "gen4.5", account=f"{n % 3}@example.com", reply_ref=f"ref-{n % 100}",
                origin="dropin" if n % 4 == 0 else "api", request={"text_prompt": f"A coast, take {n}"},
                created_at_ms=first_ms + n * 1000, finished_at_ms=first_ms + n * 1000 + 500,
            )
            for n in range(MANY)
        ]  # fmt: skip
        for n in range(0, MANY, 500):
            await here.node.app.state.store.apply(Writes(tuple(made[n : n + 500])))
        yield here


async def numbers(here: Journey, **query: Any) -> list[int]:
    answer = await here.client.get("/v1/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [int(found["id"].partition("-")[2]) for found in answer.json()["data"]]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"account": "2@example.com", "limit": 3}, [1997, 1994, 1991]),
        ({"account": ["2@example.com", "1@example.com"], "state": "failed", "limit": 2}, [1990, 1970]),
        ({"origin": "dropin", "model": "gen4.5", "limit": 2}, [1996, 1992]),
        ({"replyRef": ["ref-7", "ref-8"], "limit": 3}, [1908, 1907, 1808]),
        ({"q": "COAST 1234"}, [1234]),
        ({"q": '"coast" AND -NEAR(* 17:'}, []),
        ({"q": "take: 17*"}, [17]),
        ({"q": "coast", "state": "failed", "limit": 2}, [1990, 1980]),
        ({"until": "86390s", "limit": 2}, [9, 8]),
        ({"since": "84420s", "limit": 1, "state": "failed"}, [1990]),
    ],
)
async def test_every_filter_finds_what_it_says_newest_first(
    full: Journey, query: dict[str, Any], found: list[int]
) -> None:
    seen = await numbers(full, **query)
    # What is measured from now has moved on by as long as the test takes.
    assert seen == found or ("until" in query and seen[0] - seen[1] == 1 and seen[0] >= found[0])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"q": "- ! '"}, "query.q"),
        ({"q": "word " * 21}, "query.q"),
        ({"q": "x" * 501}, "query.q"),
        ({"origin": "elsewhere"}, "query.origin"),
        ({"until": "tomorrow"}, "query.until"),
        ({"model": ["x"] * 51}, "query.model"),
    ],
)
async def test_a_filter_that_is_none_is_refused_by_name(full: Journey, query: dict[str, Any], field: str) -> None:
    answer = await full.client.get("/v1/jobs", params=query)
    assert (answer.status_code, answer.json()["problems"][0]["field"]) == (400, field)


async def test_a_rare_job_among_many_is_found_over_pages_that_say_how_to_go_on(
    full: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "LOOKED_AT_MAX", 150)
    first = await full.get("/v1/jobs?q=coast&replyRef=ref-3")
    second = await full.get(f"/v1/jobs?q=coast&replyRef=ref-3&cursor={first['next']}")
    assert [[job["id"] for job in page["data"]] for page in (first, second)] == [
        ["job-1903"],
        ["job-1803", "job-1703"],
    ]


async def test_all_jobs_come_as_lines_the_same_as_in_the_pages(full: Journey) -> None:
    walked: list[Any] = []
    more = {"model": "sora-2", "limit": "200"}
    while True:
        page = (await full.client.get("/v1/jobs", params=more)).json()
        walked += page["data"]
        if page["next"] is None:
            break
        more["cursor"] = page["next"]
    answer = await full.client.get("/v1/jobs?model=sora-2", headers=LINES)
    lines = [json.loads(line) for line in answer.text.splitlines()]

    assert answer.headers["content-type"] == "application/x-ndjson"
    assert lines == walked
    assert len(lines) == MANY / 2
    few = await full.client.get("/v1/jobs?model=sora-2&limit=3", headers=LINES)
    assert [json.loads(line) for line in few.text.splitlines()] == walked[:3]


async def test_nobody_exports_more_than_it_may_read(full: Journey) -> None:
    made = await full.client.post("/v1/tokens", json={"name": "exporter", "scopes": ["submit"]})
    headers = {"Authorization": f"Bearer {made.json()['token']}"}
    own = (await full.client.post("/v1/jobs", json=EXAMPLE, headers=headers)).json()["id"]
    for query in ("", "?q=coast", "?q=city&state=running&state=queued&state=succeeded&state=submitting"):
        answer = await full.client.get(f"/v1/jobs{query}", headers=headers | LINES)
        assert [json.loads(line)["id"] for line in answer.text.splitlines()] == ([] if "coast" in query else [own])


async def test_a_reader_that_leaves_ends_its_export_and_one_that_stalls_holds_little(full: Journey) -> None:
    asked = 0
    page = full.node.app.state.store.job_page

    async def counted(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        return await page(*args)

    full.node.app.state.store.job_page = counted
    try:
        async with wire(full.relay_url) as reader:
            await reader.send(request("GET", "/v1/jobs", LINES))
            assert (await reader.head())[0] == 200
            assert json.loads((await reader.chunk()).splitlines()[0])["id"]
            await eventually(lambda: asked > 1)
        await eventually(lambda: not any("_Lines" in str(task.get_coro()) for task in asyncio.all_tasks()))
        assert asked < MANY / 200
    finally:
        full.node.app.state.store.job_page = page


async def test_an_export_takes_the_place_of_a_stream(full: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full.node.app.state.streams, "_most", 0)
    refused = await full.client.get("/v1/jobs", headers=LINES)
    page = await full.client.get("/v1/jobs")
    assert (refused.status_code, refused.headers["retry-after"], page.status_code) == (503, "5", 200)
