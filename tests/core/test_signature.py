"""Signatures hold against the official library, both ways, and hostile headers meet one kind of refusal."""

import base64
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
import standardwebhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from relay.core import signature
from relay.errors import InvalidRequest, SignatureInvalid

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()
SEED = bytes(range(64, 96))
NOW_S = 1_767_225_600
BODY = b'{"type":"job.succeeded"}'


def headers_of(signed: str, msg_id: str = "1-42", timestamp: str = str(NOW_S)) -> dict[str, str]:
    return {"webhook-id": msg_id, "webhook-timestamp": timestamp, "webhook-signature": signed}


def refused(secrets: list[str], headers: Mapping[str, str], body: bytes = BODY, now_s: int = NOW_S) -> str:
    with pytest.raises(SignatureInvalid) as caught:
        signature.verify(secrets, headers, body, now_s=now_s)
    return str(caught.value)


def test_the_specifications_own_example_comes_out() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signed = signature.sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(body=st.text(), msg_id=st.from_regex(r"[0-9a-f]{1,8}-[0-9]{1,12}", fullmatch=True))
def test_the_official_library_accepts_what_we_sign(body: str, msg_id: str) -> None:
    now_s = int(time.time())
    data = body.encode("utf-8", "replace")
    signed = signature.sign([OTHER, SECRET], msg_id, now_s, data)
    standardwebhooks.Webhook(SECRET).verify(data, headers_of(signed, msg_id, str(now_s)), json_parse=False)


@given(body=st.text(), msg_id=st.from_regex(r"[0-9a-f]{1,8}-[0-9]{1,12}", fullmatch=True))
def test_we_accept_what_the_official_library_signs(body: str, msg_id: str) -> None:
    data = body.encode("utf-8", "replace")
    signed = standardwebhooks.Webhook(SECRET).sign(msg_id, datetime.fromtimestamp(NOW_S, UTC), data.decode())
    signature.verify([OTHER, SECRET], headers_of(signed, msg_id), data, now_s=NOW_S)


def test_during_a_rotation_every_secret_signs_and_either_one_verifies() -> None:
    signed = signature.sign([SECRET, OTHER], "1-42", NOW_S, BODY)
    assert len(signed.split(" ")) == 2
    for secret in (SECRET, OTHER):
        signature.verify([secret], headers_of(signed), BODY, now_s=NOW_S)


def test_an_asymmetric_signature_holds_under_its_public_key_alone() -> None:
    signed = signature.sign_v1a([SEED], "1-42", NOW_S, BODY)
    version, _, text = signed.partition(",")
    assert version == "v1a"
    public = signature.public_key_text(SEED)
    assert public.startswith("whpk_")
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public.removeprefix("whpk_")))
    key.verify(base64.b64decode(text), f"1-42.{NOW_S}.".encode() + BODY)
    signature.verify([public], headers_of(signed), BODY, now_s=NOW_S)
    refused([signature.public_key_text(bytes(32))], headers_of(signed))
    refused([public], headers_of(signed), BODY + b" ")


def test_the_ed25519_test_vector_of_rfc_8032_gives_its_public_key() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert signature.public_key_text(seed) == "whpk_" + base64.b64encode(public).decode()


def test_both_kinds_of_signature_and_secret_may_stand_side_by_side() -> None:
    both = signature.sign([SECRET], "1-42", NOW_S, BODY) + " " + signature.sign_v1a([SEED], "1-42", NOW_S, BODY)
    public = signature.public_key_text(SEED)
    for secrets in ([SECRET], [public], [OTHER, public], [public, SECRET]):
        signature.verify(secrets, headers_of(both), BODY, now_s=NOW_S)
    refused([OTHER], headers_of(both))


def test_a_signature_of_one_version_is_not_taken_under_the_name_of_the_other() -> None:
    shared = signature.sign([SECRET], "1-42", NOW_S, BODY).replace("v1,", "v1a,")
    asymmetric = signature.sign_v1a([SEED], "1-42", NOW_S, BODY).replace("v1a,", "v1,")
    secrets = [SECRET, signature.public_key_text(SEED)]
    refused(secrets, headers_of(shared))
    refused(secrets, headers_of(asymmetric))


def test_every_signed_part_counts() -> None:
    signed = signature.sign([SECRET], "1-42", NOW_S, BODY)
    refused([SECRET], headers_of(signed, msg_id="1-43"))
    refused([SECRET], headers_of(signed, timestamp=str(NOW_S + 1)))
    refused([SECRET], headers_of(signed), BODY + b"\n")
    refused([OTHER], headers_of(signed))
    refused([], headers_of(signed))


def test_header_names_are_taken_in_any_case() -> None:
    signed = signature.sign([SECRET], "1-42", NOW_S, BODY)
    headers = {name.title(): value for name, value in headers_of(signed).items()}
    signature.verify([SECRET], headers, BODY, now_s=NOW_S)


@pytest.mark.parametrize("offset_s", [-300, 0, 300])
def test_a_timestamp_within_the_tolerance_is_taken(offset_s: int) -> None:
    signed = signature.sign([SECRET], "1-42", NOW_S + offset_s, BODY)
    signature.verify([SECRET], headers_of(signed, timestamp=str(NOW_S + offset_s)), BODY, now_s=NOW_S)


