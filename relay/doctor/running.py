"""Looks at a running relay over HTTP, and at the way to it: its public address, callbacks, streams through a proxy.

The running relay itself makes a ticket, whose address begins with its public address. What that address opens goes out
and comes back by the way that the upstream and browsers take, and only the relay that made a ticket opens it. So no
token is sent to an address that may be somebody else's.
"""

from collections.abc import AsyncGenerator
from typing import Any, Final

import httpx2

from relay.clock import SystemClock, within
from relay.doctor.finding import Finding
from relay.vault import new_token

TIMEOUT_S: Final = 10.0
FIRST_BYTE_S: Final = 5.0
FRAMES_MAX_BYTES: Final = 64 * 1024
OPEN: Final = b"event: stream.open"
# Of a replyRef that no job has, so that the ticket shows nothing.
NOBODYS: Final = "relay-doctor"
START: Final = "start it with `relay serve`, or say where it is: --url, RELAY_URL"
SCOPES: Final = "set RELAY_TOKEN to a token of this relay that has the scope read, such as its admin token"
WAY: Final = (
    "look at RELAY_PUBLIC_URL, the name's address, the certificate and the proxy; it is tried from this machine"
)
RULES: Final = "let the proxy pass every path to the relay as it is: deploy/nginx.conf and deploy/Caddyfile do"
UNBUFFERED: Final = "turn buffering and compression off (nginx: proxy_buffering off; gzip off), as in deploy/"


async def examine(url: str, token: str | None, *, expected: bool) -> list[Finding]:
    """What a relay at `url` says of itself, and the way to it. `expected`: somebody said that there is one."""
    async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
        try:
            answer = await http.get(f"{url}/readyz", headers=_bearer(token))
            body = answer.json()
            state = body["status"]
        except httpx2.HTTPError as error:
            said = f"none answers at {url} ({_reason(error)}); what needs a running one was not looked at"
            return [Finding("relay", "failure" if expected else "skipped", said, START)]
        except (ValueError, LookupError, TypeError):
            return [Finding("relay", "failure", f"what answers at {url} is no relay", START)]
        if state != "ok":
            remedy = "look at the disk, and at the database's server; until then it takes nothing"
            return [Finding("relay", "failure", f"{url} cannot write: {body.get('reason')}", remedy)]
        if "hold" not in body:
            return [Finding("relay", "failure", f"{url} shows nothing to this token, or to none", SCOPES)]
        waiting = sum(body["jobs"].values())
        found = [Finding("relay", "ok", f"one runs at {url}; jobs that have not ended: {waiting}"), _hold(body["hold"])]
        found += [_parked(account) for account in body["accounts"] if account["parked"]]
        return found + [finding async for finding in _way(http, url, token)]


def _hold(hold: dict[str, Any] | None) -> Finding:
    if hold is None:
        return Finding("hold", "ok", "submitting is not held")
    searched = "the upstream was searched" if hold["searchedAt"] else "the upstream is being searched"
    return Finding(
        "hold",
        "warning",
        f"submitting is held since {hold['since']}: {hold['reason']}; {searched}, and {hold['found']} tasks were found",
        "call `relay resume`" if hold["searchedAt"] else "wait for the search, then call `relay resume`",
    )


def _parked(account: dict[str, Any]) -> Finding:
    said = f"{account['email']} gets no jobs: {account['parked']}"
    return Finding("account", "warning", said, "`relay accounts` says why, and when it is tried again")


async def _way(http: httpx2.AsyncClient, url: str, token: str | None) -> AsyncGenerator[Finding]:
    """The public address by the ticket's own, callbacks beside it, and the stream that the ticket opens."""
    made = await http.post(f"{url}/v1/tickets", json={"replyRef": NOBODYS, "ttlS": 60}, headers=_bearer(token))
    if made.status_code != 201:
        yield Finding("public address", "failure", f"{url} makes no ticket: {made.status_code}", SCOPES)
        return
    address = f"{made.json()['eventsUrl']}&since=now"
    base = address.partition("/v1/events?")[0]
    try:
        page = await http.get(address, headers={"Accept": "application/json"})
        called = await http.post(f"{base}/callbacks/{new_token('')}", json={})
    except httpx2.HTTPError as error:
        yield Finding("public address", "failure", f"{base} cannot be reached ({_reason(error)})", WAY)
        return
    if _told(page, 200, "next") is None:
        whose = "another relay" if _told(page, 401, "code") == "unauthorized" else "something else"
        yield Finding("public address", "failure", f"at {base} {whose} answers, {page.status_code}", WAY)
        return
    yield Finding("public address", "ok", f"{base} leads to this relay and no other")
    if _told(called, 404, "code") == "not_found":
        yield Finding("callback loop", "ok", f"a POST to {base}/callbacks/… arrives")
    else:
        said = f"a POST to {base}/callbacks/… does not arrive: the answer was {called.status_code}"
        yield Finding("callback loop", "failure", said, RULES)
    yield await _stream(http, address, base)


async def _stream(http: httpx2.AsyncClient, address: str, base: str) -> Finding:
    """Whether the first frames come at once: nothing follows them here, so whoever gathers bytes shows none at all."""
    clock = SystemClock()
    began_s = clock.monotonic_s()
    try:
        status, encoding, opened = await within(clock, FIRST_BYTE_S, _first(http, address))
    except TimeoutError:
        said = f"nothing of a stream came from {base} within {FIRST_BYTE_S:g} s: something on the way buffers it"
        return Finding("streams", "failure", said, UNBUFFERED)
    except httpx2.HTTPError as error:
        return Finding("streams", "failure", f"a stream from {base} broke ({_reason(error)})", RULES)
    if encoding is not None:
        said = f"{base} compresses streams ({encoding}), which makes them come in lumps"
        return Finding("streams", "failure", said, UNBUFFERED)
    if not opened:
        return Finding("streams", "failure", f"{base} answers a stream with {status}, and none", RULES)
    took_ms = (clock.monotonic_s() - began_s) * 1000
    return Finding("streams", "ok", f"{base} passes them on at once: the first frame came after {took_ms:.0f} ms")


async def _first(http: httpx2.AsyncClient, address: str) -> tuple[int, str | None, bool]:
    """Status, encoding, and whether the stream has opened."""
    got = b""
    async with http.stream("GET", address, headers=_STREAM) as answer:
        async for piece in answer.aiter_raw():
            got += piece
            if OPEN in got or len(got) > FRAMES_MAX_BYTES or "content-encoding" in answer.headers:
                break
        return answer.status_code, answer.headers.get("content-encoding"), OPEN in got


def _told(answer: httpx2.Response, status: int, name: str) -> Any:
    """A field of a JSON answer with this status, else None."""
    try:
        return answer.json()[name] if answer.status_code == status else None
    except (ValueError, LookupError, TypeError):
        return None


def _bearer(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _reason(error: httpx2.HTTPError) -> str:
    return str(error) or type(error).__name__


_STREAM: Final = {"Accept": "text/event-stream", "Accept-Encoding": "gzip"}
