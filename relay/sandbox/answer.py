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


class Refusal(Exception):
    """Raised where the upstream goes no further with a request; `answer` is what is seen of that."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


def answer(body: Any, status: int = 200) -> Answer:
    """`body` as JSON."""
    return Answer(status, encode(body))


def refusal(status: int, message: str, **more: Any) -> Refusal:
    """An error in the upstream's own JSON."""
    return Refusal(answer({"error": message, **more, "code": status}, status))


def not_found() -> Refusal:
    return refusal(404, "Not found.")


def fail(way: str | None) -> None:
    """Raise what is seen in the place of an answer; `way` is one of `faults.WAYS` or an HTTP status (None: go on)."""
    match way:
        case None:
            return
        case "cut":
            raise Refusal(Answer(cut=True))
        case "hang":
            raise Refusal(Answer(hang=True))
        case "html":
            raise Refusal(as_html(Answer(502)))
        case "429":
            # The text of a rate limiter in front of the API; a poll sees it as well as a create.
            raise refusal(429, "Too many requests. Please slow down.")
        case _:
            raise Refusal(Answer(int(way), f"error code: {way}".encode(), TEXT))


def as_html(plain: Answer) -> Answer:
    """The same status with a page in the place of its body."""
    return replace(plain, body=_PAGE.format(status=plain.status).encode(), content_type=HTML)
