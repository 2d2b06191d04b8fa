"""Frozen records made and changed without their `__init__`, for where that would cost too much.

Every callback changes a job and an attempt of some thirty fields each, and every list reads hundreds of them;
`__init__`, which `dataclasses.replace` calls as well, runs in Python.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import fields
from itertools import repeat
from operator import attrgetter, call
from typing import Any, Final, TypeVar

R = TypeVar("R")


def made(record_type: type[R], values: Iterable[Any]) -> R:
    """A slotted dataclass (without `__post_init__`) of the values of all its fields, in their order."""
    setters, _ = _KNOWN.get(record_type) or _learn(record_type)
    record = object.__new__(record_type)
    deque(map(call, setters, repeat(record), values), maxlen=0)
    return record


def changed(record: R, **values: Any) -> R:
    """A copy of a slotted dataclass (without `__post_init__`) with other `values` for these fields."""
    record_type: type[Any] = type(record)
    read = (_KNOWN.get(record_type) or _learn(record_type))[1]
    copy: R = made(record_type, read(record))
    for name, value in values.items():
        object.__setattr__(copy, name, value)
    return copy


def _learn(record_type: type[Any]) -> "_Fields":
    names = [field.name for field in fields(record_type)]
    _KNOWN[record_type] = tuple(record_type.__dict__[name].__set__ for name in names), attrgetter(*names)
    return _KNOWN[record_type]


_Fields = tuple[tuple[Callable[[Any, Any], None], ...], Callable[[Any], tuple[Any, ...]]]
_KNOWN: Final[dict[type[Any], _Fields]] = {}
