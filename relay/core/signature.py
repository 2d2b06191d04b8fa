"""Standard Webhooks: signs what is delivered, and verifies it as a subscriber would.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

Signed is `{webhook-id}.{webhook-timestamp}.{body}`. `v1` is HMAC-SHA256 with a secret that both sides know (`whsec_`
and base64); `v1a` is ed25519, verified with a public key (`whpk_` and base64). The header `webhook-signature` lists any
number of `version,base64` separated by spaces, and one that holds is enough: so secrets are rotated without a gap.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from relay.errors import InvalidRequest, SignatureInvalid

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix by which a secret is known, not a secret
PUBLIC_KEY_PREFIX = "whpk_"

SECRET_MIN_BYTES = 24
SECRET_MAX_BYTES = 64
ED25519_KEY_BYTES = 32
TOLERANCE_S = 300
MAX_SIGNATURES = 32
"""How many signatures of one message are looked at: an ed25519 check costs 0.1 ms, and the header is the sender's."""
MAX_HEADER_CHARACTERS = 8192

_TIMESTAMP = re.compile(r"[0-9]{1,12}\Z")
_ID = re.compile(r"[!-~]{1,512}\Z")


def sign(secrets: Sequence[str], msg_id: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` of `body`: one `v1,…` a secret, in the secrets' order.

    `InvalidRequest` (field `secret`) when a secret has not the form of one.
    """
    content = _content(msg_id, str(timestamp_s), body)
    return " ".join(f"v1,{_base64(_hmac(_secret_bytes(secret), content))}" for secret in secrets)


def sign_v1a(private_keys: Sequence[bytes], msg_id: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` of `body`: one `v1a,…` a private key (the 32 bytes of an ed25519 seed)."""
    content = _content(msg_id, str(timestamp_s), body)
    made = (Ed25519PrivateKey.from_private_bytes(key).sign(content) for key in private_keys)
    return " ".join(f"v1a,{_base64(signature)}" for signature in made)


def public_key_text(private_key: bytes) -> str:
    """What a subscriber needs to verify `v1a`: `whpk_` and the public key of `private_key` in base64."""
    public = Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()
    return PUBLIC_KEY_PREFIX + _base64(public)


def check_secret(text: str) -> None:
    """Return when `text` may be used as a webhook secret: `whsec_` and base64 of 24 to 64 bytes.

    Else `InvalidRequest` for the field `secret`; the sentence does not repeat what was given.
    """
    _secret_bytes(text)


def verify(
    secrets: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_s: int,
    tolerance_s: int = TOLERANCE_S,
) -> None:
    """Return when one signature in `headers` holds for `body` under one of `secrets`; else raise `SignatureInvalid`.

    `secrets` may be `whsec_…` and `whpk_…` mixed; header names are taken in any case. The timestamp may be at most
    `tolerance_s` seconds away from `now_s`, Unix seconds. Whatever the headers and the body hold, nothing but
    `SignatureInvalid` is raised; a secret that is none is the caller's own mistake, `InvalidRequest`.
    """
    shared = [_secret_bytes(text) for text in secrets if not text.startswith(PUBLIC_KEY_PREFIX)]
    public = [_public_key(text) for text in secrets if text.startswith(PUBLIC_KEY_PREFIX)]
    msg_id, timestamp, listed = _read_headers(headers)
    if abs(now_s - int(timestamp)) > tolerance_s:
        too = "old" if int(timestamp) < now_s else "far in the future"
        raise SignatureInvalid(f"{TIMESTAMP_HEADER} is too {too}: more than {tolerance_s} seconds away")
    content = _content(msg_id, timestamp, body)
    for entry in listed.split(" ")[:MAX_SIGNATURES]:
        version, _, text = entry.partition(",")
        signature = _from_base64(text)
        if signature is None:
            continue
        if version == "v1" and _matches(shared, content, signature):
            return
        if version == "v1a" and any(_holds(key, content, signature) for key in public):
            return
    raise SignatureInvalid(f"no signature in {SIGNATURE_HEADER} was made with a secret that is known here")


def _read_headers(headers: Mapping[str, str]) -> tuple[str, str, str]:
    found = {name.lower(): value for name, value in headers.items()}
    for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER):
        value = found.get(name)
        if not value:
            raise SignatureInvalid(f"the header {name} is missing")
        if len(value) > MAX_HEADER_CHARACTERS:
            raise SignatureInvalid(f"the header {name} is longer than {MAX_HEADER_CHARACTERS} characters")
    msg_id, timestamp, listed = (found[name] for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER))
    if not _ID.match(msg_id):
        raise SignatureInvalid(f"{ID_HEADER} is not a word of printable ASCII")
    # [0-9] rather than isdigit or int(): those take other scripts' digits, signs, spaces and underscores.
    if not _TIMESTAMP.match(timestamp):
        raise SignatureInvalid(f"{TIMESTAMP_HEADER} is not a whole number of Unix seconds")
    return msg_id, timestamp, listed


def _content(msg_id: str, timestamp: str, body: bytes) -> bytes:
    return f"{msg_id}.{timestamp}.".encode() + body


def _hmac(secret: bytes, content: bytes) -> bytes:
    return hmac.digest(secret, content, "sha256")


def _matches(secrets: Sequence[bytes], content: bytes, signature: bytes) -> bool:
    found = False
    for secret in secrets:
        found |= hmac.compare_digest(_hmac(secret, content), signature)
    return found


def _holds(key: Ed25519PublicKey, content: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _secret_bytes(text: str) -> bytes:
    secret = _from_base64(text.removeprefix(SECRET_PREFIX)) if text.startswith(SECRET_PREFIX) else None
    if secret is None or not SECRET_MIN_BYTES <= len(secret) <= SECRET_MAX_BYTES:
        sentence = f"secret must be {SECRET_PREFIX} and base64 of {SECRET_MIN_BYTES} to {SECRET_MAX_BYTES} bytes"
        raise InvalidRequest.field("secret", "webhook_secret", sentence)
    return secret


def _public_key(text: str) -> Ed25519PublicKey:
    key = _from_base64(text.removeprefix(PUBLIC_KEY_PREFIX))
    if key is None or len(key) != ED25519_KEY_BYTES:
        sentence = f"a public key must be {PUBLIC_KEY_PREFIX} and base64 of {ED25519_KEY_BYTES} bytes"
        raise InvalidRequest.field("secret", "public_key", sentence)
    return Ed25519PublicKey.from_public_bytes(key)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
