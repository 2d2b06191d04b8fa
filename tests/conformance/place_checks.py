"""Where a reader begins and what it sees: resumption, beginnings, gaps, filters, pages."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.conformance.target import JSON, NDJSON, SSE, Target, check, events_of, numbers, same


async def told(target: Target, path: str, **headers: str) -> tuple[dict[str, Any], list[str]]:
    """What stream.open said, and the ids of the events after it."""
    stream = await target.read(path, **headers)
    return stream.events[0].json, [event.id for event in stream.jobs]


def refused(answer: Any, field: str) -> None:
    same("status", answer.status_code, 400)
    same("Content-Type", answer.headers["content-type"].partition(";")[0], "application/problem+json")
    same("the field that is named", [problem["field"] for problem in answer.json()["problems"]], [field])


@check("WHATWG HTML 9.2.4; contract 7")
async def a_reader_resumes_by_header_at_every_place(target: Target) -> None:
    ids = await target.ids()
    for n, last in enumerate(ids[:-1]):
        opened, rest = await told(target, events_of(await target.ended()), Last_Event_ID=last)
        same("resumedFrom and gap", (opened["resumedFrom"], opened["gap"]), (last, False))
        same(f"what comes after {last}", rest, ids[n + 1 :])


@check("contract 7")
async def a_reader_resumes_by_query_at_every_place(target: Target) -> None:
    ids = await target.ids()
    for n, last in enumerate(ids[:-1]):
        opened, rest = await told(target, f"{events_of(await target.ended())}?last_event_id={last}")
        same("resumedFrom and gap", (opened["resumedFrom"], opened["gap"]), (last, False))
        same(f"what comes after {last}", rest, ids[n + 1 :])


@check("contract 7")
async def the_header_wins_over_the_query_and_both_over_since(target: Target) -> None:
    ids, path = await target.ids(), events_of(await target.ended())
    _, rest = await told(target, f"{path}?last_event_id={ids[0]}&since=now", Last_Event_ID=ids[1])
    same("by header, query and since", rest, ids[2:])
    _, rest = await told(target, f"{path}?last_event_id={ids[0]}&since=now")
    same("by query and since", rest, ids[1:])


@check("WHATWG HTML 9.2.3 (an empty last event id is not sent)")
async def an_empty_header_is_no_place(target: Target) -> None:
    opened, rest = await told(target, events_of(await target.ended()), Last_Event_ID="")
    same("resumedFrom", opened["resumedFrom"], None)
    same("the events", rest, await target.ids())


@check("contract 7")
async def lines_of_json_and_pages_resume_too(target: Target) -> None:
    ids, path = await target.ids(), events_of(await target.ended())
    lines = (await target.read(path, accept=NDJSON, Last_Event_ID=ids[0])).lines
    same("lines", [line["id"] for line in lines[1:]], ids[1:])
    page = await target.page(path, Last_Event_ID=ids[0])
    same("page", [event["id"] for event in page["data"]], ids[1:])


@check("contract 7 and 3")
async def a_place_that_is_none_is_refused(target: Target) -> None:
    for accept in (SSE, NDJSON, JSON):
        refused(await target.ask("GET", "/v1/events", Accept=accept, Last_Event_ID="nonsense"), "Last-Event-ID")
        refused(await target.ask("GET", "/v1/events?last_event_id=7", Accept=accept), "query.last_event_id")


@check("contract 7")
async def one_job_begins_at_its_beginning_and_all_events_now(target: Target) -> None:
    ids, job = await target.ids(), await target.ended()
    same("one job", (await told(target, events_of(job)))[1], ids)
    same("?job=", [event["id"] for event in (await target.page(f"/v1/events?job={job['id']}"))["data"]], ids)
    same("all", [e for e in (await target.page("/v1/events"))["data"] if e["id"] in ids], [])


@check("contract 7")
async def since_takes_all_its_forms(target: Target) -> None:
    ids, job = await target.ids(), await target.ended()
    created = datetime.fromisoformat(job["createdAt"])
    age_s = max(0, int((datetime.now(UTC) - created).total_seconds()))
    before = (created - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    path = f"/v1/events?job={job['id']}&since="
    for since in ("earliest", f"{age_s + 7200}s", f"{age_s // 60 + 120}m", f"{age_s // 3600 + 48}h", "300d", before):
        same(f"since={since}", [event["id"] for event in (await target.page(path + since))["data"]], ids)
    for since in ("now", "0s", "2999-01-01T00:00:00.000Z"):
        same(f"since={since}", (await target.page(path + since))["data"], [])


@check("contract 7 and 3")
async def since_refuses_what_is_none(target: Target) -> None:
    for since in ("yesterday", "5", "5w", "-5m", "99999999999d", "2026-13-01"):
        refused(await target.ask("GET", f"/v1/events?since={since}", Accept=SSE), "query.since")


@check("WHATWG HTML 9.2.3; RFC 9110 15.3.5; contract 7")
async def past_the_end_of_a_job_there_is_no_content(target: Target) -> None:
    last, path = (await target.ids())[-1], events_of(await target.ended())
    for accept in (SSE, NDJSON):
        answer = await target.ask("GET", path, Accept=accept, Last_Event_ID=last)
        same("status by header", answer.status_code, 204)
        same("body by header", answer.content, b"")
        answer = await target.ask("GET", f"{path}?last_event_id={last}", Accept=accept)
        same("status by query", answer.status_code, 204)


@check("contract 7")
async def a_place_that_the_log_does_not_have_is_a_gap(target: Target) -> None:
    ids, job = await target.ids(), await target.ended()
    epoch = ids[0].partition("-")[0]
    for lost in ("ffffffff-2", f"{epoch}-999999999"):
        stream = await target.read(events_of(job), Last_Event_ID=lost)
        same("what comes first", [event.type for event in stream.events[:2]], ["stream.open", "stream.gap"])
        same("resumedFrom and gap", [stream.events[0].json[key] for key in ("resumedFrom", "gap")], [lost, True])
        gap = stream.events[1].json
        same("the fields of the gap", set(gap), {"requested", "earliest", "missed", "snapshot"})
        same("what is known of it", (gap["requested"], gap["missed"]), (lost, None))
        assert gap["earliest"].startswith(epoch), f"earliest is {gap['earliest']}"
        same("the snapshot", (await target.page(gap["snapshot"]))["id"], job["id"])
        same("what follows", [event.id for event in stream.jobs], ids)


@check("contract 7", "forget")
async def a_place_before_the_first_event_that_is_kept_is_a_gap_of_so_many(target: Target) -> None:
    ids, job = await target.ids(), await target.ended()
    first, last = numbers(ids)[0], numbers(ids)[-1]
    assert target.forget is not None
    await target.forget(last - 1)
    epoch = ids[0].partition("-")[0]
    for accept in (SSE, NDJSON):
        stream = await target.read(events_of(job), accept=accept, Last_Event_ID=ids[0])
        opened, gap, *after = (
            [(event.type, event.json) for event in stream.events]
            if accept == SSE
            else [(line["type"], line["data"]) for line in stream.lines]
        )
        same("what comes first", (opened[0], opened[1]["gap"], gap[0]), ("stream.open", True, "stream.gap"))
        place = {"requested": ids[0], "earliest": f"{epoch}-{last - 1}", "missed": last - 1 - first}
        same("what is known of it", gap[1], place | {"snapshot": f"/v1/jobs/{job['id']}"})
        same("how many follow", len([name for name, _ in after if name.startswith("job.")]), 1)
    stream = await target.read(events_of(job), Last_Event_ID=f"{epoch}-{last - 1}")
    same("a gap where nothing is missing", stream.events[0].json["gap"], False)
    await target.forget(1)
    stream = await target.read(events_of(job), Last_Event_ID=ids[0])
    same(
        "what comes of a job of which no event is left", [e.type for e in stream.events], ["stream.open", "stream.gap"]
    )
    same("missed", stream.events[1].json["missed"], last - first)


@check("contract 7")
async def a_gap_is_told_in_lines_too(target: Target) -> None:
    lines = (await target.read(events_of(await target.ended()), accept=NDJSON, Last_Event_ID="ffffffff-2")).lines
    same("what comes first", [line["type"] for line in lines[:2]], ["stream.open", "stream.gap"])
    same("what follows", [line["id"] for line in lines[2:]], await target.ids())


@check("contract 7")
async def filters_choose_and_their_values_add_up(target: Target) -> None:
    mine, other = target.ref(), target.ref()
    jobs = [await target.submit(replyRef=ref) for ref in (mine, other, target.ref())]
    for job in jobs:
        await target.read(events_of(job))
    both = f"replyRef={mine}&replyRef={other}"
    for query, wanted in (
        (f"{both}&type=job.queued", {jobs[0]["id"], jobs[1]["id"]}),
        (f"job={jobs[2]['id']}", {jobs[2]["id"]}),
        (f"{both}&model=sora-2", set()),
        (f"{both}&model=sora-2&model=gen4.5", {jobs[0]["id"], jobs[1]["id"]}),
    ):
        events = (await target.page(f"/v1/events?since=earliest&limit=500&{query}"))["data"]
        same(query, {event["data"]["job"]["id"] for event in events}, wanted)
        if "type=" in query:
            same("types", {event["type"] for event in events}, {"job.queued"})
    types = "type=job.queued&type=job.succeeded"
    events = (await target.page(f"/v1/events?since=earliest&limit=500&{both}&{types}"))["data"]
    same("types", {event["type"] for event in events}, {"job.queued", "job.succeeded"})


@check("contract 7 (no wildcards) and 3")
async def filters_that_do_not_exist_are_refused(target: Target) -> None:
    for query, field in (("type=job.*", "type"), ("type=job.nothing", "type"), ("color=red", "color")):
        refused(await target.ask("GET", f"/v1/events?{query}", Accept=SSE), f"query.{field}")


@check("contract 7")
async def a_page_always_says_where_to_go_on(target: Target) -> None:
    ids, path = await target.ids(), events_of(await target.ended())
    walked: list[str] = []
    cursor = ""
    for _ in range(len(ids) + 1):
        page = await target.page(f"{path}?limit=2{cursor}")
        same("its fields", set(page), {"data", "next"})
        assert page["next"], "next is not set"
        walked += [event["id"] for event in page["data"]]
        cursor = f"&last_event_id={page['next']}"
        if not page["data"]:
            break
    same("all pages together", walked, ids)
    assert numbers([page["next"]]) >= numbers(ids)[-1:], f"next went back to {page['next']}"


@check("contract 7")
async def a_page_waits_until_there_is_something(target: Target) -> None:
    ref = target.ref()
    start = (await target.page("/v1/events?since=now"))["next"]
    path = f"/v1/events?replyRef={ref}&type=job.queued&wait=30&last_event_id={start}"
    waiting = asyncio.create_task(target.page(path))
    for _ in range(3):
        await target.page(events_of(await target.ended()))
    assert not waiting.done(), "the page did not wait"
    job = await target.submit(replyRef=ref)
    page = await waiting
    same("the events", [event["data"]["job"]["id"] for event in page["data"]], [job["id"]])
    same("next", page["next"], page["data"][-1]["id"])


@check("contract 7")
async def a_page_that_waits_in_vain_comes_empty(target: Target) -> None:
    await target.ended()
    known = await target.ids()
    start = (await target.page("/v1/events?since=now"))["next"]
    waiting = asyncio.ensure_future(target.page(f"/v1/events?type=restore.held&wait=1&last_event_id={start}"))
    while target.pass_time is not None and not waiting.done():
        await target.pass_time(0.5, waiting)
    page = await waiting
    same("the events", page["data"], [])
    assert numbers([page["next"]]) >= numbers(known)[-1:], f"next went back to {page['next']}"
    refused(await target.ask("GET", "/v1/events?wait=61", Accept=JSON), "query.wait")
