"""`relay serve` starts with a reason to, ends when it is told to, and leaves nobody with half an answer."""

import asyncio
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import pytest

from relay.clock import ManualClock
from relay.serve import bound
from tests.journeys import ADMIN_TOKEN, Surroundings, eventually, surroundings
from tests.whole.processes import environment, free_port, serving, started
from tests.wire import stream, wire

pytestmark = pytest.mark.anyio

STREAMS = 25


@pytest.mark.parametrize("by", [SIGTERM, SIGINT])
async def test_told_to_stop_it_says_goodbye_on_every_stream_and_exits_with_0(tmp_path: Path, by: Signals) -> None:
    async with surroundings(tmp_path, sandbox_clock=ManualClock()) as around, serving(around, free_port()) as relay:
        job_id = await relay.submit()
        await relay.told(job_id, "job.submitted")
        async with AsyncExitStack() as stack:
            paths = ["/v1/events?since=earliest", f"/v1/jobs/{job_id}/events"]
            streams = [
                await stack.enter_async_context(stream(relay.url, paths[n % len(paths)])) for n in range(STREAMS)
            ]
            silent = await stack.enter_async_context(wire(relay.url))  # connected, and says nothing
            for one in streams:
                await one.events(until=lambda frame: frame.event == "job.submitted")
            began_s = time.monotonic()
            code = await relay.stopped(by)
            rest = [await one.events() for one in streams]
            nothing = await silent.reader.read()

    assert code == 0
    assert time.monotonic() - began_s < 10
    for one, frames in zip(streams, rest, strict=True):
        assert one.ended, "the body of a stream must be whole"
        bye = frames[-1]
        assert (bye.event, bye.data["reason"]) == ("stream.bye", "drain")
        assert bye.data["resume"].endswith("-2")
    assert nothing == b""
    assert not any("Traceback" in line for line in relay.lines)


async def test_a_create_that_is_under_way_ends_before_the_relay_does(tmp_path: Path) -> None:
    faults = {"create_slow": {"value": 0.5, "real": True}}
    async with surroundings(tmp_path, faults=faults) as around:
        port = free_port()
        async with serving(around, port) as relay:
            job_id = await relay.submit()
            await eventually(lambda: around.vendor.submits == 1)
            code = await relay.stopped(SIGTERM)
        async with serving(around, port) as relay:
            events = await relay.told(job_id)

    assert code == 0
    assert "job.in_doubt" not in [frame.event for frame in events]
    assert events[-1].event == "job.succeeded"


def test_no_answer_waits_for_the_acknowledgement_of_its_head() -> None:
    with bound("127.0.0.1", 0) as listening:
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def refused(around: Surroundings, env: dict[str, str]) -> str:
    """What a relay says that does not start."""
    process = await started(around, env)
    async with asyncio.timeout(30):
        _, said = await process.communicate()
    assert process.returncode == 1
    text = said.decode()
    assert "Traceback" not in text
    return text


async def test_a_second_relay_on_the_same_database_is_refused_in_words(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around, serving(around, free_port()) as relay:
        said = await refused(around, environment(around, free_port()))
        alive = await relay.client.get("/healthz")

    assert "another relay already uses" in said
    assert "relay.db" in said
    assert alive.status_code == 200


async def test_a_port_that_is_taken_is_refused_in_words(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        taken = int(around.sandbox_url.rpartition(":")[2])
        said = await refused(around, environment(around, taken))

    assert "RELAY_PORT" in said
    assert str(taken) in said


async def test_all_wrong_settings_are_told_at_once_and_no_secret_with_them(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        wrong = {"admin_token": "too-short", "publik_url": "x", "in_doubt_after": "soon"}
        env = environment(around, free_port(), **wrong) | {"RELAY_PORT": "many"}
        said = await refused(around, env)

    for name in ("RELAY_ADMIN_TOKEN", "RELAY_PORT", "RELAY_PUBLIK_URL", "RELAY_IN_DOUBT_AFTER"):
        assert name in said
    assert "too-short" not in said
    assert ADMIN_TOKEN not in said
