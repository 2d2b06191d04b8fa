"""A PostgreSQL of the tests' own: a cluster in a folder of its own, without a port, gone afterwards."""

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from relay.store.dialect import prepare
from relay.store.driver import sqlite3
from relay.store.migrate import migrations

MISSING = "no PostgreSQL server is installed (Debian: apt-get install postgresql)"
READY_S = 30.0
IN_MEMORY = "/dev/shm"  # noqa: S108 - the folder in it is made with a name by chance


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`, which are on no PATH; None where there is no server."""
    found = shutil.which("initdb")
    folders = [*([Path(found).resolve().parent] if found else []), *Path("/usr/lib/postgresql").glob("*/bin")]
    return max((folder for folder in folders if (folder / "pg_isready").exists()), default=None)


needed = pytest.mark.skipif(programs() is None, reason=MISSING)


@dataclass
class Cluster:
    """A server that listens on a socket in `folder`; `options` are those of the next start."""

    folder: Path
    options: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://relay@/{database}?host={self.folder}"

    def start(self) -> None:
        chosen = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "max_connections": "200"}
        arguments = [f"-c{name}={value}" for name, value in (chosen | self.options).items()]
        command = [str((programs() or Path()) / "postgres"), "-D", str(self.folder / "data"), *arguments]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(_as_nobody_great(command), stderr=log)
        until_s = time.monotonic() + READY_S
        ready = [str((programs() or Path()) / "pg_isready"), "-q", "-h", str(self.folder)]
        while subprocess.run(ready).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.02)

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends it quickly and cleanly; SIGQUIT as if it had crashed."""
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(READY_S)
            self._process = None

    async def database(self, name: str) -> str:
        """The address of a place of its own for the tables of a test, made if absent; any text is a name."""
        short = f"t_{hashlib.sha256(name.encode()).hexdigest()[:20]}"
        connection = await asyncpg.connect(self.url())
        try:
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {short}")
        finally:
            await connection.close()
        return f"{self.url()}&search_path={short}"


async def copied(url: str, file: Path) -> None:
    """Put a relay's rows into a SQLite file that has nothing else, for those who look into such files."""
    connection = await asyncpg.connect(url)
    try:
        await prepare(connection)
        async with connection.transaction(isolation="repeatable_read"):
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
            _fill(file, {table: await connection.fetch(f"SELECT * FROM {table}") for (table,) in tables})  # noqa: S608
    finally:
        await connection.close()


def _fill(file: Path, tables: dict[str, list[asyncpg.Record]]) -> None:
    file.unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as sql:
        sql.executescript("".join(step.sql for step in migrations("sqlite")))
        for table, rows in tables.items():
            if rows:
                names, marks = ", ".join(rows[0].keys()), ", ".join("?" * len(rows[0]))
                sql.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", map(tuple, rows))  # noqa: S608
        sql.commit()


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A new server; nothing of it is left."""
    # In memory where there is such a place: a commit is synced as it should be, and costs little.
    folder = Path(tempfile.mkdtemp(prefix="relay-pg-", dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None))
    try:
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        initdb = [str((programs() or Path()) / "initdb"), "-D", str(folder / "data"), "-U", "relay", "-A", "trust"]
        subprocess.run(_as_nobody_great([*initdb, "--no-sync", "-E", "UTF8"]), check=True, capture_output=True)
        made = Cluster(folder)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_nobody_great(command: list[str]) -> list[str]:
    """The server refuses to run as root."""
    if os.geteuid() != 0:
        return command
    owner = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups", "--", *command]
