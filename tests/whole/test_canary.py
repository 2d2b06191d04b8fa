"""More than fifty secrets go through a relay, directly and through nginx and Caddy, and are found nowhere afterwards.

Not in logs, metrics or errors, not in what a token that may read everything is shown, not in the database, a backup,
the files of the proxies, or temporary folders.
"""

import asyncio
import base64
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay.clock import SystemClock
from tests.conformance.fronts import front
from tests.journeys import EXAMPLE, WAIT_S, Surroundings, eventually, journey, surroundings
from tests.whole.canaries import Canaries, files, forms
from tests.whole.processes import SERVE, Serving, environment, free_port, started

pytestmark = pytest.mark.anyio
TOO_LONG = "x" * 600
# What a careless change could do to a relay: it is made in the process that serves.
LEAKS = {
    "a log": """
import relay.web.trace as trace
call = trace.RequestTrace.__call__
async def talkative(self, scope, receive, send):
    trace._log.info("asked", query=str(scope.get("query_string")))
    await call(self, scope, receive, send)
trace.RequestTrace.__call__ = talkative
""",
    "the database": """
from relay.vault import Vault
sealed, opened = Vault.seal, Vault.open
Vault.seal = lambda self, plain, purpose: f"{sealed(self, plain, purpose)}.{plain}"
Vault.open = lambda self, text, purpose: opened(self, ".".join(text.split(".")[:3]), purpose)
""",
    "an error": """
from relay.errors import Unauthorized
from relay.web.guard import Guard
holder = Guard._holder
async def chatty(self, token, now_ms):
    try:
        return await holder(self, token, now_ms)
    except Unauthorized:
        raise Unauthorized(f"{token} is not known") from None
Guard._holder = chatty
""",
}


