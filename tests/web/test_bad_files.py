"""Files, links and addresses that are wrong: each is refused with its reason, and nothing is written elsewhere."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from relay.clock import ManualClock
from relay.net import artifacts
from relay.store import files as store_files
from relay.work import mirror
from tests.journeys import surroundings
from tests.net.peers import Act, answering, flooding, saying, serving

pytestmark = pytest.mark.anyio

MOVIE = b"\x00\x00\x00\x18ftypisom" + bytes(range(256)) * 40
MAX_BYTES = 1_000_000
DAY_S = 24 * 3600
OWN = re.compile(r"relay\.db[-.\w]*|files/(instance|incoming/.*)")


def whole(body: bytes, length: int | None = None) -> Act:
    size = len(body) if length is None else length
    return saying(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode() + body)


GOOD = whole(MOVIE)


def same(url: str) -> str:
    return url


def forged(url: str) -> str:
    signature = parse_qs(urlsplit(url).query)["sig"][0]
    return url.replace(signature, signature[:-1] + ("A" if signature[-1] != "A" else "B"))


def renamed(name: str) -> Callable[[str], str]:
    return lambda url: re.sub(r"[^/]+\?", f"{name}?", url)


@dataclass(frozen=True)
class Case:
    """What the host does and where the link leads; what is asked for; what the artifact and the answer say."""

    host: Act = GOOD
    link: str = "http://{host}/film.mp4"
    address: Callable[[str], str] = same
    later_s: float = 0
    not_kept: str | None = None
    status: int = 502
    says: str = ""


CASES = {
    "shorter than it says": Case(whole(MOVIE, 20_000), not_kept="closed the connection in the middle", status=0),
    "shorter than the upstream says": Case(
        saying(b"HTTP/1.1 200 OK\r\n\r\n" + MOVIE), not_kept="ended after", status=200
    ),
    "a part that nobody asked for": Case(
        saying(b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-3/4\r\nContent-Length: 4\r\n\r\n\0\0\0\0"),
        not_kept="answered 206",
        status=206,
    ),
    "another type": Case(whole(b"MZ\x90\x00" + bytes(2_000)), not_kept="something unknown in the place of video"),
    "a page": Case(whole(b"<!DOCTYPE html><title>Sign in</title>"), not_kept="a page in the place of video"),
    "nothing at all": Case(whole(b""), not_kept="an empty file", status=200),
    "endless": Case(flooding(b"HTTP/1.1 200 OK\r\n\r\n" + MOVIE, bytes(50_000)), not_kept="larger than", status=0),
    "too large by its own word": Case(whole(MOVIE, 10**12), not_kept="larger than", status=0),
    "an inner address": Case(link="http://169.254.169.254/film.mp4", not_kept="leads where the relay does not call"),
    "another inner address": Case(link="http://[::ffff:10.0.0.1]/film.mp4", not_kept="leads where the relay does not"),
    "a name of an inner address": Case(link="http://localhost:{port}/film.mp4", not_kept="leads where the relay does"),
    "sent on to an inner address": Case(
        answering(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/film.mp4\r\nContent-Length: 0\r\n\r\n"),
        not_kept="answered 302",
    ),
    "a link with a way up": Case(link="http://{host}/../../../../etc/%2e%2e/film.mp4", status=200),
    "an address with a way up": Case(address=renamed("..%2F..%2F..%2Frelay.db"), status=404, says="no"),
    "an address with another way up": Case(address=renamed("%2e%2e/%2e%2e/relay.db"), status=404),
    "a changed signature": Case(address=forged, status=404, says="not one of the relay"),
    "an expired signature": Case(later_s=8 * DAY_S, status=410, says="has expired"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_what_is_wrong_is_refused_with_a_reason_and_nothing_is_written_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    for module in (mirror, artifacts):
        monkeypatch.setattr(module, "FILE_MAX_BYTES", MAX_BYTES)
    clock, folder = ManualClock(), tmp_path / "relay"
    folder.mkdir()
    async with serving(case.host) as peer, surroundings(folder) as around:
        host = f"127.0.0.1:{peer.port}"
        link = case.link.format(host=host, port=peer.port)
        monkeypatch.setattr(around.vendor.asking, "link", lambda *_: link)
        allowed = f"{around.sandbox_url.removeprefix('http://')},{host}"
        storage = f"file://{folder / 'files'}"
        async with around.relay(clock=clock, artifacts=storage, allow_targets=allowed) as here:
            job_id = (await here.submit())["id"]
            job = await here.job_that(job_id, lambda job: bool(job["artifacts"]) and settled(job["artifacts"][0]))
            clock.advance(case.later_s)
            answer = await fetched(case.address(job["artifacts"][0]["url"]))
    named = {name for name in files_in(tmp_path, folder) if not OWN.fullmatch(name)}

    assert job["state"] == "succeeded"
    assert (case.not_kept or "") in job["artifacts"][0].get("notKept", "")
    assert answer[0] == case.status
    assert case.says in answer[1]
    # The host has nothing else for the preview.
    film, preview = (f"files/{job_id[-2:]}/{job_id}-0{more}.mp4" for more in ("", "-preview-0"))
    assert named <= {film, preview}
    assert (film in named) == (case.not_kept is None)
    assert all(store_files.PATH.fullmatch(name.removeprefix("files/")) for name in named)
    assert os.listdir(tmp_path) == ["relay"]


def files_in(place: Path, seen_from: Path) -> set[str]:
    return {os.path.relpath(path, seen_from) for path in place.rglob("*") if path.is_file()}


def settled(artifact: dict[str, Any]) -> bool:
    return bool(artifact["keptUntil"] or artifact.get("notKept"))


async def fetched(url: str) -> tuple[int, str]:
    """Status and text of the answer; 0 when it is cut."""
    async with httpx2.AsyncClient(trust_env=False) as stranger:
        try:
            answer = await stranger.get(url)
        except httpx2.RemoteProtocolError:
            return 0, ""
    return answer.status_code, answer.text
