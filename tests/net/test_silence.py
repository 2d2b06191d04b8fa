"""An upstream that answers nothing is known by several requests in a row, and each request is counted by its answer."""

import pytest

from relay.clock import ManualClock
from relay.net.upstream import SILENT_AFTER, Upstream
from relay.observe import Metrics
from tests.net.peers import answering, serving

pytestmark = pytest.mark.anyio

TASK_ID = "user:7-runwayml:me@example.com-task:0f0e0d0c-0b0a-4908-8706-050403020100"


def says(status: int) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" % status


async def silent_s(*statuses: int) -> list[float]:
    """How long it seems silent behind each answer, three seconds between them."""
    clock, found = ManualClock(), []
    async with serving(answering(*map(says, statuses))) as peer:
        upstream = Upstream(f"http://127.0.0.1:{peer.port}", "token", clock=clock)
        for _ in statuses:
            await upstream.scheduler()
            clock.advance(3)
            found.append(upstream.silent_s())
        await upstream.aclose()
    return found


async def test_several_failures_in_a_row_are_silence_since_the_first_of_them() -> None:
    assert SILENT_AFTER == 3
    assert await silent_s(500, 503, 522, 500) == [0, 0, 9, 12]


@pytest.mark.parametrize("status", [200, 401, 404, 429])
async def test_whatever_it_answers_itself_ends_the_silence(status: int) -> None:
    assert await silent_s(500, 500, 500, status, 500, 500, 500) == [0, 0, 9, 0, 0, 0, 9]


async def test_a_failure_just_now_is_silence_too() -> None:
    upstream = Upstream("http://127.0.0.1:1", "token", clock=ManualClock())
    for _ in range(SILENT_AFTER):
        await upstream.scheduler()
    await upstream.aclose()

    assert upstream.silent_s() > 0


async def test_every_request_is_counted_by_what_it_was_for_and_what_came() -> None:
    metrics = Metrics()
    answers = [says(200), says(429), says(404), says(503), says(302), says(200), says(200)]
    async with serving(answering(*answers)) as peer:
        upstream = Upstream(f"http://127.0.0.1:{peer.port}", "token", clock=ManualClock(), metrics=metrics)
        await upstream.task(TASK_ID)
        await upstream.task(TASK_ID)
        await upstream.tasks("me@example.com")
        await upstream.scheduler()
        await upstream.accounts()
        await upstream.create({})
        await upstream.forward("GET", "/features/", [], {}, None)
        await upstream.aclose()
    gone = Upstream("http://127.0.0.1:1", "token", clock=ManualClock(), metrics=metrics)
    await gone.create({})
    await gone.aclose()
    counted = {
        (sample.labels["kind"], sample.labels["outcome"]): sample.value
        for family in metrics.upstream.collect()
        for sample in family.samples
        if sample.value
    }

    assert counted == dict.fromkeys(
        [
            ("task", "2xx"), ("task", "429"), ("tasks", "4xx"), ("scheduler", "5xx"), ("accounts", "3xx"),
            ("create", "2xx"), ("forwarded", "2xx"), ("create", "failed"),
        ],
        1,
    )  # fmt: skip
