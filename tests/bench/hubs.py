"""The hubs of the streams' benchmark: the relay, Nchan and sse-starlette, each on one core, each told what to send.

Every event that they send has exactly one `~`, so that whoever reads can count frames by counting those.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.core.accounts import AccountsListed, SeenAccount
from relay.core.job import Job, task_id_of
from relay.core.outcome import Accepted
from relay.core.submitting import AttemptAnswered, AttemptStarted, JobSubmitted
from relay.core.task import named
from relay.store.sqlite import open_store
from relay.vault import hash_token, new_hex, new_uuid7

Process = subprocess.Popen[bytes]
MARK = "~"
TOKEN = "bench-admin-token-bench-admin"
EMAIL = "bench@example.com"
JOBS = 100
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
# The core that servers have; whoever measures has another one.
CORE = 0
NGINX = """
load_module {module};
daemon off;
master_process off;
user {user};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /pub {{ nchan_publisher; nchan_channel_id one; nchan_message_buffer_length 2000; }}
    location = /sub {{ nchan_subscriber eventsource; nchan_channel_id one; nchan_subscriber_first_message newest; }}
  }}
}}
"""


@dataclass
class Hub:
    """A running server. `subscribe` is the request of a reader, `publish` gives one of a new event at each call."""

    name: str
    port: int
    process: Process
    subscribe: bytes
    publish: Iterator[bytes]

    def cpu_s(self) -> float:
        """Of all its threads, from the kernel."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def request(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    lines = {"Host": "x", "Authorization": f"Bearer {TOKEN}", **(headers or {})}
    if body:
        lines |= {"Content-Length": str(len(body)), "Content-Type": "application/json"}
    return "\r\n".join([f"{method} {path} HTTP/1.1", *map(": ".join, lines.items()), "", ""]).encode() + body


def subscription(path: str, last: str = "") -> bytes:
    """The head of a reader's request."""
    lines = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
    return request("GET", path, headers=lines)


@contextmanager
def running(
    command: list[str], port: int, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on `CORE`, once it takes connections; its CPU and memory are its own, it has no children."""
    taskset = ["taskset", "-c", str(CORE)]
    process = subprocess.Popen([*taskset, *command], env=os.environ | (environment or {}), stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None, f"{command[0]} has ended"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.02)
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


# The relay


async def prepare(path: Path) -> list[tuple[str, str, str]]:
    """Running jobs in a new database; token, task id and job id of each."""
    store = await open_store(path, new_hex=new_hex, committed=lambda head, events: None)
    now_ms, made = int(time.time() * 1000), []
    await store.apply(AccountsListed((SeenAccount(EMAIL, JOBS),), now_ms))
    for n in range(JOBS):
        job_id, token = new_uuid7(now_ms), new_hex(32)
        task_id = f"user:7-runwayml:{EMAIL}-task:00000000-0000-4000-8000-{n:012d}"
        job = Job(
            id=job_id, model="gen4.5", token_id="admin", submitted_by="admin", task_id=task_id_of(job_id),
            request={"model": "gen4.5"}, created_at_ms=now_ms, updated_at_ms=now_ms, reply_ref=MARK,
        )  # fmt: skip
        await store.apply(JobSubmitted(job, 10_000, 10_000))
        attempt = await store.apply(AttemptStarted(job_id, store.instance, EMAIL, hash_token(token), now_ms))
        assert attempt is not None
        # Far in the future: nothing is asked about while the load runs.
        answered = Accepted(named(task_id, attempt.reply_ref))
        await store.apply(AttemptAnswered(job_id, 1, answered, now_ms + 10**9))
        made.append((token, task_id, job_id))
    await store.close()
    return made


def callbacks(attempts: list[tuple[str, str, str]]) -> Iterator[bytes]:
    """Callbacks that each make one event: the progress of each job rises by a little."""
    for step in range(1, 100_000):
        for token, task_id, _ in attempts:
            body = {"taskId": task_id, "status": "RUNNING", "progressRatio": str(step / 100_000)}
            yield request("POST", f"/callbacks/{token}", json.dumps(body).encode())


@contextmanager
def relay(path: Path, attempts: list[tuple[str, str, str]]) -> Iterator[Hub]:
    """The relay on a database that is there."""
    port = free_port()
    environment = {
        "RELAY_DATABASE_URL": f"sqlite:///{path}",
        "RELAY_PORT": str(port),
        "RELAY_UPSTREAM_URL": "http://127.0.0.1:9/v1/runwayml",
        "RELAY_UPSTREAM_TOKEN": "none",
        "RELAY_ADMIN_TOKEN": TOKEN,
    }
    with running([sys.executable, "-m", "relay.cli.main", "serve"], port, environment) as process:
        yield Hub("relay", port, process, subscription("/v1/events"), callbacks(attempts))


# The peers


def messages(path: str, body: bytes) -> Iterator[bytes]:
    while True:
        yield request("POST", path, body)


@contextmanager
def nchan(folder: Path, body: bytes) -> Iterator[Hub]:
    """nginx with Nchan, one process."""
    port, config = free_port(), folder / "nginx.conf"
    user = Path(folder).owner()
    config.write_text(NGINX.format(module=NCHAN, folder=folder, port=port, user=user))
    with running(["nginx", "-e", f"{folder}/error.log", "-c", str(config)], port) as process:
        yield Hub("Nchan", port, process, subscription("/sub"), messages("/pub", body))


def has_nchan() -> bool:
    return which("nginx") is not None and NCHAN.exists()


@contextmanager
def sse_starlette(body: bytes) -> Iterator[Hub]:
    """sse-starlette as its documentation has it: a queue for each reader."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.bench.hubs:broadcaster", "--port", str(port), "--no-access-log"]
    with running([*command, "--log-level", "warning", "--backlog", "4096"], port) as process:
        yield Hub("sse-starlette", port, process, subscription("/sub"), messages("/pub", body))


_readers: set[asyncio.Queue[str]] = set()


async def _publish(request: Request) -> Response:
    data = (await request.body()).decode()
    for queue in _readers:
        queue.put_nowait(data)
    return Response(status_code=202)


async def _subscribe(request: Request) -> Response:
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def events() -> AsyncIterator[dict[str, str]]:
        _readers.add(queue)
        try:
            while True:
                yield {"data": await queue.get(), "event": "job.progress", "id": "00000000-1"}
        finally:
            _readers.discard(queue)

    return EventSourceResponse(events())


@asynccontextmanager
async def _nothing(app: Starlette) -> AsyncGenerator[None]:
    yield


broadcaster = Starlette(
    routes=[Route("/pub", _publish, methods=["POST"]), Route("/sub", _subscribe)], lifespan=_nothing
)
