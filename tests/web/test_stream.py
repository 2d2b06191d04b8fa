"""Event streams: resumed anywhere without a gap or a double, alive when nothing happens, whole to their last byte."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.clock import ManualClock
from relay.core import sse
from relay.errors import Unavailable
from tests.conformance.target import numbers
from tests.journeys import EXAMPLE, Journey, eventually, journey, surroundings, while_time_passes
from tests.rest import at_rest
from tests.wire import Frame, Wire, request, stream, wire

pytestmark = pytest.mark.anyio


def path_of(job: dict[str, Any]) -> str:
    return f"/v1/jobs/{job['id']}/events"


async def listed(here: Journey, path: str) -> list[dict[str, Any]]:
    """The events of `path` as its JSON door shows them, but for what the operator is told of a clock moved by hand."""
    data: list[dict[str, Any]] = (await here.get(path))["data"]
    return [event for event in data if event["type"] != "clock.skewed"]


def ids(events: Sequence[Frame | dict[str, Any]]) -> list[str]:
    return [str(event.id if isinstance(event, Frame) else event["id"]) for event in events]


def without_addresses(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what is made anew at every read."""
    job = event["data"]["job"]
    artifacts = [artifact | {"url": None, "previewUrls": None} for artifact in job["artifacts"]]
    return event | {"data": {"job": job | {"artifacts": artifacts}}}


async def open_frame(connection: Wire) -> dict[str, Any]:
    frame = await connection.event()
    assert frame is not None
    assert (frame.event, frame.id) == ("stream.open", None)
    data: dict[str, Any] = frame.data
    return data


async def test_the_head_and_the_first_frames_are_those_of_the_contract(here: Journey, ended: dict[str, Any]) -> None:
    async with wire(here.relay_url) as connection:
        await connection.send(request("GET", path_of(ended), {"Accept": "text/event-stream"}))
        status, headers = await connection.head()
        first = await connection.chunk()

    assert status == 200
    assert headers["cache-control"] == "private, no-store, no-transform"
    assert headers["x-accel-buffering"] == "no"
    retry, comment, name, data, *_ = first.decode().split("\n")
    assert 1_500 <= int(retry.removeprefix("retry: ")) <= 4_500
    assert (comment[0], name) == (":", "event: stream.open")
    opened = json.loads(data.removeprefix("data: "))
    assert opened["heartbeatS"] == 15
    assert (opened["resumedFrom"], opened["gap"]) == (None, False)
    assert opened["head"].startswith(opened["epoch"] + "-")


async def test_the_stream_of_a_job_begins_at_its_beginning_and_ends_with_its_end(
    here: Journey, ended: dict[str, Any]
) -> None:
    async with stream(here.relay_url, path_of(ended)) as connection:
        await open_frame(connection)
        events = await connection.events()

    assert connection.ended
    assert events[0].event == "job.queued"
    assert events[-1].event == "job.succeeded"
    shown = [without_addresses(frame.data) for frame in events]
    assert shown == [without_addresses(event) for event in await listed(here, path_of(ended))]
    assert all(frame.id == frame.data["id"] and frame.event == frame.data["type"] for frame in events)
    numbers = [int(id_.rpartition("-")[2]) for id_ in ids(events)]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("by", ["header", "query", "an empty header beside the query"])
async def test_a_reader_that_comes_back_gets_what_it_has_not_seen(
    here: Journey, ended: dict[str, Any], by: str
) -> None:
    all_ids = ids(await listed(here, path_of(ended)))
    for seen in range(len(all_ids) - 1):
        headers = {"Last-Event-ID": all_ids[seen] if by == "header" else ""} if "header" in by else {}
        query = "" if by == "header" else f"?last_event_id={all_ids[seen]}"
        async with stream(here.relay_url, path_of(ended) + query, headers) as connection:
            opened = await open_frame(connection)
            rest = await connection.events()

        assert (opened["resumedFrom"], opened["gap"]) == (all_ids[seen], False)
        assert ids(rest) == all_ids[seen + 1 :]


async def test_the_header_goes_before_the_query(here: Journey, ended: dict[str, Any]) -> None:
    all_ids = ids(await listed(here, path_of(ended)))
    path = f"{path_of(ended)}?last_event_id={all_ids[0]}"
    async with stream(here.relay_url, path, {"Last-Event-ID": all_ids[2]}) as connection:
        await open_frame(connection)

        assert ids(await connection.events()) == all_ids[3:]


