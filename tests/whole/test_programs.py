"""Programs written for the upstream run against the drop-in door with only address and token changed."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.journeys import ADMIN_TOKEN, journey

pytestmark = pytest.mark.anyio

PROGRAMS = Path(__file__).parent.parent / "samples" / "programs"


async def run(command: list[str], api: str, token: str) -> str:
    """What a program prints; it must exit 0."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | {"API": api, "TOKEN": token, "NO_PROXY": "*"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_a_program_that_uploads_creates_polls_and_downloads_sees_no_difference(tmp_path: Path) -> None:
    program = [sys.executable, str(PROGRAMS / "upload_create_poll_download.py")]
    async with journey(tmp_path) as running:
        with_upstream = json.loads(await run(program, f"{running.sandbox_url}/v1/runwayml", "any"))
        with_relay = json.loads(await run(program, f"{running.relay_url}/v1/runwayml", ADMIN_TOKEN))

        assert with_relay == with_upstream == {"status": "SUCCEEDED", "type": "ftyp", "size": with_relay["size"]}


@pytest.mark.parametrize(
    ("program", "interpreter"), [("page.py", sys.executable), ("page.sh", "sh"), ("page.mjs", "node")]
)
async def test_the_pages_own_examples_run(tmp_path: Path, program: str, interpreter: str) -> None:
    if shutil.which(interpreter) is None:
        pytest.skip(f"{interpreter} is not installed here")
    async with journey(tmp_path) as running:
        printed = await run([interpreter, str(PROGRAMS / program)], f"{running.relay_url}/v1/runwayml", ADMIN_TOKEN)

        assert "200" in printed
        assert "-task:" in printed
        assert running.vendor.submits == 1


async def test_a_large_upload_goes_through_in_small_pieces(tmp_path: Path) -> None:
    """100 MB through the relay as a process of its own: its memory rises by less than 16 MiB."""
    async with journey(tmp_path) as running:
        environment = os.environ | {
            "RELAY_UPSTREAM_URL": f"{running.sandbox_url}/v1/runwayml",
            "RELAY_UPSTREAM_TOKEN": "any",
            "RELAY_ADMIN_TOKEN": ADMIN_TOKEN,
            "RELAY_DATABASE_URL": f"sqlite:///{tmp_path / 'other.db'}",
            "RELAY_PORT": "0",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.whole.memory", env=environment, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 100)
        answer = json.loads(out)

        assert process.returncode == 0
        assert answer["status"] == 200, answer
        assert answer["risen_bytes"] < 16 * 1024 * 1024
