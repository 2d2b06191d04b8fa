"""The documents say what is so: doors, error codes, settings, commands, modules, and the README as it is copied."""

import ast
import hashlib
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import httpx2
import pytest

import relay
from relay import errors, settings
from relay.cli.main import COMMANDS
from relay.cli.main import relay as program
from relay.errors import RelayError
from relay.sandbox.scenarios import SCENARIOS
from relay.web.app import routes
from relay.web.openapi import UNSAID, Doorway, document
from relay.web.shapes import UNANSWERED
from relay.web.table import TABLE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
OPERATING = (ROOT / "deploy" / "README.md").read_text("utf-8")
OPENAPI = document(routes(), settings.load_catalogue(None), "strict")
ARCHITECTURE = ROOT / "relay" / "ARCHITECTURE.md"


def first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def code_map() -> str:
    """The table of all modules, each with the first paragraph of its docstring."""
    lines = ["| file | what it is |", "|---|---|"]
    for path in sorted((ROOT / "relay").rglob("*.py")):
        if path.name != "__init__.py":
            what = first_sentence(path).replace("|", "\\|")
            lines.append(f"| `{path.relative_to(ROOT / 'relay')}` | {what} |")
    return "\n".join(lines)


def test_the_code_map_is_that_of_the_code() -> None:
    shown = re.search(
        r"<!-- code map -->\n(.*?)\n?<!-- end of code map -->", ARCHITECTURE.read_text("utf-8"), re.DOTALL
    )

    assert shown is not None
    assert shown[1] == code_map(), "run `python -m tests.test_documents` to write it anew"


def test_every_door_is_in_the_openapi_document_and_no_other() -> None:
    doors = {name for route in routes() if isinstance(route, Doorway) for name in route.names}
    said = {f"{method.upper()} {path}" for path, methods in OPENAPI["paths"].items() for method in methods}

    missing = {name for name in doors - said if name.partition(" ")[2] not in UNSAID}
    assert missing == set(), "write what they take and answer into relay/web/table.py"
    assert said <= doors
    assert TABLE.keys() == said, "relay/web/table.py has lines of which there is no door"


def test_the_viewer_of_the_document_is_the_one_that_its_notices_name() -> None:
    folder = ROOT / "relay" / "web" / "static" / "docs"
    notices = (folder / "openapi-explorer.NOTICES.txt").read_text("utf-8")

    assert hashlib.sha256((folder / "openapi-explorer.min.js").read_bytes()).hexdigest() in notices
    assert "Apache License" in (folder / "openapi-explorer.LICENSE.txt").read_text("utf-8")


def kinds_of_errors() -> Iterator[type[RelayError]]:
    """Every class of the tree, wherever it lives."""
    for module in pkgutil.walk_packages(relay.__path__, "relay."):
        importlib.import_module(module.name)
    waiting = [RelayError]
    while waiting:
        yield (kind := waiting.pop())
        waiting += kind.__subclasses__()


def test_every_error_code_is_in_the_openapi_document_and_no_other() -> None:
    answered = {kind.code: kind.status for kind in kinds_of_errors() if not issubclass(kind, UNANSWERED)}
    said: dict[str, int] = {}
    for name, response in OPENAPI["components"]["responses"].items():
        if name.startswith("Problem"):
            schema = response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]
            said |= dict.fromkeys(schema["code"]["enum"], schema["status"]["const"])

    assert said == answered | {"method_not_allowed": 405}
    assert set(OPENAPI["components"]["schemas"]["ProblemDetails"]["properties"]["code"]["enum"]) == said.keys()


def test_every_answer_of_an_error_belongs_to_a_door() -> None:
    text = json.dumps(OPENAPI["paths"])
    unused = [name for name in OPENAPI["components"]["responses"] if f'/responses/{name}"' not in text]

    # Any address answers so to a method that it does not take.
    assert [name for name in unused if not name.endswith("405")] == []


def test_the_tree_of_errors_shows_each_of_them() -> None:
    shown = set(re.findall(r"\w+", (errors.__doc__ or "").partition("RelayError")[2])) | {"RelayError"}

    assert {kind.__name__ for kind in kinds_of_errors() if kind.__module__ == "relay.errors"} <= shown


def commands() -> Iterator[str]:
    """Every command as it is typed, those of groups with the group's name before them."""
    context = click.Context(program)
    for name in COMMANDS:
        command = program.get_command(context, name)
        yield name
        if isinstance(command, click.Group):
            yield from (f"{name} {inner}" for inner in command.commands)


def typed(text: str) -> set[str]:
    """Every command that a document names: `relay token create|list|revoke` are three."""
    found = set()
    for name, rest in re.findall(r"(?:`|bin/|^)relay ([a-z]+)(?: ((?:[a-z]+\|)+[a-z]+|[a-z]+))?", text, re.MULTILINE):
        found |= {name, *(f"{name} {inner}" for inner in rest.split("|") if rest)}
    return found


def test_every_command_is_in_the_readmes_and_no_other() -> None:
    known, said = set(commands()), typed(README) | typed(OPERATING)
    groups = {name.partition(" ")[0] for name in known if " " in name}

    assert known - said == set()
    assert {name for name in said - known if " " not in name or name.partition(" ")[0] in groups} == set()


