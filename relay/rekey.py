"""Seals every secret at rest with a new key, so that the older ones open nothing in the database any more."""

import os
from dataclasses import dataclass
from typing import Final

from relay.errors import ConfigurationError
from relay.settings import Settings
from relay.store import resealing
from relay.store.sqlite import WritingFile, lock
from relay.vault import Vault, load_keys, new_hex, replace_keys

OLDER_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """The id of the key that seals everything now, how many texts it had not sealed before, how many keys are older."""

    key_id: str
    resealed: int
    older: int


async def rekey(settings: Settings, *, forget: bool) -> Rekeyed:
    """Re-seal with the first key of RELAY_SECRET_KEY, or with a new one in the key file; `forget` the older ones there.

    Interrupted, it is begun again: older keys go only once nothing needs them. `ConfigurationError` when a secret was
    sealed with none of the keys, or while a relay runs on the SQLite file.
    """
    if settings.on_postgres:
        vault = _vault(settings)
        resealed = await resealing.in_server(settings.database_url.get_secret_value(), vault.resealed)
        return Rekeyed(vault.key_id, resealed, vault.older)
    path = settings.database_path
    if not path.exists():
        raise ConfigurationError(f"there is no database at {path}, so there is nothing to seal anew")
    held = lock(path)
    try:
        WritingFile(path, new_hex).close()  # of an older relay it is brought up to date
        in_file = settings.given_keys is None
        if in_file and not forget:
            replace_keys(settings.key_path, load_keys(settings.key_path)[:OLDER_MAX])
        vault = _vault(settings)
        resealed = resealing.in_file(path, vault.resealed)
        if in_file and forget:
            replace_keys(settings.key_path, [], current=load_keys(settings.key_path)[0])
            vault = _vault(settings)
    finally:
        os.close(held)
    return Rekeyed(vault.key_id, resealed, vault.older)


def _vault(settings: Settings) -> Vault:
    key, *older = load_keys(settings.key_path, settings.given_keys)
    return Vault(key, older)
