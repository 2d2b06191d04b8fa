"""nginx and Caddy as `deploy/` configures them: what they let through, what they bound, what they never write down."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from relay.serve import bound
from tests.conformance.fronts import DEPLOY, Front, changed, front, nginx_configuration, program
from tests.conformance.fronts import certificate as a_certificate
from tests.conformance.target import parsed
from tests.journeys import ADMIN_TOKEN, EXAMPLE, WAIT_S, Journey, eventually, journey, surroundings
from tests.whole.processes import free_port, serving
from tests.wire import request, wire

pytestmark = pytest.mark.anyio
NAMES = ("nginx", "caddy")
MIB = 1024 * 1024
STREAMS = 50
CANARY = "canary-0f5d7c1e9b"


def client_of(url: str, **options: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=url, trust_env=False, timeout=WAIT_S, **options)


class Fronted:
    """A relay behind a proxy; `client` carries the admin token through it."""

    def __init__(self, here: Journey, proxy: Front, client: httpx2.AsyncClient) -> None:
        self.here = here
        self.proxy = proxy
        self.client = client


@pytest.fixture(scope="module", params=NAMES)
async def fronted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Fronted]:
    folder = tmp_path_factory.mktemp("relay")
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with (
        journey(folder) as here,
        front(request.param, folder / "front", here.relay_url) as proxy,
        client_of(proxy.url, headers=headers) as client,
    ):
        yield Fronted(here, proxy, client)


# The configurations themselves


def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    cert = a_certificate(tmp_path)
    site = nginx_configuration(tmp_path, "127.0.0.1:8080", free_port(), cert)
    redirect = (DEPLOY / "nginx.conf").read_text("utf-8").partition("server {\n    listen 80;")[2].partition("\n}\n")[0]
    at = tmp_path / "nginx.conf"
    at.write_text(site[:-2] + f"server {{ listen 127.0.0.1:{free_port()}; {redirect}\n}}\n}}\n", "utf-8")
    found = subprocess.run(
        [program("nginx"), "-t", "-e", "stderr", "-c", at], capture_output=True, text=True, timeout=WAIT_S
    )

    assert "test is successful" in found.stderr, found.stderr
    assert "warn" not in found.stderr


def test_caddy_takes_the_configuration_as_it_would_write_it_itself(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    at, caddy = DEPLOY / "Caddyfile", program("caddy")
    valid = subprocess.run(
        [caddy, "validate", "--config", at, "--adapter", "caddyfile"],
        capture_output=True,
        text=True,
        env=env,
        timeout=WAIT_S,
    )
    written = subprocess.run([caddy, "fmt", at], capture_output=True, text=True, env=env, timeout=WAIT_S)

    assert valid.returncode == 0, valid.stderr
    assert "Valid configuration" in valid.stdout
    assert '"level":"warn"' not in valid.stderr
    assert written.stdout == at.read_text("utf-8")


# What is let through, and how much


async def test_a_callback_as_large_as_the_relay_takes_it_comes_through_and_a_larger_one_does_not(
    fronted: Fronted,
) -> None:
    for chunked in (False, True):
        for size_bytes, status in ((MIB, 404), (MIB + 1, 413), (2_900_000, 413)):
            body = b"x" * size_bytes
            answer = await fronted.client.post(f"/callbacks/{CANARY}", content=pieces(body) if chunked else body)

            assert answer.status_code == status, f"{size_bytes} bytes, chunked: {chunked}"


async def test_a_body_beyond_all_bounds_is_refused_by_its_length_alone(fronted: Fronted) -> None:
    for size_bytes in (3_000_000, 9_999_999, 10**8, 10**12):
        async with wire(fronted.proxy.url) as connection:
            headers = {"Host": urlsplit(fronted.proxy.url).netloc, "Content-Length": str(size_bytes)}
            await connection.send(request("POST", f"/callbacks/{CANARY}", headers))

            assert (await connection.head())[0] == 413


async def pieces(body: bytes) -> AsyncGenerator[bytes]:
    for at in range(0, len(body), 65_536):
        yield body[at : at + 65_536]


async def test_an_asset_larger_than_callbacks_may_be_is_uploaded(fronted: Fronted) -> None:
    headers = {"Content-Type": "image/png"}
    body = b"\x89PNG\r\n\x1a\n" + b"x" * (3 * MIB)
    for content in (body, pieces(body)):
        answer = await fronted.client.post("/v1/runwayml/assets/?name=large", content=content, headers=headers)

        assert answer.status_code == 200, answer.text
        assert "assetId" in answer.text


async def test_ids_in_a_path_arrive_byte_for_byte(fronted: Fronted) -> None:
    job = await fronted.here.ended((await fronted.here.submit())["id"])
    direct = await fronted.here.client.get(f"/v1/runwayml/tasks/{job['taskId']}")
    through = await fronted.client.get(f"/v1/runwayml/tasks/{job['taskId']}")

    assert (through.status_code, through.json()["taskId"]) == (200, job["taskId"])
    assert through.json()["status"] == direct.json()["status"]


async def test_a_reader_that_leaves_is_noticed_by_the_relay(fronted: Fronted) -> None:
    streams = fronted.here.node.app.state.streams
    async with fronted.client.stream("GET", "/v1/events", headers={"Accept": "text/event-stream"}) as stream:
        await anext(stream.aiter_raw())
        assert streams.open == 1

    await eventually(lambda: streams.open == 0)


@pytest.mark.parametrize("name", NAMES)
async def test_a_create_that_got_no_answer_is_not_sent_again_and_nobody_can_say_whom_it_comes_from(
    name: str, tmp_path: Path
) -> None:
    got: list[list[str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            got.append(head.decode().splitlines())
            if head.startswith(b"POST"):
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    backend = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    forged = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "gopher", "X-Forwarded-Host": "evil.example"}
    async with server, front(name, tmp_path / "front", backend) as proxy, client_of(proxy.url) as client:
        assert (await client.get("/")).text == "ok"
        answer = await client.post("/v1/jobs", json=EXAMPLE, headers=forged)

    assert answer.status_code == 502
    assert [lines[0] for lines in got] == ["GET / HTTP/1.1", "POST /v1/jobs HTTP/1.1"]
    headers = {line.lower() for line in got[1][1:]}
    place = urlsplit(proxy.url).netloc
    assert {f"host: {place}", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"} <= headers
    assert f"x-forwarded-host: {place}" in headers
    assert not [line for line in headers if any(value in line for value in forged.values())]


async def test_caddy_keeps_a_callback_that_comes_while_the_relay_starts(tmp_path: Path) -> None:
    def debug(text: str) -> str:
        return changed(text, {"log default {": "log default {\n\t\tlevel DEBUG"})

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    port = free_port()
    async with (
        front("caddy", tmp_path / "front", f"http://127.0.0.1:{port}", debug) as proxy,
        client_of(proxy.url) as client,
    ):
        waiting = asyncio.create_task(client.post("/callbacks/x", content=b"{}"))
        await eventually(lambda: "connection refused" in proxy.logged())
        async with await asyncio.start_server(serve, sock=bound("127.0.0.1", port)):
            answer = await waiting

    assert answer.status_code == 200


# What is never written down


async def ask_with_secrets(url: str, trusted: Any = True) -> None:
    """Requests of every kind that carries a secret, each with one that can be recognised."""
    secret = CANARY
    async with client_of(url, verify=trusted, headers={"Authorization": f"Bearer {secret}"}) as client:
        client.cookies.set("session", secret)
        referer = {"Referer": f"{url}/v1/events?ticket={secret}"}
        for path in (f"/callbacks/{secret}", f"/callbacks/inbox/{secret}", f"{url}//callbacks/{secret}"):
            await client.post(path, content=b"{}", headers=referer)
            await client.get(f"{path}?x={secret}")
            await client.post(path, content=b"x" * (MIB + 1))
            await client.post(path, content=pieces(b"x" * (MIB + 1)))
        for query in (f"ticket={secret}", f"since=now&ticket={secret}", f"exp=1&sig={secret}", f"%74icket={secret}"):
            await client.get(f"/v1/events?{query}", headers={"Accept": "text/event-stream"})
            await client.get(f"/v1/artifacts/x/y.mp4?{query}", headers=referer)


@pytest.mark.parametrize("name", ["nginx", "caddy", "caddy with TLS", "nginx with TLS"])
async def test_no_log_of_theirs_has_a_secret_whether_the_relay_answers_or_not(name: str, tmp_path: Path) -> None:
    async with journey(tmp_path) as here, front(name, tmp_path / "front", here.relay_url) as proxy:
        job = await here.ended((await here.submit())["id"])
        ticket = (await here.client.post("/v1/tickets", json={"job": job["id"]})).json()["ticket"]
        address = job["artifacts"][0]["url"].removeprefix(here.relay_url)
        async with client_of(proxy.url, verify=proxy.trusted) as client:
            assert (await client.get(f"/v1/jobs/{job['id']}", params={"ticket": ticket})).status_code == 200
            assert (await client.get(address, headers={"Range": "bytes=0-9"})).status_code == 206
        await ask_with_secrets(proxy.url, proxy.trusted)
        streaming = asyncio.create_task(cut_stream(proxy, ticket))
        await eventually(lambda: here.node.app.state.streams.open == 1)
        here.node.drain()
        await streaming
    async with front(name, tmp_path / "alone", f"http://127.0.0.1:{free_port()}", without_retries) as alone:
        await ask_with_secrets(alone.url, alone.trusted)
        await eventually(lambda: alone.logged().count(" 502 ") + alone.logged().count('"status":502') >= 10)
    logged = proxy.logged() + alone.logged()

    assert "/v1/jobs/" in logged
    assert "/callbacks/" in logged
    secrets = [CANARY, ticket, address.partition("sig=")[2], ADMIN_TOKEN]
    assert [line for line in logged.splitlines() if any(secret in line for secret in secrets)] == []


def without_retries(text: str) -> str:
    return text.replace("lb_try_duration 5s", "")


async def cut_stream(proxy: Front, ticket: str) -> None:
    async with client_of(proxy.url, verify=proxy.trusted) as client:
        await client.get(
            "/v1/events", params={"ticket": ticket, "since": "now"}, headers={"Accept": "text/event-stream"}
        )


@pytest.mark.parametrize(
    ("name", "filtered"),
    [("nginx", "_log {folder}/relay"), ("nginx", "-error.log emerg"), ("caddy", "request>uri"), ("caddy", "headers")],
)
async def test_without_what_the_configurations_do_the_secrets_would_be_there(
    name: str, filtered: str, tmp_path: Path
) -> None:
    def spoil(text: str) -> str:
        if filtered == "headers":
            return changed(text, {"request>headers delete": "request>other delete"})
        if filtered == "request>uri":
            return changed(text, {"request>uri regexp": "request>other regexp"})
        if filtered == "-error.log emerg":
            return changed(text, {"relay-error.log emerg": "relay-error.log error"})
        return changed(text, {"relay.log relay;": "relay.log combined;"})

    folder = tmp_path / "front"
    async with front(
        name, folder, f"http://127.0.0.1:{free_port()}", lambda text: without_retries(spoil(text))
    ) as proxy:
        await ask_with_secrets(proxy.url)
        await eventually(lambda: CANARY in proxy.logged())


# The relay stops


@pytest.mark.parametrize("name", ["directly", *NAMES])
async def test_on_sigterm_every_open_stream_gets_its_goodbye_and_a_whole_body(name: str, tmp_path: Path) -> None:
    opened = asyncio.Semaphore(0)

    async def read(client: httpx2.AsyncClient) -> bytes:
        body = b""
        async with client.stream("GET", "/v1/events", headers={"Accept": "text/event-stream"}) as stream:
            async for piece in stream.aiter_raw():
                if not body:
                    opened.release()
                body += piece
        return body

    limits = httpx2.Limits(max_connections=STREAMS)
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with surroundings(tmp_path) as around, serving(around, free_port()) as relay:
        before = nullcontext(relay) if name == "directly" else front(name, tmp_path / "front", relay.url)
        async with before as seen, client_of(seen.url, headers=headers, limits=limits) as client:
            reading = [asyncio.create_task(read(client)) for _ in range(STREAMS)]
            for _ in reading:
                await opened.acquire()
            code = await relay.stopped(signal.SIGTERM)
            bodies = await asyncio.gather(*reading)

    assert code == 0
    for body in bodies:
        assert body.endswith(b"\n\n")
        last = parsed(body)[-1]
        assert (last.type, last.json["reason"]) == ("stream.bye", "drain")
