"""A copy of the database is held no longer than somebody reads it."""

import os
import socket
from pathlib import Path

import pytest

from relay.core.ledger import Quarantined
from relay.web import leaving
from tests.journeys import Journey, eventually, journey
from tests.store.serving import Writes
from tests.wire import Wire, request, wire

pytestmark = pytest.mark.anyio

# More than the buffers of two sockets hold, of which the reader's is small.
BODIES, BODY_BYTES = 12, 1024 * 1024
BUFFER_BYTES = 64 * 1024


async def filled(here: Journey) -> None:
    """A database that does not fit into any buffer on the way."""
    for n in range(BODIES):
        body = os.urandom(BODY_BYTES)
        row = Quarantined(
            job_id=None, at_ms=n, reason="a test", content_type="x/y", sha256=f"{n:x}", size_bytes=len(body), body=body
        )
        await here.node.app.state.store.apply(Writes((row,)))


def copies(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if ".backup-" in path.name]


async def begun(reader: Wire) -> int:
    """Ask for a backup, and read no more of it than its head, which says how long it is."""
    reader.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    await reader.send(request("POST", "/v1/backup", {"Content-Length": "0"}))
    status, headers = await reader.head()
    assert status == 200
    return int(headers["content-length"])


async def test_who_does_not_read_a_backup_is_let_go_and_the_copy_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with journey(tmp_path) as here, wire(here.relay_url) as reader:
        await filled(here)
        with monkeypatch.context() as patch:
            patch.setattr(leaving, "SEND_S", 0.05)
            size_bytes = await begun(reader)
            await eventually(lambda: not copies(tmp_path))
        came = len(await reader.reader.read(-1))
        again = await here.client.post("/v1/backup")

    assert 0 < came < size_bytes, "it ended before its end"
    assert (again.status_code, len(again.content) >= BODIES * BODY_BYTES) == (200, True)


async def test_who_leaves_in_the_midst_of_a_backup_takes_the_copy_along(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        await filled(here)
        async with wire(here.relay_url) as reader:
            await begun(reader)
            busy = await here.client.post("/v1/backup")
        await eventually(lambda: not copies(tmp_path))
        again = await here.client.post("/v1/backup")

    assert (busy.status_code, busy.json()["detail"]) == (409, "a backup is already being made")
    assert again.status_code == 200