async def test_past_the_end_of_a_job_there_is_nothing_more_to_come(here: Journey, ended: dict[str, Any]) -> None:
    last = (await listed(here, path_of(ended)))[-1]["id"]
    sse_only = {"Accept": "text/event-stream"}
    for query, headers in (("", {"Last-Event-ID": last}), (f"?last_event_id={last}", {}), ("?since=now", {})):
        answer = await here.client.get(path_of(ended) + query, headers=sse_only | headers)

        assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("cursor", ["7", "abc", "00000000-", "0000000g-7", "00000000-7x", "00000000-" + "9" * 30, "-1"])
@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_a_bad_cursor_is_refused_with_the_name_of_its_field(here: Journey, cursor: str, accept: str) -> None:
    by_header = await here.client.get("/v1/events", headers={"Accept": accept, "Last-Event-ID": cursor})
    by_query = await here.client.get("/v1/events", params={"last_event_id": cursor}, headers={"Accept": accept})

    for answer, field in ((by_header, "Last-Event-ID"), (by_query, "query.last_event_id")):
        assert answer.status_code == 400
        assert [(p["field"], p["rule"]) for p in answer.json()["problems"]] == [(field, "cursor")]


@pytest.mark.parametrize("since", ["yesterday", "5", "5w", "-5m", "99999999999d", "2026-13-01", ""])
async def test_a_bad_since_is_refused(here: Journey, since: str) -> None:
    answer = await here.client.get("/v1/events", params={"since": since})

    assert answer.status_code == 400
    assert answer.json()["problems"][0]["field"] == "query.since"


async def test_each_path_has_its_own_beginning(still: tuple[Journey, ManualClock]) -> None:
    here, clock = still
    first = await here.job_in((await here.submit())["id"], "running")
    early = datetime.fromtimestamp(clock.now_ms() / 1000 + 1, UTC).isoformat().replace("+00:00", "Z")
    clock.advance(600)
    second = await here.job_in((await here.submit())["id"], "running")
    everything = await listed(here, "/v1/events?since=earliest")
    of_first, of_second = [await listed(here, path_of(job)) for job in (first, second)]

    assert ids(everything) == sorted(ids(of_first) + ids(of_second), key=lambda id_: int(id_[9:]))
    assert await listed(here, "/v1/events") == []
    assert await listed(here, "/v1/events?since=now") == []
    assert ids(await listed(here, f"/v1/events?job={first['id']}")) == ids(of_first)
    for since in ("5m", "300s", early):
        assert ids(await listed(here, f"/v1/events?since={since}")) == ids(of_second), since
    for since in ("11m", "2h", "1d", "2020-01-01T00:00:00Z"):
        assert ids(await listed(here, f"/v1/events?since={since}")) == ids(everything), since


async def test_pages_of_json_go_on_where_the_last_one_ended(here: Journey, ended: dict[str, Any]) -> None:
    all_ids = ids(await listed(here, path_of(ended)))
    walked: list[str] = []
    cursor = ""
    while len(walked) < len(all_ids):
        page = await here.get(f"{path_of(ended)}?limit=2{cursor}")
        walked += ids(page["data"])
        cursor = f"&last_event_id={page['next']}"
    after = await here.get(f"{path_of(ended)}?limit=2{cursor}")

    assert walked == all_ids
    assert after["data"] == []
    # Past other jobs' events, too, which it need not have looked at again.
    assert numbers([after["next"]]) >= numbers(all_ids[-1:])


async def test_a_reader_that_reconnects_after_every_event_misses_nothing_and_sees_nothing_twice(
    tmp_path: Path,
) -> None:
    async with journey(tmp_path) as here:
        seen: list[str] = []
        finals = 0
        cursor = "?since=earliest"
        jobs = [asyncio.create_task(here.submit()) for _ in range(4)]
        while finals < len(jobs):
            async with stream(here.relay_url, f"/v1/events{cursor}") as connection:
                await open_frame(connection)
                frame = await connection.event()
            assert frame is not None
            assert frame.id is not None
            if frame.data:
                seen.append(frame.id)
                finals += frame.event == "job.succeeded"
            cursor = f"?last_event_id={frame.id}"
        await asyncio.gather(*jobs)

        assert seen == ids(await listed(here, "/v1/events?since=earliest&limit=500"))


