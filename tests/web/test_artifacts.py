"""A signed address gives a file's bytes, to whoever holds it and for as long as it says, and nothing else."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from relay.clock import ManualClock
from relay.core import task as tasks
from relay.core.job import Job
from relay.core.outcome import Found, TaskAnswer, Unanswered
from relay.core.target import parse_allow
from relay.errors import BadGateway, NotFound
from relay.net.artifacts import UpstreamArtifacts
from relay.net.upstream import Upstream
from tests.journeys import Journey, journey
from tests.net.peers import Peer, answering, flooding, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def stranger() -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False) as client:
        yield client


async def test_the_film_is_served_without_a_token(ended: dict[str, Any], stranger: httpx2.AsyncClient) -> None:
    artifact = ended["artifacts"][0]
    answer = await stranger.get(artifact["url"])

    assert answer.status_code == 200
    assert answer.content[4:8] == b"ftyp"
    assert len(answer.content) == artifact["sizeBytes"] == int(answer.headers["content-length"])
    assert answer.headers["content-type"] == artifact["contentType"] == "video/mp4"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"]
    assert answer.headers["content-disposition"] == 'inline; filename="video.mp4"'


async def test_a_preview_is_served_as_what_it_is(ended: dict[str, Any], stranger: httpx2.AsyncClient) -> None:
    answer = await stranger.get(ended["artifacts"][0]["previewUrls"][0])

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")


async def test_parts_of_a_film_are_served_to_players_that_seek(
    ended: dict[str, Any], stranger: httpx2.AsyncClient
) -> None:
    url = ended["artifacts"][0]["url"]
    whole = await stranger.get(url)
    size = len(whole.content)
    for given, first, last in (("0-3", 0, 3), ("5-", 5, size - 1), ("-7", size - 7, size - 1)):
        part = await stranger.get(url, headers={"Range": f"bytes={given}"})

        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
        assert part.content == whole.content[first : last + 1]
    beyond = await stranger.get(url, headers={"Range": f"bytes={size}-"})
    changed = await stranger.get(url, headers={"Range": "bytes=0-3", "If-Range": '"another"'})

    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    assert (changed.status_code, len(changed.content)) == (200, size)


async def test_a_copy_that_is_still_good_is_not_sent_again(ended: dict[str, Any], stranger: httpx2.AsyncClient) -> None:
    url = ended["artifacts"][0]["url"]
    etag = (await stranger.get(url)).headers["etag"]
    for given, status in ((etag, 304), (f'"x", W/{etag}', 304), ("*", 304), ('"x"', 200), ("", 200)):
        answer = await stranger.get(url, headers={"If-None-Match": given})

        assert (answer.status_code, bool(answer.content)) == (status, status == 200), given
        assert answer.headers["etag"] == etag


async def test_while_a_link_lives_the_upstream_is_not_asked(
    here: Journey, ended: dict[str, Any], stranger: httpx2.AsyncClient
) -> None:
    before = here.vendor.requests.get("/tasks/{taskId}", 0)
    for first in range(5):
        await stranger.get(ended["artifacts"][0]["url"], headers={"Range": f"bytes={first}-"})

    assert here.vendor.requests.get("/tasks/{taskId}", 0) == before


async def test_a_head_request_tells_the_size_and_sends_nothing(
    ended: dict[str, Any], stranger: httpx2.AsyncClient
) -> None:
    answer = await stranger.head(ended["artifacts"][0]["url"])

    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == ended["artifacts"][0]["sizeBytes"]


async def test_an_address_opens_its_own_file_and_no_other(
    here: Journey, ended: dict[str, Any], stranger: httpx2.AsyncClient
) -> None:
    other = await here.ended((await here.submit())["id"])
    parts = urlsplit(ended["artifacts"][0]["url"])
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    for path, more in (
        (parts.path.replace(ended["id"], other["id"]), {}),
        (parts.path.replace("-0/", "-1/"), {}),
        (parts.path.replace("video.mp4", "preview-1.png"), {}),
        (parts.path.replace("video.mp4", "video.html"), {}),
        (parts.path, {"exp": str(int(query["exp"]) + 1)}),
        (parts.path, {"exp": ""}),
        (parts.path, {"exp": "never"}),
        (parts.path, {"sig": query["sig"][:-1] + ("A" if query["sig"][-1] != "A" else "B")}),
        (parts.path, {"sig": ""}),
        (parts.path, {"sig": "é" * 43}),
    ):
        answer = await stranger.get(f"{here.relay_url}{path}", params=query | more)

        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (path, more)


async def test_an_address_is_made_anew_at_every_read_and_dies(tmp_path: Path, stranger: httpx2.AsyncClient) -> None:
    clock = ManualClock()
    async with journey(tmp_path, clock=clock, artifact_url_ttl="1h") as here:
        job = await here.ended((await here.submit())["id"])
        first = job["artifacts"][0]["url"]
        clock.advance(3_590)
        second = (await here.job(job["id"]))["artifacts"][0]["url"]
        alive = await stranger.get(first)
        clock.advance(20)
        dead, still = await stranger.get(first), await stranger.get(second)

    assert first != second
    assert (alive.status_code, dead.status_code, still.status_code) == (200, 410, 200)
    assert dead.json()["code"] == "gone"


async def test_a_link_that_has_expired_upstream_is_asked_for_anew_once(
    tmp_path: Path, stranger: httpx2.AsyncClient
) -> None:
    sandbox_clock = ManualClock()
    faults = {"links_expire": 60}
    async with journey(tmp_path, sandbox_clock=sandbox_clock, faults=faults, times_s=(0.0, 0.0)) as here:
        job = await here.ended((await here.submit())["id"])
        sandbox_clock.advance(3_600)
        expired = await stranger.get(job["artifacts"][0]["sourceUrl"])
        asked = here.vendor.requests.get("/tasks/{taskId}", 0)
        served, *others = await asyncio.gather(*(stranger.get(job["artifacts"][0]["url"]) for _ in range(20)))
        part = await stranger.get(job["artifacts"][0]["url"], headers={"Range": "bytes=4-7"})
        preview = await stranger.get(job["artifacts"][0]["previewUrls"][0])

    assert expired.status_code == 403
    assert (served.status_code, served.content[4:8]) == (200, b"ftyp")
    assert {other.content for other in others} == {served.content}
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert (preview.status_code, preview.content[1:4]) == (200, b"PNG")
    assert here.vendor.requests.get("/tasks/{taskId}", 0) == asked + 1


@pytest.mark.parametrize("way", ["403", "404", "500", "cut"])
async def test_a_host_that_does_not_give_the_file_is_a_502(
    here: Journey, ended: dict[str, Any], stranger: httpx2.AsyncClient, way: str
) -> None:
    here.vendor.faults.replace({"links_fail": way})
    answer = await stranger.get(ended["artifacts"][0]["url"])
    here.vendor.faults.replace({})

    assert (answer.status_code, answer.json()["code"]) == (502, "bad_gateway")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "_jwt" not in answer.text


class Asked(Upstream):
    """An upstream that answers every question about a task with the same."""

    def __init__(self, answer: TaskAnswer) -> None:
        super().__init__("http://upstream.invalid", "upstream-token")
        self._answer = answer

    async def task(self, task_id: str) -> TaskAnswer:
        return self._answer


@asynccontextmanager
async def artifacts(dead: Peer, peer: Peer, *links: str) -> AsyncGenerator[UpstreamArtifacts]:
    """What serves files of the two peers; the upstream names `links` when it is asked (nothing: it does not answer)."""
    report = tasks.read({"status": "SUCCEEDED", "artifacts": [{"url": link} for link in links]})
    upstream = Asked(Found(report) if report and links else Unanswered("it is down"))
    opened = UpstreamArtifacts(upstream, parse_allow([f"127.0.0.1:{dead.port}", f"127.0.0.1:{peer.port}"]))
    try:
        yield opened
    finally:
        await opened.aclose()
        await upstream.aclose()


def job_with(link: str) -> Job:
    report = tasks.read({"status": "SUCCEEDED", "artifacts": [{"url": link}]})
    assert report is not None
    job = Job(
        id="j", model="m", token_id="t", submitted_by="t", task_id="x", request={}, created_at_ms=0, updated_at_ms=0
    )
    return replace(job, artifacts=list(report.artifacts), upstream_task_id="a task")


FILM = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfilm"
EXPIRED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno."


async def test_the_files_host_sees_neither_the_upstreams_token_nor_the_readers_headers() -> None:
    requests: list[bytes] = []
    async with (
        serving(answering(EXPIRED, requests=requests)) as dead,
        serving(answering(FILM, requests=requests)) as peer,
        artifacts(dead, peer, f"http://127.0.0.1:{peer.port}/fresh.mp4?_jwt=x") as files,
    ):
        job = job_with(f"http://127.0.0.1:{dead.port}/old.mp4")
        async with files.open(job, 0, None, {"range": "bytes=0-3"}) as file:
            read = b"".join([chunk async for chunk in file.chunks()])

    assert read == b"film"
    assert [request.partition(b"\r\n")[0] for request in requests] == [
        b"GET /old.mp4 HTTP/1.1",
        b"GET /fresh.mp4?_jwt=x HTTP/1.1",
    ]
    for request in requests:
        assert b"range: bytes=0-3" in request.split(b"\r\n")
        assert b"upstream-token" not in request
        assert b"authorization" not in request.lower()


async def test_a_dead_link_is_a_502_while_the_upstream_cannot_be_asked() -> None:
    async with serving(answering(EXPIRED)) as peer, artifacts(peer, peer) as files:
        with pytest.raises(BadGateway):
            async with files.open(job_with(f"http://127.0.0.1:{peer.port}/old.mp4"), 0, None, {}):
                pass
        with pytest.raises(NotFound):
            async with files.open(job_with(f"http://127.0.0.1:{peer.port}/old.mp4"), 0, 0, {}):
                pass

    assert peer.connections == 1


@pytest.mark.parametrize("link", ["http://169.254.169.254/latest", "http://127.0.0.1:1/film.mp4", "http://10.0.0.1/x"])
async def test_a_link_that_leads_inside_is_not_followed(link: str) -> None:
    async with serving(answering(b"")) as peer, artifacts(peer, peer, link) as files:
        with pytest.raises(BadGateway):
            async with files.open(job_with(link), 0, None, {}):
                pass

    assert peer.connections == 0


@asynccontextmanager
async def lent(here: Journey, ended: dict[str, Any], answer: bytes) -> AsyncGenerator[str]:
    """The address of a film whose host gives this answer to everybody."""
    state = here.node.app.state._state
    store, job, before = state["store"], state["store"].job, state["artifacts"]
    async with serving(answering(answer)) as peer, artifacts(peer, peer) as files:
        store.job = always(replace(job_with(f"http://127.0.0.1:{peer.port}/film.mp4"), id=ended["id"]))
        state["artifacts"] = files
        try:
            yield ended["artifacts"][0]["url"]
        finally:
            store.job, state["artifacts"] = job, before


@pytest.mark.parametrize(
    ("asked", "status", "bytes_", "content_range"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=4-99", 206, b"456789", "bytes 4-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
    ],
)
async def test_parts_are_cut_from_a_host_that_knows_none(
    here: Journey,
    ended: dict[str, Any],
    stranger: httpx2.AsyncClient,
    asked: str,
    status: int,
    bytes_: bytes,
    content_range: str | None,
) -> None:
    async with lent(here, ended, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789") as url:
        answer = await stranger.get(url, headers={"Range": asked})

    assert (answer.status_code, answer.content) == (status, bytes_)
    assert answer.headers.get("content-range") == content_range


async def test_a_reader_sees_that_a_file_was_cut(
    here: Journey, ended: dict[str, Any], stranger: httpx2.AsyncClient
) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n0123"
    async with lent(here, ended, cut) as url:
        with pytest.raises(httpx2.RemoteProtocolError):
            await stranger.get(url)


async def test_a_page_in_the_place_of_a_film_is_refused(
    here: Journey, ended: dict[str, Any], stranger: httpx2.AsyncClient
) -> None:
    async with lent(here, ended, b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n\n <html>Sorry.  ") as url:
        answer = await stranger.get(url)

    assert (answer.status_code, answer.json()["code"]) == (502, "bad_gateway")
    assert "sends a page" in answer.json()["detail"]


async def test_the_type_is_that_of_the_content(
    here: Journey, ended: dict[str, Any], stranger: httpx2.AsyncClient
) -> None:
    async with lent(here, ended, b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n\x89PNG\r\n\x1a\n....") as url:
        answer = await stranger.get(url)

    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == 'inline; filename="video.png"'


def always(job: Job) -> Callable[[str], Awaitable[Job]]:
    async def found(any_id: str) -> Job:
        return job

    return found


async def test_a_reader_that_hangs_up_ends_the_fetch(
    here: Journey, ended: dict[str, Any], stranger: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"
    endless = flooding(head + b"\x00\x00\x00\x18ftypisom", b"x" * 10_000)
    async with (
        serving(endless) as peer,
        artifacts(peer, peer) as files,
    ):
        job = replace(job_with(f"http://127.0.0.1:{peer.port}/film.mp4"), id=ended["id"])
        monkeypatch.setattr(here.node.app.state.store, "job", always(job))
        monkeypatch.setitem(here.node.app.state._state, "artifacts", files)
        async with stranger.stream("GET", ended["artifacts"][0]["url"]) as response:
            assert response.status_code == 200
            await anext(response.aiter_raw())
            assert not peer.hung_up.is_set()

        await peer.hung_up.wait()
