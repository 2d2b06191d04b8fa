"""Every door of the relay on one screen, with the scope that opens it."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import Lifespan
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from relay.errors import RelayError
from relay.web import (
    artifacts,
    audit,
    callbacks,
    dashboard,
    deliveries,
    docs,
    dropin,
    files,
    health,
    history,
    jobs,
    metrics,
    operation,
    passage,
    session,
    static,
    stats,
    steering,
    stream,
    subscriptions,
    tickets,
    tokens,
)
from relay.web.callbacks import Headers
from relay.web.following import Outermost
from relay.web.guard import Door, DoorScope
from relay.web.openapi import Doorway
from relay.web.problem import DROPIN_PREFIX, on_defect, on_http_error, on_relay_error
from relay.web.trace import RequestTrace

ANY: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")


def routes() -> list[Route]:
    """All doors. Those without a scope are open: health, callbacks by their secret, artifacts by their signature."""
    return [
        door("POST", "/callbacks/{token}", callbacks.receive_callback),
        door("POST", "/callbacks/inbox/{token}", callbacks.inbox),
        door("POST", "/v1/jobs", jobs.submit, "submit"),
        door("GET", "/v1/jobs", jobs.index, "submit", "read"),
        door("GET", "/v1/jobs/{id}", jobs.show, "submit", "read", tickets=True),
        door("DELETE", "/v1/jobs/{id}", steering.erase, "manage"),
        door("POST", "/v1/jobs/{id}/cancel", steering.cancel, "submit"),
        door("POST", "/v1/jobs/{id}/retry", steering.retry, "submit"),
        door("POST", "/v1/jobs/{id}/resolve", steering.resolve, "manage"),
        door("GET", "/v1/jobs/{id}/events", stream.of_job, "submit", "read", tickets=True),
        door("GET", "/v1/jobs/{id}/why", history.why, "submit", "read"),
        door("GET", "/v1/jobs/{id}/callbacks", history.callbacks, "submit", "read"),
        door("GET", "/v1/jobs/{id}/deliveries", deliveries.of_job, "submit", "read"),
        door("GET", "/v1/events", stream.of_all, "submit", "read", "manage", tickets=True),
        door("GET", "/v1/models", history.models, "submit", "read", "manage"),
        door("GET", "/v1/accounts", history.accounts, "read"),
        door("GET", "/v1/stats", stats.show, "read"),
        door("GET", "/v1/quarantine", history.quarantine, "manage"),
        door("POST", "/v1/subscriptions", subscriptions.create, "manage"),
        door("GET", "/v1/subscriptions", subscriptions.index, "manage"),
        door("GET", "/v1/subscriptions/{id}", subscriptions.show, "manage"),
        door("GET", "/v1/subscriptions/{id}/why", history.why_subscription, "manage"),
        door("PATCH", "/v1/subscriptions/{id}", subscriptions.change, "manage"),
        door("DELETE", "/v1/subscriptions/{id}", subscriptions.remove, "manage"),
        door("POST", "/v1/subscriptions/{id}/rotate", subscriptions.rotate, "manage"),
        door("POST", "/v1/subscriptions/{id}/ping", subscriptions.ping, "manage"),
        door("POST", "/v1/subscriptions/{id}/enable", subscriptions.enable, "manage"),
        door("POST", "/v1/tickets", tickets.create, "submit", "read"),
        door("POST", "/v1/tokens", tokens.create, "manage"),
        door("GET", "/v1/tokens", tokens.index, "manage"),
        door("DELETE", "/v1/tokens/{id}", tokens.revoke, "manage"),
        door("GET", "/v1/deliveries", deliveries.index, "read"),
        door("POST", "/v1/deliveries/replay", deliveries.replay, "manage"),
        door("GET", "/v1/deliveries/{id}", deliveries.show, "read"),
        door("GET", "/v1/deliveries/{id}/why", history.why_delivery, "read"),
        door("POST", "/v1/deliveries/{id}/retry", deliveries.retry, "manage"),
        door("GET", "/v1/replays/{id}", deliveries.show_replay, "manage", "read"),
        door("GET", "/v1/artifacts", files.index, "read"),
        door("POST", "/v1/artifacts/fetch", files.fetch, "manage"),
        door("POST", "/v1/artifacts/prune", files.prune, "manage"),
        door("POST", "/v1/artifacts/{id}/verify", files.verify, "manage"),
        door("GET", "/v1/artifacts/{id}/{name}", artifacts.serve),
        *dropin_doors(),
        door("GET", "/.well-known/webhooks-keys.json", history.webhook_keys),
        *page_doors(),
        door("POST", "/v1/backup", operation.backup, "manage"),
        door("POST", "/v1/resume", operation.resume, "manage"),
        door("GET", "/v1/audit", audit.index, "admin"),
        door("GET", "/healthz", health.alive),
        door("GET", "/readyz", health.ready),
        door("GET", "/metrics", metrics.show, "read"),
    ]


def page_doors() -> list[Route]:
    """What a browser asks for by itself: pages and what they are made of, and the session."""
    return [
        door("POST", "/session", session.create),
        door("GET", "/session", session.show, "submit", "read", "manage"),
        door("DELETE", "/session", session.end),
        door("GET", "/", dashboard.page),
        door("GET", "/static/{path:path}", static.serve),
        door("GET", "/openapi.json", docs.openapi),
        door("GET", "/docs", docs.page),
    ]


def dropin_doors() -> list[Route]:
    """The upstream's addresses under the same path, with and without a slash at the end, ids raw in the path."""
    doors = []
    for slash in ("", "/"):
        doors += [
            door("POST", f"{DROPIN_PREFIX}videos/create{slash}", dropin.create, "submit"),
            door("GET", f"{DROPIN_PREFIX}tasks{slash}", passage.tasks_list, "submit", "read"),
            door("GET", f"{DROPIN_PREFIX}scheduler{slash}", passage.scheduler, "read"),
            door("GET", f"{DROPIN_PREFIX}accounts{slash}", passage.accounts, "submit", "read"),
            door("GET", f"{DROPIN_PREFIX}features{slash}", passage.features, "submit", "read"),
            door("GET", f"{DROPIN_PREFIX}assets{slash}", passage.assets, "submit"),
            door("POST", f"{DROPIN_PREFIX}assets{slash}", passage.assets, "submit"),
        ]
    return [
        *doors,
        door("GET", f"{DROPIN_PREFIX}tasks/{{task_id:path}}", dropin.task, "submit", "read"),
        door("GET", f"{DROPIN_PREFIX}assets/{{asset_id:path}}", passage.asset, "submit"),
        door("DELETE", f"{DROPIN_PREFIX}assets/{{asset_id:path}}", passage.asset, "manage"),
        door("*", f"{DROPIN_PREFIX}{{path:path}}", passage.nothing_here, "submit", "read"),
    ]


