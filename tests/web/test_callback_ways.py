"""A callback that comes in one piece goes past ASGI, any other does not: both are answered, kept and counted alike."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from relay.clock import ManualClock
from relay.core.receiving import CALLBACKS_MAX
from relay.errors import Unavailable
from relay.web.app import App
from tests.journeys import Journey, journey
from tests.wire import wire

pytestmark = pytest.mark.anyio

TASK = {"status": "RUNNING", "progressRatio": "0.25"}


@dataclass
class Door:
    """A job that runs, and its callback address; `ways` is how the requests so far have gone."""

    here: Journey
    job: dict[str, Any]
    token: str
    ways: list[str] = field(default_factory=list)

    async def shown(self, body: bytes, token: str = "", *, way: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers but for the date, and body of the answer."""
        head = (
            f"POST /callbacks/{token or self.token} HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        async with wire(self.here.relay_url) as connection:
            if way == "direct":
                await connection.send(head + body)
            else:
                await connection.send(head + body[:3])
                await self.here.get("/healthz")  # by now the first piece was read
                await connection.send(body[3:])
            status, headers = await connection.head()
            content = await connection.reader.readexactly(int(headers.pop("content-length")))
        del headers["date"]
        return status, headers, json.loads(content)

    def counted(self, outcome: str) -> float:
        registry = self.here.node.app.state.metrics.registry
        return float(registry.get_sample_value("relay_callbacks_total", {"outcome": outcome}) or 0)


@pytest.fixture
async def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Door]:
    clock = ManualClock()
    faults = {"callbacks": "none"}
    async with journey(tmp_path, clock=clock, sandbox_clock=clock, times_s=(10, 50), faults=faults) as here:
        job = await here.job_in((await here.submit())["id"], "running")
        tasks = here.vendor.state(clock.now_ms())["tasks"]
        token = next(task["replyUrl"] for task in tasks if job["id"] in task["replyRef"]).rpartition("/")[2]
        made, app = Door(here, job, token), cast("App", here.node.app)
        answer_directly = app.answer_directly

        def directly(*request: Any) -> None:
            made.ways.append("direct")
            answer_directly(*request)

        monkeypatch.setattr(app, "answer_directly", directly)
        yield made


def numbered(n: int) -> bytes:
    return json.dumps({**TASK, "n": n}).encode()


@pytest.mark.parametrize(
    ("bodies", "token", "status", "outcome"),
    [
        ((numbered(1), numbered(2)), "", 200, "stored"),
        ((b"no JSON 1", b"no JSON 2"), "", 200, "quarantined"),
        ((numbered(3), numbered(3)), "x" * 40, 404, "not_found"),
        ((b"x" * (1024 * 1024 + 1),) * 2, "", 413, "body_too_large"),
    ],
    ids=["stored", "quarantined", "unknown", "too long"],
)
async def test_both_ways_end_alike(
    door: Door, bodies: tuple[bytes, bytes], token: str, status: int, outcome: str
) -> None:
    before = door.counted(outcome)
    direct = await door.shown(bodies[0], token, way="direct")
    by_asgi = await door.shown(bodies[1], token, way="asgi")

    assert direct == by_asgi
    assert direct[0] == status
    # What is longer than a read of the socket has come in pieces.
    assert door.ways == (["direct"] if status != 413 else [])
    assert door.counted(outcome) == before + 2


async def test_the_same_body_is_one_event_whichever_way_it_comes_again(door: Door) -> None:
    first = await door.shown(numbered(1), way="direct")
    again = [await door.shown(numbered(1), way=way) for way in ("asgi", "direct")]

    assert [answer[2]["result"] for answer in (first, *again)] == ["stored", "duplicate", "duplicate"]
    listed = (await door.here.get(f"/v1/jobs/{door.job['id']}/callbacks"))["data"]
    assert [row["status"] for row in listed] == ["RUNNING"]
    assert (await door.here.job(door.job["id"]))["progress"] == 0.25


async def test_what_the_ledger_refuses_is_told_the_same_both_ways(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.core.receiving.CALLBACKS_MAX", 0)
    full = [await door.shown(numbered(n), way=way) for n, way in enumerate(("direct", "asgi"))]
    assert full[0] == full[1]
    assert (full[0][0], full[0][1]["retry-after"], full[0][2]["code"]) == (429, "3600", "limit_reached")
    monkeypatch.setattr("relay.core.receiving.CALLBACKS_MAX", CALLBACKS_MAX)

    store = door.here.node.app.state.store

    def broken(error: Exception) -> None:
        def commit(group: Any) -> Any:
            raise error

        monkeypatch.setattr(store._file, "commit", commit)

    broken(Unavailable("the disk is full", retry_after_s=2))
    refused = [await door.shown(numbered(n), way=way) for n, way in enumerate(("direct", "asgi"))]
    assert refused[0] == refused[1]
    assert (refused[0][0], refused[0][1]["retry-after"]) == (503, "2")

    broken(LookupError("a defect"))
    defects = [await door.shown(numbered(n), way=way) for n, way in enumerate(("direct", "asgi"))]
    assert defects[0] == defects[1]
    assert (defects[0][0], defects[0][2]["code"]) == (500, "internal")
    assert "defect" not in json.dumps(defects[0])

    monkeypatch.setattr(store._writer, "_waiting", [None] * 5_000)
    crowded = [await door.shown(numbered(n), way=way) for n, way in enumerate(("direct", "asgi"))]
    monkeypatch.undo()
    assert crowded[0] == crowded[1]
    assert (crowded[0][0], crowded[0][1]["retry-after"]) == (503, "2")
    assert (await door.shown(numbered(9), way="asgi"))[2] == {"result": "stored"}
