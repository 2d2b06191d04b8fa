"""The native door accepts what the upstream's page allows and refuses what it forbids: probes, chance, mutants."""

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core import request as requests
from relay.core.catalogue import Catalogue, parse
from relay.core.request import check
from relay.core.rules import FIELD_RULES
from relay.core.workflows import JOINT_RULES, NAMED_RULES
from tests.samples.judge import ASSETS, Judge
from tests.samples.mutants import RAW, TEXT, limit_mutants, mutants
from tests.samples.page import Page
from tests.samples.probes import RULES, Probe, asset, plain, probes
from tests.tables import rules as table

CATALOGUE = parse(TEXT)
JUDGE = Judge(Page())
PROBES: list[tuple[Probe, bool]] = [
    (probe, bool(JUDGE.broken(probe)))
    for model in JUDGE.page.models
    for rule in RULES
    for probe in probes(JUDGE, model, rule)
]

SAYS_NOTHING_OF_A_REQUEST = {
    *("label", "family", "total_s", "queue_s", "render_s", "video_seconds", "video_side_max_px", "sizes"),
    *("duration_follows", "ratio_follows", "resolution_default", "orientation_default"),
}
"""Keys that no request can break: the transcription alone holds them (test_transcription.py)."""


def disagreements(catalogue: Catalogue, model: str | None = None) -> Iterator[str]:
    """Probes that the relay answers otherwise than the page."""
    for probe, forbidden in PROBES:
        if model in (None, probe["model"]):
            answer = check(probe, catalogue, door="native")
            if answer.refused != forbidden:
                yield f"{probe}: {JUDGE.broken(probe)} / {[problem.message for problem in answer.problems]}"


@functools.cache
def changes(model: str) -> st.SearchStrategy[Probe]:
    """One change of a request: a probe of any rule, or any value near a limit in any field."""
    facts = JUDGE.facts[model]
    of_rules = [change for rule, (made, _) in RULES.items() if rule != "types" for change in made(facts)]
    # No NUL: the page says nothing of it, and the relay cannot store it.
    letters = st.characters(codec="utf-8", exclude_characters="\0")
    texts = st.text(letters, max_size=6) | st.sampled_from(
        ["@IMG_1 @VID_1", "@IMG_3", "@VID_2 and @IMG_11", " ", "é" * 1000]
    )
    whole = st.integers(-1, 17) | st.floats(0, 16, width=16) | st.integers(2**32 - 3, 2**32)
    fields: dict[str, st.SearchStrategy[Any]] = {
        "text_prompt": texts,
        **dict.fromkeys(("duration", "seed", "maxJobs"), whole),
        "aspect_ratio": st.sampled_from(["16:9", "9:16", "1:1", "21:9", "x"]),
        "audio": st.booleans(),
        "exploreMode": st.booleans(),
        **dict.fromkeys(ASSETS, st.integers(0, 3).map(asset) | st.just(asset(1, "You@example.com"))),
        **{f"multishot_prompt_{number}": texts for number in range(1, 7)},
        **{f"multishot_duration_{number}": whole for number in range(1, 7)},
        "email": st.sampled_from(["me@example.com", "ME@example.com", "you@example.com"]),
        "colour": st.just("red"),
    }
    one = st.sampled_from(sorted(fields)).flatmap(lambda name: fields[name].map(lambda value: {name: value}))
    # By number: hypothesis looks at all members of a list again and again, and some of these are long.
    harmless = [change for change in of_rules if not JUDGE.broken(without_nulls(plain(JUDGE, model) | change))]
    listed = [st.integers(0, len(made) - 1).map(made.__getitem__) for made in (harmless, harmless, harmless, of_rules)]
    return st.one_of(*listed, one)


@st.composite
def drawn(draw: st.DrawFn) -> Probe:
    """A request of any model, right or wrong in a few places."""
    model = draw(st.sampled_from(JUDGE.page.models))
    request = plain(JUDGE, model)
    for change in draw(st.lists(changes(model), max_size=4)):
        request |= change
    return without_nulls(request)


def without_nulls(request: Probe) -> Probe:
    return {name: value for name, value in request.items() if value is not None}


def test_every_probe_of_every_rule_gets_the_pages_verdict() -> None:
    assert list(disagreements(CATALOGUE)) == []


@settings(deadline=None, max_examples=1500)
@given(drawn())
def test_no_request_is_accepted_that_the_page_forbids_and_none_refused_that_it_allows(request: Probe) -> None:
    answer = check(request, CATALOGUE, door="native")
    assert answer.refused == bool(JUDGE.broken(request)), [problem.message for problem in answer.problems]
    assert answer.refused == bool(answer.problems)


