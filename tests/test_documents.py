"""The documents say what is so: doors, error codes, settings, commands, modules, and the README as it is copied."""

import ast
import hashlib
import importlib.util
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import httpx2
import pytest

import relay
from relay import errors, settings
from relay.cli.main import COMMANDS
from relay.cli.main import relay as program
from relay.client import Signer
from relay.errors import RelayError, SignatureInvalid
from relay.sandbox.scenarios import SCENARIOS
from relay.vault import new_webhook_secret
from relay.web.app import routes
from relay.web.openapi import UNSAID, Doorway, document
from relay.web.shapes import UNANSWERED
from relay.web.table import TABLE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
OPERATING = (ROOT / "deploy" / "README.md").read_text("utf-8")
DOCUMENTS = {
    "README.md": README,
    "relay/USING.md": (ROOT / "relay" / "USING.md").read_text("utf-8"),
    "deploy/README.md": OPERATING,
}
# What stands behind the language of a block that goes on for ever.
ENDLESS = ("until job.succeeded",)
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


def test_every_command_is_in_the_documents_and_no_other() -> None:
    known, said = set(commands()), set[str]().union(*map(typed, DOCUMENTS.values()))
    groups = {name.partition(" ")[0] for name in known if " " in name}

    assert known - said == set()
    assert {name for name in said - known if " " not in name or name.partition(" ")[0] in groups} == set()


def test_what_is_said_of_running_it_names_no_setting_that_does_not_exist() -> None:
    known = {*settings.names(), "DATABASE_URL", "RELAY_URL", "RELAY_TOKEN"}

    assert set(re.findall(r"\b(?:RELAY|DATABASE)_[A-Z_]+[A-Z]\b", OPERATING)) <= known


