"""The commands at a narrow terminal, and when somebody presses Ctrl-C."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from pathlib import Path

import pytest

from tests.cli.test_commands import at
from tests.journeys import WAIT_S, Journey, journey

pytestmark = pytest.mark.anyio

COLUMNS = 60
RELAY = (sys.executable, "-m", "relay.cli.main")
STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


async def at_a_terminal(*arguments: str, env: dict[str, str]) -> list[str]:
    """The lines that a command shows on a terminal of 60 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "TERM")}
    try:
        process = await asyncio.create_subprocess_exec(
            *RELAY, *arguments, env=inherited | {"TERM": "xterm"} | env, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        async with asyncio.timeout(WAIT_S):
            shown = await asyncio.to_thread(read_all, ours)
            assert await process.wait() == 0, shown
    finally:
        os.close(ours)
    # A bar draws itself anew behind a carriage return.
    return re.split(r"[\r\n]+", STYLES.sub("", shown).strip())


def read_all(terminal: int) -> str:
    read = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            piece = b""
        if not piece:
            return read.decode()
        read += piece


async def lively(here: Journey) -> str:
    """A relay with a job, a subscription, a delivery and a token; the job's id."""
    await here.subscribe()
    job = await here.submit(replyRef="order-of-a-very-long-name-indeed-2026")
    await here.ended(job["id"])
    body = {"name": "a-shop-with-a-name", "scopes": ["submit", "read", "manage"]}
    (await here.client.post("/v1/tokens", json=body)).raise_for_status()
    return str(job["id"])


async def test_every_list_fits_a_terminal_of_60_columns_and_cuts_no_id(tmp_path: Path) -> None:
    async with journey(tmp_path, artifacts=f"file://{tmp_path / 'files'}") as here:
        job = await lively(here)
        env = at(here)
        lists = {
            name: await at_a_terminal(*name.split(), env=env)
            for name in (
                *("--help", "jobs", "accounts", "models", "stats", "quarantine", "trigger --list"),
                *("delivery list", "subscription list", "token list", "artifacts list"),
            )
        }
        in_a_row = await at_a_terminal("job", job, env=env)

    assert {name: [line for line in lines if len(line) > COLUMNS] for name, lines in lists.items()} == {
        name: [] for name in lists
    }
    assert any(line.startswith(job) for line in lists["jobs"])
    assert "(too narrow for: " in "\n".join(lists["jobs"])
    assert any(line.split() == ["id", job] for line in in_a_row)
    sentences = in_a_row[[line[:8] for line in in_a_row].index("Accepted") :]
    assert len(sentences) > 2
    assert max(map(len, sentences)) <= COLUMNS


async def test_a_job_is_followed_by_a_bar_that_fits_and_its_file_is_saved(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        fields = ("model=gen4.5", "text_prompt=A coast", "duration=5", f"--save={tmp_path / 'videos'}")
        lines = await at_a_terminal("submit", *fields, env=at(here))

    bar, path = lines[-2:]
    assert len(bar) <= COLUMNS
    assert bar.split()[0] == "succeeded"
    assert "100 %" in bar
    assert [path] == [str(saved) for saved in (tmp_path / "videos").iterdir()]


async def test_ctrl_c_ends_what_follows_a_job_with_130_and_says_that_the_job_goes_on(tmp_path: Path) -> None:
    async with journey(tmp_path, times_s=(0.0, 600.0)) as here:
        job = await here.submit()
        process = await asyncio.create_subprocess_exec(
            *(*RELAY, "watch", job["id"], "--json"),
            env=os.environ | at(here),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            await process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, said = await process.communicate()

    assert process.returncode == 130
    assert said.decode().strip() == f"relay: the job goes on; relay watch {job['id']} follows it"
