"""The catalogue reads TOML, refuses what it does not know, and lets a later file add and replace."""

import json
import tomllib
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.catalogue import FILE_MAX, MODEL_KEYS, Catalogue, parse
from relay.core.catalogue_keys import RULE_NAMES
from relay.core.fields import FIELDS
from relay.core.span import Span
from relay.core.workflows import NAMED_RULES
from relay.errors import ConfigurationError, Problem
from tests.samples.mutants import TEXT, lines

CATALOGUE = parse(TEXT)

NEW_MODEL = """
[models."kling-4.0-pro"]
label = "Kling 4.0 Pro"
family = "Kling"
duration = [5, 20]
ratios = ["16:9"]
prompt = "required"
prompt_max = 4000
images = { from = 0, to = 2 }
explore = true
"""


def problems_of(*texts: str) -> list[Problem]:
    """What `parse` says of wrong texts."""
    with pytest.raises(ConfigurationError) as caught:
        parse(*texts)
    return list(caught.value.problems)


def sentence_of(text: str) -> str:
    """The only problem of a second file."""
    (problem,) = problems_of(TEXT, text)
    return problem.message


def read_or_refused(text: str) -> Catalogue | str:
    """The catalogue with `text` as a second file, or the sentence that refuses it."""
    try:
        return parse(TEXT, text)
    except ConfigurationError as error:
        return error.message


def test_a_later_file_adds_a_model() -> None:
    # Act
    catalogue = parse(TEXT, NEW_MODEL)

    # Assert
    assert len(catalogue.models) == 19
    assert catalogue.models["kling-4.0-pro"].durations == (5, 20)
    assert catalogue.models["sora-2"] == CATALOGUE.models["sora-2"]


def test_a_later_file_replaces_a_key_and_leaves_the_others() -> None:
    # Act
    catalogue = parse(TEXT, '[models."gen4.5"]\nprompt_max = 6000\n', '[models."gen4.5"]\nexplore = false\n')

    # Assert
    model = catalogue.models["gen4.5"]
    assert (model.prompt_max, model.explore, model.duration) == (6000, False, Span(2, 10))


def test_a_later_file_can_take_a_value_back() -> None:
    # Act
    catalogue = parse(TEXT, '[models."gen4.5"]\nseed = "refused"\nduration = "refused"\nratios = []\nratios_t2v = []\n')

    # Assert
    model = catalogue.models["gen4.5"]
    assert model.seed is None
    assert model.durations == ()
    assert model.offered_ratios(with_image=True) == ()


def test_the_latest_date_and_the_latest_limits_are_the_catalogues() -> None:
    catalogue = parse(TEXT, 'dated = "2026-11-01"\n[limits]\nreply_url_max = 2048\n')
    assert catalogue.dated == "2026-11-01"
    assert (catalogue.limits.reply_url_max, catalogue.limits.reply_ref_max) == (2048, 1024)


def test_an_unknown_key_is_refused_with_file_model_and_the_key_that_was_meant() -> None:
    sentence = sentence_of('[models."gen4.5"]\npromt_max = 6000\n')
    assert sentence == "catalogue file 2: model gen4.5: promt_max is no key; did you mean prompt_max?"


def test_a_bad_value_is_refused_with_file_model_key_and_rule() -> None:
    # Act
    (problem,) = problems_of(TEXT, "", '[models."gen4.5"]\nprompt_max = "many"\n')

    # Assert
    assert problem.field == "catalogue file 3: model gen4.5: prompt_max"
    assert problem.rule == "value"
    assert problem.given == "many"
    assert problem.message.endswith("prompt_max must be a whole number from 0 to 100000")


def test_all_problems_of_all_files_are_reported_at_once() -> None:
    # Act
    problems = problems_of(
        TEXT, '[models."gen4"]\naudio = 1\n[other]\n', '[models."gen4"]\nseed = {from = 3, to = 1}\n'
    )

    # Assert
    assert [problem.field for problem in problems] == [
        "catalogue file 2: model gen4: audio",
        "catalogue file 2: other",
        "catalogue file 3: model gen4: seed",
    ]


