"""`GET /openapi.json`: the document of all doors, made of the routes, the request models, the shapes and the table.

What a door says in its docstring, which scopes open it and what it takes in its body are the code's own words.
"""

import inspect
import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute, Route

from relay import __version__
from relay.core.catalogue import Catalogue
from relay.core.request import Mode, example_request
from relay.web.guard import Door, DoorScope, needs
from relay.web.problem import DROPIN_PREFIX
from relay.web.samples import webhooks
from relay.web.shapes import ANY, SHAPES, TEXT, Schema, codes, create_schema, job_schema, ref
from relay.web.table import ANYTHING, JSON, TABLE, UPSTREAMS, Said

_WITH_SLASH: Final = frozenset(f"{DROPIN_PREFIX}{name}" for name in ("tasks", "scheduler", "features", "assets"))
# Whoever comes here has taken a wrong turn, and is told so.
UNSAID: Final = frozenset({f"{DROPIN_PREFIX}{{path}}"})
# These answer without asking the store.
AT_ONCE: Final = frozenset(
    f"GET /{path}"
    for path in ("", "healthz", "readyz", "docs", "openapi.json", "static/{path}", ".well-known/webhooks-keys.json")
)
# In the order in which a reader wants them; some of an address's first words belong under another.
TAGS: Final = (
    "jobs", "events", "tickets", "subscriptions", "deliveries", "artifacts", "drop-in", "callbacks", "upstream",
    "tokens", "operation", "webhooks",
)  # fmt: skip
_TAGS: Final = {"replays": "deliveries", "models": "upstream", "accounts": "upstream", "quarantine": "callbacks"}
ABOUT: Final = """\
Submit a job, and be told what becomes of it: by webhook, by event stream, or by asking. Every door takes
`Authorization: Bearer <token>`; which scopes open it stands with each. Errors are `application/problem+json` with a
stable `code`, and `problems` that name field and rule; the drop-in door speaks the upstream's own shape. A 429 or a 503
says when to come back (`Retry-After`). Webhooks follow Standard Webhooks: every type, with an example of each format,
is under `webhooks` in `/openapi.json`.
"""


class Doorway(Route):
    """A route that knows the door behind it, the scopes that open it, and whether tickets do."""

    def __init__(
        self, methods: list[str], path: str, door: Door, scopes: tuple[DoorScope, ...], *, tickets: bool = False
    ) -> None:
        super().__init__(path, needs(scopes, door, tickets=tickets) if scopes else door, methods=methods)
        self.door, self.scopes, self.tickets = door, scopes, tickets

    @property
    def names(self) -> list[str]:
        """`METHOD /path` of each method, as the document has them: one address where two differ by their last slash."""
        path = re.sub(r":\w+}", "}", self.path)
        path = path.rstrip("/") + "/" * (path == "/" or path.rstrip("/") in _WITH_SLASH)
        return [f"{method} {path}" for method in sorted(self.methods or ()) if method != "HEAD"]


def document(routes: Iterable[BaseRoute], catalogue: Catalogue, mode: Mode) -> dict[str, Any]:
    """The whole document, OpenAPI 3.1, for these routes and a relay that judges requests so."""
    paths: dict[str, Any] = {}
    for route in routes:
        for name in route.names if isinstance(route, Doorway) else ():
            method, _, path = name.partition(" ")
            if path not in UNSAID and name in TABLE and isinstance(route, Doorway):
                paths.setdefault(path, {}).setdefault(method.lower(), _operation(name, route, TABLE[name]))
    models = [one.body for one in TABLE.values() if isinstance(one.body, type)]
    _, requests = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    known = list(catalogue.models) if mode == "strict" else None
    example = example_request(next(iter(catalogue.models.values())))
    asked = {
        "NewJob": job_schema(known) | {"examples": [example]},
        "Create": create_schema(None) | {"examples": [example]},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "relay",
            "version": __version__,
            "summary": "Webhook receiver and callback relay for asynchronous video generation",
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in TAGS],
        "paths": paths,
        "webhooks": webhooks(),
        "components": {
            "schemas": SHAPES | asked | _plain(requests["$defs"]),
            "responses": dict(_failures()),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a token; in a browser that has signed in at POST /session, its cookie does",
                },
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }


