"""Words for the values of a request, as problems show them: short, safe to store, safe to print."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

GIVEN_MAX = 80
"""Longest text that a problem repeats, in code points."""

NUMBER_MAX = 2**53 - 1
"""Largest number that every JSON reader keeps exactly (RFC 8259, section 6)."""

_COMPARED_MAX = 64
_REPLACED = str.maketrans({"\0": "�"})


def shown(value: object) -> Any:
    """`value` as a problem's `given`: always a JSON value that can be stored, long texts cut, containers named."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # int-to-text is quadratic and refused by Python beyond 4300 digits: such a number is never printed.
        return value if abs(value) <= NUMBER_MAX else f"a number beyond {NUMBER_MAX}"
    if isinstance(value, float):
        return value if math.isfinite(value) else "a number that is not finite"
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, Sequence) else "a value that is not JSON"


def said(value: object) -> str:
    """`value` inside a sentence: texts in quotes, `true` and `null` as JSON writes them."""
    short = shown(value)
    if isinstance(short, str) and not isinstance(value, str):
        return short
    return json.dumps(short, ensure_ascii=False)


def either(values: Iterable[object]) -> str:
    """`5, 10 or 15`."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def closest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that somebody who wrote `name` may have meant, capitals, `_` and `-` aside."""
    squeezed = {_squeeze(known): known for known in names}
    found = get_close_matches(_squeeze(name[:_COMPARED_MAX]), squeezed, n=1, cutoff=0.6)
    return squeezed[found[0]] if found else None


def usable(text: str) -> bool:
    """False for text that cannot be sent as UTF-8 (a lone surrogate) or kept by every database (NUL)."""
    if "\0" in text:
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _squeeze(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _clean(text: str) -> str:
    cut = text if len(text) <= GIVEN_MAX else text[: GIVEN_MAX - 1] + "…"
    return cut.translate(_REPLACED).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def counted(number: int, what: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
