"""Every answer of the upstream becomes the right value; what may have created a task is never called anything else.

The peers are real servers: the sandbox with its faults, and one that says recorded bytes.
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from relay.clock import ManualClock, SystemClock
from relay.core.accounts import SeenAccount
from relay.core.outcome import (
    Accepted,
    BadToken,
    Busy,
    Found,
    Missing,
    NoCredits,
    NotSent,
    Outcome,
    Refused,
    RunningTask,
    Unanswered,
    Unknown,
)
from relay.net import upstream as client
from relay.net.upstream import Upstream
from relay.sandbox.api import Sandbox
from relay.sandbox.shapes import Account
from relay.sandbox.vendor import Vendor
from relay.serve import bound, hosted
from tests.net.peers import (
    Act,
    Peer,
    answering,
    dripping,
    flooding,
    read_request,
    saying,
    saying_and_waiting,
    serving,
)
from tests.sandbox.serving import PAGE_EXAMPLE, bench

pytestmark = pytest.mark.anyio

UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"
TASK_ID = f"user:7-runwayml:me+tag@example-mail.com-task:{UUID}"
TASK = {"taskId": TASK_ID, "id": UUID, "status": "PENDING", "progressRatio": "0", "artifacts": [], "replyRef": "ref"}
FIELDS = {"model": "gen4.5", "text_prompt": "Zürich bei Nacht", "replyRef": "ref"}
RUNNING = {"email": "me@example.com", "taskId": TASK_ID, "id": UUID, "replyUrl": "https://x", "replyRef": "theirs"}


def says(status: int, body: bytes | dict[str, Any] | list[Any], *, more: str = "") -> bytes:
    """An answer as it stands on the wire."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} Whatever\r\n{more}Content-Length: {len(content)}\r\n\r\n".encode() + content


def error(status: int, sentence: str, **more: Any) -> bytes:
    return says(status, {"error": sentence, "code": status, **more})


HTML = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"
CREDITS = {"error": "You do not have enough credits to run this task."}

