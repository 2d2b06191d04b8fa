"""What a catalogue file may say: the kinds of values that its keys take, each with its rule."""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, get_type_hints

from relay.core.fields import REFUSED
from relay.core.span import Span
from relay.core.wording import either

SECONDS_MAX = 86_400
TEXT_MAX = 100_000
CHOICES_MAX = 64

RULE_NAMES = ("keyframes_exclude_references", "end_frame_excludes_references", "workflows_exclude_each_other")
"""Rules that fit no key; `relay.core.workflows` has a function of each name."""

WORKFLOWS = ("multishot", "edit")
"""Ways to use a model, beside the plain one, in which some keys do not count."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a key may hold: `read` returns it as the model keeps it, or raises ValueError; `rule` ends "must be …"."""

    read: Callable[[Any], Any]
    rule: str
    required: bool = False


def keys_of(record: type[Any]) -> Mapping[str, Key]:
    """The keys of the table that fills such a record: its annotated fields, required where they have no default."""
    hints = get_type_hints(record, include_extras=True)
    annotated = [each for each in fields(record) if hasattr(hints[each.name], "__metadata__")]
    return MappingProxyType({
        each.name: replace(hints[each.name].__metadata__[0], required=each.default is MISSING) for each in annotated
    })  # fmt: skip


def flag() -> Key:
    return Key(lambda value: _only(value, isinstance(value, bool)), "true or false")


def text(longest: int) -> Key:
    def read(value: Any) -> Any:
        return _only(value, isinstance(value, str) and value.strip() and len(value) <= longest)

    return Key(read, f"a text of at most {longest} characters")


def like(pattern: str, rule: str) -> Key:
    return Key(lambda value: _only(value, isinstance(value, str) and re.fullmatch(pattern, value)), rule)


def one_of(*words: str) -> Key:
    return Key(lambda value: _only(value, value in list(words)), either(f'"{word}"' for word in words))


def whole(first: int, last: int) -> Key:
    return Key(lambda value: _only(value, value in Span(first, last)), f"a whole number from {first} to {last}")


def span(first: int, last: int) -> Key:
    def read(value: Any) -> Span:
        _only(value, isinstance(value, dict) and set(value) == {"from", "to"})
        found = Span(whole(first, last).read(value["from"]), whole(first, last).read(value["to"]))
        _only(value, found.first <= found.last)
        return found

    return Key(read, f"a table {{ from = …, to = … }} of whole numbers from {first} to {last}")


def word(rule: str) -> Key:
    return like(r"\S{1,32}", rule)


def words(rule: str) -> Key:
    return Key(_each(word(rule)), f"a list of different {rule}")


def some_of(*offered: str) -> Key:
    return Key(_each(one_of(*offered)), f"a list of {', '.join(offered)}")


def durations() -> Key:
    several, range_ = _each(whole(1, SECONDS_MAX)), span(1, SECONDS_MAX).read
    return Key(
        lambda value: several(value) if isinstance(value, list) and value else range_(value),
        f"a list of different seconds, a table {{ from = …, to = … }} (1 to {SECONDS_MAX})",
    )


def sizes() -> Key:
    pixels = like(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", '"<width>x<height>"')

    def read(value: Any) -> tuple[tuple[str, int, int], ...]:
        _only(value, isinstance(value, dict) and len(value) <= CHOICES_MAX)
        found = []
        for ratio, size in value.items():
            width, _, height = pixels.read(size).partition("x")
            found.append((word("").read(ratio), int(width), int(height)))
        return tuple(found)

    return Key(read, f"a table of ratio = {pixels.rule}")


def or_refused(kind: Key) -> Key:
    """`kind`, or the word that stands for None: so a later file can take a value back."""
    return Key(lambda value: None if value == REFUSED else kind.read(value), f'{kind.rule}, or "{REFUSED}"')


def _each(kind: Key) -> Callable[[Any], tuple[Any, ...]]:
    """Reads a list of different values of a kind."""

    def read(value: Any) -> tuple[Any, ...]:
        _only(value, isinstance(value, list) and len(value) <= CHOICES_MAX)
        found = tuple(map(kind.read, value))
        _only(value, len(set(found)) == len(found))
        return found

    return read


def _only(value: Any, holds: object) -> Any:
    """`value`; raises ValueError unless something holds of it."""
    if not holds:
        raise ValueError
    return value