@settings(deadline=None, max_examples=300)
@given(drawn())
def test_an_accepted_request_is_sent_on_as_it_is(request: Probe) -> None:
    answer = check(request, CATALOGUE, door="native")
    if not answer.refused:
        assert answer.request == request


def test_the_table_has_a_number_in_every_cell_that_applies_and_no_mistake() -> None:
    # Act
    cells = table.table(JUDGE, CATALOGUE)

    # Assert
    assert all(set(row) == set(JUDGE.page.models) for row in cells.values())
    for rule, row in cells.items():
        applies = RULES[rule][1]
        for model, cell in row.items():
            assert cell.mistakes == []
            assert (cell.accepted > 0) == applies(JUDGE.facts[model]), (rule, model)
            assert (str(cell) == "—") == (not applies(JUDGE.facts[model])), (rule, model)
        assert any(cell.refused for cell in row.values()), rule


def test_the_table_command_prints_every_model_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main() == 0
    printed = capsys.readouterr().out
    assert all(model in printed and rule in printed for model in JUDGE.page.models for rule in RULES)
    assert "refused, 0 not as the page says" in printed.splitlines()[-1]


def test_the_table_command_fails_on_an_answer_that_is_not_the_pages(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Arrange
    monkeypatch.setattr(table, "built_in", lambda: parse(TEXT, '[models."gen4"]\nduration = [5, 10, 15]\n'))

    # Act and assert
    assert table.main() == 1
    assert "page ['duration'], relay []" in capsys.readouterr().out


@pytest.mark.parametrize("model", RAW)
def test_a_mutant_of_a_rule_in_the_catalogue_changes_an_answer(model: str) -> None:
    for key in RAW[model].keys() - SAYS_NOTHING_OF_A_REQUEST:
        for value, mutant in mutants(model, key):
            if not equivalent(model, key, value):
                assert any(disagreements(mutant, model)), (key, value)


def equivalent(model: str, key: str, value: Any) -> bool:
    """Mutants that allow exactly what the original allows."""
    before = RAW[model][key]
    if isinstance(value, list) and sorted(map(str, value)) == sorted(map(str, before)):
        return True  # Another order: only the default changes.
    return (
        # Six shots of 3 s, and a shot of 13 s with the shortest other one, never fit into 15 s.
        (key == "shots" and before["from"] == value["from"] == 2)
        or (key == "shot_seconds" and value == {"from": 3, "to": 13})
        # Which slot is called the end frame is words; how many slots there are is `images`.
        # A model that edits no videos is never in that workflow.
        or (key == "duration_ignored_in" and "edit" in value and "edit_images_max" not in RAW[model])
        # A rule more forbids what another rule or a missing field forbids already.
        or (key == "rules" and len(value) > len(before))
        or (key == "end_frame" and before == "imageAssetId2" and value == "refused")
    )


@pytest.mark.parametrize("key", ["max_jobs", "reply_url_max", "reply_ref_max"])
def test_a_mutant_of_a_limit_changes_an_answer(key: str) -> None:
    for mutant in limit_mutants(key):
        assert any(disagreements(mutant))


@pytest.mark.parametrize("rule", [*FIELD_RULES, *JOINT_RULES, *NAMED_RULES.values()], ids=lambda rule: rule.__name__)
def test_no_rule_is_superfluous(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Arrange
    monkeypatch.setattr(requests, "FIELD_RULES", tuple(other for other in FIELD_RULES if other is not rule))
    monkeypatch.setattr(requests, "JOINT_RULES", tuple(other for other in JOINT_RULES if other is not rule))
    named = {name: silent if other is rule else other for name, other in NAMED_RULES.items()}
    monkeypatch.setattr(requests, "NAMED_RULES", named)

    # Act and assert
    assert any(disagreements(CATALOGUE))


def silent(*_: object) -> Iterator[Any]:
    return iter(())


def test_every_mistake_of_a_request_is_named_at_once() -> None:
    # Arrange
    request: dict[str, Any] = {
        "model": "gen4",
        "duration": 7,
        "aspect_ratio": "5:4",
        "seed": 0,
        "exploreMode": "yes",
        "hue": 1,
    }

    # Act
    answer = check(request, CATALOGUE, door="native")

    # Assert
    assert {(problem.field, problem.rule) for problem in answer.problems} == {
        ("exploreMode", "type"),
        ("hue", "unknown_field"),
        ("text_prompt", "required"),
        ("imageAssetId1", "required"),
        ("duration", "not_offered"),
        ("aspect_ratio", "not_offered"),
        ("seed", "not_offered"),
    }
