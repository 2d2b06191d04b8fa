"""What is on the wire of a stream: heads, frames, lines, and that nobody can put anything of their own into them."""

import asyncio
import json
import re
from contextlib import AsyncExitStack
from datetime import datetime

from tests.conformance.target import EXAMPLE, JSON, NDJSON, SSE, Stream, Target, check, events_of, numbers, same

LINE = re.compile(r":.*|(id|event|data|retry): .+|")
# Prompts and references with everything that ends a line somewhere, or a frame, or a string.
HOSTILE = 'a\nid: 1\ndata: x\n\nevent: job.failed\r\rb\r\nc\u2028d\u2029e\x85f\x0bg\x0ch\x1ci\ufeffk"l\\m <\U0001f600>'


def opening(stream: Stream) -> list[str]:
    return stream.raw.decode().split("\n")


@check("WHATWG HTML 9.2.5; contract 7")
async def the_media_type_is_text_event_stream_in_utf_8(target: Target) -> None:
    async with target.stream("/v1/events") as stream:
        same("Content-Type", stream.response.headers["content-type"], "text/event-stream; charset=utf-8")


@check("RFC 9111 5.2.2; contract 7")
async def nobody_may_cache_or_transform_a_stream(target: Target) -> None:
    for accept in (SSE, NDJSON):
        async with target.stream("/v1/events", accept=accept) as stream:
            same("Cache-Control", stream.response.headers.get("cache-control"), "private, no-store, no-transform")


@check("contract 7")
async def proxies_are_told_not_to_buffer(target: Target) -> None:
    async with target.stream("/v1/events") as stream:
        same("X-Accel-Buffering", stream.response.headers.get("x-accel-buffering"), "no")


@check("RFC 9112 6.1")
async def a_stream_has_no_length_and_is_chunked(target: Target) -> None:
    async with target.stream("/v1/events") as stream:
        same("Content-Length", stream.response.headers.get("content-length"), None)
        same("Transfer-Encoding", stream.response.headers.get("transfer-encoding"), "chunked")


@check("RFC 9110 7.7 and 12.5.3")
async def a_stream_is_never_compressed(target: Target) -> None:
    for accept in (SSE, NDJSON):
        path = events_of(await target.ended())
        stream = await target.read(path, accept=accept, Accept_Encoding="gzip, deflate, br, zstd")
        same("Content-Encoding", stream.response.headers.get("content-encoding"), None)
        assert b"stream.open" in stream.raw, "the body does not read as text"


@check("contract 7")
async def the_first_bytes_come_at_once(target: Target) -> None:
    for accept in (SSE, NDJSON):
        async with target.stream("/v1/events?type=restore.held", accept=accept) as stream:
            await stream.opened()


@check("WHATWG HTML 9.2.6; contract 7")
async def retry_is_between_1500_and_4500_ms(target: Target) -> None:
    async with target.stream("/v1/events") as stream:
        await stream.opened()
        match = re.fullmatch(r"retry: ([0-9]+)", opening(stream)[0])
        assert match, f"the first line is {opening(stream)[0]!r}"
        assert 1_500 <= int(match[1]) <= 4_500, f"retry is {match[1]}"


@check("contract 7")
async def retry_differs_from_reader_to_reader(target: Target) -> None:
    path = events_of(await target.ended())
    streams = await asyncio.gather(*(target.read(path) for _ in range(5)))
    assert len({opening(stream)[0] for stream in streams}) > 1, f"all five were told {opening(streams[0])[0]!r}"


@check("WHATWG HTML 9.2.7; contract 7")
async def a_comment_comes_before_the_first_event(target: Target) -> None:
    async with target.stream("/v1/events") as stream:
        await stream.opened()
        assert opening(stream)[1].startswith(":"), f"the second line is {opening(stream)[1]!r}"


@check("contract 7")
async def stream_open_is_the_first_event(target: Target) -> None:
    stream = await target.read(events_of(await target.ended()))
    first = stream.events[0]
    same("the first event", first.type, "stream.open")
    same("whether it moves the cursor", first.own_id, False)
    same("its fields", set(first.json), {"epoch", "head", "resumedFrom", "gap", "heartbeatS", "job"})
    same("heartbeatS", first.json["heartbeatS"], 15)
    assert re.fullmatch(f"{first.json['epoch']}-[0-9]+", first.json["head"]), f"head is {first.json['head']}"
    same("resumedFrom and gap", (first.json["resumedFrom"], first.json["gap"]), (None, False))
    same("the job", first.json["job"]["id"], (await target.ended())["id"])


