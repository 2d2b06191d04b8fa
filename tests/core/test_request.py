"""What the doors and modes make of a request, what its problems say, and that no JSON is too odd to be judged."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.catalogue import parse
from relay.core.fields import ASSET_FIELDS, FIELDS, YESTERDAYS
from relay.core.intake import FIELDS_MAX, PASSED_DEPTH_MAX, PASSED_TEXT_MAX, PASSED_VALUES_MAX, TEXT_MAX
from relay.core.request import Checked, Door, Mode, account_of, advice, check, example_request
from relay.core.wording import GIVEN_MAX, NUMBER_MAX
from relay.errors import InvalidRequest, Problem
from tests.samples.judge import Judge
from tests.samples.mutants import TEXT
from tests.samples.page import Page
from tests.samples.probes import asset, images, shots, videos

CATALOGUE = parse(TEXT)
JUDGE = Judge(Page())
DOORS: list[Door] = ["native", "dropin"]
MODES: list[Mode] = ["strict", "warn", "off"]


def native(request: object, mode: Mode = "strict") -> Checked:
    return check(request, CATALOGUE, door="native", mode=mode)


def dropin(request: object, mode: Mode = "strict", *, textual: bool = False) -> Checked:
    return check(request, CATALOGUE, door="dropin", mode=mode, textual=textual)


def only_problem(answer: Checked) -> Problem:
    (problem,) = answer.problems
    return problem


# What problems say ---------------------------------------------------------------------------------------------------

SENTENCES: list[tuple[dict[str, Any], str, object]] = [
    (
        {"model": "kling-2.6-pro", "text_prompt": "x", "duration": 7},
        "duration 7 is not offered by kling-2.6-pro: 5 or 10",
        [5, 10],
    ),
    ({"model": "sora-2", "duration": 5.5}, "duration 5.5 is not offered by sora-2: 4, 8 or 12", [4, 8, 12]),
    (
        {"model": "gen4.5", "duration": 11},
        "duration 11 is not offered by gen4.5: whole seconds from 2 to 10",
        {"from": 2, "to": 10},
    ),
    (
        {"model": "gen4.5", "aspect_ratio": "1:1"},
        'aspect_ratio "1:1" is not offered by gen4.5: 16:9 without an image; '
        "with one 16:9, 9:16, 1:1, 4:3, 3:4 or 21:9",
        ["16:9"],
    ),
    (
        {"model": "veo-3.1", "resolution": "4k"},
        'resolution "4k" is not offered by veo-3.1: 720p or 1080p',
        ["720p", "1080p"],
    ),
    (
        {"model": "kling-o3-pro", "resolution": "1080p"},
        "resolution is not taken by kling-o3-pro: it follows from the model and aspect_ratio",
        [],
    ),
    ({"model": "sora-2", "audio": False}, "audio is not taken by sora-2: its videos always have sound", [True]),
    (
        {"model": "veo-3.1", "exploreMode": True},
        "exploreMode is not taken by veo-3.1: it always renders with credits",
        [False],
    ),
    (
        {"model": "gen4.5", "imageAssetId1": asset(1), "imageAssetId2": asset(2)},
        "imageAssetId2 is not taken by gen4.5: it takes one image, in imageAssetId1, and no end frame",
        ["imageAssetId1"],
    ),
    (
        {"model": "veo-3.1", "endFrameAssetId": asset(1)},
        "endFrameAssetId is not taken by veo-3.1: its end frame is imageAssetId2",
        ["imageAssetId2"],
    ),
    (
        {"model": "seedance-2", "endFrameAssetId": asset(1)},
        "endFrameAssetId needs startFrameAssetId: an end frame alone is refused",
        "startFrameAssetId",
    ),
    (
        {"model": "seedance-2", "text_prompt": "as in @IMG_2", "imageAssetId1": asset(1)},
        "@IMG_2 in text_prompt points to imageAssetId2, which is empty",
        ["@IMG_1"],
    ),
    (
        {"model": "kling-o3-pro", "text_prompt": "as in @IMG_8"},
        "@IMG_8 in text_prompt points to no slot of kling-o3-pro",
        [],
    ),
    (
        {"model": "kling-o3-pro"} | shots(3, 3, 3, 3, 3, 3),
        "the shots last 18 s together: kling-o3-pro takes at most 15",
        15,
    ),
    (
        {"model": "kling-o3-pro"} | videos(1) | images(5),
        "kling-o3-pro takes at most 4 images when it edits a video: 5 given",
        4,
    ),
    (
        {"model": "sora-2", "text_prompt": "🌊" * 1001},
        "text_prompt has 1001 characters (Unicode code points): sora-2 takes at most 1000",
        1000,
    ),
    (
        {"model": "gen4.5", "maxJobs": 11},
        "maxJobs 11 is out of range: whole numbers from 1 to 10",
        {"from": 1, "to": 10},
    ),
    (
        {"model": "gen4.5", "seed": 0},
        "seed 0 is not offered by gen4.5: whole numbers from 1 to 4294967294",
        {"from": 1, "to": 4294967294},
    ),
    (
        {"model": "gen4.5", "aspectRatio": "16:9"},
        'there is no field "aspectRatio": did you mean aspect_ratio?',
        "aspect_ratio",
    ),
    (
        {"model": "gen4.5", "promptText": "x"},
        'there is no field "promptText": did you mean text_prompt?',
        "text_prompt",
    ),
    ({"model": "gen4.5", "duration": "5"}, 'duration must be a number, not "5"', "a number"),
    ({"model": "gen4.5", "audio": 1}, "audio must be true or false, not 1", "true or false"),
    ({"model": "gen4.5", "text_prompt": ["x"]}, "text_prompt must be text, not a list", "text"),
    ({}, "model is required: see GET /v1/models", None),
    (
        {"model": "veo-3.1", "imageAssetId3": asset(3)},
        "imageAssetId3 is not taken by veo-3.1: it takes 2 images, in imageAssetId1 and imageAssetId2",
        ["imageAssetId1", "imageAssetId2"],
    ),
    (
        {"model": "gen4.5", "imageAssetId3": asset(3)},
        "imageAssetId3 is not taken by gen4.5: it takes one image, in imageAssetId1",
        ["imageAssetId1"],
    ),
    (
        {"model": "kling-o3-4k", "imageAssetId8": asset(8)},
        "imageAssetId8 is not taken by kling-o3-4k: it takes 7 images, in imageAssetId1 to imageAssetId7",
        [f"imageAssetId{number}" for number in range(1, 8)],
    ),
    ({"model": "kling-o3-4k"} | videos(1), "videoAssetId is not taken by kling-o3-4k: it takes no videos", []),
    (
        {"model": "kling-o3-pro"} | videos(2),
        "videoAssetId2 is not taken by kling-o3-pro: it takes one video, in videoAssetId",
        ["videoAssetId"],
    ),
    (
        {"model": "gen4", "text_prompt": "x"},
        "imageAssetId1 is required by gen4: it does not render without a reference image",
        "asset id",
    ),
    (
        {"model": "seedance-2"} | images(9) | videos(3),
        "seedance-2 takes at most 11 references, images and videos together: 12 given",
        11,
    ),
    (
        {"model": "kling-3.0-pro", "multishot_prompt_6": "x"},
        "multishot_prompt_6 is not taken by kling-3.0-pro: it takes shots 1 to 5",
        [],
    ),
    (
        {"model": "gen4.5", "multishot_prompt_1": "x"},
        "multishot_prompt_1 is not taken by gen4.5: it takes no multishot",
        [],
    ),
    (
        {"model": "kling-o3-pro"} | shots(3, 3, 3, 3) | {"multishot_prompt_3": None, "multishot_duration_3": None},
        "shots are numbered from 1 without a gap: shot 4 is given and shot 3 is not",
        [1, 2, 3],
    ),
    ({"model": "kling-o3-pro"} | shots(3), "kling-o3-pro takes 2 to 6 shots: 1 given", {"from": 2, "to": 6}),
    (
        {"model": "kling-o3-pro", "endFrameAssetId": asset(2), "startFrameAssetId": asset(1)} | shots(3, 3),
        "endFrameAssetId cannot be combined with multishot_prompt_1: multishot takes startFrameAssetId at most",
        [],
    ),
    (
        {"model": "kling-o3-pro", "startFrameAssetId": asset(1)} | videos(1),
        "startFrameAssetId cannot be combined with videoAssetId: a video that is edited takes reference images only",
        [],
    ),
    (
        {"model": "seedance-2", "startFrameAssetId": asset(1)} | images(1),
        "startFrameAssetId cannot be combined with imageAssetId1: seedance-2 takes keyframes or references, not both",
        [],
    ),
]


@pytest.mark.parametrize(
    ("request_", "sentence", "allowed"), SENTENCES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_problem_says_what_was_given_and_what_is_allowed(request_: Any, sentence: str, allowed: object) -> None:
    problem = only_problem(native(request_))
    assert problem.message == sentence
    assert problem.allowed == allowed


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        (shots(3), "multishot_prompt_1", "shot_count"),
        (shots(5, 5, 6), "multishot_duration_3", "shots_total"),
        (shots(3, 3) | {"multishot_duration_2": None}, "multishot_duration_2", "required"),
        (shots(3, 3) | {"multishot_prompt_1": None}, "multishot_prompt_1", "required"),
        (shots(3, 3) | {"multishot_prompt_2": ""}, "multishot_prompt_2", "required"),
        (shots(3, 13), "multishot_duration_2", "not_offered"),
        (
            shots(3, 3, 3) | {"multishot_prompt_2": None, "multishot_duration_2": None},
            "multishot_prompt_2",
            "contiguous",
        ),
        (images(5) | videos(1), "imageAssetId5", "edit_images"),
        ({"endFrameAssetId": asset(1)}, "endFrameAssetId", "needs_start_frame"),
        ({"endFrameAssetId": asset(1), "startFrameAssetId": asset(2)} | images(1), "endFrameAssetId", "excludes"),
    ],
)
def test_a_problem_of_fields_together_names_the_one_to_change(change: dict[str, Any], field: str, rule: str) -> None:
    answer = native({"model": "kling-o3-pro"} | change)
    assert (answer.problems[0].field, answer.problems[0].rule) == (field, rule)


def test_motion_control_refuses_what_it_inherits() -> None:
    # Arrange
    request = {"model": "kling-3.0-motion-control", "duration": 5, "aspect_ratio": "16:9"} | images(1) | videos(1)

    # Act and assert
    assert [problem.message for problem in native(request).problems] == [
        "duration is not taken by kling-3.0-motion-control: the video is as long as its reference video",
        "aspect_ratio is not taken by kling-3.0-motion-control: the picture is as wide and high as its reference image",
    ]


def test_o3_lets_any_duration_pass_where_it_is_ignored() -> None:
    edit = {"model": "kling-o3-standard", "duration": 7} | videos(1)
    frames = {"model": "kling-o3-standard", "duration": 7}
    assert not native(edit).refused
    assert native(frames).refused


@pytest.mark.parametrize(
    "request_",
    [
        {"model": "sora-2", "audio": True},
        {"model": "veo-3.1", "exploreMode": False},
        {"model": "wan-2.2-animate"} | images(1) | videos(1) | {"audio": False},
    ],
)
def test_what_the_model_does_anyway_may_be_said(request_: dict[str, Any]) -> None:
    assert not native(request_).refused


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    problem = only_problem(native({"model": "gen-4.5"}))
    assert problem.message.startswith('model "gen-4.5" is not known: did you mean gen4.5? The models are seedance-2, ')
    assert problem.allowed == list(CATALOGUE.models)
    assert problem.given == "gen-4.5"


@pytest.mark.parametrize("name", YESTERDAYS)
@pytest.mark.parametrize("door", DOORS)
def test_yesterdays_names_are_refused_with_todays_at_both_doors(name: str, door: Door) -> None:
    # Act
    answer = check({"model": "gen4.5", name: "x"}, CATALOGUE, door=door)

    # Assert
    problem = answer.problems[0]
    assert answer.refused
    assert (problem.field, problem.rule, problem.allowed) == (name, "renamed", YESTERDAYS[name])
    assert problem.message.endswith(f"today it is {YESTERDAYS[name]}")


def test_a_field_under_its_old_name_is_not_called_missing_as_well() -> None:
    answer = dropin({"model": "gen4", "text_prompt": "x", "firstImage_assetId": asset(1)})
    assert [problem.field for problem in answer.problems] == ["firstImage_assetId"]


def test_an_old_frame_is_today_a_keyframe_where_the_model_has_those() -> None:
    assert only_problem(dropin({"model": "seedance-2", "firstImage_assetId": "x"})).allowed == "startFrameAssetId"


def test_an_empty_slot_is_named_once_and_not_without_end() -> None:
    assert len(native({"model": "seedance-2", "text_prompt": "@IMG_2 or @IMG_2"}).problems) == 1
    many = " ".join(f"@IMG_{number}" for number in range(12, 300))
    assert len(native({"model": "seedance-2", "text_prompt": many}).problems) == 20


def test_what_was_given_is_cut_to_eighty_characters() -> None:
    problem = only_problem(native({"model": "sora-2", "text_prompt": "x" * 2000}))
    assert len(problem.given) == GIVEN_MAX
    assert problem.given.endswith("…")


def test_a_reply_address_is_never_repeated_for_it_may_hold_a_secret() -> None:
    for url in (
        "ftp://example.com/s3cret",
        "https://s3cret.example.com/" + "x" * 1024,
        "https://s3cret\0",
        "s3cret" * 9999,
    ):
        answer = native({"model": "gen4.5", "replyUrl": url})
        assert answer.refused
        assert "s3cret" not in json.dumps([problem.as_json() for problem in answer.problems])


# Numbers, nulls, empty texts -----------------------------------------------------------------------------------------


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


# Doors and modes -----------------------------------------------------------------------------------------------------


def test_the_dropin_door_passes_unknown_models_and_fields_on() -> None:
    # Arrange
    request = {"model": "gen9", "duration": "auto", "imageAssetId1": "x", "camera": {"pan": [1, 2.5, None, True]}}

    # Act
    answer = dropin(request)

    # Assert
    assert (answer.refused, answer.problems, answer.model) == (False, (), None)
    assert answer.request == request


def test_the_native_door_refuses_them() -> None:
    answer = native({"model": "gen9", "camera": 5})
    assert [problem.rule for problem in answer.problems] == ["known_model", "unknown_field"]
    assert answer.refused


def test_the_dropin_door_judges_a_known_model() -> None:
    assert dropin({"model": "kling-2.6-pro", "text_prompt": "x", "duration": 7, "colour": "red"}).refused


def test_the_dropin_door_leaves_the_form_of_an_asset_id_to_the_upstream() -> None:
    assert not dropin({"model": "gen4.5", "imageAssetId1": "some-id"}).refused
    assert only_problem(native({"model": "gen4.5", "imageAssetId1": "some-id"})).rule == "asset_id"


def test_the_fields_that_the_relay_acts_on_keep_their_types_for_an_unknown_model_too() -> None:
    for name in ("email", "replyUrl", "replyRef", "maxJobs"):
        assert dropin({"model": "gen9", name: [1]}).refused
        assert dropin({"model": "gen9", name: True}, "off").refused


def test_warn_keeps_the_problems_and_submits() -> None:
    # Act
    answer = native({"model": "kling-2.6-pro", "duration": 7, "colour": "red"}, "warn")

    # Assert
    assert not answer.refused
    assert {problem.field for problem in answer.problems} == {"duration", "text_prompt", "colour"}
    assert answer.request == {"model": "kling-2.6-pro", "duration": 7, "colour": "red"}


def test_warn_lets_a_model_of_tomorrow_through() -> None:
    answer = native({"model": "gen9"}, "warn")
    assert not answer.refused
    assert only_problem(answer).rule == "known_model"


def test_off_judges_nothing_and_passes_scalars() -> None:
    # Arrange
    request = {
        "model": "kling-2.6-pro",
        "duration": "abc",
        "audio": 5,
        "seconds": 7,
        "imageAssetId9": "x",
        "colour": [1],
    }

    # Act
    answer = native(request, "off")

    # Assert
    assert (answer.refused, answer.problems) == (False, ())
    assert answer.request == request


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


# Accounts ------------------------------------------------------------------------------------------------------------


def test_the_account_is_pinned_by_email_or_by_assets_or_not_at_all() -> None:
    assert native({"model": "gen4.5"}).account is None
    assert native({"model": "gen4.5", "email": "me@example.com"}).account == "me@example.com"
    assert native({"model": "gen4.5", "imageAssetId1": asset(1)}).account == "me@example.com"
    assert dropin({"model": "gen4.5", "imageAssetId1": asset(1)}, "off").account == "me@example.com"


def test_an_asset_in_an_unknown_field_pins_the_account_too() -> None:
    assert dropin({"model": "gen9", "imageAssetId12": asset(1)}).account == "me@example.com"
    assert dropin({"model": "gen9", "imageAssetId12": asset(1), "email": "you@example.com"}).refused
    assert native({"model": "gen4.5", "text_prompt": asset(1)}).account is None


def test_capitals_do_not_make_another_account() -> None:
    answer = native({"model": "gen4.5", "email": "ME@example.com", "imageAssetId1": asset(1)})
    assert not answer.refused
    assert answer.account == "me@example.com"


@pytest.mark.parametrize("door", DOORS)
def test_assets_of_two_accounts_are_refused(door: Door) -> None:
    # Arrange
    request = {"model": "veo-3.1", "imageAssetId1": asset(1), "imageAssetId2": asset(2, "you@example.com")}

    # Act
    answer = check(request, CATALOGUE, door=door)

    # Assert
    assert answer.refused
    assert only_problem(answer).message == (
        "imageAssetId2 belongs to you@example.com, imageAssetId1 to me@example.com: "
        "one account must have all assets of a request"
    )


@pytest.mark.parametrize("door", DOORS)
def test_an_email_that_contradicts_the_assets_is_refused(door: Door) -> None:
    answer = check({"model": "gen4.5", "email": "you@example.com", "imageAssetId1": asset(1)}, CATALOGUE, door=door)
    assert (only_problem(answer).field, only_problem(answer).rule) == ("email", "one_account")


def test_account_of_reads_the_email_out_of_an_id() -> None:
    assert account_of(asset(1, "first-last+tag@ex-ample.com")) == "first-last+tag@ex-ample.com"


@pytest.mark.parametrize(
    "asset_id",
    [
        "",
        "x",
        "00000000-0000-4000-8000-000000000000",
        asset(1) + "\n",
        " " + asset(1),
        asset(1).replace("user:7", "user:"),
        asset(1).replace("user:7", "user:12345678901234567890"),
        asset(1).replace("user:7", "user:\u0667"),
        asset(1, ""),
        asset(1, "a/b@example.com"),
        asset(1, "%2F..%2F..%2Faccounts%3Fx="),
        asset(1, "a?b"),
        asset(1, "a#b"),
        asset(1, "a\\b"),
        asset(1, "a b"),
        asset(1, "x" * 255),
        asset(1).replace("-asset:", "-task:"),
        asset(1)[:-1],
        asset(1) + "0",
    ],
)
def test_account_of_refuses_what_has_not_the_strict_form(asset_id: str) -> None:
    with pytest.raises(InvalidRequest):
        account_of(asset_id)
    assert native({"model": "gen4.5", "imageAssetId1": asset_id}).refused


# Examples, advice, any JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", CATALOGUE.models.values(), ids=lambda model: model.name)
def test_the_example_of_every_model_is_allowed(model: Any) -> None:
    # Act
    request = example_request(model)

    # Assert
    assert not JUDGE.broken(request)
    assert native(request).request == request
    assert native(request).problems == ()


@pytest.mark.parametrize("model", CATALOGUE.models.values(), ids=lambda model: model.name)
def test_the_example_of_every_model_has_no_asset_too_many(model: Any) -> None:
    for name in example_request(model).keys() & set(ASSET_FIELDS):
        less = {other: value for other, value in example_request(model).items() if other != name}
        assert native(less).refused


def test_the_advice_names_the_date_and_the_way_out() -> None:
    assert "2026-05-14" in advice(CATALOGUE)
    assert "RELAY_VALIDATION=warn" in advice(CATALOGUE)


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
