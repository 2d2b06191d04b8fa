"""Artifact addresses are capabilities: only those that were made open anything, and only for their time."""

from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.address import Addresses
from relay.clock import ManualClock
from relay.errors import Gone, NotFound
from relay.vault import Vault

ID, NAME, TTL_S = "019b76da-a800-7000-8000-000000000001-0", "video.mp4", 3_600.0


def addresses(clock: ManualClock | None = None, key: bytes = bytes(32)) -> Addresses:
    return Addresses("https://relay.example.com", Vault(key), clock or ManualClock(), TTL_S)


def parts_of(url: str) -> tuple[str, str, str, str]:
    """`(artifact id, name, exp, sig)` as the door that serves it takes them apart."""
    split = urlsplit(url)
    query = parse_qs(split.query)
    _, version, artifacts, artifact_id, name = split.path.split("/")
    assert (split.netloc, version, artifacts) == ("relay.example.com", "v1", "artifacts")
    return unquote(artifact_id), unquote(name), query["exp"][0], query["sig"][0]


def test_an_address_that_was_made_opens_its_file_until_its_time_is_over() -> None:
    clock = ManualClock()
    made = addresses(clock)
    parts = parts_of(made.of(ID, NAME))
    clock.advance(TTL_S)
    made.check(*parts)
    clock.advance(1)
    with pytest.raises(Gone, match="expired"):
        made.check(*parts)


def test_each_reading_makes_a_fresh_one() -> None:
    clock = ManualClock()
    made = addresses(clock)
    first = made.of(ID, NAME)
    clock.advance(60)
    assert made.of(ID, NAME) != first


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("wrong", ["", "x", "٣", "2000000000", "\n", "0" * 5_000])
def test_a_changed_address_opens_nothing(place: int, wrong: str) -> None:
    parts = list(parts_of(addresses().of(ID, NAME)))
    parts[place] = wrong
    with pytest.raises(NotFound):
        addresses().check(*parts)


def test_an_address_of_another_key_opens_nothing() -> None:
    parts = parts_of(addresses(key=b"k" * 32).of(ID, NAME))
    with pytest.raises(NotFound):
        addresses().check(*parts)


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=60))
def test_no_text_at_all_makes_the_check_fail_otherwise(artifact_id: str, name: str, exp: str, sig: str) -> None:
    with pytest.raises(NotFound):
        addresses().check(artifact_id, name, exp, sig)


def test_what_stands_in_a_name_cannot_leave_its_place() -> None:
    assert parts_of(addresses().of(ID, "a b?c#d%.mp4"))[:2] == (ID, "a b?c#d%.mp4")
