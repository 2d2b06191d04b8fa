"""What the sandbox answers, as a value: the HTTP face only has to carry it out."""

from dataclasses import dataclass, replace
from typing import Any, Final

from relay.sandbox.shapes import encode

JSON: Final = "application/json; charset=utf-8"
TEXT: Final = "text/plain; charset=UTF-8"
HTML: Final = "text/html; charset=UTF-8"

_PAGE: Final = (
    "<!DOCTYPE html>\n<html><head><title>{status} | api.useapi.net</title></head>\n"
    "<body><h1>Error {status}</h1><p>The web server reported an error.</p></body></html>\n"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, or the lack of one.

    `wait_ms` passes before it is sent; `after_first_callback` (a taskId) holds it until that task's first callback was
    sent; `cut` closes the connection in its place; `hang` never answers.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    wait_ms: int = 0
    after_first_callback: str | None = None
    cut: bool = False
    hang: bool = False


def answer(body: Any, status: int = 200) -> Answer:
    """`body` as JSON."""
    return Answer(status, encode(body))


def refusal(body: dict[str, Any]) -> Answer:
    """An error body with its own `code` as the status."""
    return answer(body, int(body["code"]))


def lost(way: str) -> Answer:
    """What is seen in the place of the upstream's answer; `way` is one of `faults.WAYS` or an HTTP status."""
    match way:
        case "cut":
            return Answer(cut=True)
        case "hang":
            return Answer(hang=True)
        case "html":
            return as_html(Answer(502))
        case "429":
            # The text of a rate limiter in front of the API; a poll sees it as well as a create.
            return answer({"error": "Too many requests. Please slow down.", "code": 429}, 429)
        case "403" | "404":
            return Answer(int(way), b"Access denied" if way == "403" else b"Not found", TEXT)
        case _:
            return Answer(int(way), f"error code: {way}".encode(), TEXT)


def as_html(plain: Answer) -> Answer:
    """The same status with a page in the place of its body."""
    return replace(plain, body=_PAGE.format(status=plain.status).encode(), content_type=HTML)