async def test_filters_choose_what_a_reader_sees(here: Journey) -> None:
    job, other = await here.submit(replyRef="mine"), await here.submit(replyRef="not mine")
    path = "/v1/events?since=earliest&replyRef=mine&type=job.queued&type=job.succeeded"
    async with stream(here.relay_url, path) as connection:
        await open_frame(connection)
        events = await connection.events(until=lambda frame: frame.event == "job.succeeded")
    await here.ended(other["id"])

    assert [(frame.event, frame.data["data"]["job"]["id"]) for frame in events if frame.data] == [
        ("job.queued", job["id"]),
        ("job.succeeded", job["id"]),
    ]


async def test_a_jobs_stream_ends_even_for_a_reader_that_does_not_want_its_end(here: Journey) -> None:
    job = await here.submit()
    async with stream(here.relay_url, f"{path_of(job)}?type=job.queued") as connection:
        await open_frame(connection)
        events = await connection.events()

    assert connection.ended
    assert [frame.event for frame in events if frame.data] == ["job.queued"]


async def test_every_quarter_minute_a_reader_hears_that_the_relay_is_alive(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    async with stream(here.relay_url, "/v1/events") as connection:
        await open_frame(connection)
        for _ in range(3):
            before_s, wall_s = clock.monotonic_s(), clock.now_ms() // 1000
            frame = await while_time_passes(clock, connection.frame())

            assert frame is not None
            assert frame.comment is not None
            said_s = int(frame.comment.removeprefix("hb "))
            assert wall_s < said_s <= clock.now_ms() // 1000
            assert clock.monotonic_s() - before_s >= sse.HEARTBEAT_S - 1


async def test_a_heartbeat_comes_on_a_busy_relay_too_and_carries_the_readers_place(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    async with stream(here.relay_url, "/v1/events?model=sora-2") as connection:
        opened = await open_frame(connection)
        beats: list[Frame] = []

        async def busy() -> None:
            while not beats:
                await here.submit()
                clock.advance(1)

        async def listen() -> None:
            frame = await connection.event()
            assert frame is not None
            beats.append(frame)

        async with asyncio.timeout(30):
            await asyncio.gather(busy(), listen())
        cursor = beats[0]

        assert (cursor.event, cursor.data) == ("stream.cursor", {})
        assert cursor.id is not None
        assert int(cursor.id.rpartition("-")[2]) > int(opened["head"].rpartition("-")[2])
    async with stream(here.relay_url, "/v1/events?model=sora-2", {"Last-Event-ID": cursor.id}) as connection:
        assert (await open_frame(connection))["gap"] is False


@pytest.mark.parametrize(
    "cursor",
    ["ffffffff-2", "{epoch}-999999"],
    ids=["of another epoch", "beyond the head"],
)
async def test_a_place_that_this_log_does_not_have_is_a_gap(here: Journey, ended: dict[str, Any], cursor: str) -> None:
    all_ids = ids(await listed(here, path_of(ended)))
    epoch = all_ids[0][:8]
    requested = cursor.format(epoch=epoch)
    async with stream(here.relay_url, path_of(ended), {"Last-Event-ID": requested}) as connection:
        opened = await open_frame(connection)
        gap, *events = await connection.events()

    assert opened["gap"] is True
    assert gap.event == "stream.gap"
    snapshot = f"/v1/jobs/{ended['id']}"
    assert gap.data == {"requested": requested, "earliest": f"{epoch}-0", "missed": None, "snapshot": snapshot}
    assert ids(events) == all_ids


async def test_a_drain_says_goodbye_and_another_relay_goes_on_from_there(tmp_path: Path) -> None:
    async with surroundings(tmp_path, faults={"never_ends": True}) as around:
        async with around.relay() as here:
            job = await here.job_in((await here.submit())["id"], "running")
            async with stream(here.relay_url, path_of(job)) as connection:
                await open_frame(connection)
                before = await connection.events(until=lambda frame: frame.event == "job.submitted")
                here.node.drain()
                rest = await connection.events()
            assert connection.ended
            *more, bye = rest
            assert (bye.event, bye.data["reason"]) == ("stream.bye", "drain")
            assert bye.data["resume"] == [*before, *more][-1].id
        async with around.relay() as here:
            async with stream(here.relay_url, f"{path_of(job)}?last_event_id={bye.data['resume']}") as connection:
                assert (await open_frame(connection))["gap"] is False
                here.node.drain()
                after = (await connection.events())[:-1]
            everything = await listed(here, path_of(job))

    # The job goes on reporting: something may have come since the stream was over.
    seen = ids([*before, *more, *after])
    assert seen == ids(everything)[: len(seen)]


async def test_a_store_that_cannot_be_read_for_a_while_ends_streams_properly(
    still: tuple[Journey, ManualClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = still

    async def unreadable(*args: Any) -> None:
        raise Unavailable("the disk is away")

    async with stream(here.relay_url, "/v1/events") as connection:
        opened = await open_frame(connection)
        monkeypatch.setattr(here.node.app.state.store, "events_after", unreadable)
        here.node.feed.committed(1)
        bye = await connection.events()
        monkeypatch.undo()

    assert connection.ended
    assert [(frame.event, frame.data) for frame in bye] == [
        ("stream.bye", {"reason": "drain", "resume": opened["head"]})
    ]


async def test_httpx2s_own_event_source_reads_the_same_and_no_empty_events(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    job = await here.job_in((await here.submit())["id"], "running")
    got: list[httpx2.ServerSentEvent] = []

    async def read() -> None:
        headers = {"Accept": "text/event-stream"}
        async with here.client.stream("GET", path_of(job), headers=headers) as response:
            async for event in httpx2.EventSource(response):
                got.append(event)  # noqa: PERF401 # seen one by one as they come

    reading = asyncio.create_task(read())
    await eventually(lambda: len(got) >= 3)
    for _ in range(40):  # heartbeats, which a reader must not take for events
        clock.advance(1)
        await at_rest(reading)
    here.node.drain()
    await reading

    notices = [event.event for event in got if event.event.startswith("stream.")]
    assert notices == ["stream.open", "stream.bye"]
    events = [event for event in got if not event.event.startswith("stream.")]
    assert [json.loads(event.data) for event in events] == await listed(here, path_of(job))
    assert [event.id for event in events] == ids(await listed(here, path_of(job)))


async def test_a_head_request_is_over_at_once(here: Journey, ended: dict[str, Any]) -> None:
    answer = await here.client.head("/v1/events", headers={"Accept": "text/event-stream"}, timeout=10)

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert here.node.app.state.streams.open == 0


async def test_a_reader_that_leaves_gives_its_place_back(here: Journey) -> None:
    async with stream(here.relay_url, "/v1/events") as connection:
        await open_frame(connection)
        assert here.node.app.state.streams.open == 1

    await eventually(lambda: here.node.app.state.streams.open == 0)


async def test_streams_are_bounded_and_pages_are_not(here: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here.node.app.state.streams, "_most", 1)
    async with stream(here.relay_url, "/v1/events") as connection:
        await open_frame(connection)
        refused = await here.client.get("/v1/events", headers={"Accept": "text/event-stream"})
        page = await here.client.get("/v1/events")
    await eventually(lambda: here.node.app.state.streams.open == 0)

    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert page.status_code == 200


async def test_an_empty_page_leads_past_what_its_reader_does_not_want(still: tuple[Journey, ManualClock]) -> None:
    here, _ = still
    first = await here.submit(replyRef="one")
    await here.job_in(first["id"], "running")
    page = await here.get("/v1/events?since=earliest&replyRef=two")
    head = (await here.get("/v1/events?since=now"))["next"]
    second = await here.submit(replyRef="two")
    behind = await here.get(f"/v1/events?last_event_id={page['next']}&replyRef=two")

    assert (page["data"], page["next"]) == ([], head)
    assert [event["data"]["job"]["id"] for event in behind["data"]][:1] == [second["id"]]


async def test_all_doors_tell_the_same_events_with_the_same_ids(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        await here.subscribe(types=["job.queued", "job.submitted", "job.succeeded"])
        job = await here.submit(**EXAMPLE)
        await here.ended(job["id"])
        by_webhook = await here.subscriber.wait_for(3)
        async with stream(here.relay_url, path_of(job)) as connection:
            await open_frame(connection)
            by_stream = {frame.id: frame.data for frame in await connection.events()}
        by_list = {event["id"]: event for event in await listed(here, path_of(job))}
        lines = await here.client.get(path_of(job), headers={"Accept": "application/x-ndjson"})
        by_line = {event["id"]: event for event in map(json.loads, lines.text.splitlines()) if "id" in event}
        waited = await here.get(f"{path_of(job)}?wait=30")
        by_wait = {event["id"]: event for event in waited["data"]}

    assert ids(list(by_stream.values())) == list(by_list) == list(by_line) == list(by_wait)
    for body in by_webhook:
        for other in (door[body["id"]] for door in (by_stream, by_list, by_line, by_wait)):
            assert without_addresses(body) == without_addresses(other)


# Lines of JSON, and a page that waits


async def test_lines_of_json_say_the_same_and_of_themselves_too(here: Journey, ended: dict[str, Any]) -> None:
    accept = {"Accept": "application/x-ndjson"}
    whole = await here.client.get(path_of(ended), headers=accept)
    opened, *events = map(json.loads, whole.text.splitlines())
    resumed = await here.client.get(path_of(ended), headers=accept | {"Last-Event-ID": events[0]["id"]})
    lost = await here.client.get(path_of(ended), headers=accept | {"Last-Event-ID": "ffffffff-2"})

    assert whole.headers["content-type"] == "application/x-ndjson; charset=utf-8"
    assert (opened["type"], opened["data"]["gap"], opened["data"]["job"]["id"]) == ("stream.open", False, ended["id"])
    assert ids(events) == ids(await listed(here, path_of(ended)))
    assert ids([json.loads(line) for line in resumed.text.splitlines()[1:]]) == ids(events)[1:]
    assert json.loads(lost.text.splitlines()[1])["type"] == "stream.gap"


async def test_a_quiet_stream_of_lines_is_heard_of_too(still: tuple[Journey, ManualClock]) -> None:
    here, clock = still
    async with stream(here.relay_url, "/v1/events", {"Accept": "application/x-ndjson"}) as connection:
        opened = json.loads(await connection.chunk())
        beat = await while_time_passes(clock, connection.chunk())

    assert opened["type"] == "stream.open"
    assert json.loads(beat.splitlines()[0])["type"] == "stream.heartbeat"


async def test_a_page_waits_until_there_is_something(still: tuple[Journey, ManualClock]) -> None:
    here, _ = still
    cursor = (await here.get("/v1/events?since=now"))["next"]
    waiting = asyncio.create_task(here.get(f"/v1/events?wait=60&last_event_id={cursor}&type=job.queued"))
    await eventually(lambda: here.node.app.state.streams.open == 1)
    job = await here.submit()
    page = await waiting

    assert [event["data"]["job"]["id"] for event in page["data"]] == [job["id"]]
    assert page["next"] == page["data"][-1]["id"]


async def test_a_page_that_waits_for_nothing_comes_empty_and_says_where_to_go_on(
    still: tuple[Journey, ManualClock],
) -> None:
    here, clock = still
    cursor = (await here.get("/v1/events?since=now"))["next"]
    page = await while_time_passes(clock, here.get(f"/v1/events?wait=30&last_event_id={cursor}&type=job.failed"))
    too_long = await here.client.get("/v1/events?wait=61")

    assert page == {"data": [], "next": cursor}
    assert too_long.status_code == 400
    assert too_long.json()["problems"][0]["field"] == "query.wait"


async def test_a_page_that_waits_comes_when_the_relay_is_told_to_stop(still: tuple[Journey, ManualClock]) -> None:
    here, _ = still
    waiting = asyncio.create_task(here.get("/v1/events?wait=60"))
    await eventually(lambda: here.node.app.state.streams.open == 1)
    here.node.drain()

    assert (await waiting)["data"] == []


async def test_whoever_waits_and_leaves_gives_its_place_back(still: tuple[Journey, ManualClock]) -> None:
    here, _ = still
    waiting = asyncio.create_task(here.get("/v1/events?wait=60"))
    await eventually(lambda: here.node.app.state.streams.open == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    await eventually(lambda: here.node.app.state.streams.open == 0)
