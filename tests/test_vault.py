"""Sealing, signing, tokens, ids and the key file."""

import base64
import json
import os
import stat
import threading
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core import signature
from relay.errors import ConfigurationError, RelayError
from relay.vault import (
    MAX_PURPOSES,
    Vault,
    _Uuid7Maker,
    hash_token,
    jitter,
    load_keys,
    new_hex,
    new_token,
    new_uuid7,
    new_webhook_secret,
    parse_keys,
    replace_keys,
)

KEY = bytes(range(32))
OLD_KEY = bytes(reversed(range(32)))
NOW_MS = 1_767_225_600_000


@given(plain=st.binary(max_size=200), purpose=st.text(max_size=20))
def test_what_was_sealed_is_opened_with_the_same_purpose(plain: bytes, purpose: str) -> None:
    vault = Vault(KEY)
    assert vault.open(vault.seal(plain, purpose), purpose) == plain


def test_text_is_sealed_as_utf_8_and_two_seals_of_it_differ() -> None:
    vault = Vault(KEY)
    first, second = vault.seal("grün", "url"), vault.seal("grün", "url")
    assert first != second
    assert vault.open(first, "url") == "grün".encode()


def test_a_sealed_text_is_plain_ascii_and_shows_nothing_of_the_secret() -> None:
    sealed = Vault(KEY).seal("https://example.com/hook", "url")
    assert sealed.isascii()
    assert "example" not in sealed


def test_a_seal_holds_a_nonce_of_96_bits_and_a_tag_of_128() -> None:
    vault = Vault(KEY)
    version, key_id, body = vault.seal("secret", "url").split(".")
    assert (version, key_id) == ("s1", vault.key_id)
    assert len(base64.urlsafe_b64decode(body + "==")) == 12 + 6 + 16
    assert len(vault.key_id) == 8


@pytest.mark.parametrize("change", ["s2", "", "s1x"])
def test_a_seal_of_another_version_is_refused_as_such(change: str) -> None:
    vault = Vault(KEY)
    with pytest.raises(RelayError, match="form"):
        vault.open(vault.seal("secret", "url").replace("s1", change, 1), "url")
    with pytest.raises(RelayError, match="form"):
        vault.open(f"s1.{vault.key_id}.", "url")


def test_purposes_beyond_the_bound_work_and_are_not_kept() -> None:
    vault = Vault(KEY)
    for number in range(300):
        assert vault.open(vault.seal("secret", f"purpose {number}"), f"purpose {number}") == b"secret"
    assert len(vault._current._subkeys) == MAX_PURPOSES


def test_another_purpose_does_not_open_a_seal() -> None:
    vault = Vault(KEY)
    with pytest.raises(RelayError, match="another purpose"):
        vault.open(vault.seal("secret", "url"), "webhook-secret")


def test_every_altered_character_of_a_seal_is_noticed() -> None:
    vault = Vault(KEY)
    sealed = vault.seal("secret", "url")
    for position, character in enumerate(sealed):
        altered = sealed[:position] + ("A" if character != "A" else "B") + sealed[position + 1 :]
        with pytest.raises(RelayError):
            vault.open(altered, "url")


@given(text=st.text())
def test_no_text_makes_open_raise_anything_but_our_error(text: str) -> None:
    with pytest.raises(RelayError):
        Vault(KEY).open(text, "url")


@given(body=st.text())
def test_no_body_after_a_right_head_makes_open_raise_anything_but_our_error(body: str) -> None:
    vault = Vault(KEY)
    with pytest.raises(RelayError):
        vault.open(f"s1.{vault.key_id}.{body}", "url")


def test_an_older_key_still_opens_and_verifies_and_new_seals_use_the_current_key() -> None:
    before = Vault(OLD_KEY)
    after = Vault(KEY, [OLD_KEY])
    sealed, signed = before.seal("secret", "url"), before.sign(b"message", "ticket")
    assert after.open(sealed, "url") == b"secret"
    assert after.verify(b"message", signed, "ticket")
    assert after.seal("secret", "url").startswith(f"s1.{after.key_id}.")
    assert not before.verify(b"message", after.sign(b"message", "ticket"), "ticket")


