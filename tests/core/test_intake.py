"""Odd values, unusable ones and any JSON at all: judged in words, never with an exception."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.fields import FIELDS, YESTERDAYS
from relay.core.intake import FIELDS_MAX, NAME_MAX, PASSED_DEPTH_MAX, PASSED_TEXT_MAX, PASSED_VALUES_MAX, TEXT_MAX
from relay.core.request import Door, Mode, check
from relay.core.wording import NUMBER_MAX
from tests.samples.doors import CATALOGUE, DOORS, MODES, dropin, native, only_problem
from tests.samples.probes import asset


def test_five_and_five_point_nought_are_the_same() -> None:
    answer = native({"model": "gen4.5", "duration": 5.0})
    assert not answer.refused
    assert repr(answer.request["duration"]) == "5"


@pytest.mark.parametrize(
    "number", [True, False, float("nan"), float("inf"), -float("inf"), 10**400, -(10**400), 1e300, NUMBER_MAX + 1]
)
@pytest.mark.parametrize("mode", ["strict", "warn"])
def test_what_is_no_usable_number_is_refused(number: Any, mode: Mode) -> None:
    # Act
    answer = native({"model": "gen4.5", "duration": number, "seed": number}, mode)

    # Assert
    assert answer.refused
    assert {problem.field for problem in answer.problems} == {"duration", "seed"}
    json.dumps([problem.as_json() for problem in answer.problems], allow_nan=False)


def test_null_means_absent() -> None:
    # Arrange
    request = dict.fromkeys(FIELDS) | {"model": "gen4.5", "colour": None}

    # Act
    answer = native(request)

    # Assert
    assert not any(problem.rule != "unknown_field" for problem in answer.problems)
    assert answer.request == {"model": "gen4.5"}


def test_a_null_slot_does_not_fill_it() -> None:
    answer = native({"model": "gen4", "text_prompt": "x", "imageAssetId1": None})
    assert only_problem(answer).message.startswith("imageAssetId1 is required by gen4")


def test_a_form_spells_numbers_and_flags_as_text_and_empty_fields_are_absent() -> None:
    # Arrange
    form = {
        "model": "gen4.5",
        "text_prompt": "5",
        "duration": " 5 ",
        "audio": "False",
        "seed": "7.0",
        "maxJobs": "",
        "colour": "1",
    }

    # Act
    answer = dropin(form, textual=True)

    # Assert
    assert not answer.refused
    assert answer.request == {
        "model": "gen4.5",
        "text_prompt": "5",
        "duration": 5,
        "audio": False,
        "seed": 7,
        "colour": "1",
    }


@pytest.mark.parametrize("text", ["abc", "5s", "1e3", "0x5", "\u0665", "9" * 5000, "--5", "5.", "NaN", "inf"])
def test_a_form_field_that_spells_no_number_is_refused(text: str) -> None:
    assert only_problem(dropin({"model": "gen4.5", "duration": text}, textual=True)).rule == "type"


def test_a_form_at_the_native_door_is_read_the_same_way() -> None:
    answer = check({"model": "gen4.5", "duration": "5"}, CATALOGUE, door="native", textual=True)
    assert answer.request == {"model": "gen4.5", "duration": 5}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("text_prompt", "\ud800", "unusable_text"),
        ("text_prompt", "a\0b", "unusable_text"),
        ("replyRef", "\udfff", "unusable_text"),
        ("text_prompt", "x" * (TEXT_MAX + 1), "too_large"),
        ("text_prompt", ["x"], "type"),
        ("duration", {"s": 5}, "type"),
        ("model", None, "required"),
        ("model", " ", "required"),
        ("model", 5, "type"),
        ("model", "m" * 201, "max_length"),
        ("seed", 10**30, "number_range"),
    ],
)
def test_what_cannot_be_used_is_refused_everywhere(door: Door, mode: Mode, name: str, value: Any, rule: str) -> None:
    answer = check({"model": "gen4.5"} | {name: value}, CATALOGUE, door=door, mode=mode)
    assert answer.refused
    assert (name, rule) in {(problem.field, problem.rule) for problem in answer.problems}


@pytest.mark.parametrize("mode", ["strict", "warn"])
def test_a_wrong_type_is_refused_in_every_mode_that_judges(mode: Mode) -> None:
    for request in ({"duration": "abc"}, {"audio": "yes"}, {"text_prompt": 5}, {"imageAssetId1": 1}):
        assert native({"model": "gen4.5"} | request, mode).refused
        assert dropin({"model": "gen4.5"} | request, mode).refused


@pytest.mark.parametrize(
    "value",
    [
        "\ud800",
        ["a\0"],
        {"a\ud800": 1},
        {"x": {"y": [float("nan")]}},
        10**400,
        "x" * (PASSED_TEXT_MAX + 1),
        [0] * (PASSED_VALUES_MAX + 1),
        {1, 2},
        b"x",
    ],
)
def test_an_unknown_field_that_cannot_be_kept_is_not_passed_on(value: object) -> None:
    assert dropin({"model": "gen4.5", "colour": value}).refused


@pytest.mark.parametrize(
    "request_",
    [
        {"colour": "x" * PASSED_TEXT_MAX},
        {"colour": [0] * (PASSED_VALUES_MAX - 1)},
        {"colour": NUMBER_MAX},
        {"colour": [-NUMBER_MAX, None]},
        {"x" * NAME_MAX: 1},
        {f"field{number}": 1 for number in range(FIELDS_MAX - 1)},
    ],
    ids=["text", "values", "number", "inner number", "name", "fields"],
)
def test_what_is_just_within_the_bounds_is_passed_on(request_: dict[str, Any]) -> None:
    answer = dropin({"model": "gen4.5"} | request_)
    assert answer.problems == ()
    assert answer.request == {"model": "gen4.5"} | request_


def test_known_fields_just_within_the_bounds_are_kept_where_nothing_is_judged() -> None:
    request = {"model": "gen4.5", "text_prompt": "x" * TEXT_MAX, "seed": NUMBER_MAX, "duration": -NUMBER_MAX}
    assert native(request, "off").request == request


def test_a_value_nested_without_end_is_refused_and_does_not_overflow() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert only_problem(dropin({"model": "gen4.5", "colour": deep})).rule == "too_large"
    assert only_problem(native({"model": "gen4.5", "text_prompt": deep})).rule == "type"
    shallow: Any = 5
    for _ in range(PASSED_DEPTH_MAX - 1):
        shallow = [shallow]
    assert not dropin({"model": "gen4.5", "colour": shallow}).refused


def test_too_many_fields_are_refused_without_reading_them_all() -> None:
    answer = dropin({"model": "gen4.5"} | {f"field{number}": 1 for number in range(5 * FIELDS_MAX)})
    assert only_problem(answer).rule == "max_fields"
    assert len(answer.request) <= FIELDS_MAX


@pytest.mark.parametrize("name", ["\ud800", "a\0", "x" * 200])
def test_a_field_name_that_cannot_be_kept_is_refused(name: str) -> None:
    assert only_problem(dropin({"model": "gen4.5", name: 1})).rule == "field_name"


@pytest.mark.parametrize("body", [[], "model", 5, None, True])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    assert only_problem(native(body)).rule == "object"


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=20),
    st.sampled_from([10**400, "\ud800", "\0"]),
)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from([*FIELDS, *YESTERDAYS, "aspectRatio"]) | st.text(st.characters(), max_size=10)
_BODIES = _JSON | st.builds(
    lambda model, fields: {"model": model} | fields,
    st.sampled_from([*CATALOGUE.models, "gen9"]),
    st.dictionaries(_NAMES, _JSON | st.sampled_from(["5", "true", "@IMG_1", asset(1), 5, 5.0]), max_size=8),
)


@settings(deadline=None, max_examples=1000)
@given(_BODIES, st.sampled_from(DOORS), st.sampled_from(MODES), st.booleans())
def test_any_json_is_judged_in_words_and_what_passes_can_be_stored(
    body: Any, door: Door, mode: Mode, textual: bool
) -> None:
    # Act
    answer = check(body, CATALOGUE, door=door, mode=mode, textual=textual)

    # Assert
    told = json.dumps([problem.as_json() for problem in answer.problems], allow_nan=False, ensure_ascii=False)
    assert told.encode("utf-8")
    assert "\\u0000" not in told
    assert all(problem.message and len(problem.message) < 2000 for problem in answer.problems)
    if not answer.refused:
        stored = json.dumps(answer.request, allow_nan=False, ensure_ascii=False)
        assert stored.encode("utf-8")
        assert "\\u0000" not in stored
        assert json.loads(stored) == answer.request
        assert None not in answer.request.values()
        assert isinstance(answer.request["model"], str)
        assert answer.problems == () or mode == "warn"
