"""Takes in a request as it came: which fields are there, typed values of them, and what cannot be used at all."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from relay.core.fields import ELSEWHERE, FIELDS, OWN_FIELDS, Field, Kind, todays_name
from relay.core.wording import NUMBER_MAX, closest, said, shown, usable
from relay.errors import Problem

FIELDS_MAX = 100
"""Most fields of one request; the page has 41."""
NAME_MAX = 128
TEXT_MAX = 20_000
"""Longest text of one field, in code points; the longest that any model takes is 5000."""
HINTS_MAX = 10
"""Most unknown names of a request for which a similar one is looked for, at 0.4 ms each."""
PASSED_VALUES_MAX = 1_000
PASSED_TEXT_MAX = 100_000
PASSED_DEPTH_MAX = 16
"""Bounds for all values of unknown fields that are passed on: how many, how much text, how deep."""

_EXPECTED: Final[Mapping[Kind, str]] = {"text": "text", "whole": "a number", "flag": "true or false", "asset": "text"}
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")


@dataclass(slots=True)
class Intake:
    """`values` are typed and without nulls; `faults` are never let through; `misnamed` are wrong names."""

    values: dict[str, object] = field(default_factory=dict)
    faults: list[Problem] = field(default_factory=list)
    misnamed: list[Problem] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)
    """Fields that are there, under a wrong type or an old name: they are not missing, and no rule can judge them."""


def take_in(fields: Mapping[str, object], *, lenient: bool, relaxed: bool, strangers: bool, keyframes: bool) -> Intake:
    """Read `fields`. `lenient`: text is converted to numbers and flags, empty text is no value. `relaxed`: known fields
    may hold any JSON scalar, except those that the relay acts on. `strangers`: unknown fields are welcome. `keyframes`:
    the model takes its frames in fields of their own.
    """
    intake = Intake()
    strange: dict[str, object] = {}
    for count, (name, value) in enumerate(fields.items()):
        if count == FIELDS_MAX:
            intake.faults.append(
                Problem("", "max_fields", f"a request has at most {FIELDS_MAX} fields", len(fields), FIELDS_MAX)
            )
            break
        known = FIELDS.get(name)
        if value is None or (lenient and known is not None and value == ""):
            continue
        if known is not None:
            _take_known(intake, known, value, lenient=lenient, relaxed=relaxed)
        elif len(name) > NAME_MAX or not usable(name):
            sentence = f"a field's name must be text of at most {NAME_MAX} characters, without NUL and lone surrogates"
            intake.faults.append(Problem(str(shown(name)), "field_name", sentence, shown(name)))
        else:
            strange[name] = value
            intake.misnamed.extend(_misnamed(intake, name, value, strangers=strangers, keyframes=keyframes))
    intake.faults.extend(_unusable(strange))
    intake.values |= strange
    return intake


def _take_known(intake: Intake, known: Field, value: object, *, lenient: bool, relaxed: bool) -> None:
    if lenient and isinstance(value, str):
        value = _converted(value, known.kind)
    problem = _unkept(known.name, value)
    if problem is None and not _fits(value, known.kind):
        scalar = isinstance(value, str | int | float)
        if not (relaxed and scalar and known.name not in OWN_FIELDS):
            expected = _EXPECTED[known.kind]
            sentence = f"{known.name} must be {expected}, not {said(value)}"
            problem = Problem(known.name, "type", sentence, _given(known.name, value), expected)
    if problem is not None:
        intake.faults.append(problem)
        intake.unreadable.add(known.name)
    elif known.kind == "whole" and isinstance(value, float) and value.is_integer():
        intake.values[known.name] = int(value)
    else:
        intake.values[known.name] = value


def _converted(text: str, kind: Kind) -> object:
    """The number or flag that `text` spells, or the text as it is."""
    word = text.strip()
    if kind == "whole" and _NUMBER.fullmatch(word):
        return float(word) if "." in word else int(word)
    if kind == "flag" and word.lower() in ("true", "false"):
        return word.lower() == "true"
    return text


def _fits(value: object, kind: Kind) -> bool:
    if kind == "flag":
        return isinstance(value, bool)
    if kind == "whole":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def _unkept(name: str, value: object) -> Problem | None:
    """Why a scalar cannot be kept and sent at all, whatever a model may say of it."""
    if isinstance(value, str):
        if len(value) > TEXT_MAX:
            sentence = f"{name} has {len(value)} characters (Unicode code points): no field takes more than {TEXT_MAX}"
            return Problem(name, "too_large", sentence, _given(name, value), TEXT_MAX)
        if not usable(value):
            sentence = f"{name} must be text without NUL and lone surrogates, which cannot be sent or stored"
            return Problem(name, "unusable_text", sentence, _given(name, value))
    elif isinstance(value, int | float) and not abs(value) <= NUMBER_MAX:
        # Compared this way round, NaN is out as infinity is, and no huge int is turned into a float.
        sentence = f"{name} must be a number from -{NUMBER_MAX} to {NUMBER_MAX}, not {said(value)}"
        return Problem(name, "number_range", sentence, shown(value), {"from": -NUMBER_MAX, "to": NUMBER_MAX})
    return None


def _given(name: str, value: object) -> object:
    # Problems are kept on the job and shown to whoever may read it; a reply address may hold its owner's secret.
    return None if name == "replyUrl" else shown(value)


def _misnamed(intake: Intake, name: str, value: object, *, strangers: bool, keyframes: bool) -> Iterator[Problem]:
    today = todays_name(name, keyframes=keyframes)
    if today is not None:
        intake.unreadable.add(today)
        sentence = f"{name} is a field of the older endpoints: today it is {today}"
        yield Problem(name, "renamed", sentence, shown(value), today)
    elif not strangers:
        meant = ELSEWHERE.get(name)
        if meant is None and len(intake.misnamed) < HINTS_MAX:
            meant = closest(name, FIELDS)
        hint = f"did you mean {meant}?" if meant else "see GET /v1/models for the fields of a model"
        yield Problem(name, "unknown_field", f"there is no field {said(name)}: {hint}", name, meant)


def _unusable(strange: Mapping[str, object]) -> Iterator[Problem]:
    """Problems of unknown fields' values, one a field. A list of our own walks them: a deep value must not overflow."""
    values, text = 0, 0
    named: set[str] = set()
    waiting = [(name, value, 1) for name, value in strange.items()]
    while waiting:
        name, value, depth = waiting.pop()
        values += 1
        inner: list[object] = []
        if isinstance(value, str):
            text += len(value)
        elif isinstance(value, Mapping):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            inner = list(value)
        if values + len(inner) > PASSED_VALUES_MAX or text > PASSED_TEXT_MAX or depth > PASSED_DEPTH_MAX:
            yield Problem(name, "too_large", f"{said(name)} holds more than an unknown field may: it is not passed on")
            return
        if name not in named and not _passable(value):
            named.add(name)
            sentence = f"{said(name)} must hold JSON: no NUL, no lone surrogates, numbers that JSON keeps exactly"
            yield Problem(name, "unusable_text", sentence, shown(value))
        waiting.extend((name, item, depth + 1) for item in inner)


def _passable(value: object) -> bool:
    if isinstance(value, str):
        return usable(value)
    if isinstance(value, int | float):
        return abs(value) <= NUMBER_MAX
    return value is None or isinstance(value, list | tuple | Mapping)
