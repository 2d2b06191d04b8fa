"""The commands as their users run them: processes of their own, against a relay with real sockets."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from relay.sandbox.scenarios import SCENARIOS
from tests.journeys import ADMIN_TOKEN, Journey, journey, surroundings
from tests.whole.processes import free_port

pytestmark = pytest.mark.anyio


async def relay(
    *arguments: str, folder: Path | None = None, env: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, str, str]:
    """`(exit code, stdout, stderr)` of a command; only these variables of the relay's are set."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "relay.cli.main",
        *arguments,
        env=inherited | {"COLUMNS": "100"} | dict(env),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


def at(running: Journey) -> dict[str, str]:
    return {"RELAY_URL": running.relay_url, "RELAY_TOKEN": ADMIN_TOKEN}


async def test_models_shows_a_table_of_all_and_everything_of_one(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        _, table, _ = await relay("models", env=at(running))
        _, one, _ = await relay("models", "kling-2.6-pro", env=at(running))
        _, text, _ = await relay("models", "--json", env=at(running))
        code, _, said = await relay("models", "gen9", env=at(running))

        names = [model["name"] for model in json.loads(text)["data"]]
        assert len(names) == 18
        assert all(name in table for name in names)
        assert max(map(len, table.splitlines())) <= 100
        assert "5, 10" in one
        assert (code, "there is no model gen9" in said) == (1, True)


async def test_a_token_is_made_listed_and_revoked(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        rights = ("--scope=submit", "--scope=read", "--max-waiting=5", "--max-per-day=50")
        _, made, said = await relay("token", "create", "shop", *rights, env=at(running))
        of_shop = at(running) | {"RELAY_TOKEN": made.strip()}
        _, table, _ = await relay("token", "list", env=at(running))
        _, text, _ = await relay("token", "list", "--json", env=at(running))
        forbidden = await relay("token", "list", env=of_shop)
        twice = await relay("token", "create", "shop", "--scope=read", env=at(running))
        wrong = await relay("token", "create", "other", "--scope=all", env=at(running))
        code, gone, _ = await relay("token", "revoke", "shop", env=at(running))
        revoked = await relay("models", env=of_shop)
        missing = await relay("token", "revoke", "shop", env=at(running))

        [row] = json.loads(text)
        assert said == ""
        assert (row["name"], row["scopes"]) == ("shop", ["read", "submit"])
        assert (row["maxWaiting"], row["maxPerDay"]) == (5, 50)
        assert all(word in table for word in ("shop", "read submit", "5", "50", row["id"]))
        assert made.strip() not in table + text
        assert max(map(len, table.splitlines())) <= 100
        assert (forbidden[0], "scope manage" in forbidden[2]) == (1, True)
        assert (twice[0], "there is a token of the name shop" in twice[2]) == (1, True)
        assert (wrong[0], "scopes.0" in wrong[2]) == (1, True)
        assert (code, gone.strip()) == (0, "revoked shop")
        assert (revoked[0], "not known" in revoked[2]) == (1, True)
        assert (missing[0], "there is no token shop" in missing[2]) == (1, True)
    assert wrong[2].count("scopes.0") <= 1, wrong[2]


async def test_trigger_lists_every_scenario(tmp_path: Path) -> None:
    _, listed, _ = await relay("trigger", "--list", folder=tmp_path)
    _, text, _ = await relay("trigger", "--list", "--json", folder=tmp_path)
    none = await relay("trigger", "--token=x", folder=tmp_path)
    nobody = await relay("jobs", folder=tmp_path)

    assert all(name in listed for name in SCENARIOS)
    assert json.loads(text).keys() == SCENARIOS.keys()
    assert (none[0], "--list" in none[2]) == (2, True)
    assert (nobody[0], "RELAY_TOKEN" in nobody[2]) == (2, True)


async def test_trigger_sets_a_scenario_up_and_sends_a_job_into_it(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        sandbox = running.sandbox_url
        code, text, said = await relay("trigger", "bad-output", "--sandbox", sandbox, "--json", env=at(running))
        assert code == 0, said

        job = await running.ended(json.loads(text)["id"])

        assert (job["state"], job["error"]["code"], job["replyRef"]) == ("failed", "bad_output", "bad-output")


async def test_trigger_says_when_the_sandbox_or_the_relay_is_not_there(tmp_path: Path) -> None:
    async with journey(tmp_path) as running:
        nowhere = "http://127.0.0.1:9"
        without_sandbox = await relay("trigger", "happy", "--sandbox", nowhere, env=at(running))
        without_relay = await relay(
            "trigger", "happy", "--sandbox", running.sandbox_url, env={"RELAY_URL": nowhere, "RELAY_TOKEN": ADMIN_TOKEN}
        )
        wrong_token = await relay(
            "trigger", "happy", "--sandbox", running.sandbox_url, env=at(running) | {"RELAY_TOKEN": "wrong"}
        )

        assert without_sandbox[0] == without_relay[0] == wrong_token[0] == 1
        assert "sandbox" in without_sandbox[2]
        assert "cannot be reached" in without_relay[2]
        assert "token is not known" in wrong_token[2]


def of_doctor(upstream_url: str = "http://127.0.0.1:9") -> dict[str, str]:
    """Settings of a relay that does not run, on a port that nobody has."""
    needed = {"RELAY_UPSTREAM_TOKEN": "x", "RELAY_ADMIN_TOKEN": "a" * 24, "RELAY_PORT": f"{free_port()}"}
    return needed | {"RELAY_UPSTREAM_URL": upstream_url}


async def test_doctor_finds_a_healthy_folder_healthy(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    async with surroundings(tmp_path) as around:
        env = of_doctor(f"{around.sandbox_url}/v1/runwayml")
        code, text, _ = await relay("doctor", "--json", folder=folder, env=env)

    found = {row["name"]: row["verdict"] for row in json.loads(text)}
    assert code == 0
    assert found.keys() >= {"settings", "callbacks", "sqlite", "database", "key", "disk"}
    assert "failure" not in found.values()
    assert os.listdir(folder) == []  # it looks, and makes nothing


async def test_doctor_tells_every_wrong_setting_and_a_damaged_database(tmp_path: Path) -> None:
    code, text, _ = await relay("doctor", folder=tmp_path, env={"RELAY_NONSENSE": "1", "RELAY_ADMIN_TOKEN": "short"})
    assert code == 1
    for problem in ("RELAY_NONSENSE", "RELAY_UPSTREAM_TOKEN", "RELAY_ADMIN_TOKEN", "at least 24"):
        assert problem in text

    (tmp_path / "relay.db").write_bytes(b"this is no database" * 100)
    code, text, _ = await relay("doctor", "--json", folder=tmp_path, env=of_doctor())
    [database] = [row for row in json.loads(text) if row["name"] == "database"]
    assert (code, database["verdict"], "relay.db" in database["sentence"]) == (1, "failure", True)


async def test_doctor_leaves_a_database_in_use_alone(tmp_path: Path) -> None:
    async with journey(tmp_path) as here:
        env = of_doctor(f"{here.sandbox_url}/v1/runwayml")
        code, text, _ = await relay("doctor", folder=tmp_path, env=env)

    assert code == 0
    assert "in use by a running relay" in " ".join(text.split())


async def test_an_unknown_command_and_no_command_say_what_there_is(tmp_path: Path) -> None:
    unknown, helped = await relay("nope", folder=tmp_path), await relay("--help", folder=tmp_path)

    assert unknown[0] == 2
    assert "No such command 'nope'" in unknown[2]
    assert all(command in helped[1] for command in ("serve", "sandbox", "dev", "demo", "models", "trigger", "doctor"))


@pytest.mark.parametrize("asked", [["--help"], ["--version"], ["submit", "--no-such-option"], ["job", "--help"]])
async def test_no_word_of_help_waits_for_a_server_to_be_loaded(asked: list[str]) -> None:
    code = "import sys; from relay.cli.main import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *asked), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)

    loaded = set(err.decode().split())
    assert "relay.cli.main" in loaded
    assert loaded & {"starlette", "uvicorn", "aiosqlite", "relay.node"} == set()
    if asked == ["--help"]:
        assert loaded & {"httpx2", "pydantic", "rich"} == set()
        assert "130" in out.decode()


async def test_what_answers_and_is_no_relay_is_one_line_of_error(tmp_path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as other:
        url = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        code, shown, said = await relay("jobs", "--token=x", f"--url={url}", folder=tmp_path)

    assert (code, shown) == (1, "")
    assert said.splitlines() == [f"relay: what answers at {url} is no relay: it is not JSON"]
