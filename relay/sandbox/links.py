"""Signed artifact addresses that expire, as the upstream's host makes them: a small JWT in the query."""

import base64
import hashlib
import hmac
import json
from typing import Final

JWT_MAX: Final = 1024
_HEADER: Final = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()


class Links:
    """Makes and checks addresses. Every address is another one, for each carries a number of its own."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._count = 0

    def make(self, origin: str, name: str, *, expires_ms: int) -> str:
        """The address of the file `name`, good until `expires_ms`."""
        self._count += 1
        claims = {"name": name, "exp": -(-expires_ms // 1000), "exp_ms": expires_ms, "jti": self._count}
        signed = f"{_HEADER}.{_encode(json.dumps(claims, separators=(',', ':')).encode())}"
        return f"{origin}/artifacts/{name}?_jwt={signed}.{self._sign(signed)}"

    def good(self, name: str, jwt: str, now_ms: int) -> bool:
        """Whether `jwt` opens `name` now."""
        signed, _, signature = jwt[:JWT_MAX].rpartition(".")
        if not hmac.compare_digest(self._sign(signed).encode(), signature.encode()):
            return False
        claims = json.loads(base64.urlsafe_b64decode(signed.partition(".")[2] + "=="))
        return bool(claims["name"] == name and now_ms < claims["exp_ms"])

    def _sign(self, signed: str) -> str:
        return _encode(hmac.digest(self._key, signed.encode(), hashlib.sha256))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
