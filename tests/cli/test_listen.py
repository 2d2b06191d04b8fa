"""`relay listen`, as a process of its own, between a real relay and a real receiver."""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from relay.vault import new_webhook_secret
from tests.cli.test_commands import at, relay
from tests.journeys import ADMIN_TOKEN, WAIT_S, Subscriber, eventually, journey, surroundings
from tests.whole.processes import free_port, serving

pytestmark = pytest.mark.anyio

SECRET = new_webhook_secret()


@dataclass
class Listening:
    """A running command, and what it prints."""

    process: asyncio.subprocess.Process
    said: str = ""

    async def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            told: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return told

    async def stopped(self, by: signal.Signals) -> int:
        if self.process.returncode is None:
            self.process.send_signal(by)
            async with asyncio.timeout(WAIT_S):
                self.said = (await self.process.communicate())[1].decode()
        return self.process.returncode or 0


@asynccontextmanager
async def listening(url: str, to: str, checkpoint: Path, *options: str) -> AsyncGenerator[Listening]:
    """`relay listen --json`, once it has kept a position: nothing that happens from now on escapes it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    command = [sys.executable, "-m", "relay.cli.main", "listen", "--json", "--forward-to", to, "--secret", SECRET]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--checkpoint",
        str(checkpoint),
        *options,
        env=inherited | {"RELAY_URL": url, "RELAY_TOKEN": ADMIN_TOKEN},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Listening(process)
    try:
        await eventually(lambda: process.returncode is not None or position(checkpoint) is not None)
        yield running
    finally:
        await running.stopped(signal.SIGKILL)


def position(checkpoint: Path) -> str | None:
    return json.loads(checkpoint.read_bytes())["position"] if checkpoint.exists() else None


def ids(receiver: Subscriber) -> list[str]:
    return [headers["webhook-id"] for headers, _ in receiver.got]


async def test_events_arrive_signed_and_in_order_and_sigint_ends_it_cleanly(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        receiver, kept = here.subscriber, tmp_path / "state" / "here.json"
        async with listening(here.relay_url, receiver.url, kept, "--types=all") as listen:
            job = await here.submit()
            final = await here.ended(job["id"])
            expected = await here.get(f"/v1/jobs/{job['id']}/events")
            bodies = await receiver.wait_for(len(expected["data"]))
            lines = [await listen.line() for _ in bodies]
            await eventually(lambda: position(kept) == bodies[-1]["id"])
            code = await listen.stopped(signal.SIGINT)

        assert [body["id"] for body in bodies] == [event["id"] for event in expected["data"]] == ids(receiver)
        assert bodies[-1]["data"]["job"]["state"] == final["state"] == "succeeded"
        assert bodies[-1]["data"]["job"]["artifacts"][0]["url"].startswith(f"{here.relay_url}/v1/artifacts/")
        for headers, body in receiver.got:
            Webhook(SECRET).verify(body, headers)
        assert [(line["event"], line["status"], line["try"]) for line in lines] == [
            (each, 200, 1) for each in ids(receiver)
        ]
        assert code == 0
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert list(kept.parent.iterdir()) == [kept]


async def test_what_is_refused_is_sent_again_before_the_next_one(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        here.subscriber.answers = [500, 302, 200]
        async with listening(here.relay_url, here.subscriber.url, tmp_path / "kept") as listen:
            first, second = await here.submit(), await here.submit()
            bodies = await here.subscriber.wait_for(4)
            lines = [await listen.line() for _ in range(4)]

        assert {first["id"], second["id"]} == {bodies[0]["data"]["job"]["id"], bodies[3]["data"]["job"]["id"]}
        assert [line["status"] for line in lines] == [500, 302, 200, 200]
        assert [line["againInS"] for line in lines] == [0.5, 1.0, None, None]
        assert len(set(ids(here.subscriber)[:3])) == 1
        for headers, body in here.subscriber.got:
            Webhook(SECRET).verify(body, headers)


async def test_killed_and_started_again_it_goes_on_behind_the_last_one_that_succeeded(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        receiver, kept = here.subscriber, tmp_path / "kept"
        async with listening(here.relay_url, receiver.url, kept) as listen:
            await here.ended((await here.submit())["id"])
            await receiver.wait_for(1)
            await eventually(lambda: position(kept) == ids(receiver)[0])
            receiver.open.clear()
            jobs = [(await here.submit())["id"] for _ in range(5)]
            for job in jobs:
                await here.ended(job)
            await receiver.wait_for(2)
            await listen.stopped(signal.SIGKILL)
        receiver.open.set()
        async with listening(here.relay_url, receiver.url, kept):
            await receiver.wait_for(7)
            await eventually(lambda: position(kept) == ids(receiver)[-1])

        got = ids(receiver)
        assert got[1] == got[2]
        assert len(got) == 7
        assert len(set(got)) == 6
        finals = [event["id"] for event in (await here.get("/v1/events?since=earliest&type=job.succeeded"))["data"]]
        assert got[:1] + got[2:] == finals


async def test_it_outlives_the_relay(tmp_path: Path) -> None:
    port = free_port()
    async with surroundings(tmp_path) as around:
        receiver, kept = around.subscriber, tmp_path / "kept"
        async with serving(around, port) as relaying, listening(relaying.url, receiver.url, kept):
            await relaying.submit()
            await receiver.wait_for(1)
            assert await relaying.stopped(signal.SIGTERM) == 0
            async with serving(around, port) as again:
                await again.submit()
                await receiver.wait_for(2)

        assert len(ids(receiver)) == len(set(ids(receiver))) == 2


async def test_types_and_jobs_choose_and_since_goes_back(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        other, job = await here.submit(), await here.submit()
        await here.ended(other["id"])
        await here.ended(job["id"])
        chosen = (f"--job={job['id']}", "--types=job.queued,job.succeeded", "--since=earliest")
        async with listening(here.relay_url, here.subscriber.url, tmp_path / "kept", *chosen):
            bodies = await here.subscriber.wait_for(2)

        assert [body["type"] for body in bodies] == ["job.queued", "job.succeeded"]
        assert {body["data"]["job"]["id"] for body in bodies} == {job["id"]}


async def test_a_position_that_the_relay_does_not_have_is_told_and_all_that_is_kept_comes(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text('{"position": "deadbeef-7", "secret": null}')
    async with journey(tmp_path) as here:
        job = await here.submit()
        await here.ended(job["id"])
        async with listening(here.relay_url, here.subscriber.url, kept) as listen:
            [body] = await here.subscriber.wait_for(1)
            await eventually(lambda: position(kept) == body["id"])
            assert await listen.stopped(signal.SIGTERM) == 0

    assert body["data"]["job"]["id"] == job["id"]
    assert "stream.gap" in listen.said
    assert "deadbeef-7" in listen.said


async def test_stopped_while_an_event_is_under_way_it_says_nothing_and_sends_it_again(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        here.subscriber.open.clear()
        async with listening(here.relay_url, here.subscriber.url, tmp_path / "kept") as listen:
            await here.submit()
            await here.subscriber.wait_for(1)
            code = await listen.stopped(signal.SIGINT)
        here.subscriber.open.set()
        async with listening(here.relay_url, here.subscriber.url, tmp_path / "kept"):
            await here.subscriber.wait_for(2)

    assert (code, listen.said.count("\n")) == (0, 1)  # what it forwards, and no trace of an error
    assert len(set(ids(here.subscriber))) == 1


async def test_what_cannot_work_is_said_at_once(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("{}")
    async with journey(tmp_path) as here:
        env, to = at(here) | {"XDG_STATE_HOME": str(tmp_path)}, "--forward-to=http://localhost:9/hook"
        results = [
            (await relay("listen", *options, env=env | more), word)
            for options, more, word in (
                ((to, f"--checkpoint={broken}"), {}, "is no checkpoint"),
                ((to, f"--checkpoint={broken}/x"), {}, "broken/x"),
                ((to, "--secret=whsec_short"), {}, "secret must be"),
                ((to, "--types=job.nonsense"), {}, "type"),
                ((to,), {"RELAY_TOKEN": "wrong"}, "not known"),
                (("--forward-to=localhost:3000",), {}, "begins with http"),
                ((), {}, "forward-to"),
            )
        ]

    for (code, _, said), word in results:
        assert code in (1, 2)
        assert word in said
        assert "Traceback" not in said
