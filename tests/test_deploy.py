"""What `deploy/` has works: the image's steps, compose files, unit and Procfile, each run as far as that can be."""

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from relay import settings
from tests.conformance.fronts import program
from tests.journeys import eventually, surroundings
from tests.whole.processes import SERVE, free_port, serving

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
COMPOSE = ("compose.yaml", "compose.postgres.yaml")
EXPOSURE_MAX = 1.5
WAIT_S = 60


def instructions(text: str) -> list[list[tuple[str, str]]]:
    """The instructions of a Dockerfile, stage by stage."""
    stages: list[list[tuple[str, str]]] = []
    for line in re.sub(r"\\\n", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        if name:
            stages[-1].append((name, rest.strip()))
    return stages


def pins(path: Path) -> dict[str, str]:
    """The versions that a file of requirements pins; each must have its hashes."""
    found = {}
    for block in re.split(r"\n(?=[a-z])", re.sub(r"^ *#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)):
        match = re.match(r"([a-z0-9-]+)==([^ \\]+)", block)
        assert match, block
        assert "--hash=sha256:" in block, f"{match[1]} has no hash"
        found[match[1]] = match[2]
    return found


# The image


def test_the_image_has_what_is_pinned_and_nothing_without_a_hash() -> None:
    image, relay = pins(DEPLOY / "requirements-image.txt"), pins(DEPLOY / "requirements.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = {"asyncpg", "obstore", "pysqlite3"}

    assert image.keys() - relay.keys() == extras
    assert image.items() >= relay.items()
    assert extras == {
        re.split("[><=]", line)[0]
        for name, lines in project["project"]["optional-dependencies"].items()
        if name != "test"
        for line in lines
    }
    assert pins(DEPLOY / "requirements-build.txt").keys() >= {"hatchling"}
    build = " && ".join(rest for name, rest in instructions(DOCKERFILE)[0] if name == "RUN")
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&]*", build)
    assert len(installs) == 4
    assert [line for line in installs if "--require-hashes" not in line and "--no-index" not in line] == []


def test_the_image_runs_as_nobody_great_and_writes_to_its_volume_alone() -> None:
    stage = dict(instructions(DOCKERFILE)[-1])

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
    assert stage["WORKDIR"] == stage["VOLUME"] == "/data"
    assert "RELAY_DATABASE_URL=sqlite:////data/" in stage["ENV"]
    assert "HOME=/data" in stage["ENV"]


def test_nothing_goes_into_the_image_that_it_is_not_built_from() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    taken = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {source for name, rest in instructions(DOCKERFILE)[0] if name == "COPY" for source in rest.split()[:-1]}

    assert lines[1] == "*"
    assert taken == copied


@pytest.mark.anyio
async def test_its_command_serves_and_its_healthcheck_sees_that(tmp_path: Path) -> None:
    await command_and_healthcheck(tmp_path, SERVE[:-1])


async def command_and_healthcheck(folder: Path, relay: tuple[str, ...]) -> None:
    stage = dict(instructions(DOCKERFILE)[-1])
    command = yaml.safe_load(stage["CMD"])
    probe = yaml.safe_load(stage["HEALTHCHECK"].partition("CMD ")[2])
    port = free_port()
    assert (command[0], probe[0]) == ("relay", "python")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}

    def healthy(**more: str) -> int:
        run = [sys.executable, *probe[1:]]
        return subprocess.run(run, env=env | more, stderr=subprocess.DEVNULL, timeout=WAIT_S).returncode

    async with surroundings(folder) as around:
        async with serving(around, port, command=(*relay, *command[1:]), host="0.0.0.0"):  # noqa: S104 # as in the image
            assert await asyncio.to_thread(healthy, RELAY_PORT=str(port)) == 0
            assert await asyncio.to_thread(healthy, PORT=str(port)) == 0
        assert await asyncio.to_thread(healthy, RELAY_PORT=str(port)) != 0


@pytest.mark.long
@pytest.mark.anyio
async def test_its_steps_build_a_relay_that_serves(tmp_path: Path) -> None:
    """Each COPY and RUN of its first stage, in a folder of their own, by the Python that is here."""
    build, opt = tmp_path / "build", tmp_path / "opt"
    build.mkdir()
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "VIRTUAL_ENV": ""}
    for name, rest in instructions(DOCKERFILE)[0]:
        if name == "COPY":
            *sources, to = rest.split()
            for source in sources:
                at = build / to if to != "./" else build / Path(source).name
                copy: Any = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
                copy(ROOT / source, at)
        elif name == "RUN":
            line = rest.replace("/opt/relay", f"{opt}/relay").replace("/build/", f"{build}/")
            run = partial(subprocess.run, ["bash", "-euc", line], cwd=build, env=env, capture_output=True, text=True)
            done = await asyncio.to_thread(run)
            assert done.returncode == 0, done.stderr
    relay = opt / "relay" / "bin" / "relay"
    assert not list(relay.parent.glob("pip*"))

    await command_and_healthcheck(tmp_path, (str(relay),))


# Compose


def test_every_setting_that_deploy_names_exists() -> None:
    named = {
        name
        for path in DEPLOY.rglob("*")
        if path.is_file() and path.suffix in (".md", ".yaml", ".service", ".conf", "")
        for name in re.findall(r"\bRELAY_[A-Z_]+[A-Z]\b", path.read_text("utf-8"))
    }

    assert "RELAY_TRUSTED_PROXIES" in named
    assert named <= set(settings.names())


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_are_well_formed_and_give_the_relay_settings_that_it_takes(name: str) -> None:
    compose = yaml.safe_load((DEPLOY / name).read_text("utf-8"))
    given = {"SITE": "relay.example.com", "POSTGRES_PASSWORD": "hush", "RELAY_UPSTREAM_TOKEN": "t"}
    given |= {"RELAY_ADMIN_TOKEN": "a" * 24, "RELAY_SECRET_KEY": "A" * 43}
    relays = {key: service for key, service in compose["services"].items() if "build" in service}

    assert len(relays) == (3 if "postgres" in name else 1)
    for service in relays.values():
        values = {
            key.removeprefix("RELAY_").lower(): re.sub(r"\$\{(\w+)[^}]*\}", lambda match: given[match[1]], value)
            for key, value in service["environment"].items()
        }
        made = settings.given(**values)
        assert made.on_postgres == ("postgres" in name)
        assert made.public_url == "https://relay.example.com"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["build"]["dockerfile"] == "deploy/Dockerfile"
        subnet = compose["networks"]["inside"]["ipam"]["config"][0]["subnet"]
        assert made.trusted_proxies == (subnet,)
    for service in compose["services"].values():
        assert set(service["networks"]) <= compose["networks"].keys()
        assert set(service.get("depends_on", ())) <= compose["services"].keys()
        volumes = [volume.partition(":")[0] for volume in service.get("volumes", ())]
        assert {volume for volume in volumes if "/" not in volume} <= compose["volumes"].keys()
        assert [volume for volume in volumes if "/" in volume and not (DEPLOY / volume).exists()] == []


@pytest.mark.parametrize("name", COMPOSE)
def test_caddy_finds_every_relay_of_a_compose_file(name: str, tmp_path: Path) -> None:
    compose = yaml.safe_load((DEPLOY / name).read_text("utf-8"))
    backends = compose["services"]["caddy"]["environment"]["CADDY_BACKEND"]
    env = {**os.environ, "CADDY_SITE": "relay.example.com", "CADDY_BACKEND": backends, "HOME": str(tmp_path)}
    command = [program("caddy"), "adapt", "--config", str(DEPLOY / "Caddyfile"), "--adapter", "caddyfile"]
    adapted = subprocess.run(command, env=env, capture_output=True, text=True, timeout=WAIT_S)

    assert adapted.returncode == 0, adapted.stderr
    dialled = set(re.findall(r'"dial":\s*"([^"]+)"', adapted.stdout))
    relays = {key for key, service in compose["services"].items() if "build" in service}
    assert dialled == set(backends.split()) == {f"{relay}:8080" for relay in relays}


# systemd, and platforms


def unit() -> dict[str, list[str]]:
    """The directives of the unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "relay.service").read_text("utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_is_hardened() -> None:
    command = [program("systemd-analyze"), "security", "--offline=true", "--no-pager", str(DEPLOY / "relay.service")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)

    match = re.search(r"Overall exposure level for relay\.service: ([0-9.]+)", said.stdout)
    assert match is not None, said.stdout + said.stderr
    assert float(match[1]) <= EXPOSURE_MAX, said.stdout


def test_the_unit_says_nothing_that_systemd_does_not_know(tmp_path: Path) -> None:
    text = (DEPLOY / "relay.service").read_text("utf-8")
    at = tmp_path / "relay.service"
    at.write_text(text.replace("/opt/relay/.venv/bin/relay", sys.executable), "utf-8")
    said = subprocess.run([program("systemd-analyze"), "verify", at], capture_output=True, text=True, timeout=WAIT_S)

    assert [line for line in said.stderr.splitlines() if "relay.service" in line] == []


@pytest.mark.anyio
async def test_what_the_unit_starts_serves_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    said = unit()
    [start] = said["ExecStart"]
    path, *arguments = shlex.split(start)
    assert Path(path).name == "relay"
    own = dict(pair.split("=", 1) for line in said["Environment"] for pair in shlex.split(line))
    [state] = said["StateDirectory"]
    assert own["RELAY_DATABASE_URL"] == f"sqlite:////var/lib/{state}/relay.db"
    assert said["WorkingDirectory"] == [f"/var/lib/{state}"]
    async with (
        surroundings(tmp_path) as around,
        serving(around, free_port(), command=(*SERVE[:-1], *arguments)) as relay,
    ):
        job = await relay.submit()
        await relay.told(job, "job.succeeded")
        assert await relay.stopped(signal.SIGTERM) == 0


def call_names(group: str) -> set[str]:
    """The system calls of a group, as systemd knows them."""
    command = [program("systemd-analyze"), "syscall-filter", "--no-pager", group]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True).stdout.split("\n")[1:]
    words = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    return {name for word in words for name in (call_names(word) if word.startswith("@") else {word})}


@pytest.mark.anyio
async def test_the_units_filters_let_through_all_that_a_relay_asks_of_the_system(tmp_path: Path) -> None:
    said, log = unit(), tmp_path / "calls"
    allowed: set[str] = set()
    for line in said["SystemCallFilter"]:
        names = {name for word in line.lstrip("~").split() for name in (call_names(word) if "@" in word else {word})}
        allowed = allowed - names if line.startswith("~") else allowed | names
    command = (program("strace"), "-D", "-f", "-q", "-o", str(log), "--", *SERVE)
    async with surroundings(tmp_path) as around:
        async with serving(around, free_port(), command=command, artifacts=f"file://{tmp_path}/kept") as relay:
            await relay.told(await relay.submit(), "job.succeeded")
            assert (await relay.client.post("/v1/backup")).status_code == 200
            assert await relay.stopped(signal.SIGTERM) == 0
        ended = re.compile(rf"^{relay.process.pid} +\+\+\+ exited", re.MULTILINE)
        await eventually(lambda: bool(ended.search(log.read_text("utf-8", "replace"))))
    calls = re.findall(r"^\d+ +(\w+)\((.*)", log.read_text("utf-8", "replace"), re.MULTILINE)
    families = {rest.partition(",")[0] for name, rest in calls if name in ("socket", "socketpair")}

    # SQLite gives its files to the database's owner, when it is root; the unit's user is not.
    assert {name for name, _ in calls} - allowed <= {"fchown"}
    assert "fdatasync" in {name for name, _ in calls}
    assert families <= set(said["RestrictAddressFamilies"][0].split()) | {
        "AF_NETLINK"
    }  # which is asked for, not needed
    # MemoryDenyWriteExecute: nothing is written and then run.
    assert [rest for name, rest in calls if name == "mmap" and "PROT_WRITE|PROT_EXEC" in rest] == []
    assert [rest for name, rest in calls if name in ("mprotect", "pkey_mprotect") and "PROT_EXEC" in rest] == []


@pytest.mark.anyio
async def test_the_procfile_serves_where_the_platform_says(tmp_path: Path) -> None:
    kind, _, line = (ROOT / "Procfile").read_text("utf-8").strip().partition(": ")
    assert kind == "web"
    words, port = shlex.split(line), free_port()
    own = dict(word.split("=", 1) for word in words if "=" in word)
    assert words[len(own)] == "relay"
    assert own["RELAY_HOST"] == "0.0.0.0"  # noqa: S104
    before = ("env", "-u", "RELAY_PORT", f"PORT={port}", *words[: len(own)])
    command = (*before, *SERVE[:-1], *words[len(own) + 1 :])
    async with surroundings(tmp_path) as around, serving(around, port, command=command) as relay:
        assert (await relay.client.get("/readyz")).status_code == 200