def _operation(name: str, route: Doorway, one: Said) -> dict[str, Any]:
    method, _, path = name.partition(" ")
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()}_{route.door.__module__.rpartition('.')[2]}_{route.door.__name__}",
        "summary": one.title,
        "description": _description(route, one),
        "tags": [_tag(path)],
        "parameters": [
            *(
                {"name": found, "in": "path", "required": True, "schema": TEXT}
                for found in re.findall(r"{(\w+)}", path)
            ),
            *one.query,
            *one.headers,
        ],
        "responses": _responses(name, route, one),
        "security": [{"token": [scope]} for scope in route.scopes] + [{"ticket": []}] * route.tickets,
        "x-scope": list(route.scopes),
    }
    if one.body is not None:
        content = {JSON: ref(one.body.__name__)} if isinstance(one.body, type) else one.body
        operation["requestBody"] = {
            "required": ANYTHING not in content,
            "content": {media: {"schema": schema} for media, schema in content.items()},
        }
    return operation


def _description(route: Doorway, one: Said) -> str:
    scopes = " or ".join(f"`{scope}`" for scope in route.scopes)
    opened = f"Scope {scopes}{', or a ticket' if route.tickets else ''}." if scopes else "Open to all."
    return f"{inspect.getdoc(route.door) or one.title}\n\n{opened}"


def _tag(path: str) -> str:
    if path.startswith(DROPIN_PREFIX):
        return "drop-in"
    parts = path.strip("/").split("/")
    first = parts[1] if parts[0] == "v1" else parts[0]
    return first if first in TAGS else _TAGS.get(first, "operation")


def _responses(name: str, route: Doorway, one: Said) -> dict[str, Any]:
    binary = one.ok.get(200) is ANY
    found: dict[str, Any] = {}
    for status, schema in one.ok.items():
        content = {} if schema is None else {ANYTHING if binary else JSON: schema}
        content |= one.also if status == 200 else {}
        found[str(status)] = {"description": _REASONS.get(status, "done")} | (
            {"content": {media: {"schema": shape} for media, shape in content.items()}} if content else {}
        )
        if headers := _HEADERS.get(status):
            found[str(status)]["headers"] = headers
    statuses = {500, *one.fails}
    statuses |= {503} if name not in AT_ONCE else set()
    statuses |= {401, 403} if route.scopes else set()
    statuses |= {404} if "{" in route.path else set()
    statuses |= {400} if route.scopes or one.query else set()
    statuses |= {408, 413} if one.body is not None else set()
    statuses |= {502} if one.passes_on else set()
    kind = "Dropin" if route.path.startswith(DROPIN_PREFIX) else "Problem"
    for status in sorted(statuses):
        found.setdefault(str(status), {"$ref": f"#/components/responses/{kind}{status}"})
    if one.passes_on:
        found["default"] = {
            "description": "what the upstream answers, as it answers it",
            "content": {ANYTHING: {"schema": UPSTREAMS}},
        }
    return found


def _failures() -> Iterable[tuple[str, dict[str, Any]]]:
    """The answers to what fails, for the native doors and in the upstream's own shape, by status."""
    by_status: dict[int, list[str]] = {412: [], 422: []}
    for code, status in codes().items():
        by_status.setdefault(status, []).append(code)
    for status, found in sorted(by_status.items()):
        headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
        narrowed = {"properties": {"status": {"const": status}, "code": {"enum": found}}}
        problem = {"allOf": [ref("ProblemDetails"), narrowed]}
        about = " or ".join(f"`{code}`" for code in found) or "as the upstream says it"
        if found:
            content = {"application/problem+json": {"schema": problem}}
            yield f"Problem{status}", {"description": about, "content": content, **headers}
        if status != 410:  # of files alone
            yield (
                f"Dropin{status}",
                {"description": about, "content": {JSON: {"schema": ref("DropinError")}}, **headers},
            )


def _plain(schema: Any) -> Any:
    """pydantic titles everything with its own name, and leaves bounds of what a text is turned into."""
    if isinstance(schema, dict):
        noise = ("title",) if isinstance(schema.get("title"), str) else ()
        return {key: _plain(value) for key, value in schema.items() if key not in (*noise, "ge", "le")}
    return [_plain(value) for value in schema] if isinstance(schema, list) else schema


def _header(about: str, schema: Schema = TEXT) -> dict[str, Any]:
    return {"description": about, "schema": schema}


_RETRY_AFTER: Final = {"Retry-After": _header("seconds to wait before the next try", {"type": "integer", "minimum": 0})}
_LOCATION: Final = {"Location": _header("where it is")}
_HEADERS: Final[dict[int, dict[str, Any]]] = {
    307: _LOCATION,
    401: {"WWW-Authenticate": _header("Bearer")},
    405: {"Allow": _header("the methods that are taken here")},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_REASONS: Final = {
    200: "done",
    201: "made",
    202: "taken on",
    204: "done, and nothing to tell",
    206: "the part that was asked for",
    304: "the copy is still good",
    307: "where the bucket has it",
    416: "there is no such part",
    503: "not ready",
}