def test_what_older_keys_have_sealed_is_sealed_anew_wherever_it_stands_in_a_text() -> None:
    before, after = Vault(OLD_KEY), Vault(KEY, [OLD_KEY])
    new = after.seal("c", "url")
    text = f'[{{"sealed": "{before.seal("a", "url")}"}}, {{"sealed": "{before.seal("b", "url")}", "x": "{new}"}}]'
    again = after.resealed(text, "url")
    first, second = json.loads(again)
    assert [Vault(KEY).open(each, "url") for each in (first["sealed"], second["sealed"])] == [b"a", b"b"]
    assert second["x"] == new
    assert after.resealed(again, "url") == again
    with pytest.raises(ConfigurationError, match="another key"):
        Vault(KEY).resealed(text, "url")


def test_a_seal_made_with_an_unknown_key_is_a_configuration_error_that_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match="another key") as caught:
        Vault(KEY).open(Vault(OLD_KEY).seal("secret", "url"), "url")
    assert caught.value.problems[0].field == "RELAY_SECRET_KEY"


def test_a_signature_holds_for_its_message_and_purpose_only() -> None:
    vault = Vault(KEY)
    signed = vault.sign(b"message", "artifact")
    assert vault.sign(b"message", "artifact") == signed
    assert vault.verify(b"message", signed, "artifact")
    assert not vault.verify(b"messagE", signed, "artifact")
    assert not vault.verify(b"message", signed, "ticket")
    assert not vault.verify(b"message", signed + "=", "artifact")
    assert not vault.verify(b"message", "", "artifact")


@given(text=st.text())
def test_no_signature_text_is_taken_or_makes_verify_raise(text: str) -> None:
    assert not Vault(KEY).verify(b"message", text, "artifact")


def test_a_signers_private_key_is_the_same_every_time_and_another_for_every_key_and_purpose() -> None:
    seeds = {
        seed
        for purpose in ("webhooks", "other")
        for vault in (Vault(KEY), Vault(OLD_KEY, [KEY]))
        for seed in vault.ed25519_seeds(purpose)
    }
    assert len(seeds) == 4
    assert {len(seed) for seed in seeds} == {32}


def test_a_signature_can_stand_in_an_address_as_it_is() -> None:
    signed = Vault(KEY).sign(b"message", "artifact")
    assert len(signed) == 43
    assert set(signed) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_vault_shows_no_key_when_it_is_printed() -> None:
    shown = repr(Vault(KEY, [OLD_KEY]))
    assert shown == f"Vault(key_id='{Vault(KEY).key_id}', older=1)"
    assert KEY.hex() not in shown
    assert repr(KEY) not in shown
    assert base64.urlsafe_b64encode(KEY).decode().rstrip("=") not in shown


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ConfigurationError):
        Vault(bytes(length))
    with pytest.raises(ConfigurationError):
        Vault(KEY, [bytes(length)])


def test_tokens_differ_carry_their_prefix_and_never_look_like_an_option() -> None:
    tokens = {new_token() for _ in range(2000)}
    assert len(tokens) == 2000
    assert all(token[0].isalnum() and len(token) == 32 for token in tokens)
    assert new_token("rt_").startswith("rt_")


