"""Secrets: tokens and ids made, hashed, sealed, signed.

The only place that asks the operating system for chance. A `Vault` holds a 32-byte key and derives from it, with
HKDF-SHA256 (RFC 5869), one subkey a purpose and use, so that a signature made for one purpose never opens a door meant
for another, and no key is ever used by two algorithms.

A sealed text is `s1.<key id>.<nonce and ciphertext>`: the key id says which key opens it, so that a key can be replaced
while older rows are still there. The id is derived from the key and tells nothing about it.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from relay.errors import ConfigurationError, Problem, RelayError

KEY_BYTES = 32
TOKEN_BYTES = 24
"""192 random bits a token: the contract asks for 128, and 32 characters are as easy to copy as 22."""
WEBHOOK_SECRET_BYTES = 32
"""Standard Webhooks allows 24 to 64."""
MAX_PURPOSES = 256
"""Subkeys that are kept; purposes are words of the code, so more than this means that one was built from data."""

_SEAL_VERSION = "s1"
_NONCE_BYTES = 12
_KEY_FILE_MAX_BYTES = 1024
_SEALED = re.compile(_SEAL_VERSION + r"\.([0-9a-f]{8})\.[A-Za-z0-9_-]+")
_KEY_TEXT = re.compile(r"[A-Za-z0-9_-]{43}=?\Z")
_ROLLBACK_MS = 60_000
_RANDOM_BITS = 74
_random = secrets.SystemRandom()
WEBHOOK_KEY = "webhooks-v1a"
"""The purpose of the ed25519 key whose public half is at `/.well-known/webhooks-keys.json`."""


class Vault:
    """Seals and signs with one current key; opens and verifies with that and with older ones."""

    def __init__(self, key: bytes, older_keys: Sequence[bytes] = ()) -> None:
        """Keys are 32 bytes each, else `ConfigurationError`."""
        for each in (key, *older_keys):
            if len(each) != KEY_BYTES:
                raise _key_problem("RELAY_SECRET_KEY", f"a secret key has {KEY_BYTES} bytes, not {len(each)}")
        self._current = _Key(key)
        self._all = (self._current, *(_Key(each) for each in older_keys))

    def __repr__(self) -> str:
        return f"Vault(key_id={self._current.id!r}, older={self.older})"

    @property
    def key_id(self) -> str:
        """8 hex digits that name the current key; safe to show."""
        return self._current.id

    @property
    def older(self) -> int:
        """How many keys only open and verify."""
        return len(self._all) - 1

    def seal(self, plain: bytes | str, purpose: str) -> str:
        """Encrypt and authenticate `plain`; only `open` with the same `purpose` gives it back."""
        data = plain.encode() if isinstance(plain, str) else plain
        nonce = secrets.token_bytes(_NONCE_BYTES)
        head = f"{_SEAL_VERSION}.{self._current.id}"
        cipher = AESGCM(self._current.subkey("seal", purpose))
        return f"{head}.{_encode(nonce + cipher.encrypt(nonce, data, head.encode()))}"

    def open(self, sealed: str, purpose: str) -> bytes:
        """The bytes that were sealed.

        `ConfigurationError` when it was sealed with a key that this vault does not have (an operator changed it);
        `RelayError` when the text was damaged, or sealed for another purpose.
        """
        version, _, rest = sealed.partition(".")
        key_id, _, body = rest.partition(".")
        if version != _SEAL_VERSION or not body:
            raise RelayError("a sealed text does not have the form that this version writes")
        key = next((each for each in self._all if hmac.compare_digest(each.id.encode(), _ascii(key_id))), None)
        if key is None:
            raise _key_problem("RELAY_SECRET_KEY", "a secret at rest was sealed with another key than the given one")
        data = _decode(body)
        if data is None or len(data) <= _NONCE_BYTES:
            raise RelayError("a sealed text was cut or altered")
        cipher = AESGCM(key.subkey("seal", purpose))
        try:
            return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], f"{version}.{key_id}".encode())
        except InvalidTag:
            raise RelayError("a sealed text was altered, or sealed for another purpose") from None

    def resealed(self, text: str, purpose: str) -> str:
        """`text` with its sealed parts sealed by the current key, where older ones had sealed; errors as `open`."""

        def again(match: re.Match[str]) -> str:
            return match[0] if match[1] == self._current.id else self.seal(self.open(match[0], purpose), purpose)

        return _SEALED.sub(again, text)

    def sign(self, message: bytes, purpose: str) -> str:
        """HMAC-SHA256 of `message` with the current key: 43 characters of URL-safe base64, the same every time."""
        return _encode(_mac(self._current, message, purpose))

    def ed25519_seeds(self, purpose: str) -> list[bytes]:
        """Private keys of a signer, 32 bytes and the same every time: that of the current key, then of older ones."""
        return [each.subkey("ed25519", purpose) for each in self._all]

    def verify(self, message: bytes, signature: str, purpose: str) -> bool:
        """True when `signature` is that of `message` under any of the keys; takes the same time wherever it differs."""
        given = _ascii(signature)
        found = False
        for key in self._all:
            found |= hmac.compare_digest(_encode(_mac(key, message, purpose)).encode(), given)
        return found


class _Key:
    """One key with the subkeys that were derived from it."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._subkeys: dict[str, bytes] = {}
        self._signers: dict[str, hmac.HMAC] = {}
        self.id = self.subkey("id", "")[:4].hex()

    def subkey(self, use: str, purpose: str) -> bytes:
        name = f"relay/{use}/{purpose}"
        found = self._subkeys.get(name)
        if found is None:
            found = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=name.encode()).derive(self._key)
            if len(self._subkeys) < MAX_PURPOSES:
                self._subkeys[name] = found
        return found

    def signer(self, purpose: str) -> hmac.HMAC:
        """HMAC-SHA256 with the subkey, begun: a copy of it costs half of beginning anew."""
        found = self._signers.get(purpose)
        if found is None:
            found = hmac.new(self.subkey("sign", purpose), digestmod="sha256")
            if len(self._signers) < MAX_PURPOSES:
                self._signers[purpose] = found
        return found