OUTCOMES: dict[str, tuple[bytes, Outcome | type[Outcome]]] = {
    # It was created.
    "200 nested": (says(200, {"task": TASK}), Accepted),
    "200 flat": (says(200, TASK), Accepted),
    "200 with the id beside the task": (says(200, {"taskId": TASK_ID, "task": {"status": "PENDING"}}), Accepted),
    "201 with a byte order mark": (says(201, b"\xef\xbb\xbf" + json.dumps({"task": TASK}).encode()), Accepted),
    # The upstream itself said that it was not.
    "400": (error(400, "Parameter duration is wrong."), Refused("validation", "Parameter duration is wrong.")),
    "400 with an error object": (says(400, {"error": {"message": "Wrong."}}), Refused("validation", "Wrong.")),
    "400 about credits": (says(400, CREDITS), NoCredits(CREDITS["error"])),
    "401": (error(401, "Unauthorized"), BadToken("Unauthorized")),
    "402": (says(402, CREDITS), NoCredits(CREDITS["error"])),
    "412 without a code": (says(412, CREDITS), NoCredits(CREDITS["error"])),
    "404": (error(404, "Not found."), Refused("validation", "Not found.")),
    "422": (error(422, "Moderated."), Refused("moderated", "Moderated.")),
    "429 with who runs": (
        error(429, "Busy.", runningTasks={"me@example.com": [RUNNING, {"taskId": "odd"}, 7], "x": None}),
        Busy("Busy.", (RunningTask(TASK_ID, "theirs"),)),
    ),
    "429 of the provider": (says(429, {"error": "Too many tasks."}), Busy("Too many tasks.")),
    # Nobody knows.
    "200 without a task id": (says(200, {"task": {"status": "PENDING"}}), Unknown),
    "200 with a bare uuid": (says(200, {"taskId": UUID, "status": "PENDING"}), Unknown),
    "200 in HTML": (says(200, HTML), Unknown),
    "200 without a body": (says(200, b""), Unknown),
    "200 with an error in it": (says(200, {"error": "Something.", "code": 500}), Unknown),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", Unknown),
    "301": (says(301, b"", more="Location: /elsewhere\r\n"), Unknown),
    "308 in JSON": (says(308, {"error": "Moved."}, more="Location: /elsewhere\r\n"), Unknown),
    "400 in HTML": (says(400, HTML), Unknown),
    "400 in JSON that is not the upstream's": (says(400, {"message": "blocked by the firewall"}), Unknown),
    "400 in a list": (says(400, ["error"]), Unknown),
    "401 of a proxy": (says(401, b"Access denied"), Unknown),
    "403": (error(403, "Forbidden."), Unknown),
    "408": (error(408, "Request timeout."), Unknown),
    "413": (error(413, "Too large."), Unknown),
    "429 in text": (says(429, b"Too many requests"), Unknown),
    "500": (error(500, "Internal error."), Unknown),
    "502 in HTML": (says(502, HTML), Unknown),
    "503 in JSON": (error(503, "Unavailable."), Unknown),
    "522 in text": (says(522, b"error code: 522"), Unknown),
    "JSON with NaN": (says(400, b'{"error": NaN}'), Unknown),
    "compressed all the same": (says(400, b"\x1f\x8b\x08\x00", more="Content-Encoding: gzip\r\n"), Unknown),
    "no HTTP at all": (b"220 mail.example.com ESMTP\r\n", Unknown),
    "cut before the first byte": (b"", Unknown),
    "cut in the head": (b"HTTP/1.1 400 Bad Requ", Unknown),
    "cut after the head": (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 40\r\n\r\n", Unknown),
    "cut in the body": (error(400, "Parameter duration is wrong.")[:-5], Unknown),
    "cut in a chunk": (b'HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"error"', Unknown),
}  # fmt: skip


@asynccontextmanager
async def calling(act: Act) -> AsyncGenerator[tuple[Upstream, Peer]]:
    async with serving(act) as peer:
        upstream = Upstream(f"http://127.0.0.1:{peer.port}/v1/runwayml", "secret-token")
        try:
            yield upstream, peer
        finally:
            await upstream.aclose()


@pytest.mark.parametrize("case", OUTCOMES)
async def test_a_create_is_classed_by_what_was_answered(case: str) -> None:
    said, expected = OUTCOMES[case]
    async with calling(saying(said)) as (upstream, peer):
        outcome = await upstream.create(FIELDS)

    assert outcome == expected if not isinstance(expected, type) else isinstance(outcome, expected)
    assert peer.connections == 1, "a create is sent once, and no redirect is followed"


async def test_an_endless_answer_ends_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BODY_MAX_BYTES", 64 * 1024)

    endless = flooding(b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n")

    async with calling(endless) as (upstream, _):
        assert isinstance(await upstream.create(FIELDS), Unknown)
        assert isinstance(await upstream.scheduler(), Unanswered)


@pytest.mark.parametrize(
    "slow", [saying_and_waiting(b""), dripping(b"HTTP/1.1 400 No\r\nContent-Length: 1000\r\n\r\n{", b" ")]
)
async def test_one_deadline_lies_over_the_whole_answer(slow: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CREATE_DEADLINE_S", 0.2)
    monkeypatch.setattr(client, "ASK_DEADLINE_S", 0.2)

    async with calling(slow) as (upstream, _):
        assert isinstance(await upstream.create(FIELDS), Unknown)
        assert isinstance(await upstream.accounts(), Unanswered)


async def test_without_a_connection_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    for url in (f"http://127.0.0.1:{port}", "http://nowhere.invalid"):
        upstream = Upstream(url, "token")
        assert isinstance(await upstream.create(FIELDS), NotSent)
        assert isinstance(await upstream.task(TASK_ID), Unanswered)
        await upstream.aclose()


async def speaking_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(error(400, "The plain HTTP request was sent to HTTPS port."))
    await reader.read()


async def test_a_broken_tls_handshake_means_that_nothing_was_sent() -> None:
    async with serving(speaking_at_once) as peer:
        upstream = Upstream(f"https://127.0.0.1:{peer.port}", "token")
        assert isinstance(await upstream.create(FIELDS), NotSent)
        await upstream.aclose()


async def test_a_create_is_the_request_that_the_page_describes() -> None:
    requests: list[bytes] = []
    async with calling(answering(says(200, {"task": TASK}), requests=requests)) as (upstream, peer):
        await upstream.create(FIELDS)
        await upstream.create(FIELDS)

    head, _, body = requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/runwayml/videos/create HTTP/1.1"
    assert b"Authorization: Bearer secret-token" in lines
    assert b"Content-Type: application/json" in lines
    assert json.loads(body) == FIELDS
    assert "Zürich".encode() in body
    assert peer.connections == 2, "a kept connection may die under a create, and then nobody knows"
    assert "secret-token" not in repr(upstream)


async def test_an_id_stands_raw_in_the_path() -> None:
    requests: list[bytes] = []
    async with calling(answering(says(200, TASK), requests=requests)) as (upstream, _):
        found = await upstream.task(TASK_ID)

    assert isinstance(found, Found)
    assert found.report.task_id == TASK_ID
    assert requests[0].startswith(f"GET /v1/runwayml/tasks/{TASK_ID} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    "account",
    ["%2F..%2Faccounts%3Fx=", "../../accounts", "a?b=", "a#b", "a\\b", "a b", "é@x.com", "a\x01b", "a\x7fb", ""],
)
async def test_an_id_that_would_change_the_path_is_never_sent(account: str) -> None:
    async with calling(answering(says(200, TASK))) as (upstream, peer):
        answer = await upstream.task(f"user:1-runwayml:{account}-task:{UUID}")

    assert isinstance(answer, Unanswered)
    assert peer.connections == 0


@pytest.mark.parametrize("odd", ["", UUID, "user:1", f"user:1-runwayml:me@x.com-asset:{UUID}", TASK_ID + "\n", "/../x"])
async def test_what_is_no_task_id_is_never_sent(odd: str) -> None:
    async with calling(answering(says(200, TASK))) as (upstream, peer):
        answer = await upstream.task(odd)

    assert isinstance(answer, Unanswered)
    assert peer.connections == 0


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (says(200, TASK), Found),
        (says(200, {"task": TASK}), Found),
        (says(200, {"tasks": [TASK]}), Found),
        (error(404, "Not found."), Missing),
        (says(404, HTML), Unanswered),
        (says(200, HTML), Unanswered),
        (says(200, {"taskId": TASK_ID}), Unanswered),
        (error(401, "Unauthorized"), Unanswered),
        (error(400, "Wrong."), Unanswered),
        (says(522, b"error code: 522"), Unanswered),
        (says(302, b"", more="Location: /elsewhere\r\n"), Unanswered),
        (b"", Unanswered),
    ],
)
async def test_only_a_task_is_an_answer_about_a_task(said: bytes, expected: type) -> None:
    async with calling(saying(said)) as (upstream, _):
        assert type(await upstream.task(TASK_ID)) is expected


@pytest.mark.parametrize("said", [error(429, "Slow down."), says(429, b"Too many requests")])
async def test_a_429_on_a_question_asks_for_fewer(said: bytes) -> None:
    async with calling(saying(said)) as (upstream, _):
        answer = await upstream.task(TASK_ID)

    assert isinstance(answer, Unanswered)
    assert answer.throttled


@pytest.mark.parametrize("body", [[TASK, 7, {"no": "task"}], {"tasks": [TASK]}])
async def test_lists_are_read_in_both_shapes(body: Any) -> None:
    async with calling(answering(says(200, body))) as (upstream, _):
        listed = await upstream.tasks("me+tag@example.com")

    assert isinstance(listed, list)
    assert [(report.task_id, report.reply_ref) for report in listed] == [(TASK_ID, "ref")]


async def test_the_list_is_asked_for_one_account_with_the_parameters_that_are_required() -> None:
    requests: list[bytes] = []
    async with calling(answering(says(200, []), requests=requests)) as (upstream, _):
        await upstream.tasks("me+tag@example.com")

    assert requests[0].startswith(b"GET /v1/runwayml/tasks/?offset=0&limit=200&email=me%2Btag%40example.com HTTP/1.1")


async def test_of_accounts_nothing_secret_is_kept() -> None:
    row = {"email": "a@x.com", "password": "hunter2", "maxJobs": 3, "jwt": {"token": "eyJ"}}
    body = {"a@x.com": row, "b@x.com": {"maxJobs": "many", "error": "broken"}, "c@x.com": 1}
    async with calling(answering(says(200, body))) as (upstream, _):
        seen = await upstream.accounts()

    assert seen == [SeenAccount("a@x.com", 3), SeenAccount("b@x.com", client.DEFAULT_SLOTS, "broken")]
    assert "hunter2" not in repr(seen)


async def test_accounts_tell_a_refused_token_from_other_trouble() -> None:
    async with calling(answering(error(401, "Unauthorized"), error(500, "broken"))) as (upstream, _):
        answers = [await upstream.accounts(), await upstream.accounts()]

    assert answers == [Unanswered("Unauthorized", unauthorized=True), Unanswered("broken")]


async def test_the_secret_of_a_callback_address_is_masked_in_what_is_kept() -> None:
    address = "https://relay.example.com/callbacks/q3J5kLw8-aaaaBBBBccccDDDD"
    body = {"task": {**TASK, "replyUrl": address}}
    async with calling(answering(says(200, body), error(400, f"replyUrl {address} is odd."))) as (upstream, _):
        accepted = await upstream.create(FIELDS)
    async with calling(answering(error(400, f"replyUrl {address} is odd."))) as (upstream, _):
        refused = await upstream.create(FIELDS)

    assert "q3J5kLw8" not in f"{accepted}{refused}"


DATES: dict[str, tuple[list[str], int | None]] = {
    "right": (["Date: Thu, 01 Jan 2026 00:00:00 GMT"] * 3, None),
    "right within the bound": (["Date: Thu, 01 Jan 2026 00:00:29 GMT"] * 3, None),
    "a minute ahead": (["Date: Thu, 01 Jan 2026 00:01:00 GMT"] * 3, 60_000),
    "a minute behind": (["Date: Wed, 31 Dec 2025 23:59:00 GMT"] * 3, -59_000),
    "too few": (["Date: Thu, 01 Jan 2026 00:01:00 GMT"] * 2, None),
    "right at last": (["Date: Thu, 01 Jan 2026 00:01:00 GMT"] * 3 + ["Date: Thu, 01 Jan 2026 00:00:00 GMT"], None),
    "absent": (["X-Date: Thu, 01 Jan 2026 00:01:00 GMT"] * 3, None),
    "unreadable": (["Date: 61 minutes past"] * 3, None),
    "out of a cache": (["Age: 60\r\nDate: Wed, 31 Dec 2025 23:59:00 GMT"] * 3, None),
    "none in between": (["Date: Thu, 01 Jan 2026 00:01:00 GMT", "X: y"] * 3, 60_000),
}  # fmt: skip


@pytest.mark.parametrize("case", DATES)
async def test_the_upstreams_clock_is_read_from_its_answers(case: str) -> None:
    headers, expected = DATES[case]
    answers = [says(200, [], more=f"{header}\r\n") for header in headers]
    async with serving(answering(*answers)) as peer:
        upstream = Upstream(f"http://127.0.0.1:{peer.port}", "token", clock=ManualClock())
        for _ in headers:
            await upstream.scheduler()
        await upstream.aclose()

    assert upstream.off_ms() == expected


async def test_a_slow_answer_may_have_been_dated_at_any_time_of_its_way() -> None:
    clock = ManualClock()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            clock.advance(28)
            writer.write(says(200, [], more="Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"))

    async with serving(slow) as peer:
        upstream = Upstream(f"http://127.0.0.1:{peer.port}", "token", clock=clock)
        await upstream.scheduler()
        await upstream.aclose()

    assert list(upstream._last_off_ms) == [0]


async def test_the_sandbox_dates_its_answers() -> None:
    clock = ManualClock(0)
    async with hosted(Sandbox(Vendor(Random(1)), SystemClock()), bound("127.0.0.1", 0)) as url:  # noqa: S311
        upstream = Upstream(f"{url}/v1/runwayml", "any", clock=clock)
        for _ in range(3):
            await upstream.scheduler()
        await upstream.aclose()

    assert (upstream.off_ms() or 0) > 1_700_000_000_000


MOODS: list[tuple[dict[str, Any], type[Outcome]]] = [
    ({}, Accepted),
    ({"create_body": "flat"}, Accepted),
    ({"create_body": "both"}, Accepted),
    ({"refused": True}, Refused),
    ({"moderated": True}, Refused),
    ({"no_credits": "412"}, NoCredits),
    ({"no_credits": "402"}, NoCredits),
    ({"busy": True}, Busy),
    ({"provider_limit": True}, Busy),
    ({"unauthorized": True}, BadToken),
    ({"refused": True, "html_errors": True}, Unknown),
    *[({"create_lost": way}, Unknown) for way in ("522", "408", "html", "cut")],
    *[({"create_fails": way}, Unknown) for way in ("522", "408", "html", "cut")],
]


async def test_the_sandbox_is_understood_in_all_its_moods() -> None:
    async with bench(accounts=[Account("me@example.com", 10)]) as sandbox:
        upstream = Upstream(f"{sandbox.origin}/v1/runwayml", "any")
        for faults, expected in MOODS:
            sandbox.vendor.faults.replace(faults)
            before = sandbox.vendor.submits
            outcome = await upstream.create({**PAGE_EXAMPLE, "replyRef": "mine"})

            assert isinstance(outcome, expected), faults
            # What was created is never called anything that says that it was not.
            assert sandbox.vendor.submits == before or isinstance(outcome, Accepted | Unknown), faults
        await upstream.aclose()


async def test_the_sandbox_names_a_task_in_every_list_and_by_itself() -> None:
    async with bench(faults={"never_ends": True}) as sandbox:
        upstream = Upstream(f"{sandbox.origin}/v1/runwayml", "any")
        made = await upstream.create({**PAGE_EXAMPLE, "replyRef": "mine"})
        assert isinstance(made, Accepted)
        running = await upstream.scheduler()
        listed = await upstream.tasks("sandbox@example.com")
        asked = await upstream.task(made.report.task_id or "")
        accounts = await upstream.accounts()
        await upstream.aclose()

    assert running == [RunningTask(made.report.task_id or "", "mine")]
    assert isinstance(listed, list)
    assert [report.reply_ref for report in listed] == ["mine"]
    assert isinstance(asked, Found)
    assert accounts == [SeenAccount("sandbox@example.com", 2)]
