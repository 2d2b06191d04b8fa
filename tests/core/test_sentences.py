"""What the problems of a request say: field, rule, the given value, the allowed ones."""

import json
from typing import Any

import pytest

from relay.core.fields import YESTERDAYS
from relay.core.request import Door, check
from relay.core.wording import GIVEN_MAX
from tests.samples.doors import CATALOGUE, DOORS, dropin, native, only_problem
from tests.samples.probes import asset, images, shots, videos

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
    ({"model": "gen4.5", "webhookUrl": "x"}, 'there is no field "webhookUrl": did you mean replyUrl?', "replyUrl"),
    (
        {"model": "gen4.5", "zzzzzz": "x"},
        'there is no field "zzzzzz": see GET /v1/models for the fields of a model',
        None,
    ),
    ({}, "model is required: see GET /v1/models", None),
    ({"model": 5}, "model must be text, not 5", "text"),
    (
        {"model": "kling-o3-pro", "startFrameAssetId": asset(1), "endFrameAssetId": asset(2)} | images(1),
        "endFrameAssetId cannot be combined with imageAssetId1: kling-o3-pro takes reference images or an end frame",
        [],
    ),
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


def test_only_the_first_ten_unknown_names_get_a_hint() -> None:
    answer = native({"model": "gen4.5"} | {f"aspect_ratio_{number}": 1 for number in range(12)})
    assert [problem.allowed for problem in answer.problems] == ["aspect_ratio"] * 10 + [None] * 2


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