def new_token(prefix: str = "") -> str:
    """A new secret of 192 random bits in URL-safe characters after `prefix`; a letter or digit comes first.

    A leading hyphen would make a command line take the token for an option.
    """
    while True:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        if token[0].isalnum():
            return prefix + token


def hash_token(token: str) -> str:
    """SHA-256 in 64 hex digits: all that is kept of a token. Tokens are long and random, so no salt is needed."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_webhook_secret() -> str:
    """A Standard Webhooks secret: `whsec_` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(WEBHOOK_SECRET_BYTES)).decode()


def new_hex(digits: int) -> str:
    """`digits` random hex digits."""
    return secrets.token_hex((digits + 1) // 2)[:digits]


def jitter() -> float:
    """A number from 0 up to 1, by chance: what keeps retries from coming all at once."""
    return _random.random()


class _Uuid7Maker:
    """RFC 9562, section 6.2, method 2: within a millisecond the random part grows by a random step."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ms = 0
        self._tail = 0

    def make(self, now_ms: int) -> str:
        with self._lock:
            # A clock that NTP set back a little must not make later ids sort earlier; one that was set back by more
            # than a minute was wrong before, and its time is not to be written into ids for ever.
            if now_ms > self._ms or now_ms < self._ms - _ROLLBACK_MS:
                self._ms = now_ms
                self._tail = secrets.randbits(_RANDOM_BITS - 1)
            else:
                self._tail += 1 + secrets.randbits(32)
                if self._tail >> _RANDOM_BITS:
                    self._ms += 1
                    self._tail = secrets.randbits(_RANDOM_BITS - 1)
            ms, tail = self._ms, self._tail
        value = (ms & (1 << 48) - 1) << 80 | 0x7 << 76 | (tail >> 62) << 64 | 0b10 << 62 | tail & (1 << 62) - 1
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_uuid7 = _Uuid7Maker()


def new_uuid7(now_ms: int) -> str:
    """A UUID version 7 (RFC 9562) for `now_ms`, Unix milliseconds; of two made in this process the later sorts later.

    That holds while the clock is set back by no more than a minute.
    """
    return _uuid7.make(now_ms)


def parse_keys(text: str) -> list[bytes]:
    """The keys of RELAY_SECRET_KEY, 32 bytes each: the current one, then older ones behind commas.

    `ConfigurationError` when one is not URL-safe base64 of exactly 32 bytes.
    """
    return [_parse_key(each, "RELAY_SECRET_KEY") for each in text.split(",")]


def load_keys(path: Path, given: str | None = None) -> list[bytes]:
    """The keys of RELAY_SECRET_KEY where they are `given`, else those kept in the key file `path`, one a line; the
    current one first. The file is made, with mode 0600, when there is none.

    A file that appears under its name is complete and on disk. `ConfigurationError` when it is not a regular file, when
    group or others may read or write it, when it is malformed, or when the operating system refuses.
    """
    if given is not None:
        return parse_keys(given)
    try:
        with contextlib.suppress(FileNotFoundError):
            return _read_keys(path)
        with contextlib.suppress(FileExistsError):
            _write_keys(path, [secrets.token_bytes(KEY_BYTES)], os.link)
        return _read_keys(path)
    except OSError as error:
        raise _key_problem("key_file", f"the key file {path} cannot be used: {error.strerror or error}") from None


def replace_keys(path: Path, older: Sequence[bytes], *, current: bytes | None = None) -> None:
    """Have the key file `path` hold `current` (None: a new one) before the `older` ones, whole or not at all."""
    try:
        _write_keys(path, [current or secrets.token_bytes(KEY_BYTES), *older], os.replace)
    except OSError as error:
        raise _key_problem("key_file", f"the key file {path} cannot be written: {error.strerror or error}") from None


def _read_keys(path: Path) -> list[bytes]:
    # O_NONBLOCK: opening a FIFO of that name would wait for a writer for ever.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise _key_problem("key_file", f"the key file {path} is not a regular file", rule="regular_file")
        if facts.st_mode & 0o077:
            mode = stat.S_IMODE(facts.st_mode)
            sentence = f"the key file {path} is open to group or others (mode {mode:04o}): make it 0600"
            raise _key_problem("key_file", sentence, rule="mode_0600")
        text = os.read(handle, _KEY_FILE_MAX_BYTES)
    finally:
        os.close(handle)
    return [_parse_key(line, f"key file {path}") for line in text.decode("ascii", "replace").split("\n") if line] or [
        _parse_key("", f"key file {path}")
    ]


def _write_keys(path: Path, keys: Sequence[bytes], put: Callable[[Path, Path], None]) -> None:
    """Write keys beside `path` and put them there: of two processes that link one wins, and no crash leaves half a file
    under the name."""
    draft = path.with_name(f".{path.name}.{new_hex(16)}")
    text = b"".join(base64.urlsafe_b64encode(key) + b"\n" for key in keys)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(handle, text)
            os.fsync(handle)
        finally:
            os.close(handle)
        put(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _parse_key(text: str, where: str) -> bytes:
    text = text.strip()
    if _KEY_TEXT.match(text):
        key = _decode(text.rstrip("="))
        if key is not None and len(key) == KEY_BYTES:
            return key
    sentence = f"{where} must be {KEY_BYTES} bytes in URL-safe base64 (43 characters of A-Z, a-z, 0-9, - and _)"
    raise _key_problem(where, sentence)


def _key_problem(field: str, sentence: str, *, rule: str = "base64_32_bytes") -> ConfigurationError:
    return ConfigurationError(sentence, problems=[Problem(field, rule, sentence)])


def _mac(key: _Key, message: bytes, purpose: str) -> bytes:
    mac = key.signer(purpose).copy()
    mac.update(message)
    return mac.digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes | None:
    """The bytes of unpadded URL-safe base64, or None; a text that encodes no bytes exactly is refused as well."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    return data if _encode(data) == text else None


def _ascii(text: str) -> bytes:
    return text.encode("ascii", "replace")
