"""Faults are read from JSON and from text, checked, and used up."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from relay.errors import InvalidRequest
from relay.sandbox.faults import BY_NAME, SWITCHES, Faults, parse_fault, read_fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("html_errors", ("html_errors", True)),
        ("html-errors", ("html_errors", True)),
        ("create_lost", ("create_lost", "522")),
        ("create_lost=cut*2", ("create_lost", {"value": "cut", "times": 2})),
        ("callbacks_dropped=0.25", ("callbacks_dropped", 0.25)),
        ("callbacks_dropped", ("callbacks_dropped", 1.0)),
        ("throttled=10m", ("throttled", 600.0)),
        ("lists_lag=1.5s!", ("lists_lag", {"value": 1.5, "real": True})),
        ("appears_after=20*1!", ("appears_after", {"value": 20.0, "times": 1, "real": True})),
        ("no_credits=402", ("no_credits", "402")),
        ("artifact_bytes=1000000", ("artifact_bytes", 1_000_000)),
        ("default_reply_url=http://127.0.0.1:1/a?b=c", ("default_reply_url", "http://127.0.0.1:1/a?b=c")),
        ("html_errors=false", ("html_errors", False)),
    ],
)
def test_a_fault_is_read_from_text(text: str, expected: tuple[str, Any]) -> None:
    assert parse_fault(text) == expected


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.name)
def test_what_a_fault_shows_can_be_set_again(switch: Any) -> None:
    value = {"seconds": 5, "text": "me@example.com", "bytes": 7}.get(switch.kind, switch.default)
    fault = read_fault(switch.name, value)
    assert fault is not None

    again = read_fault(switch.name, fault.as_json())

    assert again == fault


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("no_such_thing", "known are create_body"),
        ("create_lost=599", "one of 522"),
        ("callbacks_dropped=1.5", "a number from 0 to 1"),
        ("callbacks_dropped=nan", "a number from 0 to 1"),
        ("throttled=soon", "5s, 10m, 2h"),
        ("throttled=inf", "5s, 10m, 2h"),
        ("throttled=99d", "5s, 10m, 2h"),
        ("lists_lag", "needs a value"),
        ("html_errors=maybe", "true or false"),
        ("metadata*3", "no `times`"),
        ("busy*0", "from 1 to"),
        ("busy!", "only where its value is in seconds"),
        ("artifact_bytes=1.5", "a whole number"),
        ("a b", "NAME[=VALUE]"),
    ],
)
def test_a_fault_that_cannot_be_set_says_what_can(text: str, word: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_fault(text)

    assert word in caught.value.message


def test_an_unknown_key_of_a_fault_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not time"):
        read_fault("busy", {"value": True, "time": 3})


def test_all_problems_are_named_together_and_nothing_is_changed() -> None:
    faults = Faults({"busy": True})

    with pytest.raises(InvalidRequest) as caught:
        faults.replace({"bsuy": True, "progress": "roman"})

    assert [problem.field for problem in caught.value.problems] == ["bsuy", "progress"]
    assert faults.as_json() == {"busy": True}


def test_a_fault_with_times_acts_so_often() -> None:
    faults = Faults({"busy": {"value": True, "times": 2}})

    acted = [bool(faults.take("busy")) for _ in range(3)]

    assert acted == [True, True, False]
    assert faults.as_json() == {}


def test_looking_uses_nothing_up() -> None:
    faults = Faults({"busy": {"value": True, "times": 1}})

    assert faults.value("busy")
    assert faults.value("busy")
    assert faults.as_json() == {"busy": {"value": True, "times": 1}}


def test_seconds_are_divided_by_the_speed_unless_they_are_real() -> None:
    faults = Faults({"lists_lag": 60, "links_expire": {"value": 60, "real": True}}, speed=100)

    assert faults.wait_ms("lists_lag") == 600
    assert faults.wait_ms("links_expire") == 60_000
    assert faults.wait_ms("get_slow") == 0


def test_a_chance_strikes_in_proportion() -> None:
    faults = Faults({"callbacks_dropped": 0.3})
    rng = Random(5)  # noqa: S311 - chance, not a secret

    struck = sum(faults.strikes("callbacks_dropped", rng) for _ in range(1000))

    assert 250 < struck < 350


def test_a_switch_that_does_not_exist_cannot_be_asked_for() -> None:
    with pytest.raises(KeyError):
        Faults().value("hmtl_errors")


def test_every_switch_is_used_and_tried() -> None:
    package = Path(__file__).parents[2] / "relay" / "sandbox"
    used = "".join(path.read_text() for path in package.glob("*.py") if path.name not in ("faults.py", "scenarios.py"))
    tried = "".join(
        path.read_text() for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name
    )

    assert [name for name in BY_NAME if f'"{name}"' not in used] == []
    assert [name for name in BY_NAME if name not in tried] == []