def test_what_is_said_of_running_it_names_no_setting_that_does_not_exist() -> None:
    known = {*settings.names(), "DATABASE_URL", "RELAY_URL", "RELAY_TOKEN"}

    assert set(re.findall(r"\b(?:RELAY|DATABASE)_[A-Z_]+[A-Z]\b", OPERATING)) <= known


def test_every_setting_is_in_the_readme_and_no_other() -> None:
    shown = set(re.findall(r"`((?:RELAY_|DATABASE_)[A-Z_]+)`", README))

    of_clients = {"RELAY_URL", "RELAY_TOKEN"}
    assert shown - {"RELAY_"} - of_clients == set(settings.names()) - of_clients | {"DATABASE_URL"}


def test_the_readme_counts_the_scenarios_as_they_are() -> None:
    assert f"tells {len(SCENARIOS)} situations" in README


def test_every_threat_has_a_control_and_tests_that_there_are() -> None:
    text = (ROOT / ".github" / "SECURITY.md").read_text("utf-8")
    table = re.search(r"<!-- threats -->\n(.*?)<!-- end of threats -->", text, re.DOTALL)
    assert table is not None
    sources = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for source in sources for name in re.findall(r"^(?:async )?def (test_\w+)", source, re.MULTILINE)}

    for line in table[1].splitlines()[2:]:
        threat, control, tests = line.strip("| ").split(" | ")
        named = re.findall(r"`(test_\w+)`", tests)
        assert threat
        assert control
        assert named, threat
        assert set(named) <= there, threat


@pytest.fixture(scope="module")
def dev() -> Iterator[dict[str, str]]:
    """`relay dev` as a process, and what it prints for copying."""
    command = [sys.executable, "-m", "relay.cli.main", "dev", "--port=0", "--sandbox-port=0", "--subscriber-port=0"]
    process = subprocess.Popen(
        [*command, "--speed=600"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    found: dict[str, str] = {}
    for line in process.stdout:
        if match := re.search(r"export RELAY_URL=(\S+) RELAY_TOKEN=(\S+)", line):
            found = {"RELAY_URL": match[1], "RELAY_TOKEN": match[2]}
        if line.startswith("Ctrl-C"):
            break
    try:
        yield found
    finally:
        process.terminate()
        process.communicate(timeout=30)
        assert process.returncode == 0


def run(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_every_curl_example_of_the_readme_works_as_printed(dev: dict[str, str]) -> None:
    examples = re.findall(r"<!-- curl -->\n```sh\n(.*?)```", README, re.DOTALL)
    environment = dict(dev)
    for example in examples:
        done = run(example, environment)
        answer = json.loads(done.stdout)
        assert "problems" not in answer or "state" in answer, done.stdout
        if "order-7" in example and "jobs" in example and "-d " in example:
            environment["JOB"] = answer["id"]
            wait_for_the_end(dev, answer["id"])
        if "/v1/subscriptions " in example and "-d " in example:
            environment["SUBSCRIPTION"] = answer["id"]
        assert answer.get("data", [True]), f"nothing came back for: {example}"

    assert len(examples) >= 10


def test_the_stream_example_of_the_readme_streams(dev: dict[str, str]) -> None:
    example = re.search(r"<!-- curl stream -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert example is not None
    headers = {"Authorization": f"Bearer {dev['RELAY_TOKEN']}"}
    job = {"model": "gen4.5", "text_prompt": "A city", "duration": 5}
    httpx2.post(f"{dev['RELAY_URL']}/v1/jobs", json=job, headers=headers).raise_for_status()

    # `exec`, so that what is ended is curl itself.
    command = ["bash", "-euo", "pipefail", "-c", f"exec {example[1].strip()}"]
    with subprocess.Popen(command, env=os.environ | dev, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        lines = []
        for line in curl.stdout:
            lines.append(line.strip())
            if line.startswith("event: job.succeeded"):
                break
        curl.terminate()

    assert "event: stream.open" in lines
    assert "event: job.submitted" in lines


def wait_for_the_end(dev: dict[str, str], job_id: str) -> None:
    headers = {"Authorization": f"Bearer {dev['RELAY_TOKEN']}", "Accept": "text/event-stream"}
    with httpx2.stream("GET", f"{dev['RELAY_URL']}/v1/jobs/{job_id}/events", headers=headers, timeout=60) as stream:
        for _ in stream.iter_lines():
            pass


def test_the_demo_shows_a_whole_journey_and_exits_0() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "relay.cli.main", "demo", "--speed=300"],
        env=os.environ | {"RELAY_UPSTREAM_URL": "http://192.0.2.1/never", "RELAY_NONSENSE": "ignored by the demo"},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "signature verified" in done.stdout
    assert "bytes of MP4" in done.stdout
    assert "the subscriber answered 200" in done.stdout


if __name__ == "__main__":
    text = ARCHITECTURE.read_text("utf-8")
    text = re.sub(
        r"(<!-- code map -->\n).*?\n?(<!-- end of code map -->)",
        lambda m: f"{m[1]}{code_map()}\n{m[2]}",
        text,
        flags=re.DOTALL,
    )
    ARCHITECTURE.write_text(text, "utf-8")
