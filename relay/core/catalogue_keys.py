"""What a catalogue file may say: the closed set of keys, each with its rule."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from relay.core.fields import END_FRAME, IMAGE_SLOTS, REFUSED, SHOTS_MAX, VIDEO_SLOTS
from relay.core.span import Span

SECONDS_MAX = 86_400
TEXT_MAX = 100_000
CHOICES_MAX = 64

RULE_NAMES = ("keyframes_exclude_references", "end_frame_excludes_references", "workflows_exclude_each_other")
"""Rules that fit no key; `relay.core.workflows` has a function of each name."""

WORKFLOWS = ("multishot", "edit")
"""Ways to use a model, beside the plain one, in which some keys do not count."""

_WORD = re.compile(r"\S{1,32}")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Key:
    """One key: `read` returns the value as the model keeps it, or raises ValueError; `rule` completes "must be …"."""

    read: Callable[[object], Any]
    rule: str
    required: bool = False


def is_name(text: str) -> bool:
    """Whether `text` may be a model's name."""
    return _NAME.fullmatch(text) is not None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 100:
        raise ValueError
    return value


def _date(value: object) -> str:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        raise ValueError
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _number(value: object, first: int, last: int) -> int:
    if value not in Span(first, last):
        raise ValueError
    assert isinstance(value, int)  # noqa: S101 (what a Span holds is an int)
    return value


def _whole(first: int, last: int) -> Callable[[object], int | None]:
    return lambda value: None if value == REFUSED else _number(value, first, last)


def _span(first: int, last: int) -> Callable[[object], Span]:
    def read(value: object) -> Span:
        if not isinstance(value, dict) or set(value) != {"from", "to"}:
            raise ValueError
        span = Span(_number(value["from"], first, last), _number(value["to"], first, last))
        if span.first > span.last:
            raise ValueError
        return span

    return read


def _span_or_refused(first: int, last: int) -> Callable[[object], Span | None]:
    read = _span(first, last)
    return lambda value: None if value == REFUSED else read(value)


