"""The relay's own artifact addresses: capabilities, made anew at every read and checked when they come back."""

import re
from urllib.parse import quote

from relay.clock import Clock
from relay.errors import Gone, NotFound
from relay.vault import Vault

_PURPOSE = "artifact-address"
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]*").fullmatch


class Addresses:
    """Makes and checks `<base>/v1/artifacts/{id}/{name}?exp=&sig=`; each is good for `ttl_s` seconds.

    `base_url` is where browsers and subscribers reach this relay.
    """

    def __init__(self, base_url: str, vault: Vault, clock: Clock, ttl_s: float) -> None:
        self.base_url = base_url
        self._vault = vault
        self._clock = clock
        self._ttl_s = ttl_s

    def of(self, artifact_id: str, name: str) -> str:
        """A fresh address of one file."""
        expires_s = int(self._clock.now_ms() / 1000 + self._ttl_s)
        signature = self._vault.sign(_message(artifact_id, name, str(expires_s)), _PURPOSE)
        return f"{self.base_url}/v1/artifacts/{_part(artifact_id)}/{_part(name)}?exp={expires_s}&sig={signature}"

    def check(self, artifact_id: str, name: str, expires_s: str, signature: str) -> None:
        """Raises `NotFound` for an address that was never made, `Gone` for one that has expired."""
        if not self._vault.verify(_message(artifact_id, name, expires_s), signature, _PURPOSE):
            raise NotFound("this address is not one of the relay's; read the job again for a fresh one")
        if int(expires_s) * 1000 < self._clock.now_ms():
            raise Gone("this address has expired; read the job again for a fresh one")


def _part(text: str) -> str:
    # Nearly all are as they may stand in a path, and to look at that costs a fifth of quoting them.
    return text if _UNRESERVED(text) else quote(text)


def _message(artifact_id: str, name: str, expires_s: str) -> bytes:
    return f"{artifact_id}\n{name}\n{expires_s}".encode()