@check("contract 7")
async def stream_open_names_no_job_where_there_is_not_one(target: Target) -> None:
    async with target.stream("/v1/events") as stream:
        await stream.opened()
        same("its fields", set(stream.events[0].json), {"epoch", "head", "resumedFrom", "gap", "heartbeatS"})


@check("contract 7")
async def every_event_has_an_id_and_is_named_by_its_type(target: Target) -> None:
    stream = await target.read(events_of(await target.ended()))
    assert stream.jobs, "there is no event"
    for event in stream.jobs:
        assert event.own_id, f"{event.type} has no id of its own"
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9]{1,18}", event.id), f"an id is {event.id!r}"
        same("id and type in the body", (event.json["id"], event.json["type"]), (event.id, event.type))


@check("WHATWG HTML 9.2.5 and 9.2.6; contract 7")
async def every_event_is_id_event_and_one_line_of_data(target: Target) -> None:
    stream = await target.read(events_of(await target.ended()))
    for event in stream.jobs:
        names = [line.partition(": ")[0] for line in event.lines]
        same("the fields of a frame", names, ["id", "event", "data"])


@check("WHATWG HTML 9.2.5")
async def lines_are_well_formed_and_end_with_a_line_feed_alone(target: Target) -> None:
    stream = await target.read(events_of(await target.ended()))
    text = stream.raw.decode("utf-8")
    assert not text.startswith("\ufeff"), "there is a byte order mark"
    assert "\r" not in text, "there is a carriage return"
    assert text.endswith("\n\n"), "the last event is not ended"
    for line in text.split("\n"):
        assert LINE.fullmatch(line), f"this line is no field: {line!r:.200}"


@check("WHATWG HTML 9.2.6")
async def no_frame_would_be_dispatched_as_an_empty_event(target: Target) -> None:
    text = (await target.read(events_of(await target.ended()))).raw.decode()
    for frame in text.removesuffix("\n\n").split("\n\n"):
        assert re.search("^data: .", frame, re.MULTILINE), f"this frame has no data: {frame!r:.200}"


@check("contract 6 and 7")
async def the_body_of_an_event_is_that_of_the_contract(target: Target) -> None:
    for event in (await target.read(events_of(await target.ended()))).jobs:
        same("its fields", set(event.json), {"id", "type", "timestamp", "data"})
        same("data", set(event.json["data"]), {"job"})
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.json["timestamp"]), event.json["timestamp"]
        hidden = {"request", "task", "replyUrl"} & set(event.json["data"]["job"])
        same("what an event does not show", hidden, set())
        size_bytes = len(json.dumps(event.json["data"]["job"], ensure_ascii=False).encode())
        assert size_bytes <= 16 * 1024, f"the job in {event.type} has {size_bytes} bytes"


@check("contract 7")
async def ids_rise_strictly(target: Target) -> None:
    got = numbers([event.id for event in (await target.read(events_of(await target.ended()))).jobs])
    same("the order of ids", got, sorted(set(got)))


@check("contract 7 (field injection impossible)")
async def nobody_can_inject_a_field(target: Target) -> None:
    refused = await target.ask("POST", "/v1/jobs", body=EXAMPLE | {"replyRef": "a\0b"})
    same("status for a NUL, which would make a reader forget its place", refused.status_code, 400)
    ref = target.ref() + HOSTILE
    job = await target.submit(replyRef=ref, text_prompt=HOSTILE)
    stream = await target.read(events_of(job))
    listed = await target.page(events_of(job))
    same("ids beside the page of JSON", [event.id for event in stream.jobs], [event["id"] for event in listed["data"]])
    for event in stream.jobs:
        same("the reference, come back", event.json["data"]["job"]["replyRef"], ref)
        same("what some readers take for a line", [len(line.splitlines()) for line in event.lines], [1, 1, 1])
    for line in (await target.read(events_of(job), accept=NDJSON)).raw.decode().splitlines():
        assert isinstance(json.loads(line), dict), f"this line is no object: {line!r:.200}"


@check("contract 7")
async def a_jobs_stream_ends_cleanly_after_its_final_event(target: Target) -> None:
    stream = await target.read(events_of(await target.ended()))
    same("the last event", stream.events[-1].type, f"job.{(await target.ended())['state']}")


