"""Every check fails on a server that breaks the promise that it looks after: a table of checks and breaks, walked."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx2
import pytest

from relay.serve import bound, hosted
from tests.conformance.breaks import (
    Break,
    Spoiled,
    accepts,
    always,
    ask,
    body,
    by_default,
    compressed,
    cut,
    deaf,
    empty_is_a_place,
    endless,
    header,
    header_loses,
    held,
    last_value_counts,
    lets_all_in,
    no_iso,
    one_too_many,
    replaced,
    since_wins,
    status,
    streams_resume_alone,
    takes_tokens_in_queries,
    tickets_begin_now,
    tires,
    without,
)
from tests.conformance.seen import ORIGIN, HurriedClock, forgets, relay
from tests.conformance.suite import ALL
from tests.conformance.target import JSON, NDJSON, SSE, Check, Target
from tests.journeys import ADMIN_TOKEN, WAIT_S
from tests.whole.processes import ROOT

pytestmark = pytest.mark.anyio
# Where a check must wait for what never comes, and how long it does.
SILENT: Final = {"endless", "held back", "silent", "no cursor", "without a time", "an event", "never"}
PATIENCE_S = 0.5

BREAKS: Final[dict[str, dict[str, Break]]] = {
    "the media type is text event stream in utf 8": {
        "no charset": header("content-type", "text/event-stream"),
        "another type": header("content-type", "text/plain; charset=utf-8"),
    },
    "nobody may cache or transform a stream": {
        "no-cache alone": header("cache-control", "no-cache"),
        "nothing": header("cache-control", None),
    },
    "proxies are told not to buffer": {"not told": header("x-accel-buffering", None)},
    "a stream has no length and is chunked": {"a length": header("content-length", "100000")},
    "a stream is never compressed": {"gzip": compressed},
    "the first bytes come at once": {"held back": held},
    "retry is between 1500 and 4500 ms": {
        "none": replaced(rb"retry: \d+\n", b""),
        "too short": replaced(rb"retry: \d+\n", b"retry: 10\n"),
        "in seconds": replaced(rb"retry: \d+\n", b"retry: 3s\n"),
    },
    "retry differs from reader to reader": {"the same": replaced(rb"retry: \d+\n", b"retry: 3000\n")},
    "a comment comes before the first event": {"none": replaced(rb": relay\n", b"")},
    "stream open is the first event": {
        "none": without(rb"stream\.open"),
        "a field less": replaced(rb'"heartbeatS":15,', b""),
        "another heartbeat": replaced(rb'"heartbeatS":15', b'"heartbeatS":60'),
        "moves the cursor": replaced(rb"event: stream\.open", b"id: 00000000-1\nevent: stream.open"),
        "says that it resumed": replaced(rb'"resumedFrom":null', b'"resumedFrom":"00000000-1"'),
    },
    "stream open names no job where there is not one": {
        "null": replaced(rb'"heartbeatS":15', b'"heartbeatS":15,"job":null')
    },
    "every event has an id and is named by its type": {
        "no ids": replaced(rb"(?m)^id: .*\n", b""),
        "numbers alone": replaced(rb"(?m)^id: .{8}-", b"id: "),
        "all are messages": replaced(rb"(?m)^event: job.*", b"event: message"),
        "another type": replaced(rb"(?m)^event: job.queued", b"event: job.waiting"),
        "the id of another": replaced(rb"(?m)^id: (.*)", rb"id: \g<1>0"),
    },
    "every event is id event and one line of data": {
        "two lines": replaced(rb'(data: \{"id":"[^"]*",)"type":"job', rb'\1' + b'\ndata: "type":"job'),
        "a field more": replaced(rb"(?m)^event: job", b"retry: 2000\nevent: job"),
    },
    "lines are well formed and end with a line feed alone": {
        "carriage returns": replaced(rb"\n", b"\r\n", SSE),
        "a byte order mark": replaced(rb"^retry", b"\xef\xbb\xbfretry"),
        "a field that is none": replaced(rb"(?m)^event: job", b"kind: x\nevent: job"),
        "not ended": replaced(rb'(event: job.succeeded\ndata: .*\n)\n$', rb"\1"),
    },
    "no frame would be dispatched as an empty event": {
        "comments of their own": replaced(rb": relay\n", b": relay\n\n"),
        "ids alone": replaced(rb"(?m)^event: job.queued\ndata: .*\n", b""),
    },
    "the body of an event is that of the contract": {
        "shows the prompt": replaced(rb'"job":\{', b'"job":{"request":{"text_prompt":"x"},'),
        "times without ms": replaced(rb'"timestamp":"(.{19})\.\d+Z"', rb'"timestamp":"\1Z"'),
        "a field less": replaced(rb'"timestamp":"[^"]*",', b""),
        "huge": replaced(rb'"job":\{', b'"job":{"x":"' + b"y" * 17_000 + b'",'),
    },
    "ids rise strictly": {
        "every piece twice": body(lambda piece: piece + piece if piece.startswith(b"id: ") else piece),
    },
    "nobody can inject a field": {
        "line ends of Unicode": replaced(rb"\\u2028", "\u2028".encode(), SSE),
        "line ends of Unicode in lines": replaced(rb"\\u0085", "\x85".encode(), NDJSON),
        "line feeds": replaced(rb"\\n", b"\n", SSE),
        "carriage returns": replaced(rb"\\r", b"\r", SSE),
        "something left out": replaced(rb"\\f", b"", SSE),
        "NUL is taken": status(400, 202),
    },
    "a jobs stream ends cleanly after its final event": {
        "endless": endless,
        "cut": cut,
        "without the final event": without(rb"job\.succeeded"),
    },
    "a jobs stream ends also for a reader that does not want its end": {"endless": endless, "no filter": deaf("type")},
    "events come live in order once each to all readers": {
        "one lost": without(rb"job\.submitted"),
        "every piece twice": body(lambda piece: piece + piece if piece.startswith(b"id: ") else piece),
        "held back": held,
    },
    "lines of json say the same": {
        "another media type": header("content-type", JSON),
        "two in a line": replaced(rb"\}\n\{", b"}{", NDJSON),
        "one lost": without(rb"job\.submitted", NDJSON),
        "no opening": without(rb"stream\.open", NDJSON),
    },
    "every door tells the same with the same ids": {
        "pages": replaced(rb'"type":"job.succeeded"', b'"type":"job.done"', "application/json"),
        "streams": replaced(rb'"progress":1(\.0)?', b'"progress":0.9', SSE),
        "lines": replaced(rb'(?m)^\{"id":"(.{8})-', b'{"id":"ffffffff-', NDJSON),
    },
    "head is answered with the head alone": {
        "refused": status(200, 405, "HEAD"),
        "another form": header("content-type", JSON),
    },
    "other methods are refused with allow": {"404": status(405, 404), "no Allow": header("allow", None)},
    "the form is what accept asks for": {"always a stream": accepts(SSE), "never a stream": accepts(JSON)},
    "times are utc with milliseconds": {
        "seconds": replaced(rb"\.\d{3}Z", b"Z"),
        "no zone": replaced(rb"(\.\d{3})Z", rb"\1"),
    },
    "a reader resumes by header at every place": {
        "not at all": deaf("last-event-id"),
        "at the last event": ask(one_too_many),
        "does not say so": replaced(rb'"resumedFrom":"[^"]*"', b'"resumedFrom":null'),
    },
    "a reader resumes by query at every place": {
        "not at all": deaf("last_event_id"),
        "at the last event": ask(one_too_many),
    },
    "the header wins over the query and both over since": {
        "the query wins": ask(header_loses),
        "since wins": ask(since_wins),
    },
    "an empty header is no place": {"one before the first": ask(empty_is_a_place)},
    "lines of json and pages resume too": {"streams alone": ask(streams_resume_alone)},
    "a place that is none is refused": {
        "not by header": deaf("last-event-id"),
        "not by query": deaf("last_event_id"),
        "plain text": header("content-type", "text/plain"),
    },
    "one job begins at its beginning and all events now": {
        "all at the earliest": by_default(since="earliest"),
        "one job now": by_default(since="now"),
    },
    "since takes all its forms": {
        "always now": always(since="now"),
        "always the earliest": always(since="earliest"),
        "no ISO": ask(no_iso),
    },
    "since refuses what is none": {"takes it for now": always(since="now"), "422": status(400, 422)},
    "past the end of a job there is no content": {"200": status(204, 200), "begins again": deaf("last-event-id")},
    "a place that the log does not have is a gap": {
        "silence": without(rb"stream\.gap"),
        "an invented number": replaced(rb'"missed":null', b'"missed":0'),
        "opened without": replaced(rb'"gap":true', b'"gap":false'),
        "a snapshot elsewhere": replaced(rb'"snapshot":"[^"]*"', b'"snapshot":"/nowhere"'),
        "nothing follows": without(rb"job\.[a-z_]*"),
        "as if nothing was lost": deaf("last-event-id"),
    },
    "a place before the first event that is kept is a gap of so many": {
        "silence": without(rb"stream\.gap"),
        "not known": replaced(rb'"missed":\d+', b'"missed":null'),
        "one too many": replaced(rb'"earliest":"(.{8})[^"]*"', rb'"earliest":"\1-1"'),
        "as if nothing was lost": deaf("last-event-id"),
    },
    "a gap is told in lines too": {"silence": without(rb"stream\.gap", NDJSON)},
    "filters choose and their values add up": {
        "no references": deaf("replyRef"),
        "no types": deaf("type"),
        "no models": deaf("model"),
        "no jobs": deaf("job"),
        "the last value counts": ask(last_value_counts),
    },
    "filters that do not exist are refused": {"types": deaf("type"), "names": deaf("color")},
    "a page always says where to go on": {
        "null": replaced(rb'"next":"[^"]*"', b'"next":null', "application/json"),
        "the beginning": replaced(rb'"next":"(.{8})[^"]*"', rb'"next":"\1-0"', "application/json"),
        "no limit": deaf("last_event_id"),
    },
    "a page waits until there is something": {"does not wait": deaf("wait")},
    "a page that waits in vain comes empty": {
        "goes back": replaced(rb'"next":"(.{8})[^"]*"', rb'"next":"\1-0"', "application/json"),
        "waits as long as one likes": always(wait="1"),
        "full": deaf("type", "last_event_id", "wait"),
    },
    "nobody reads without a good token": {
        "everybody does": ask(lets_all_in),
        "403": status(401, 403),
        "plain text": header("content-type", "text/plain"),
        "no challenge": header("www-authenticate", None),
    },
    "a token in the query opens nothing": {"it does": ask(takes_tokens_in_queries)},
    "a door of another scope stays shut": {"open": ask(lets_all_in), "404": status(403, 404)},
    "a job that a token may not see does not exist": {"403": status(404, 403), "open": ask(lets_all_in)},
    "a submitter hears of its own jobs alone": {"of all": ask(lets_all_in)},
    "a ticket shows the public view alone": {
        "all": ask(lets_all_in),
        "the reference in streams": replaced(rb'"progress":', b'"replyRef":"x","progress":', SSE),
        "tickets may be cached": header("cache-control", None),
    },
    "a ticket opens nothing else": {"everything": ask(lets_all_in)},
    "a ticket for a reference begins at the earliest": {"now": ask(tickets_begin_now)},
    "pages of a listed origin are let in": {
        "none is": header("access-control-allow-origin", None),
        "for caches all are": header("vary", None),
    },
    "a preflight lets tokens and cursors through": {
        "no cursors": header("access-control-allow-headers", "Authorization"),
        "refused": status(200, 400, "OPTIONS"),
    },
    "pages of other origins are not": {
        "all are": header("access-control-allow-origin", "*"),
        "with their cookies": header("access-control-allow-credentials", "true"),
    },
    "a quiet stream beats with a comment and one newline": {
        "two": replaced(rb"(: hb \d+\n)", rb"\1\n", SSE),
        "silent": replaced(rb": hb \d+\n", b"", SSE),
        "without a time": replaced(rb": hb \d+\n", b": hb\n", SSE),
        "an event": replaced(rb": hb \d+\n", b"data: hb\n\n", SSE),
    },
    "a cursor comes where the head has moved": {
        "no cursor": without(rb"stream\.cursor"),
        "without an id": replaced(rb"id: .*\nevent: stream\.cursor", b"event: stream.cursor", SSE),
        "behind": replaced(rb"id: (.{8})-.*\nevent: stream\.cursor", rb"id: \1-1\nevent: stream.cursor", SSE),
        "with data": replaced(rb"(event: stream\.cursor\ndata: ).*", rb"\1null", SSE),
    },
    "lines of json beat with objects": {
        "empty lines": replaced(rb'\{"type":"stream.heartbeat".*\n', b"\n", NDJSON),
        "comments": replaced(rb'\{"type":"stream.heartbeat".*\n', b": hb 1\n", NDJSON),
    },
    "minutes of heartbeats do not end a stream": {"ends": tires(5), "loses one": without(rb"job\.submitted")},
    "a stream ends with its ticket": {
        "silently": without(rb"stream\.bye"),
        "cut": cut,
        "another reason": replaced(rb'"reason":"expired"', b'"reason":"drain"'),
        "never": ask(lets_all_in),
    },
    "a relay that stops says goodbye and ends the body": {
        "silently": without(rb"stream\.bye"),
        "silently in lines": without(rb"stream\.bye", NDJSON),
        "cut": cut,
        "resumes elsewhere": replaced(rb'"resume":"(.{8})[^"]*"', rb'"resume":"\1-0"'),
        "moves the cursor": replaced(rb"event: stream\.bye", b"id: 00000000-1\nevent: stream.bye", SSE),
    },
}  # fmt: skip
FLAT: Final = [(check, why) for check in ALL for why in BREAKS.get(check.name, {})]


LAST: Final = [(check, why) for check, why in FLAT if {"drain", "forget"} & set(check.needs)]
OTHERS: Final = [both for both in FLAT if both not in LAST]
At = Callable[[Check, str], Target]


@asynccontextmanager
async def broken_relay(folder: Path) -> AsyncGenerator[At]:
    """One relay, and every break of it at an address of its own."""
    clock = HurriedClock()
    spoiled: list[Break] = [BREAKS[check.name][why] for check, why in FLAT]
    async with (
        relay(folder, clock) as here,
        hosted(Spoiled(here.node.app, spoiled), bound("127.0.0.1", 0), drain=here.node.drain) as url,
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=WAIT_S) as client,
    ):
        ended = await here.ended((await here.submit(replyRef="ended"))["id"])

        def at(check: Check, why: str) -> Target:
            client.base_url = httpx2.URL(f"{url}/{FLAT.index((check, why))}/")
            patience_s = PATIENCE_S if why in SILENT else WAIT_S
            hands = (clock.pass_time, here.node.drain, forgets(here))
            return Target(client, ADMIN_TOKEN, ORIGIN, patience_s, *hands, ended)

        yield at


@pytest.fixture(scope="module")
async def broken(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[At]:
    async with broken_relay(tmp_path_factory.mktemp("relay")) as at:
        yield at


def test_every_check_has_its_breaks() -> None:
    assert BREAKS.keys() == {check.name for check in ALL}
    assert all(BREAKS.values())


@pytest.mark.parametrize(("check", "why"), OTHERS, ids=[f"{check.name}: {why}" for check, why in OTHERS])
async def test_a_check_fails_where_its_promise_is_broken(broken: At, check: Check, why: str) -> None:
    failure = await check.failure(broken(check, why))

    assert failure is not None
    assert failure.startswith("nothing of what was waited for") == (why in SILENT), failure


@pytest.mark.parametrize(("check", "why"), LAST, ids=[f"{check.name}: {why}" for check, why in LAST])
async def test_a_check_of_the_end_fails_where_its_promise_is_broken(tmp_path: Path, check: Check, why: str) -> None:
    async with broken_relay(tmp_path) as at:
        failure = await check.failure(at(check, why))

    assert failure is not None
    assert failure.startswith("nothing of what was waited for") == (why in SILENT), failure


async def test_the_command_prints_a_table_and_fails_where_a_promise_is_broken(broken: At) -> None:
    check = next(check for check in ALL if check.name == "proxies are told not to buffer")
    target = broken(check, "not told")

    async def ran(only: str) -> tuple[int | None, str]:
        options = ["--url", str(target.client.base_url), "--token", target.token, "--only", only]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.conformance", *options, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    kept, failed, left_out = await asyncio.gather(ran("retry is"), ran(check.name), ran("minutes of heartbeats"))

    assert (kept[0], failed[0], left_out[0]) == (0, 1, 0)
    assert kept[1].startswith("ok      retry is between 1500 and 4500 ms  WHATWG HTML 9.2.6; contract 7\n")
    assert failed[1].startswith(f"FAILED  {check.name}  {check.source}  X-Accel-Buffering: got None")
    assert "not looked at: needs pass_time" in left_out[1]