def test_a_token_is_hashed_with_sha_256() -> None:
    assert hash_token("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(hash_token("\ud800")) == 64


def test_a_new_webhook_secret_is_one_that_subscribers_may_bring_themselves() -> None:
    made = new_webhook_secret()
    signature.check_secret(made)
    assert len(base64.b64decode(made.removeprefix("whsec_"))) == 32
    assert made != new_webhook_secret()


def test_jitter_stays_between_nought_and_one_and_moves() -> None:
    thrown = [jitter() for _ in range(1000)]
    assert all(0 <= each < 1 for each in thrown)
    assert min(thrown) < 0.1
    assert max(thrown) > 0.9


@pytest.mark.parametrize("digits", [1, 7, 8])
def test_new_hex_gives_as_many_digits_as_asked_for(digits: int) -> None:
    assert len(new_hex(digits)) == digits
    int(new_hex(digits), 16)


def test_a_uuid7_carries_version_variant_and_time() -> None:
    made = uuid.UUID(new_uuid7(NOW_MS + 10 * 365 * 86_400_000))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == NOW_MS + 10 * 365 * 86_400_000


def test_every_other_bit_of_a_uuid7_is_random() -> None:
    made = [uuid.UUID(_Uuid7Maker().make(NOW_MS)).int for _ in range(200)]
    ever, always = 0, (1 << 128) - 1
    for each in made:
        ever, always = ever | each, always & each
    fixed = NOW_MS << 80 | 0x7 << 76 | 0b10 << 62
    topmost = 1 << 75  # left clear, so that there is room to count up
    assert always == fixed
    assert ever == fixed | ((1 << 12) - 1) << 64 & ~topmost | (1 << 62) - 1


def test_a_uuid7_borrows_the_next_millisecond_when_its_counter_is_full() -> None:
    maker = _Uuid7Maker()
    before = maker.make(NOW_MS)
    maker._tail = (1 << 74) - 1
    after = maker.make(NOW_MS)
    assert after > before
    assert uuid.UUID(after).int >> 80 == NOW_MS + 1


def test_the_time_of_a_uuid7_keeps_to_48_bits() -> None:
    assert uuid.UUID(_Uuid7Maker().make((1 << 48) + 5)).int >> 80 == 5


def test_of_two_uuid7_of_one_process_the_later_sorts_later_also_when_the_clock_is_set_back_a_little() -> None:
    start_ms = NOW_MS + 20 * 365 * 86_400_000
    moments = [start_ms] * 5000 + [start_ms - 59_000] * 100 + [start_ms + 1] * 100
    made = [new_uuid7(each) for each in moments]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_a_uuid7_follows_a_clock_that_was_set_back_by_hours() -> None:
    new_uuid7(NOW_MS + 86_400_000)
    made = uuid.UUID(new_uuid7(NOW_MS))
    assert made.int >> 80 == NOW_MS


def test_threads_that_make_uuid7_at_once_make_no_two_alike() -> None:
    made: list[str] = []

    def make() -> None:
        made.extend(new_uuid7(NOW_MS) for _ in range(2000))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8000


def test_a_key_is_read_from_url_safe_base64_with_or_without_padding() -> None:
    key = bytes([0xFB, 0xFF]) * 16
    text = base64.urlsafe_b64encode(key).decode()
    assert "-" in text or "_" in text
    assert parse_keys(text) == [key]
    assert parse_keys(f" {text.rstrip('=')}\n") == [key]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        base64.urlsafe_b64encode(bytes(31)).decode(),
        base64.urlsafe_b64encode(bytes(33)).decode(),
        base64.b64encode(bytes([0xFB, 0xFF]) * 16).decode(),
        "A" * 42 + "B",  # the last character has bits that no byte takes
        "é" * 43,
    ],
)
def test_a_malformed_key_is_refused_by_rule_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_keys(text)
    problem = caught.value.problems[0]
    assert (problem.field, problem.rule, problem.given) == ("RELAY_SECRET_KEY", "base64_32_bytes", None)
    assert not text or text not in str(caught.value)


def test_a_key_file_is_made_once_with_mode_0600_and_read_ever_after(tmp_path: Path) -> None:
    path = tmp_path / "relay.db.key"
    first = load_keys(path)
    assert [len(key) for key in first] == [32]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_keys(path) == first
    assert parse_keys(path.read_text()) == first
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_stays_open_after_a_key_was_loaded(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("one", "two"):
        load_keys(tmp_path / name)
        load_keys(tmp_path / name)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_key_file_gets_mode_0600_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_keys(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_many_that_make_the_key_file_at_once_end_up_with_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    barrier = threading.Barrier(8)
    found: list[list[bytes]] = []

    def load() -> None:
        barrier.wait()
        found.append(load_keys(path))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({tuple(keys) for keys in found}) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o610])
def test_a_key_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    load_keys(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="0600") as caught:
        load_keys(path)
    assert caught.value.problems[0].rule == "mode_0600"


@pytest.mark.parametrize("text", [b"", b"secret\n", b"A" * 44 + b"\n", b"\xff" * 43, b"A" * 5000])
def test_a_malformed_key_file_is_refused_and_left_as_it_is(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="base64"):
        load_keys(path)
    assert path.read_bytes() == text


def test_a_key_file_may_hold_older_keys_behind_the_current_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    first = load_keys(path)
    replace_keys(path, first)
    new, *older = load_keys(path)
    assert older == first
    assert new not in first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    replace_keys(path, [], current=new)
    assert load_keys(path) == [new]
    assert load_keys(path, f"{'A' * 43}, {'A' * 42}E") == [bytes(32), bytes(31) + b"\1"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_or_a_pipe_in_place_of_the_key_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigurationError, match="regular file"):
            load_keys(path)


def test_a_key_file_in_a_directory_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used"):
        load_keys(tmp_path / "missing" / "key")


def test_the_key_and_its_directory_are_on_disk_before_the_key_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append("directory" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    load_keys(tmp_path / "key")
    assert synced == ["file", "directory"]
