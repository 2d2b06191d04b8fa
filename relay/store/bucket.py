"""Kept files in an S3 bucket: each is put as a whole once it has come, and opened by addresses that the bucket signs.

A file is put by one request (the bucket takes 5 GiB that way), streamed from the spool: an upload in parts that a kill
cuts off would leave parts that no list shows, and that are paid for.

Region, endpoint and credentials come from the usual `AWS_` variables. `obstore` is an extra; of its two interfaces the
one without async is used, in threads: the other one aborts when the interpreter ends.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from relay.core.artifacts import StoredFile
from relay.errors import ConfigurationError
from relay.store.files import OWNER, Folder, Known

SIGNED_FOR: Final = timedelta(hours=1)
LISTED_AT_ONCE: Final = 500
# So long the bucket may take nothing and say nothing.
SILENCE_S: Final = 60
PROBE: Final = "probe"
_RETRIES: Final = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


class Bucket(Folder):
    """`s3://bucket/prefix`; `spool` is a folder for what is on its way. Of one relay alone, as a `Folder` is."""

    def __init__(self, url: str, spool: Path, instance: str) -> None:
        self._obstore, self._store = _opened(url)
        super().__init__(spool, instance)
        with _usable(url):
            owner = self._owner(instance)
        if owner != instance:
            raise ConfigurationError(f"RELAY_ARTIFACTS: {url} has files of another relay, with another database")

    async def address(self, file: StoredFile, method: str) -> str | None:
        """A signed address in the bucket, for GET or HEAD; made here, without asking anybody."""

        def signed() -> str:
            with _said():
                made: str = self._obstore.sign(self._store, method, file.path or "", SIGNED_FOR)
            return made

        return await self.run(signed)

    async def remove(self, path: str) -> None:
        def delete() -> None:
            with _said():
                self._obstore.delete(self._store, path)

        await self.run(delete)

    async def check(self, file: StoredFile) -> str | None:
        def digest() -> str:
            found = hashlib.sha256()
            with _said():
                for piece in self._obstore.get(self._store, file.path or "").stream():
                    found.update(piece)
            return found.hexdigest()

        return await self.verdict(file, digest)

    async def sweep(self, known: Known) -> int:
        gone = 0
        listing: Iterator[Any] = iter(self._obstore.list(self._store, chunk_size=LISTED_AT_ONCE))
        while some := await self.run(self._next, listing):
            gone += await self._remove_strangers(some, known)
        return gone

    def put(self, part: Path, path: str, content_type: str) -> None:
        headers = {"Content-Type": content_type, "Content-Length": str(part.stat().st_size)}
        with _said(), part.open("rb") as body:
            url = self._obstore.sign(self._store, "PUT", path, SIGNED_FOR)
            try:
                with urlopen(Request(url, body, headers, method="PUT"), timeout=SILENCE_S):  # noqa: S310 - the bucket's
                    pass
            except HTTPError as error:
                error.close()
                raise OSError(0, f"the bucket answered {error.code}") from error
            except URLError as error:
                raise OSError(0, str(error.reason)[:200]) from error

    def _next(self, listing: Iterator[Any]) -> list[str]:
        with _said():
            return [found["path"] for found in next(listing, ())]

    def _owner(self, instance: str) -> str:
        try:
            return bytes(self._obstore.get(self._store, OWNER).bytes()).decode()
        except FileNotFoundError:
            self._obstore.put(self._store, OWNER, instance.encode())
            return instance


def look(url: str) -> None:
    """Write, read and remove something there; `ConfigurationError` when that cannot be done."""
    obstore, store = _opened(url)
    with _usable(url):
        obstore.put(store, PROBE, b"probe")
        obstore.get(store, PROBE).bytes()
        obstore.delete(store, PROBE)


def _opened(url: str) -> tuple[Any, Any]:
    """The library, and the bucket with its prefix; the network is not asked."""
    try:
        obstore, stores = import_module("obstore"), import_module("obstore.store")
    except ImportError as error:
        raise ConfigurationError("RELAY_ARTIFACTS: s3:// needs the package obstore (the extra s3)") from error
    parts = urlsplit(url)
    with _usable(url):
        return obstore, stores.S3Store(parts.netloc, prefix=parts.path.strip("/") or None, retry_config=_RETRIES)


@contextmanager
def _usable(url: str) -> Iterator[None]:
    try:
        with _said():
            yield
    except OSError as error:
        raise ConfigurationError(f"RELAY_ARTIFACTS: {url} cannot be used: {error.strerror}") from error


@contextmanager
def _said() -> Iterator[None]:
    """What the bucket refuses is an `OSError` with its first line."""
    try:
        yield
    except FileNotFoundError as error:
        raise OSError(0, "it is not there") from error
    except import_module("obstore.exceptions").BaseError as error:
        raise OSError(0, str(error).partition("\n")[0][:200]) from error
