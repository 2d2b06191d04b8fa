"""Secrets that can be recognised, and the search for them in everything that a relay and its proxies have written."""

import base64
import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

from relay.vault import new_token, new_webhook_secret

SHORTEST = 16
# What takes long to look through is not looked through after every test.
LARGE_BYTES = 16 * 1024 * 1024


class Canaries:
    """The planted secrets by name."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}

    def new(self, name: str) -> str:
        """A secret of our own making, of characters that stay what they are in an address."""
        return self.learn(name, new_token("canary"))

    def webhook_secret(self, name: str) -> str:
        secret = new_webhook_secret()
        self.learn(f"{name}, its bytes in base64", secret.removeprefix("whsec_"))
        return secret

    def learn(self, name: str, secret: str) -> str:
        """A secret that the relay has made."""
        assert len(secret) >= SHORTEST, f"{name} is too short to be recognised"
        assert name not in self.secrets, f"there are two of {name}"
        self.secrets[name] = secret
        return secret

    def found(self, data: bytes) -> list[str]:
        """The names of those that stand in `data`, in one of the forms in which a secret may be written."""
        return [name for name, secret in self.secrets.items() if any(form in data for form in forms(secret))]


def forms(secret: str) -> set[bytes]:
    """The secret itself, as it stands in an address or in JSON, in hex, and in base64 at each of the three offsets."""
    raw = secret.encode()
    coded = [base64.b64encode(b" " * n + raw)[4 * (n > 0) + 4 : -4].rstrip(b"=") for n in range(3)]
    return {raw, quote(secret, safe="").encode(), quote_plus(secret).encode(), raw.hex().encode(), *coded}


def rows(database: Path, options: str = "mode=ro") -> bytes:
    """Every value of every table, unpacked: a page ends where it likes, and bodies are kept packed."""
    parts = []
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(database))}?{options}", uri=True)) as sql:
        tables = [name for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in sql.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 # names of the database itself
                parts += [unpacked(value) for value in row]
    return b"\n".join(parts)


def unpacked(value: object) -> bytes:
    if not isinstance(value, bytes):
        return str(value).encode()
    with contextlib.suppress(zlib.error):
        return value + b"\n" + zlib.decompressobj().decompress(value)
    return value


def files(folder: Path, *but: Path) -> Iterator[tuple[str, bytes]]:
    """Everything in a folder, with the names of the files; a database as its bytes and as its rows."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in but:
            name, data = str(path.relative_to(folder)), path.read_bytes()
            yield name, name.encode() + b"\n" + data
            if data.startswith(b"SQLite format 3\0"):
                yield f"rows of {name}", rows(path)


def left_behind(folder: Path, secrets: Iterable[str]) -> list[str]:
    """In which databases, logs of theirs and copies in a folder one of these stands; nothing there is touched."""
    sought, found = [secret.encode() for secret in secrets], []
    for path in (Path(place, name) for place, _, names in os.walk(folder) for name in names):
        data = b""
        # What goes meanwhile is no matter, nor is a database that a test has damaged, or a relay was killed on.
        with contextlib.suppress(OSError, sqlite3.Error):
            if not path.is_file() or path.stat().st_size > LARGE_BYTES:
                continue
            with path.open("rb") as file:
                is_database = file.read(16) == b"SQLite format 3\0"
                data = file.read() if is_database or path.name.endswith("-wal") else b""
            data += rows(path, "immutable=1") if is_database else b""
        if any(secret in data for secret in sought):
            found.append(path.name)
    return found