def test_a_timestamp_beyond_the_tolerance_is_refused_with_the_direction() -> None:
    old = signature.sign([SECRET], "1-42", NOW_S - 301, BODY)
    assert "is too old: more than 300 seconds" in refused([SECRET], headers_of(old, timestamp=str(NOW_S - 301)))
    new = signature.sign([SECRET], "1-42", NOW_S + 301, BODY)
    assert "future" in refused([SECRET], headers_of(new, timestamp=str(NOW_S + 301)))
    signature.verify([SECRET], headers_of(old, timestamp=str(NOW_S - 301)), BODY, now_s=NOW_S, tolerance_s=600)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_missing_or_empty_header_is_named(name: str) -> None:
    headers = headers_of(signature.sign([SECRET], "1-42", NOW_S, BODY))
    assert name in refused([SECRET], {key: value for key, value in headers.items() if key != name})
    assert name in refused([SECRET], {**headers, name: ""})


@pytest.mark.parametrize(
    "timestamp",
    [
        *("x", "-1", "+1767225600", " 1767225600", "1767225600\n", "1_767_225_600", "1767225600.0", "NaN", "inf"),
        *("9" * 13, "٣" * 10, "1e9", "\x00", "0x69559a00"),
    ],
)
def test_a_timestamp_that_is_no_plain_number_is_refused_as_such(timestamp: str) -> None:
    signed = signature.sign([SECRET], "1-42", NOW_S, BODY)
    assert "whole number" in refused([SECRET], headers_of(signed, timestamp=timestamp))


@pytest.mark.parametrize("msg_id", ["1 42", "1-42\n", "é", "\ud800", "\x00", "a" * 513])
def test_an_id_that_is_no_plain_word_is_refused_as_such(msg_id: str) -> None:
    assert "printable ASCII" in refused([SECRET], headers_of("v1,AAAA", msg_id=msg_id))


@pytest.mark.parametrize(
    "listed",
    ["v1", "v1,", "v1,!!!", "v1,é", "v1,\ud800", ",", " ", "v2,AAAA", "v1a,AAAA", "v1,AA,AA", "v1a,é", "v1,A", "\x00"],
)
def test_a_signature_that_is_none_is_refused_and_does_not_hide_one_that_holds(listed: str) -> None:
    secrets = [SECRET, signature.public_key_text(SEED)]
    refused(secrets, headers_of(listed))
    right = signature.sign([SECRET], "1-42", NOW_S, BODY)
    signature.verify(secrets, headers_of(f"{listed} {right}"), BODY, now_s=NOW_S)


@given(
    headers=st.fixed_dictionaries(
        {
            "webhook-id": st.text(),
            "webhook-timestamp": st.one_of(st.text(), st.just(str(NOW_S))),
            "webhook-signature": st.one_of(st.text(), st.text().map("v1,{}".format), st.text().map("v1a,{}".format)),
        }
    ),
    body=st.binary(),
)
def test_nothing_but_our_refusal_comes_of_hostile_input(headers: dict[str, str], body: bytes) -> None:
    refused([SECRET, signature.public_key_text(SEED)], headers, body)


def test_only_so_many_signatures_are_looked_at_and_long_headers_are_refused() -> None:
    right = signature.sign([SECRET], "1-42", NOW_S, BODY)
    signature.verify([SECRET], headers_of("v1,AAAA " * 31 + right), BODY, now_s=NOW_S)
    refused([SECRET], headers_of("v1,AAAA " * 32 + right))
    assert "longer than" in refused([SECRET], headers_of(right + " " * 8192))


def test_a_header_of_the_greatest_length_is_read() -> None:
    right = signature.sign([SECRET], "1-42", NOW_S, BODY)
    longest = f"{right} v1,".ljust(signature.MAX_HEADER_CHARACTERS, "A")
    signature.verify([SECRET], headers_of(longest), BODY, now_s=NOW_S)
    assert "longer than 8192" in refused([SECRET], headers_of(longest + "A"))


def test_asymmetric_keys_are_rotated_like_secrets() -> None:
    signed = signature.sign_v1a([SEED, bytes(32)], "1-42", NOW_S, BODY)
    for seed in (SEED, bytes(32)):
        signature.verify([signature.public_key_text(seed)], headers_of(signed), BODY, now_s=NOW_S)


@pytest.mark.parametrize("length", [24, 32, 64])
def test_a_secret_of_an_allowed_length_may_be_brought(length: int) -> None:
    signature.check_secret("whsec_" + base64.b64encode(bytes(length)).decode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        base64.b64encode(bytes(32)).decode(),
        "WHSEC_" + base64.b64encode(bytes(32)).decode(),
        "whsec_" + base64.b64encode(bytes(32)).decode() + "\n",
        "whsec_" + base64.b64encode(bytes(32)).decode().rstrip("="),
        "whsec_" + "é" * 44,
        "whpk_" + base64.b64encode(bytes(32)).decode(),
    ],
)
def test_a_secret_of_another_form_is_refused_by_field_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        signature.check_secret(text)
    problem = caught.value.problems[0]
    assert (problem.field, problem.rule, problem.given) == ("secret", "webhook_secret", None)
    assert len(text) < 7 or text not in str(caught.value)


def test_a_public_key_of_another_form_is_the_callers_mistake() -> None:
    signed = signature.sign([SECRET], "1-42", NOW_S, BODY)
    with pytest.raises(InvalidRequest):
        signature.verify(["whpk_AAAA"], headers_of(signed), BODY, now_s=NOW_S)
