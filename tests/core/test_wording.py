"""Values inside problems: always JSON, never long, never unprintable."""

import json
from typing import Any

import pytest

from relay.core.wording import GIVEN_MAX, NUMBER_MAX, closest, either, said, shown, usable


@pytest.mark.parametrize("value", [None, True, False, 0, -1.5, NUMBER_MAX, -NUMBER_MAX, "x", "é" * GIVEN_MAX])
def test_a_short_value_is_shown_as_it_is(value: object) -> None:
    assert shown(value) is value or shown(value) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2**53, "a number beyond 9007199254740991"),
        (-(10**4000), "a number beyond 9007199254740991"),
        (float("nan"), "a number that is not finite"),
        ([1], "a list"),
        ({}, "an object"),
        ({1}, "a value that is not JSON"),
        ("x" * 81, "x" * 79 + "…"),
        ("a\0b\ud800", "a\ufffdb\ufffd"),
    ],
)
def test_a_value_that_cannot_be_shown_is_described(value: Any, words: str) -> None:
    assert shown(value) == words
    json.dumps(shown(value), allow_nan=False).encode()


@pytest.mark.parametrize(
    ("value", "words"), [("é", '"é"'), (5, "5"), (5.5, "5.5"), (True, "true"), (None, "null"), ([], "a list")]
)
def test_a_value_is_said_as_json_writes_it(value: object, words: str) -> None:
    assert said(value) == words


def test_choices_are_joined_by_commas_and_one_or() -> None:
    assert [either([5]), either([5, 10]), either([5, 10, 15])] == ["5", "5 or 10", "5, 10 or 15"]


def test_a_similar_name_is_found_and_a_strange_one_is_not() -> None:
    assert closest("Aspect-Ratio", ["aspect_ratio", "audio"]) == "aspect_ratio"
    assert closest("zzz", ["aspect_ratio", "audio"]) is None


def test_usable_text_has_no_nul_and_no_half_of_a_pair() -> None:
    assert usable("waves 🌊 é \n")
    assert not usable("a\0b")
    assert not usable("\ud83c")