def door(method: str, path: str, endpoint: Door, *scopes: DoorScope, tickets: bool = False) -> Route:
    """A door for tokens with one of `scopes`, and for tickets where they open it; open to all without any scope."""
    return Doorway([*ANY] if method == "*" else [method], path, endpoint, scopes, tickets=tickets)


class App(Outermost):
    """The app; a server that can hands callbacks to it directly (`serve.Direct`)."""

    takes = staticmethod(callbacks.takes)

    def answer_directly(self, target: bytes, headers: Headers, body: bytes, answer: Callable[..., None]) -> None:
        """A callback of an attempt."""
        callbacks.answer_directly(self.state, target, headers, body, answer)


def build(
    lifespan: Lifespan[Starlette], cors_origins: Sequence[str] = (), trusted_proxies: Sequence[str] = ()
) -> Starlette:
    """The ASGI app; whoever builds it puts `store`, `feed`, `clock`, `settings`, … into `app.state` at start-up.

    Scripts of pages at `cors_origins` may call every door; what they may do is still said by the token that they send.
    From `trusted_proxies`, and from nobody else, `X-Forwarded-For` and `-Proto` say who asks, and whether by TLS.
    """
    cors = Middleware(
        CORSMiddleware,
        allow_origins=cors_origins,
        allow_methods=ANY,
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
        expose_headers=["Location", "Retry-After", "X-Request-Id"],
    )
    proxies: Any = Middleware(ProxyHeadersMiddleware, trusted_hosts=[*trusted_proxies])
    app = App(
        routes=routes(),
        lifespan=lifespan,
        middleware=[
            Middleware(callbacks.CallbackDoor),
            *([proxies] if trusted_proxies else []),
            Middleware(RequestTrace),
            *([cors] if cors_origins else []),
        ],
        exception_handlers={
            RelayError: on_relay_error,
            HTTPException: on_http_error,
            Exception: on_defect,
        },
    )
    # A sender of callbacks that does not follow a redirect would lose one.
    app.router.redirect_slashes = False
    app.state.write_check = health.WriteCheck()
    app.state.sign_ins = session.Attempts()
    app.state.pings = 0
    app.state.scrape = metrics.Scrape()
    return app
