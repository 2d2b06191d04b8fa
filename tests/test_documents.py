"""The documents say what is so: settings, the code map, and every command of the README as a reader would copy it."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from relay import settings
from relay.sandbox.scenarios import SCENARIOS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
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


def test_every_setting_is_in_the_readme_and_no_other() -> None:
    shown = set(re.findall(r"`((?:RELAY_|DATABASE_)[A-Z_]+)`", README))

    of_clients = {"RELAY_URL", "RELAY_TOKEN"}
    assert shown - {"RELAY_"} - of_clients == set(settings.names()) - of_clients | {"DATABASE_URL"}


def test_the_readme_counts_the_scenarios_as_they_are() -> None:
    assert f"tells {len(SCENARIOS)} situations" in README


def test_the_procfile_runs_the_relay() -> None:
    assert (ROOT / "Procfile").read_text("utf-8") == "web: relay serve\n"


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
