"""What comes with time: heartbeats, cursors, the end of a ticket, the farewell of a relay that stops."""

import json
import re
from urllib.parse import urlsplit

from tests.conformance.access_checks import ticket_for
from tests.conformance.target import NDJSON, Stream, Target, check, events_of, numbers, same

NOTHING = "/v1/events?type=restore.held"
BEAT = re.compile(rb"^: hb ([0-9]+)\n", re.MULTILINE)


def after_opening(stream: Stream) -> bytes:
    return stream.raw.partition(b"\n\n")[2]


@check("WHATWG HTML 9.2.7; contract 7")
async def a_quiet_stream_beats_with_a_comment_and_one_newline(target: Target) -> None:
    async with target.stream(NOTHING) as stream:
        await stream.until(lambda: len(BEAT.findall(stream.raw)) >= 2, by_time=True)
    quiet = re.sub(rb"id: .*\nevent: stream\.cursor\ndata: .*\n\n", b"", after_opening(stream))
    assert re.fullmatch(rb"(: hb [0-9]+\n)+", quiet), f"a quiet stream said {quiet!r:.300}"
    first, second = (int(beat) for beat in BEAT.findall(stream.raw)[:2])
    assert 14 <= second - first <= 17, f"there are {second - first} s between two heartbeats"


@check("contract 7")
async def a_cursor_comes_where_the_head_has_moved(target: Target) -> None:
    async with target.stream(NOTHING) as stream:
        await stream.opened()
        job = await target.submit(replyRef=target.ref())
        await target.read(events_of(job))
        last = (await target.page(events_of(job)))["data"][-1]["id"]
        await stream.until(lambda: stream.of("stream.cursor"), by_time=True)
    cursor = stream.of("stream.cursor")[0]
    same("its fields", [line.partition(":")[0] for line in cursor.lines], ["id", "event", "data"])
    same("its data", cursor.json, {})
    assert numbers([cursor.id]) >= numbers([last]), f"the cursor is {cursor.id}, and the head was {last}"
    async with target.stream(NOTHING, Last_Event_ID=cursor.id) as again:
        await again.opened()
        same("a gap at a cursor", again.events[0].json["gap"], False)


@check("contract 7")
async def lines_of_json_beat_with_objects(target: Target) -> None:
    async with target.stream(NOTHING, accept=NDJSON) as stream:
        await stream.until(lambda: stream.raw.count(b"\n") >= 2 and stream.raw.endswith(b"\n"), by_time=True)
    for line in stream.lines:
        assert isinstance(line, dict), f"this line is no object: {line!r:.200}"
        assert line["type"].startswith("stream."), f"a quiet stream said {line!r:.200}"


@check("contract 7", "pass_time")
async def minutes_of_heartbeats_do_not_end_a_stream(target: Target) -> None:
    ref = target.ref()
    async with target.stream(f"/v1/events?replyRef={ref}") as stream:
        await stream.until(lambda: len(BEAT.findall(stream.raw)) >= 20, by_time=True)
        same("jobs that it told of", stream.jobs, [])
        job = await target.submit(replyRef=ref)
        await stream.until(lambda: stream.of("job.succeeded"))
    listed = [event["id"] for event in (await target.page(events_of(job)))["data"]]
    same("what came after five minutes", [event.id for event in stream.jobs], listed)


@check("contract 3 and 7")
async def a_stream_ends_with_its_ticket(target: Target) -> None:
    made = await ticket_for(target, replyRef=target.ref(), ttlS=1)
    path = urlsplit(made["eventsUrl"])
    async with target.stream(f"{path.path}?{path.query}", token=None) as stream:
        await stream.rest(by_time=True)
    bye = stream.events[-1]
    same("the last event", (bye.type, bye.json["reason"], bye.own_id), ("stream.bye", "expired", False))
    answer = await target.ask("GET", f"{path.path}?{path.query}", token=None)
    same("status of a ticket that is over", answer.status_code, 401)


@check("contract 7; RFC 9112 8", "drain")
async def a_relay_that_stops_says_goodbye_and_ends_the_body(target: Target) -> None:
    assert target.drain is not None
    ref = target.ref()
    path = f"/v1/events?replyRef={ref}"
    async with target.stream(path) as stream, target.stream(path, accept=NDJSON) as lines:
        job = await target.submit(replyRef=ref)
        await stream.until(lambda: stream.of("job.succeeded"))
        await lines.until(lambda: b"job.succeeded" in lines.raw and lines.raw.endswith(b"\n"))
        target.drain()
        await stream.rest()
        await lines.rest()
    bye = stream.events[-1]
    same("the last event", (bye.type, bye.own_id), ("stream.bye", False))
    assert stream.jobs, f"nothing was told of {job['id']}"
    same("the farewell", bye.json, {"reason": "drain", "resume": stream.jobs[-1].id})
    same("the last line", json.loads(lines.raw.splitlines()[-1]), {"type": "stream.bye", "data": bye.json})
