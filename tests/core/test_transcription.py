"""The built-in catalogue is held against the transcription of the upstream's page, both ways, and so are mutants."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from relay.core.catalogue import LIMIT_KEYS, MODEL_KEYS, Catalogue, Model, parse
from relay.core.fields import FIELDS, todays_name
from relay.core.span import Span
from tests.samples.mutants import RAW, TEXT, limit_mutants, mutants, without
from tests.samples.page import Page, numbers, words

CATALOGUE = parse(TEXT)
PAGE = Page()


def as_the_page_has_it(model: Model) -> dict[str, Any]:
    """The model with its spans as `range`."""
    found = {spec.name: getattr(model, spec.name) for spec in dataclasses.fields(model)}
    return {
        name: range(value.first, value.last + 1) if isinstance(value, Span) else value for name, value in found.items()
    }


def differences(catalogue: Catalogue) -> list[str]:
    """Where `catalogue` and the page say different things, in words."""
    found = [f"model {name}" for name in sorted(set(catalogue.models) ^ set(PAGE.models))]
    for name in PAGE.models:
        if name in catalogue.models:
            ours, theirs = as_the_page_has_it(catalogue.models[name]), PAGE.facts(name)
            found += [f"{name}: {key}" for key in sorted(ours.keys() | theirs.keys()) if differ(key, ours, theirs)]
    others = ("replyUrl_longest", "replyRef_longest", "maxJobs")
    url, ref, jobs = (PAGE.says("text", "others", what) for what in others)
    limits = catalogue.limits
    if (limits.reply_url_max, limits.reply_ref_max) != (url, ref):
        found.append("limits: lengths")
    if range(limits.max_jobs.first, limits.max_jobs.last + 1) != numbers(jobs):
        found.append("limits: max_jobs")
    if catalogue.dated != PAGE.taken_down:
        found.append("dated")
    return found


def differ(key: str, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return key not in ours or key not in theirs or type(ours[key]) is not type(theirs[key]) or ours[key] != theirs[key]


def statements(page: Page) -> Iterator[tuple[str, object, object]]:
    """(what, what the tables say, what the text says), for everything that the text says about models."""

    def those(key: str, *values: object) -> set[str]:
        return {model for model in page.models if facts[model][key] in values}

    facts = {model: page.facts(model) for model in page.models}
    every = set(page.models)
    yield "models", every, set(page.says("text", "model"))
    yield "prompt required", those("prompt", "required"), set(page.says("text", "text_prompt", "required"))
    yield "prompt refused", those("prompt", "refused"), set(page.says("text", "text_prompt", "not_supported"))
    lengths = [facts[model]["prompt_max"] for model in every - those("prompt", "refused")]
    span = numbers(page.says("text", "text_prompt", "longest"))
    yield "prompt lengths", (min(lengths), max(lengths)), (span[0], span[-1])
    yield "default duration", "first", page.says("text", "duration", "default")
    audio = set(page.says("text", "audio", "supported"))
    yield "audio", those("audio", "switch"), audio
    yield "audio default", True, page.says("text", "audio", "default")
    yield "seed", every - those("seed", None), set(page.says("text", "seed", "supported"))
    yield "explore", those("explore", False), set(page.says("text", "exploreMode", "not_supported"))
    orientation, start = (
        page.says("text", "characterOrientation", "supported"),
        page.says("text", "keyframes", "supported"),
    )
    yield "orientation", every - those("orientations", ()), set(orientation)
    values = words(page.says("text", "characterOrientation", "values"))
    yield (
        "orientations",
        {(facts[model]["orientations"], facts[model]["orientation_default"]) for model in orientation},
        {values},
    )
    yield "keyframes", those("end_frame", "endFrameAssetId"), set(start)
    yield "multishot", every - those("shots", None), set(page.says("text", "multishot", "supported"))
    yield from statements_about_references(page, facts)
    for model in page.models:
        longest = page.of("text", "text_prompt", "longest_of", model=model)
        yield f"{model}: prompt length", facts[model]["prompt_max"], longest or facts[model]["prompt_max"]
        text = page.of("text", "duration", "of", model=model)
        yield f"{model}: duration", facts[model]["duration"], None if text == "not supported" else numbers(text)
        resolutions = words(page.of("text", "resolution", "of", model=model) or "-")
        yield f"{model}: resolution", (facts[model]["resolutions"], facts[model]["resolution_default"]), resolutions
        shots = page.of("text", "multishot", "shots", model=model)
        yield f"{model}: shots", facts[model]["shots"], None if shots is None else numbers(shots)


def statements_about_references(page: Page, facts: dict[str, dict[str, Any]]) -> Iterator[tuple[str, object, object]]:
    every = set(page.models)
    second = set(page.says("text", "images", "end_frame_in_second")) - set(
        page.says("settled", "no_end_frame_after_all")
    )
    yield "end frame", {model for model in every if facts[model]["end_frame"] == "imageAssetId2"}, second
    o3 = set(page.says("text", "images", "reference_slots_1_to_7"))
    yield "O3 images", {model for model in every if facts[model]["images"] == range(8)}, o3
    many = {model for model in every if facts[model]["images"][-1] > 2}
    yield "images 3 and later", many, o3 | set(page.says("text", "images", "third_and_later"))
    slots = numbers(page.says("text", "images", "slots"))
    yield "image slots", max(facts[model]["images"][-1] for model in every), slots[-1]
    editors = {model for model in every if facts[model]["edit_images_max"] is not None}
    yield "edit", editors, set(page.says("text", "videos", "source_of_edit"))
    yield "no edit", o3 - editors, set(page.says("text", "videos", "no_edit"))
    yield "edit ignores duration", editors, set(page.says("text", "duration", "ignored_in_edit"))
    images = {facts[model]["edit_images_max"] for model in editors}
    yield "edit images", images, {int(page.says("text", "images", "edit_at_most"))}
    required = {model for model in every if facts[model]["videos"][0] == 1}
    yield "video required", required, set(page.says("text", "videos", "required"))
    more = {model for model in every if facts[model]["videos"][-1] > 1}
    yield "videos 2 and 3", more, set(page.says("text", "videos", "second_and_third"))
    for model in every:
        length = page.of("text", "videos", "length", model=model)
        yield f"{model}: video", facts[model]["video_seconds"], None if length is None else numbers(length)
        side = page.of("text", "videos", "longest_side_px", model=model)
        yield f"{model}: video side", facts[model]["video_side_max_px"], side
        for kind, cells in (("images", "references_images"), ("videos", "references_videos")):
            named = page.of("text", "text_prompt", cells, model=model)
            span = None if named is None else numbers(named)[-1]
            yield f"{model}: {cells}", facts[model][kind][-1] if named else None, span
    exclusive = set(page.says("text", "keyframes", "exclude_references"))
    yield "keyframes exclude", {m for m in every if "keyframes_exclude_references" in facts[m]["rules"]}, exclusive
    yield "start beside references", o3, set(page.says("text", "keyframes", "start_beside_references"))
    yield "end excludes", o3, set(page.says("text", "keyframes", "end_excludes_images"))
    yield "end needs start", True, page.says("text", "keyframes", "end_needs_start")


def read_the_rest(page: Page) -> None:
    """What only the judge (tests/samples/judge.py) needs: cells that repeat another one, and statements of rules."""
    for model in page.models:
        for row in ("combined_videos", "images_where", "videos_where", "references_images", "references_videos"):
            page.cell(model, row)
        for row in ("keyframe_start", "keyframe_end", "edit_images", "edit_video_longest"):
            page.cell(model, row)
    for path in ("both_prompt_and_duration", "contiguous_from"):
        page.says("text", "multishot", path)
    for path in ("duration_counts_beside_shots", "seconds_are_whole"):
        page.says("settled", path)
    for kind in ("text", "number", "flag"):
        page.says("text", "fields", kind)
    for name in page.says("settled", "yesterday"):
        page.says("settled", "yesterday", name)


def test_the_catalogue_says_what_the_page_says_and_nothing_else() -> None:
    assert differences(CATALOGUE) == []


@pytest.mark.parametrize("model", PAGE.models)
def test_every_fact_about_a_model_is_on_the_page_and_in_the_catalogue(model: str) -> None:
    assert as_the_page_has_it(CATALOGUE.models[model]) == PAGE.facts(model)


def test_the_page_names_eighteen_models_and_the_catalogue_has_the_same() -> None:
    assert len(PAGE.models) == len(set(PAGE.models)) == 18
    assert set(CATALOGUE.models) == set(PAGE.models)


def test_the_text_of_the_page_says_what_its_tables_say_where_nothing_was_settled() -> None:
    for what, tables, text in statements(PAGE):
        if what.endswith(": resolution"):
            # Tables leave a default out where the text has it; `facts` took it from there.
            continue
        assert tables == text, what


def test_the_resolutions_of_text_and_tables_are_the_same() -> None:
    for what, tables, text in statements(PAGE):
        if what.endswith(": resolution"):
            assert tables == text, what


def test_no_cell_and_no_statement_of_the_transcription_is_left_unread() -> None:
    # Arrange
    page = Page()
    assert len(page.unread) > 300

    # Act
    for _ in statements(page):
        pass
    for other in ("replyUrl_longest", "replyRef_longest", "maxJobs"):
        page.says("text", "others", other)
    read_the_rest(page)

    # Assert
    assert page.unread == set()


@pytest.mark.parametrize("key", MODEL_KEYS)
def test_a_small_change_of_any_key_of_any_model_is_noticed(key: str) -> None:
    for model in RAW:
        loaded = list(mutants(model, key))
        assert loaded, model
        for value, mutant in loaded:
            assert f"{model}: {key}" in differences(mutant), value


@pytest.mark.parametrize("model", RAW)
def test_a_key_that_is_left_out_is_noticed(model: str) -> None:
    for key, value in RAW[model].items():
        mutant = without(model, key)
        if mutant is None or UNSAID.get(key) == value:
            continue  # Required and refused at once, or silence means the same.
        assert f"{model}: {key}" in differences(mutant), key


UNSAID: dict[str, object] = {"audio": "refused", "total_s": {"from": 600, "to": 600}}


def test_a_model_that_is_missing_or_invented_is_noticed() -> None:
    # Arrange
    without = TEXT.replace('[models."sora-2"]', '[models."sora-3"]')

    # Act and assert
    assert differences(parse(without)) == ["model sora-2", "model sora-3"]


@pytest.mark.parametrize("key", LIMIT_KEYS)
def test_a_small_change_of_a_limit_is_noticed(key: str) -> None:
    for mutant in limit_mutants(key):
        assert differences(mutant)


def test_another_date_is_noticed() -> None:
    assert differences(parse(TEXT, 'dated = "2026-05-15"')) == ["dated"]


def test_the_fields_are_those_of_the_page_with_the_pages_types() -> None:
    # Arrange
    kinds = {"string": "text", "integer": "number", "boolean": "flag"}

    # Act
    ours = {kind: {f.name for f in FIELDS.values() if kinds[f.schema()["type"]] == kind} for kind in kinds.values()}

    # Assert
    assert ours == {kind: set(PAGE.says("text", "fields", kind)) for kind in kinds.values()}


@pytest.mark.parametrize("name", PAGE.says("settled", "yesterday"))
def test_yesterdays_names_answer_with_todays(name: str) -> None:
    # Arrange
    todays = PAGE.says("settled", "yesterday", name).split()

    # Act and assert
    assert todays_name(name, keyframes=False) == todays[0]
    assert todays_name(name, keyframes=True) == todays[-1]
