"""The files of the relay's pages: the right types, fresh at once after an upgrade, and nothing but them."""

import gzip
import re

import pytest

from relay.web.static import FOLDER
from tests.journeys import Journey
from tests.wire import request, wire

pytestmark = pytest.mark.anyio


async def test_a_file_is_served_with_its_type_and_once_only(here: Journey) -> None:
    plain = {"Authorization": "", "Accept-Encoding": "identity"}
    answer = await here.client.get("/static/relay.js", headers=plain)
    again = await here.client.get("/static/relay.js", headers=plain | {"If-None-Match": answer.headers["etag"]})
    head = await here.client.head("/static/relay.js", headers=plain)

    assert answer.content == (FOLDER / "relay.js").read_bytes()
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; connect-src 'self'"
    assert answer.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert (head.status_code, head.headers["etag"], head.content) == (200, answer.headers["etag"], b"")


async def test_a_file_comes_packed_to_whoever_takes_that(here: Journey) -> None:
    async with wire(here.relay_url) as connection:
        await connection.send(request("GET", "/static/relay.js", {"Accept-Encoding": "br, gzip"}, token=None))
        status, headers = await connection.head()
        packed = await connection.reader.readexactly(int(headers["content-length"]))

    assert (status, headers["content-encoding"], headers["vary"]) == (200, "gzip", "accept-encoding")
    assert gzip.decompress(packed) == (FOLDER / "relay.js").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/../static.py",
        "/static/%2e%2e/static.py",
        "/static/..%2f..%2fvault.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/relay.js%00.css",
        "/static/./relay.js",
        "/static/relay.js/",
        "/static/..\\static.py",
    ],
)
async def test_no_path_leads_out_of_the_folder(here: Journey, path: str) -> None:
    async with wire(here.relay_url) as connection:
        await connection.send(request("GET", path, token=None))
        status, problem = await connection.answer()

    assert (status, problem["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_names_its_picture_so_that_no_browser_looks_for_one(here: Journey, path: str) -> None:
    page = (await here.client.get(path)).text
    [icon] = re.findall(r'<link rel="icon" href="([^"]+)"', page)
    answer = await here.client.get(icon)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