def test_a_model_name_with_a_dot_and_without_quotes_is_explained() -> None:
    assert 'is written [models."name"], in quotes' in sentence_of("[models.gen4.5]\nexplore = true\n")


def test_a_new_model_without_its_required_keys_is_refused() -> None:
    problems = problems_of(TEXT, '[models.new]\nlabel = "New"\nexplore = true\n')
    assert [problem.field.rsplit(" ", 1)[1] for problem in problems] == [
        "family",
        "duration",
        "ratios",
        "prompt",
        "images",
    ]
    assert {problem.rule for problem in problems} == {"required"}


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ('resolution_default = "8k"', "resolution_default"),
        ('orientation_default = "image"', "orientation_default"),
        ('end_frame = "imageAssetId2"', "end_frame"),
        ("edit_images_max = 2", "edit_images_max"),
        ("shots = { from = 2, to = 3 }", "shots"),
        ('sizes = { "2:1" = "200x100" }', "sizes"),
        ("prompt_max = 0", "prompt_max"),
        (
            "shots = {from = 2, to = 3}\nshot_seconds = {from = 9, to = 9}\nshots_seconds_max = 9\nshot_prompt_max = 1",
            "shots_seconds_max",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(keys: str, named: str) -> None:
    (problem,) = problems_of(TEXT, f'[models."gen4.5"]\n{keys}\n')
    assert problem.rule == "consistent"
    assert problem.field == f"catalogue file 2: model gen4.5: {named}"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("= 5", "toml"),
        ("x = " + "[" * 100_000, "toml"),
        ("x = " + "9" * 10_000, "toml"),
        ("#" * (FILE_MAX + 1), "max_length"),
        ('dated = "today"', "value"),
        ("dated = 2026-05-14", "value"),
        ("models = 5", "known_key"),
        ("limits = 5", "table"),
        ("[models]\ngen4 = 5", "table"),
        ('[models."a b"]\nlabel = "x"', "name"),
        ("[limits]\nmax_jobs = 5", "value"),
        ("[limits]\nmax_job = 5", "known_key"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused(text: str, rule: str) -> None:
    (problem,) = problems_of(TEXT, text)
    assert problem.rule == rule
    assert problem.field.startswith("catalogue file 2")


def test_without_the_built_in_text_what_is_missing_is_named() -> None:
    problems = problems_of('[models."gen4"]\nexplore = true\n')
    assert {"dated", "limits.max_jobs", "limits.reply_url_max"} <= {problem.field for problem in problems}


def test_no_text_at_all_is_no_catalogue() -> None:
    assert "models" in {problem.field for problem in problems_of()}


@pytest.mark.parametrize("key", MODEL_KEYS)
def test_no_key_takes_junk(key: str) -> None:
    junk: list[object] = [
        -1,
        10**9,
        1.5,
        "",
        "x" * 101,
        [[]],
        [1, 1],
        {"from": 1},
        {"from": True, "to": 2},
        {"a": {"b": 1}},
    ]
    for value in junk:
        (problem, *_) = problems_of(TEXT, '[models."gen4"]\n' + lines({key: value}))
        assert problem.field == f"catalogue file 2: model gen4: {key}"


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([*MODEL_KEYS, "unknown"]),
    st.recursive(
        st.booleans() | st.integers(-9, 99) | st.sampled_from(["refused", "image", "16:9", "5", "switch", "é"]),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["from", "to", "x"]), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)
def test_any_value_of_any_key_loads_or_is_refused_in_words(key: str, value: Any) -> None:
    found = read_or_refused('[models."gen4"]\n' + lines({key: value}))
    if isinstance(found, str):
        assert "catalogue file 2: model gen4: " in found
    else:
        json.dumps(found.as_json(), allow_nan=False)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_loads_or_is_refused_in_words(text: str) -> None:
    found = read_or_refused(text)
    assert isinstance(found, Catalogue) or "catalogue file 2" in found


def test_the_named_rules_of_the_data_are_functions() -> None:
    assert set(NAMED_RULES) == set(RULE_NAMES)


def test_a_rule_without_a_function_is_refused() -> None:
    assert "rules must be a list of keyframes_exclude_references" in sentence_of('[models.gen4]\nrules = ["be_nice"]\n')


def test_the_catalogue_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        CATALOGUE.models["x"] = CATALOGUE.models["gen4"]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        CATALOGUE.models["gen4"].explore = False  # type: ignore[misc]


def test_every_model_shows_itself_as_json() -> None:
    shown = json.loads(json.dumps(CATALOGUE.as_json(), allow_nan=False))
    assert shown["dated"] == "2026-05-14"
    assert [model["name"] for model in shown["models"]] == list(CATALOGUE.models)


def test_a_model_shows_sets_as_lists_and_ranges_as_tables() -> None:
    seedance, pro = (CATALOGUE.models[name].as_json() for name in ("seedance-2", "kling-o3-pro"))
    assert seedance["duration"] == {"offered": {"from": 4, "to": 15}, "follows": None, "ignoredIn": []}
    assert pro["duration"] == {"offered": [5, 10, 15], "follows": None, "ignoredIn": ["multishot", "edit"]}
    assert pro["resolution"]["sizes"]["1:1"] == [1440, 1440]
    assert pro["edit"] == {"imagesMax": 4}
    assert seedance["imagesAndVideosMax"] == 11


def test_a_model_shows_what_it_refuses_as_nothing() -> None:
    motion = CATALOGUE.models["kling-3.0-motion-control"].as_json()
    assert motion["duration"] == {"offered": None, "follows": "video", "ignoredIn": []}
    assert motion["aspectRatio"] == {"textToVideo": [], "imageToVideo": [], "follows": "image"}
    assert motion["multishot"] is None
    assert motion["seed"] is None


def test_a_models_fields_are_those_in_which_it_leaves_a_choice() -> None:
    # Act
    fields = {name: model.fields() for name, model in CATALOGUE.models.items()}

    # Assert
    assert all(set(names) <= set(FIELDS) for names in fields.values())
    assert "duration" not in fields["kling-3.0-motion-control"]
    assert "characterOrientation" in fields["kling-3.0-motion-control"]
    assert "exploreMode" not in fields["veo-3.1"]
    assert "audio" not in fields["sora-2"]
    assert "multishot_prompt_5" in fields["kling-3.0-pro"]
    assert "multishot_prompt_6" not in fields["kling-3.0-pro"]
    assert [name for name in fields["gen4.5"] if name.startswith("imageAsset")] == ["imageAssetId1"]


def test_the_default_duration_is_the_first_offered() -> None:
    assert CATALOGUE.models["veo-3.1"].durations[0] == 4
    assert CATALOGUE.models["gen4.5"].durations[0] == 2


def test_typical_times_are_there_for_every_model() -> None:
    for model in CATALOGUE.models.values():
        assert 60 <= model.typical_queue_s + model.typical_render_s <= 1500
        assert model.typical_render_s > 0
    standard, turbo = CATALOGUE.models["kling-o3-standard"], CATALOGUE.models["gen4-turbo"]
    assert (standard.typical_queue_s, standard.typical_render_s) == (420, 60)
    assert (turbo.typical_queue_s, turbo.typical_render_s) == (0, 90)


def test_a_size_follows_the_ratio_where_the_page_says_so() -> None:
    assert ("9:16", 2160, 3840) in CATALOGUE.models["kling-o3-4k"].sizes
    assert CATALOGUE.models["gen4"].sizes == ()


def test_the_built_in_text_uses_every_key() -> None:
    used = {key for table in tomllib.loads(TEXT)["models"].values() for key in table}
    assert used == set(MODEL_KEYS)


def test_a_span_holds_whole_numbers_only() -> None:
    span = Span(1, 3)
    assert 3 in span
    assert all(value not in span for value in (0, 4, True, 2.5, 2.0, "2", None))
    assert list(span) == [1, 2, 3]


def test_a_catalogue_of_ones_own_needs_no_built_in_text() -> None:
    text = 'dated = "2026-01-01"\n[limits]\nmax_jobs = {from = 1, to = 2}\nreply_url_max = 9\nreply_ref_max = 9\n'
    catalogue: Catalogue = parse(text + NEW_MODEL)
    assert list(catalogue.models) == ["kling-4.0-pro"]