@dataclass
class Walk:
    """One way to the relay; what went wrong on it, and what a reader was shown."""

    name: str
    client: httpx2.AsyncClient
    canaries: Canaries
    admin: str
    written: list[tuple[str, bytes]]
    direct_url: str
    reader: str = ""
    shown: list[tuple[str, bytes]] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)

    def secret(self, name: str) -> str:
        return self.canaries.new(f"{self.name}: {name}")

    def learn(self, name: str, value: str) -> str:
        return self.canaries.learn(f"{self.name}: {name}", value)

    async def ask(self, method: str, path: str, *, token: str | None = None, **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {token or self.admin}"} | more.pop("headers", {})
        answer = await self.client.request(method, path, headers={k: v for k, v in headers.items() if v}, **more)
        if answer.status_code >= 400:
            self.written.append((f"{self.name}: {answer.status_code} to {method} {path[:30]}", answer.content))
        return answer

    async def read(self, path: str) -> None:
        answer = await self.ask("GET", path, token=self.reader)
        assert answer.status_code == 200, answer.text
        self.shown.append((f"{self.name}: {path}", answer.content))


async def tokens(walk: Walk) -> None:
    made = {}
    for scope in ("submit", "read", "manage", "gone"):
        body = {"name": f"{walk.name} {scope}", "scopes": ["read" if scope == "gone" else scope]}
        made[scope] = (await walk.ask("POST", "/v1/tokens", json=body)).json()
        walk.learn(f"token to {scope}", made[scope]["token"])
    walk.reader = made["read"]["token"]
    await walk.ask("DELETE", f"/v1/tokens/{made['gone']['id']}")
    assert (await walk.ask("GET", "/v1/jobs", token=made["gone"]["token"])).status_code == 401
    assert (await walk.ask("DELETE", "/v1/tokens/x", token=walk.reader)).status_code == 403
    basic = base64.b64encode(f"user:{walk.secret('password')}".encode()).decode()
    for headers in (
        {"Authorization": f"Bearer {walk.secret('wrong token')}"},
        {"Authorization": f"Bearer {walk.secret('long token')}{TOO_LONG}"},
        {"Authorization": f"Basic {basic}"},
        {"Authorization": "", "X-Api-Key": walk.secret("key in a header of another kind")},
        {"Authorization": "", "Cookie": f"session={walk.secret('cookie of another site')}"},
        {"Authorization": "", "Referer": f"https://shop.example.com/?key={walk.secret('referer')}"},
    ):
        assert (await walk.ask("GET", "/v1/jobs", headers=headers)).status_code == 401
    answer = await walk.ask("GET", f"/v1/jobs?token={walk.secret('token in a query')}", headers={"Authorization": ""})
    assert answer.status_code == 401
    await walk.ask("GET", f"/v1/nothing?token={walk.secret('query of no door')}")
    await walk.ask("GET", "/v1/jobs", headers={"traceparent": f"00-{walk.secret('broken traceparent')}-01"})


async def subscriptions(walk: Walk, hook: str) -> str:
    body = {"url": f"{hook}?key={walk.secret('query of a subscription')}"}
    made = (await walk.ask("POST", "/v1/subscriptions", json=body)).json()
    walk.learn("secret of a subscription", made["secret"].removeprefix("whsec_"))
    own = walk.canaries.webhook_secret(f"{walk.name}: secret that was brought")
    gone = f"{hook.removesuffix('/hook')}/{walk.secret('path of a subscription')}"
    second = (await walk.ask("POST", "/v1/subscriptions", json={"url": gone, "secret": own})).json()
    rotated = (await walk.ask("POST", f"/v1/subscriptions/{second['id']}/rotate", json={})).json()
    walk.learn("secret after a rotation", rotated["secret"].removeprefix("whsec_"))
    unknown = f"https://{walk.name}.invalid/{walk.secret('path of a name that does not exist')}"
    await walk.ask("PATCH", f"/v1/subscriptions/{made['id']}", json={"description": "kept"})
    third = (await walk.ask("POST", "/v1/subscriptions", json={"url": unknown, "types": ["job.queued"]})).json()
    for refused in (
        {"url": f"http://10.0.0.1/{walk.secret('path of a refused target')}"},
        {"url": f"https://user:{walk.secret('userinfo of a subscription')}@example.com/"},
        {"url": hook, "secret": f"whsec_{walk.secret('malformed secret')}!"},
        {"url": hook, "secret": f"whsec_{walk.secret('long secret')}{TOO_LONG}"},
        {"url": hook, "token": walk.secret("field that does not exist")},
    ):
        assert (await walk.ask("POST", "/v1/subscriptions", json=refused)).status_code == 400, refused
    await walk.ask("POST", f"/v1/subscriptions/{second['id']}/ping")
    await walk.ask("POST", f"/v1/subscriptions/{third['id']}/ping")
    return str(made["id"])


async def jobs(walk: Walk, around: Surroundings) -> dict[str, Any]:
    hook, key = around.subscriber.url, walk.secret("idempotency key")
    asked = EXAMPLE | {"replyUrl": f"{hook}?own={walk.secret('reply URL')}", "replyRef": walk.name}
    job = (await walk.ask("POST", "/v1/jobs", json=asked, headers={"Idempotency-Key": key})).json()
    again = await walk.ask("POST", "/v1/jobs", json=asked | {"duration": 10}, headers={"Idempotency-Key": key})
    assert again.status_code == 409
    dropin = asked | {"replyUrl": f"{hook}?own={walk.secret('reply URL at the drop-in door')}"}
    headers = {"Idempotency-Key": walk.secret("idempotency key at the drop-in door")}
    made = (await walk.ask("POST", "/v1/runwayml/videos/create", json=dropin, headers=headers)).json()
    refused = EXAMPLE | {"replyUrl": f"http://192.168.0.1/{walk.secret('refused reply URL')}"}
    for door in ("/v1/jobs", "/v1/runwayml/videos/create"):
        assert (await walk.ask("POST", door, json=refused)).status_code == 400
    broken = f'{{"replyUrl": "https://example.com/{walk.secret("body that is no JSON")}'
    assert (await walk.ask("POST", "/v1/jobs", content=broken)).status_code == 400
    odd = EXAMPLE | {"replyUrl": f"https://example.com/{walk.secret('reply URL with a wrong model')}", "model": "gen0"}
    assert (await walk.ask("POST", "/v1/jobs", json=odd)).status_code == 400
    for job_id in (job["id"], made["jobId"]):
        await walk.ask("GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
    ended: dict[str, Any] = (await walk.ask("GET", f"/v1/jobs/{job['id']}")).json()
    assert ended["state"] == "succeeded", ended
    walk.jobs.append(ended["id"])
    await walk.ask("POST", f"/v1/jobs/{job['id']}/retry")
    return ended


async def callbacks(walk: Walk, around: Surroundings, job: dict[str, Any], inbox: str) -> None:
    tasks = around.vendor.state(SystemClock().now_ms())["tasks"]
    task = next(task for task in tasks if job["id"] in task["replyRef"])
    token = walk.learn("callback token", task["replyUrl"].rpartition("/")[2])
    door = f"/callbacks/{token}"
    for body in (
        {"status": "RUNNING", "replyUrl": task["replyUrl"], "note": token},
        {"no": "task", "of": [token, {token: f"https://x/{token}?{token}"}]},
    ):
        assert (await walk.ask("POST", door, json=body)).status_code == 200
    assert (await walk.ask("POST", door, content=f"<p>{token}</p> {token}")).status_code == 200
    await walk.ask("POST", f"{door}?x={walk.secret('query of a callback')}", json={})
    assert (await walk.ask("PUT", door, json={})).status_code == 405
    assert (await walk.ask("POST", door, content=b"x" * 1_100_000)).status_code == 413
    assert (await walk.ask("POST", f"/callbacks/{walk.secret('wrong callback token')}", json={})).status_code == 404
    wrong = f"/callbacks/inbox/{walk.secret('wrong inbox token')}"
    assert (await walk.ask("POST", wrong, json={})).status_code == 404
    body = {"replyUrl": f"https://relay.example.com/callbacks/inbox/{inbox}", "code": inbox}
    assert (await walk.ask("POST", f"/callbacks/inbox/{inbox}", json=body)).status_code == 200


async def capabilities(walk: Walk, job: dict[str, Any]) -> None:
    """Tickets, addresses of artifacts, sessions."""
    nobody = {"Authorization": ""}
    for wanted in ({"job": job["id"]}, {"replyRef": walk.name}):
        ticket = (await walk.ask("POST", "/v1/tickets", json=wanted)).json()["ticket"]
        walk.learn(f"ticket for {next(iter(wanted))}", ticket)
        assert (await walk.ask("GET", f"/v1/jobs/{job['id']}?ticket={ticket}", headers=nobody)).status_code == 200
        await walk.ask("GET", f"/v1/events?ticket={ticket}&since=x", headers=nobody)
    forged = walk.secret("forged ticket")
    assert (await walk.ask("GET", f"/v1/events?ticket={forged}", headers=nobody)).status_code == 401
    address = job["artifacts"][0]["url"]
    path, _, signature = address.partition("sig=")
    walk.learn("signature of an artifact", signature)
    path = path.removeprefix(f"{walk.direct_url}")
    assert (await walk.ask("GET", f"{path}sig={signature}", headers=nobody)).status_code == 200
    assert (await walk.ask("GET", f"{path}sig={walk.secret('wrong signature')}", headers=nobody)).status_code >= 400
    origin = {"Origin": str(walk.client.base_url).rstrip("/")} | nobody
    signed_in = await walk.ask("POST", "/session", json={"token": walk.admin}, headers=origin)
    assert signed_in.status_code == 201, signed_in.text
    walk.learn("session cookie", signed_in.headers["set-cookie"].partition(";")[0].partition("=")[2])
    walk.client.cookies.clear()
    for wrong in (walk.secret("token that was typed wrongly"), walk.secret("token that is too long") + TOO_LONG):
        assert (await walk.ask("POST", "/session", json={"token": wrong}, headers=origin)).status_code in (400, 401)
    name = signed_in.headers["set-cookie"].partition("=")[0]
    cookie = {"Cookie": f"{name}={walk.secret('forged cookie')}"}
    assert (await walk.ask("GET", "/session", headers=nobody | cookie)).status_code == 401


async def looks(walk: Walk, job: dict[str, Any], subscription: str) -> None:
    """What a token that may read everything is shown, and what one that may manage is."""
    of_job = [f"/v1/jobs/{job['id']}{rest}" for rest in ("", "/why", "/callbacks", "/deliveries", "/events")]
    for path in (
        *of_job,
        "/v1/jobs",
        "/v1/events?since=earliest",
        "/v1/deliveries",
        "/v1/stats",
        "/metrics",
        "/readyz",
    ):
        await walk.read(path)
    for path in ("/v1/subscriptions", f"/v1/subscriptions/{subscription}", "/v1/tokens", "/v1/quarantine"):
        answer = await walk.ask("GET", path)
        walk.shown.append((f"{walk.name}: {path}", answer.content))


@dataclass
class Place:
    """A relay as a process, with a folder of its own for temporary files."""

    around: Surroundings
    relay: Serving
    canaries: Canaries
    admin: str
    inbox: str
    env: dict[str, str]
    written: list[tuple[str, bytes]] = field(default_factory=list)

    @asynccontextmanager
    async def walk(self, name: str) -> AsyncGenerator[Walk]:
        url, folder = self.relay.url, self.around.folder / name
        async with AsyncExitStack() as stack:
            if name != "directly":
                proxy = await stack.enter_async_context(front(name, folder, url))
                url = proxy.url
            client = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, trust_env=False, timeout=WAIT_S))
            walk = Walk(name, client, self.canaries, self.admin, self.written, self.relay.url)
            yield walk
        if name != "directly":
            self.written.append((f"what {name} wrote", proxy.logged().encode()))

    async def program(self, *arguments: str, **env: str) -> None:
        """A command that ends by itself, and what it prints."""
        process = await asyncio.create_subprocess_exec(
            *SERVE[:-1], *arguments, cwd=self.around.folder, env=self.env | env,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        assert said
        self.written.append((f"relay {' '.join(arguments)}", said))


@asynccontextmanager
async def place(folder: Path, leak: str | None = None) -> AsyncGenerator[Place]:
    canaries = Canaries()
    admin, inbox = canaries.new("admin token"), canaries.new("inbox token")
    keys = [canaries.learn(f"key {n}", base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")) for n in (1, 2)]
    (folder / "tmp").mkdir()
    command: tuple[str, ...] = SERVE
    if leak is not None:
        command = (sys.executable, "-c", f"{LEAKS[leak]}\nimport sys; sys.argv[1:] = ['serve']\n"
                   "from relay.cli.main import main; main()")  # fmt: skip
    async with surroundings(folder) as around:
        port = free_port()
        env = environment(
            around, port, admin_token=admin, upstream_token=canaries.new("upstream token"), secret_key=",".join(keys),
            callback_inbox_token=inbox, artifacts=f"file://{folder}/kept",
            default_reply_url=f"{around.subscriber.url}?key={canaries.new('default reply URL')}",
        ) | {"TMPDIR": str(folder / "tmp"), "AWS_SECRET_ACCESS_KEY": canaries.new("key of the bucket")}  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=WAIT_S) as client:
            relay = Serving(url, await started(around, env, command), client)
            try:
                await relay.started()
                made = Place(around, relay, canaries, admin, inbox, env)
                yield made
            finally:
                await relay.stopped(signal.SIGTERM)


async def whole_walk(here: Place, name: str) -> Walk:
    async with here.walk(name) as walk:
        await tokens(walk)
        subscription = await subscriptions(walk, here.around.subscriber.url)
        job = await jobs(walk, here.around)
        await callbacks(walk, here.around, job, here.inbox)
        await capabilities(walk, job)
        await looks(walk, job, subscription)
    return walk


def findings(here: Place, walks: list[Walk]) -> list[str]:
    """Where which secret was found."""
    written = [*here.written, ("the relay's log", "".join(here.relay.lines).encode()), *files(here.around.folder)]
    found = [f"{name} in {where}" for where, data in written for name in here.canaries.found(data)]
    for where, data in (each for walk in walks for each in walk.shown):
        # Each reader is shown addresses of artifacts that were made for it, perhaps in the same second.
        found += [f"{name} in {where}" for name in here.canaries.found(data) if not name.endswith("of an artifact")]
    return found


def seen(here: Place, text: str) -> set[str]:
    """Where something stands that is no secret: to know that one would have been found there."""
    control = Canaries()
    control.learn("control", text)
    written = [*here.written, ("the relay's log", "".join(here.relay.lines).encode()), *files(here.around.folder)]
    return {where for where, data in written if control.found(data)}


async def test_no_secret_is_found_in_anything_that_was_written(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        walks = [await whole_walk(here, name) for name in ("directly", "nginx", "caddy")]
        # The upstream fails, and the database cannot be reached, or is another relay's.
        here.around.vendor.faults.replace({"create_fails": {"value": "500", "times": 1}})
        await here.relay.client.post("/v1/jobs", json=EXAMPLE, headers={"Authorization": f"Bearer {here.admin}"})
        await eventually(lambda: any("attempt.answered" in line and "unknown" in line for line in here.relay.lines))
        password = here.canaries.new("password of the database")
        own = f"sqlite:///{here.around.database}"
        for url in (own, *(f"{kind}://relay:{password}@127.0.0.1:1/relay" for kind in ("postgresql", "mysql"))):
            await here.program("serve", RELAY_DATABASE_URL=url, RELAY_PORT=str(free_port()))
        await here.program("doctor")
        token = {"RELAY_URL": here.relay.url, "RELAY_TOKEN": here.admin}
        for arguments in (("backup", "backup.db"), ("jobs",), ("subscription", "list"), ("token", "list")):
            await here.program(*arguments, **token)
        await here.program("jobs", RELAY_URL=here.relay.url, RELAY_TOKEN=here.canaries.new("wrong token of a command"))
    [job] = [job for walk in walks if walk.name == "caddy" for job in walk.jobs]
    names = [where for where, _ in files(tmp_path)]

    assert findings(here, walks) == []
    assert len(here.canaries.secrets) >= 50
    everywhere = {
        "the relay's log",
        "rows of relay.db",
        "rows of backup.db",
        "relay.db",
        "what caddy wrote",
        "relay jobs",
    }
    assert everywhere <= seen(here, job)
    assert "nginx/relay.log" in names
    assert [name for name in names if name.startswith("tmp/")] == []
    assert any("audit" in line for line in here.relay.lines)


@pytest.mark.parametrize(
    ("leak", "secret", "where"),
    [
        ("a log", "directly: token in a query", "the relay's log"),
        ("the database", "directly: path of a subscription", "rows of relay.db"),
        ("an error", "directly: wrong token", "401 to GET /v1/jobs"),
    ],
)
async def test_a_leak_is_found(tmp_path: Path, leak: str, secret: str, where: str) -> None:
    async with place(tmp_path, leak) as here, here.walk("directly") as walk:
        await tokens(walk)
        await subscriptions(walk, here.around.subscriber.url)

    assert [line for line in findings(here, [walk]) if line.startswith(secret) and where in line]


async def test_every_journey_ends_with_a_search_of_its_own(tmp_path: Path) -> None:
    async def indiscreet() -> None:
        async with journey(tmp_path) as here:
            made = await here.subscribe()
            # Whoever writes it down himself: the relay does not know it again.
            await here.client.patch(f"/v1/subscriptions/{made['id']}", json={"description": made["secret"]})

    with pytest.raises(AssertionError, match="stands in the clear"):
        await indiscreet()


@pytest.mark.parametrize("form", range(7))
def test_a_secret_is_found_in_each_of_its_forms(form: int) -> None:
    canaries = Canaries()
    secret = canaries.learn("one", "a/secret+with = all & kinds of things")
    written = sorted(forms(secret))
    assert canaries.found(b"before " + written[form % len(written)] + b" after") == ["one"]
    assert canaries.found(b"a/secret+with") == []