def _one_of(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError
        return value

    return read


def _word(value: object) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError
    return value


def _word_or_refused(value: object) -> str | None:
    return None if value == REFUSED else _word(value)


def _list(read: Callable[[object], Any]) -> Callable[[object], tuple[Any, ...]]:
    def read_all(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > CHOICES_MAX:
            raise ValueError
        found = tuple(read(item) for item in value)
        if len(set(found)) != len(found):
            raise ValueError
        return found

    return read_all


def _duration(value: object) -> tuple[int, ...] | Span | None:
    if value == REFUSED:
        return None
    if isinstance(value, list) and value:
        return _list(lambda item: _number(item, 1, SECONDS_MAX))(value)
    return _span(1, SECONDS_MAX)(value)


def _sizes(value: object) -> tuple[tuple[str, int, int], ...]:
    if not isinstance(value, dict) or len(value) > CHOICES_MAX:
        raise ValueError
    sizes: list[tuple[str, int, int]] = []
    for ratio, size in value.items():
        match = _SIZE.fullmatch(size) if isinstance(size, str) else None
        if match is None:
            raise ValueError
        sizes.append((_word(ratio), int(match[1]), int(match[2])))
    return tuple(sizes)


_SPAN = "a table {{ from = …, to = … }} of whole numbers from {} to {}"
_OR_REFUSED = ', or "refused"'


def _span_rule(first: int, last: int) -> str:
    return _SPAN.format(first, last)


MODEL_KEYS: Mapping[str, Key] = MappingProxyType(
    {
        "label": Key(_text, "a text of at most 100 characters", required=True),
        "family": Key(_text, "a text of at most 100 characters", required=True),
        "duration": Key(
            _duration,
            f"a list of different seconds, a table {{ from = …, to = … }} (1 to {SECONDS_MAX}){_OR_REFUSED}",
            required=True,
        ),
        "duration_follows": Key(
            lambda value: None if value == REFUSED else _one_of("video")(value), f'"video"{_OR_REFUSED}'
        ),
        "duration_ignored_in": Key(_list(_one_of(*WORKFLOWS)), f"a list of {', '.join(WORKFLOWS)}"),
        "ratios": Key(
            _list(_word), "a list of different ratios; an empty one where aspect_ratio is refused", required=True
        ),
        "ratios_t2v": Key(_list(_word), "a list of different ratios: those of text-to-video, where they are others"),
        "ratio_follows": Key(
            lambda value: None if value == REFUSED else _one_of("image")(value), f'"image"{_OR_REFUSED}'
        ),
        "resolutions": Key(_list(_word), "a list of different resolutions; an empty one where resolution is refused"),
        "resolution_default": Key(_word_or_refused, f"one of the resolutions{_OR_REFUSED}"),
        "sizes": Key(_sizes, 'a table of ratio = "<width>x<height>"'),
        "prompt": Key(_one_of("required", "optional", REFUSED), '"required", "optional" or "refused"', required=True),
        "prompt_max": Key(lambda value: _number(value, 0, TEXT_MAX), f"a whole number from 0 to {TEXT_MAX}"),
        "references": Key(_list(_one_of("image", "video")), 'a list of "image" (@IMG_N) and "video" (@VID_N)'),
        "images": Key(_span(0, len(IMAGE_SLOTS)), _span_rule(0, len(IMAGE_SLOTS)), required=True),
        "videos": Key(_span(0, len(VIDEO_SLOTS)), _span_rule(0, len(VIDEO_SLOTS))),
        "combined_max": Key(_whole(1, 14), f"a whole number from 1 to 14{_OR_REFUSED}"),
        "video_seconds": Key(_span_or_refused(0, SECONDS_MAX), _span_rule(0, SECONDS_MAX) + _OR_REFUSED),
        "video_side_max_px": Key(_whole(1, 99_999), f"a whole number from 1 to 99999{_OR_REFUSED}"),
        "end_frame": Key(
            _one_of(IMAGE_SLOTS[1], END_FRAME, REFUSED), f'"{IMAGE_SLOTS[1]}", "{END_FRAME}" or "refused"'
        ),
        "shots": Key(_span_or_refused(1, SHOTS_MAX), _span_rule(1, SHOTS_MAX) + _OR_REFUSED),
        "shot_seconds": Key(_span_or_refused(1, SECONDS_MAX), _span_rule(1, SECONDS_MAX) + _OR_REFUSED),
        "shots_seconds_max": Key(_whole(1, SECONDS_MAX), f"a whole number from 1 to {SECONDS_MAX}{_OR_REFUSED}"),
        "shot_prompt_max": Key(_whole(1, TEXT_MAX), f"a whole number from 1 to {TEXT_MAX}{_OR_REFUSED}"),
        "edit_images_max": Key(
            _whole(0, len(IMAGE_SLOTS)), f"a whole number from 0 to {len(IMAGE_SLOTS)}{_OR_REFUSED}"
        ),
        "audio": Key(_one_of("switch", "always", "never", REFUSED), '"switch", "always", "never" or "refused"'),
        "seed": Key(_span_or_refused(0, 2**32 - 1), _span_rule(0, 2**32 - 1) + _OR_REFUSED),
        "explore": Key(_flag, "true or false", required=True),
        "orientations": Key(_list(_word), "a list of different words; an empty one where it is refused"),
        "orientation_default": Key(_word_or_refused, f"one of the orientations{_OR_REFUSED}"),
        "total_s": Key(_span(1, SECONDS_MAX), _span_rule(1, SECONDS_MAX)),
        "queue_s": Key(_span_or_refused(0, SECONDS_MAX), _span_rule(0, SECONDS_MAX) + _OR_REFUSED),
        "render_s": Key(_span_or_refused(1, SECONDS_MAX), _span_rule(1, SECONDS_MAX) + _OR_REFUSED),
        "rules": Key(_list(_one_of(*RULE_NAMES)), f"a list of {', '.join(RULE_NAMES)}"),
    }
)
"""Keys of `[models."<name>"]`; what they mean is said where `Model` declares them."""

LIMIT_KEYS: Mapping[str, Key] = MappingProxyType(
    {
        "max_jobs": Key(_span(1, 1000), _span_rule(1, 1000)),
        "reply_url_max": Key(lambda value: _number(value, 1, TEXT_MAX), f"a whole number from 1 to {TEXT_MAX}"),
        "reply_ref_max": Key(lambda value: _number(value, 1, TEXT_MAX), f"a whole number from 1 to {TEXT_MAX}"),
    }
)
"""Keys of `[limits]`: what holds for every model."""

DATED = Key(_date, 'a date in quotes, such as "2026-05-14"')
