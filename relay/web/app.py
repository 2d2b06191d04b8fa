"""Every door of the relay on one screen, with the scope that opens it."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Lifespan

from relay.errors import RelayError
from relay.web import artifacts, callbacks, health, history, jobs, stream, subscriptions
from relay.web.guard import Door, Scope, needs
from relay.web.problem import on_defect, on_http_error, on_relay_error


def routes() -> list[Route]:
    """All doors. Those without a scope are open: health, callbacks by their secret, artifacts by their signature."""
    return [
        door("POST", "/v1/jobs", jobs.submit, "submit"),
        door("GET", "/v1/jobs", jobs.index, "read"),
        door("GET", "/v1/jobs/{id}", jobs.show, "read"),
        door("GET", "/v1/jobs/{id}/events", stream.of_job, "read"),
        door("GET", "/v1/jobs/{id}/callbacks", history.callbacks, "read"),
        door("GET", "/v1/jobs/{id}/deliveries", subscriptions.deliveries_of_job, "read"),
        door("GET", "/v1/events", stream.of_all, "read"),
        door("GET", "/v1/models", history.models, "read"),
        door("GET", "/v1/accounts", history.accounts, "read"),
        door("GET", "/v1/quarantine", history.quarantine, "manage"),
        door("POST", "/v1/subscriptions", subscriptions.create, "manage"),
        door("GET", "/v1/subscriptions", subscriptions.index, "manage"),
        door("GET", "/v1/subscriptions/{id}", subscriptions.show, "manage"),
        door("DELETE", "/v1/subscriptions/{id}", subscriptions.remove, "manage"),
        door("GET", "/v1/deliveries", subscriptions.deliveries, "read"),
        door("GET", "/v1/artifacts/{id}/{name}", artifacts.serve, None),
        door("POST", "/callbacks/{token}", callbacks.receive, None),
        door("GET", "/healthz", health.alive, None),
        door("GET", "/readyz", health.ready, None),
    ]


def door(method: str, path: str, endpoint: Door, scope: Scope | None) -> Route:
    return Route(path, endpoint if scope is None else needs(scope, endpoint), methods=[method])


def build(lifespan: Lifespan[Starlette]) -> Starlette:
    """The ASGI app; whoever builds it puts `store`, `feed`, `clock`, `settings`, … into `app.state` at start-up."""
    app = Starlette(
        routes=routes(),
        lifespan=lifespan,
        exception_handlers={
            RelayError: on_relay_error,
            HTTPException: on_http_error,
            Exception: on_defect,
        },
    )
    # A sender of callbacks that does not follow a redirect would lose one.
    app.router.redirect_slashes = False
    return app