def test_every_setting_is_in_the_table_and_no_other() -> None:
    table = OPERATING[OPERATING.index("| setting |") :].partition("\n\n")[0]
    shown = set(re.findall(r"`((?:RELAY_|DATABASE_)[A-Z_]+)`", table))

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


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document; `note` is what stands behind its language."""

    document: str
    language: str
    note: str
    text: str


def blocks(document: str) -> list[Block]:
    found = re.findall(r"^```(\w*) ?([^\n]*)\n(.*?)^```", DOCUMENTS[document], re.MULTILINE | re.DOTALL)
    return [Block(document, *parts) for parts in found]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_is_run_by_these_tests_or_says_in_its_first_line_why_not(document: str) -> None:
    for block in blocks(document):
        if block.text.startswith("python3 -m venv"):  # the first command and that of the tests: CI begins with them
            continue
        run_here = block.language in ("sh", "json", "python") and block.note in ("", *ENDLESS)
        assert run_here or re.fullmatch(r"not run: .{10,}", block.note), f"nobody runs this: {block}"


@pytest.fixture
def place(dev: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who has `relay` on the PATH, and has copied what `relay dev` prints."""
    shim = tmp_path / "bin" / "relay"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m relay.cli.main "$@"\n', "utf-8")
    shim.chmod(0o755)
    return dev | {"PATH": f"{shim.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


def run(text: str, environment: dict[str, str]) -> tuple[str, str]:
    """What a block prints, and what `JOB` is behind it."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{text}\nprintf '\\0%s' \"${{JOB:-}}\""],
        env=os.environ | environment,
        cwd=environment["HOME"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"{text}{done.stdout}{done.stderr}"
    printed, _, job = done.stdout.rpartition("\0")
    return printed, job


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_the_documents_works_as_printed(document: str, place: dict[str, str]) -> None:
    environment, printed = dict(place), ""
    for block in blocks(document):
        if block.language == "sh" and not block.note and not block.text.startswith("python3 -m venv"):
            printed, job = run(block.text, environment)
            answer = json.loads(printed) if "curl" in block.text else {}
            assert "problems" not in answer or "state" in answer, printed
            assert answer.get("data", [True]), f"nothing came back for: {block.text}"
            if answer.keys() >= {"id", "secret"}:
                environment["SUBSCRIPTION"] = answer["id"]
            if job := job or (answer["id"] if answer.keys() >= {"id", "state", "model"} else ""):
                environment["JOB"] = job
                wait_for_the_end(place, job)
        elif block.language == "json":
            assert shape(json.loads(block.text)) == shape(json.loads(printed)), f"{block.text} is not as {printed}"


def shape(value: object) -> object:
    """The names in a JSON value, without what they say."""
    match value:
        case dict():
            return {name: shape(inner) for name, inner in value.items()}
        case list():
            return [shape(inner) for inner in value]
        case _:
            return ...


def test_the_python_of_the_documents_verifies_what_a_relay_has_signed() -> None:
    secret = new_webhook_secret()
    headers, body = Signer(secret)({"id": "0badcafe-1", "type": "job.succeeded", "data": {}})
    programs = [block.text for document in DOCUMENTS for block in blocks(document) if block.language == "python"]

    for text in programs:
        exec(text, {"secret": secret, "headers": headers, "body": body})  # noqa: S102
        with pytest.raises(SignatureInvalid):
            exec(text, {"secret": secret, "headers": headers, "body": body + b" "})  # noqa: S102
    assert programs


def inline_commands() -> list[str]:
    found = [command for text in DOCUMENTS.values() for command in re.findall(r"`(relay [a-z][^`]*)`", text)]
    return sorted({command for command in found if not re.search(r"[|…]", command)})


@pytest.mark.parametrize("command", inline_commands())
def test_every_command_in_a_sentence_would_be_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_TOKEN", "a-token")
    _, *words = shlex.split(command)
    found: click.Command = program
    context = click.Context(program)
    while isinstance(found, click.Group) and words:
        name = words.pop(0)
        inner = found.get_command(context, name)
        assert inner is not None, f"{found.name} has no {name}"
        found = inner
    if words:  # alone, a name stands for the command, and not for a call of it
        with suppress(click.exceptions.Exit), found.make_context(found.name, words):
            pass


def test_every_proof_that_the_documents_name_is_there() -> None:
    text = "".join(DOCUMENTS.values())
    modules = set(re.findall(r"python -m (tests\.[\w.]+)", text))
    paths = {path for line in re.findall(r"`pytest ([^`]+)`", text) for path in line.split()}

    assert len(modules) >= 3
    assert len(paths) >= 8
    for name in modules:
        module = importlib.util.find_spec(name)
        assert module is not None, name
        assert not module.submodule_search_locations or importlib.util.find_spec(f"{name}.__main__"), name
    assert [path for path in paths if not (ROOT / path).is_file() and not [*(ROOT / path).rglob("test_*.py")]] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_within_the_repository_leads_somewhere(document: str) -> None:
    titles = re.findall(r"^##+ (.+)$", DOCUMENTS[document], re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}

    for place, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", DOCUMENTS[document])):
        assert place.startswith("https://") or (ROOT / document).parent.joinpath(place).exists(), place
        assert place or anchor in anchors, anchor


def endless() -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks(document) if block.note in ENDLESS]


@pytest.mark.parametrize("block", endless(), ids=lambda block: block.document)
def test_the_stream_in_a_document_streams(block: Block, dev: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {dev['RELAY_TOKEN']}"}
    job = {"model": "gen4.5", "text_prompt": "A city", "duration": 5}
    httpx2.post(f"{dev['RELAY_URL']}/v1/jobs", json=job, headers=headers).raise_for_status()

    # `exec`, so that what is ended is curl itself.
    command = ["bash", "-euo", "pipefail", "-c", f"exec {block.text.strip()}"]
    with subprocess.Popen(command, env=os.environ | dev, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        lines = []
        for line in curl.stdout:
            lines.append(line.strip())
            if line.startswith(f"event: {block.note.removeprefix('until ')}"):
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