@check("contract 7")
async def a_jobs_stream_ends_also_for_a_reader_that_does_not_want_its_end(target: Target) -> None:
    stream = await target.read(f"{events_of(await target.ended())}?type=job.queued")
    same("the events", [event.type for event in stream.jobs], ["job.queued"])


@check("contract 7; WHATWG HTML 9.2.3")
async def events_come_live_in_order_once_each_to_all_readers(target: Target) -> None:
    ref = target.ref()
    path = f"/v1/events?since=now&replyRef={ref}"

    async def watch(stream: Stream, count: int) -> list[str]:
        await stream.until(lambda: sum(event.type == "job.succeeded" for event in stream.jobs) >= count)
        return [event.id for event in stream.jobs]

    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(target.stream(path)) for _ in range(8)]
        for stream in streams:
            await stream.opened()
        await asyncio.gather(*(target.submit(replyRef=ref) for _ in range(3)))
        told = await asyncio.gather(*(watch(stream, 3) for stream in streams))
    listed = [event["id"] for event in (await target.page(f"{path.replace('now', 'earliest')}&limit=500"))["data"]]
    for ids in told:
        same("what a reader was told", ids, listed)


@check("contract 7; media type of the NDJSON specification 1.0")
async def lines_of_json_say_the_same(target: Target) -> None:
    path = events_of(await target.ended())
    stream = await target.read(path, accept=NDJSON)
    same("Content-Type", stream.response.headers["content-type"], "application/x-ndjson; charset=utf-8")
    assert stream.raw.endswith(b"\n"), "the last line is not ended"
    first, *rest = stream.lines
    same("the first line", (first["type"], "id" in first), ("stream.open", False))
    same("the job in it", first["data"]["job"]["id"], (await target.ended())["id"])
    same("ids beside the page of JSON", [event["id"] for event in rest], await target.ids())


@check("contract 1 (5) and 7")
async def every_door_tells_the_same_with_the_same_ids(target: Target) -> None:
    path = events_of(await target.ended())
    page = (await target.page(path))["data"]
    told = {
        "server-sent events": [event.json for event in (await target.read(path)).jobs],
        "lines of JSON": (await target.read(path, accept=NDJSON)).lines[1:],
        "the page that waits": (await target.page(f"{path}?wait=5"))["data"],
        "the list of all events": (await target.page(f"/v1/events?job={path.split('/')[3]}&limit=500"))["data"],
    }
    for door, events in told.items():
        same(door, [timeless(event) for event in events], [timeless(event) for event in page])


def timeless(event: dict[str, object]) -> object:
    """An event without the signatures in addresses, which are made anew at every read."""
    return json.loads(re.sub(r"\?exp=[^\"]*", "", json.dumps(event)))


@check("RFC 9110 9.3.2")
async def head_is_answered_with_the_head_alone(target: Target) -> None:
    answer = await target.ask("HEAD", "/v1/events", Accept=SSE)
    same("status and body", (answer.status_code, answer.content), (200, b""))
    same("Content-Type", answer.headers["content-type"], "text/event-stream; charset=utf-8")


@check("RFC 9110 15.5.6")
async def other_methods_are_refused_with_allow(target: Target) -> None:
    answer = await target.ask("POST", "/v1/events", body=EXAMPLE)
    same("status", answer.status_code, 405)
    assert "GET" in answer.headers.get("allow", ""), f"Allow is {answer.headers.get('allow')!r}"


@check("RFC 9110 12.4.2 and 12.5.1")
async def the_form_is_what_accept_asks_for(target: Target) -> None:
    path = events_of(await target.ended())
    for accept, wanted in (
        (JSON, JSON),
        ("*/*", JSON),
        ("TEXT/Event-Stream", SSE),
        (f"{NDJSON}, {JSON};q=0.5", NDJSON),
        (f"{SSE};q=0, {JSON}", JSON),
    ):
        answer = await target.ask("GET", path, Accept=accept)
        got = answer.headers.get("content-type", "").partition(";")[0]
        same(f"the form for Accept: {accept}", got, wanted)


@check("RFC 3339; contract, the introduction")
async def times_are_utc_with_milliseconds(target: Target) -> None:
    job = await target.page(f"/v1/jobs/{(await target.ended())['id']}")
    for name in ("createdAt", "submittedAt", "startedAt", "finishedAt", "updatedAt"):
        assert re.fullmatch(r".{10}T.{8}\.\d{3}Z", job[name]), f"{name} is {job[name]}"
        datetime.fromisoformat(job[name])
