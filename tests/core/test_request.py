"""What the doors and modes make of a request, whose account it pins, and the examples."""

from typing import Any

import pytest

from relay.core.asset import account_in
from relay.core.fields import ASSET_FIELDS
from relay.core.request import Door, advice, check, example_request
from tests.samples.doors import CATALOGUE, DOORS, dropin, native, only_problem
from tests.samples.judge import Judge
from tests.samples.page import Page
from tests.samples.probes import asset

JUDGE = Judge(Page())


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


def test_the_account_is_pinned_by_email_or_by_assets_or_not_at_all() -> None:
    assert native({"model": "gen4.5"}).account is None
    assert native({"model": "gen4.5", "email": "me@example.com"}).account == "me@example.com"
    assert native({"model": "gen4.5", "imageAssetId1": asset(1)}).account == "me@example.com"
    assert dropin({"model": "gen4.5", "imageAssetId1": asset(1)}, "off").account == "me@example.com"


def test_an_asset_in_an_unknown_field_pins_the_account_too() -> None:
    assert dropin({"model": "gen9", "imageAssetId12": asset(1)}).account == "me@example.com"
    assert dropin({"model": "gen9", "imageAssetId12": asset(1), "email": "you@example.com"}).refused
    assert native({"model": "gen4.5", "text_prompt": asset(1)}).account is None


@pytest.mark.parametrize("email", ["me", "me@a b", "me@a/b", "me@a?b", "me@a#b", "me@a%b", "me@a\\b", "@" + "x" * 254])
def test_an_email_that_no_account_can_have_is_refused(email: str) -> None:
    problem = only_problem(native({"model": "gen4.5", "email": email}))
    assert (problem.field, problem.rule) == ("email", "email")


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


def test_the_email_is_read_out_of_an_id() -> None:
    assert account_in(asset(1, "first-last+tag@ex-ample.com")) == "first-last+tag@ex-ample.com"


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
def test_what_has_not_the_strict_form_of_an_id_names_no_account(asset_id: str) -> None:
    assert account_in(asset_id) is None
    assert native({"model": "gen4.5", "imageAssetId1": asset_id}).refused


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
