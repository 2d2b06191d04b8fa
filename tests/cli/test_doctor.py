"""`relay doctor` on what it should find well, and on each thing that it is there to find."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay import settings
from relay.core.holding import SubmittingHeld
from relay.doctor import running, server, upstream
from relay.doctor.finding import Finding
from relay.sandbox.vendor import Vendor
from relay.serve import bound, hosted
from tests.cli.test_commands import relay
from tests.conformance.fronts import front
from tests.journeys import ADMIN_TOKEN, Journey, journey, surroundings
from tests.postgres import Cluster
from tests.whole.processes import environment, free_port, serving

pytestmark = pytest.mark.anyio

# Whether Python's own SQLite has its known defect is no matter of these tests.
OF_THE_MACHINE = {"sqlite"}


def by_name(found: list[Finding]) -> dict[str, Finding]:
    return {row.name: row for row in found}


async def of_running(here: Journey, token: str | None = ADMIN_TOKEN) -> dict[str, Finding]:
    return by_name(await running.examine(here.relay_url, token, expected=True))


@pytest.mark.parametrize("name", ["caddy", "nginx"])
async def test_behind_a_proxy_as_deploy_configures_it_everything_is_well(tmp_path: Path, name: str) -> None:
    port = free_port()
    async with (
        surroundings(tmp_path) as around,
        front(name, tmp_path / "front", f"http://127.0.0.1:{port}") as proxy,
        serving(around, port, public_url=proxy.url),
    ):
        env = environment(around, port, public_url=proxy.url)
        code, text, said = await relay("doctor", "--json", folder=tmp_path, env=env)
        _, shown, _ = await relay("doctor", folder=tmp_path, env=env | {"COLUMNS": "60"})

    found = {row["name"]: row for row in json.loads(text)}
    assert {name: row for name, row in found.items() if row["verdict"] != "ok" and name not in OF_THE_MACHINE} == {}
    assert found.keys() >= {
        *("settings", "callbacks", "database", "key", "disk", "artifacts", "upstream", "account", "clock"),
        *("relay", "hold", "public address", "callback loop", "streams"),
    }
    assert proxy.url in found["public address"]["sentence"]
    assert (code, said) == (0, "")
    assert max(map(len, shown.splitlines())) <= 60
    assert not [secret for secret in (ADMIN_TOKEN, "upstream-token", "ticket=") if secret in text + shown]


async def test_without_a_running_relay_its_part_is_skipped_unless_somebody_said_there_is_one(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        env = environment(around, free_port())
        here = await relay("doctor", "--json", folder=tmp_path, env=env)
        there = await relay("doctor", "--json", f"--url=http://127.0.0.1:{free_port()}", folder=tmp_path, env=env)
        elsewhere = await relay(
            "doctor", "--json", folder=tmp_path, env={"RELAY_URL": f"http://127.0.0.1:{free_port()}"}
        )

    found = [{row["name"]: row["verdict"] for row in json.loads(text)} for _, text, _ in (here, there, elsewhere)]
    assert (here[0], found[0]["relay"], found[0]["upstream"]) == (0, "skipped", "ok")
    assert (there[0], found[1]["relay"]) == (1, "failure")
    assert (elsewhere[0], found[2]) == (1, {"settings": "skipped", "relay": "failure"})
    assert "public address" not in found[0]


async def test_the_admin_token_of_this_place_goes_to_no_address_that_somebody_named(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with surroundings(tmp_path) as around, await asyncio.start_server(listen, "127.0.0.1", 0) as other:
        url = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        await relay("doctor", folder=tmp_path, env=environment(around, free_port()) | {"RELAY_URL": url})

    assert heads
    assert ADMIN_TOKEN.encode() not in b"".join(heads)


@asynccontextmanager
async def misled(
    folder: Path, answer: Callable[[Request, httpx2.AsyncClient], object]
) -> AsyncGenerator[dict[str, Finding]]:
    """What is found where the public address belongs to a proxy that answers like this."""
    port = free_port()
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as beyond:

        async def through(request: Request) -> Response:
            found = answer(request, beyond)
            return found if isinstance(found, Response) else await passed_on(request, beyond)

        app = Starlette(routes=[Route("/{path:path}", through, methods=["GET", "POST"])])
        async with (
            hosted(app, bound("127.0.0.1", 0)) as address,
            surroundings(folder) as around,
            serving(around, port, public_url=address),
        ):
            yield by_name(await running.examine(f"http://127.0.0.1:{port}", ADMIN_TOKEN, expected=True))


async def passed_on(request: Request, beyond: httpx2.AsyncClient) -> Response:
    """The whole answer at once: what has no end never comes."""
    headers = {"Accept": request.headers.get("accept", "*/*")}
    answer = await beyond.request(
        request.method, str(request.url.replace(scheme="", netloc="")), headers=headers, content=await request.body()
    )
    return Response(answer.content, answer.status_code, {"Content-Type": answer.headers["content-type"]})


async def test_a_proxy_that_buffers_streams_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "FIRST_BYTE_S", 0.5)
    async with misled(tmp_path, lambda request, _: None) as found:
        assert (found["public address"].verdict, found["callback loop"].verdict) == ("ok", "ok")
        assert (found["streams"].verdict, found["streams"].remedy) == ("failure", running.UNBUFFERED)
        assert "buffers it" in found["streams"].sentence


async def test_a_proxy_that_compresses_streams_and_keeps_callbacks_for_itself_is_found(tmp_path: Path) -> None:
    def meddling(request: Request, _: object) -> object:
        if request.url.path.startswith("/callbacks/"):
            return Response("thanks")
        if "event-stream" in request.headers["accept"]:
            return Response(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}, media_type="text/event-stream")
        return None

    async with misled(tmp_path, meddling) as found:
        assert found["public address"].verdict == "ok"
        assert (found["callback loop"].verdict, found["callback loop"].remedy) == ("failure", running.RULES)
        assert (found["streams"].verdict, "compresses" in found["streams"].sentence) == ("failure", True)


async def test_an_address_that_leads_to_another_relay_or_to_none_is_found(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "nowhere").mkdir()
    async with journey(tmp_path / "other") as other:
        async with journey(tmp_path, public_url=other.relay_url) as here:
            found = await of_running(here)
        async with journey(tmp_path, public_url=f"http://127.0.0.1:{free_port()}") as here:
            nowhere = await of_running(here)
        async with journey(tmp_path, public_url=other.sandbox_url) as here:
            strange = await of_running(here)

    assert found["public address"].verdict == "failure"
    assert "another relay answers" in found["public address"].sentence
    assert "cannot be reached" in nowhere["public address"].sentence
    assert "something else answers" in strange["public address"].sentence
    assert all("callback loop" not in each for each in (found, nowhere, strange))


async def test_a_hold_a_wrong_token_and_a_relay_that_is_none_are_told_with_what_to_do(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        held = SubmittingHeld("a backup was restored", 1_700_000_000_000)
        await here.node.app.state.store.apply(held)
        found = await of_running(here)
        unknown = await of_running(here, "not-the-token")
        [none] = await running.examine(f"{here.sandbox_url}/hook", ADMIN_TOKEN, expected=True)

    assert (found["hold"].verdict, "a backup was restored" in found["hold"].sentence) == ("warning", True)
    assert "relay resume" in (found["hold"].remedy or "")
    assert (unknown["relay"].verdict, unknown["relay"].remedy) == ("failure", running.SCOPES)
    assert (none.verdict, "is no relay" in none.sentence) == ("failure", True)


def settings_for(url: str, **more: str) -> settings.Settings:
    return settings.given(upstream_url=url, upstream_token="the-upstream-token", admin_token=ADMIN_TOKEN, **more)


async def test_what_is_wrong_with_the_upstream_and_its_accounts_is_told(tmp_path: Path) -> None:
    vendor = Vendor(Random(1), token="another")  # noqa: S311 - chance, not a secret
    async with surroundings(tmp_path, vendor=vendor) as around:
        refused = by_name(await upstream.examine(settings_for(f"{around.sandbox_url}/v1/runwayml")))
    async with surroundings(tmp_path) as around:
        url = f"{around.sandbox_url}/v1/runwayml"
        found = await upstream.examine(settings_for(url, accounts="nobody@example.com=1"))
    away = by_name(await upstream.examine(settings_for(f"http://127.0.0.1:{free_port()}")))

    assert (refused["upstream"].verdict, refused["upstream"].remedy) == ("failure", upstream.UNKNOWN)
    assert refused["clock"].verdict == "skipped"
    assert [row.verdict for row in found if "nobody@example.com" in row.sentence] == ["failure"]
    assert (away["upstream"].verdict, away["upstream"].remedy) == ("failure", upstream.AWAY)
    assert "the-upstream-token" not in repr((refused, found, away))


@pytest.mark.parametrize(("dated", "way"), [("Thu, 01 Jan 2015", "ahead of"), ("Thu, 01 Jan 2099", "behind")])
async def test_a_clock_that_disagrees_with_the_upstreams_is_told(dated: str, way: str) -> None:
    body = json.dumps({"me@example.com": {"maxJobs": 2}})
    answer = (
        f"HTTP/1.1 200 OK\r\nDate: {dated} 00:00:00 GMT\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as there:
        port = there.sockets[0].getsockname()[1]
        found = by_name(await upstream.examine(settings_for(f"http://127.0.0.1:{port}")))

    assert (found["clock"].verdict, f" {way} the upstream's" in found["clock"].sentence) == ("failure", True)


async def test_postgresql_is_looked_at_and_its_password_never_shown(postgres: Cluster) -> None:
    url = await postgres.database("doctor")
    key = {"secret_key": "A" * 43}

    async def look(address: str) -> Finding:
        return await server.examine(settings_for("http://127.0.0.1:9", database_url=address, **key))

    good = await look(url)
    lost = await look(f"{url}&options=-csynchronous_commit%3Doff")
    nowhere = await look("postgresql://relay:a-password@127.0.0.1:9/relay")
    nonsense = await look("postgresql://relay:a/password@127.0.0.1/relay")

    assert (good.verdict, "synchronous_commit = on" in good.sentence) == ("ok", True)
    assert (lost.verdict, "synchronous_commit = off" in lost.sentence) == ("failure", True)
    assert [nowhere.verdict, nonsense.verdict] == ["failure", "failure"]
    assert "password@" not in repr((nowhere, nonsense)).replace("user:password@host", "")
