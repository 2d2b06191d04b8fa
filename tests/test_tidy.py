"""The house's rules about code, as tests: which room may import which, what it may not do, what a file must have."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "relay"

# From a room to the rooms whose modules it may import. `relay/ARCHITECTURE.md` shows the same table to people.
MAY_IMPORT = {
    "doctor": {"settings", "store", "net", "core", "clock", "vault", "errors"},
    "migrate": {"store", "core", "vault", "errors"},
    "restore": {"settings", "store", "core", "vault", "errors"},
    "rekey": {"settings", "store", "vault", "errors"},
    "cli": {
        "doctor", "migrate", "rekey", "restore", "node", "serve", "client", "sandbox", "settings", "errors", "clock",
        "observe", "vault",
    },
    "crew": {"settings", "clock", "errors", "observe", "feed", "core", "store", "net", "work"},
    "node": {
        "crew", "settings", "serve", "clock", "errors", "observe", "vault", "address", "feed", "core", "store", "net",
        "work", "web",
    },
    "web": {"store", "feed", "core", "clock", "observe", "errors", "vault", "address", "settings"},
    "work": {"store", "feed", "core", "clock", "observe", "errors", "vault", "address"},
    "net": {"core", "clock", "observe", "errors"},
    "store": {"core", "clock", "observe", "errors"},
    "sandbox": {"core", "clock", "errors"},
    "client": {"core", "clock", "errors"},
    "settings": {"core", "errors"},
    "address": {"vault", "clock", "errors"},
    "vault": {"errors"},
    "feed": {"core"},
    "core": {"errors"},
    "serve": set(),
    "observe": set(),
    "clock": set(),
    "errors": set(),
}  # fmt: skip

# What a room may not reach for, because another room is there to hand it in.
FORBIDDEN = {
    "core": {"asyncio", "time", "random", "secrets", "os", "socket", "threading", "pathlib", "sqlite3", "httpx2"},
    "web": {"httpx2", "sqlite3", "time", "random", "secrets"},
    "work": {"httpx2", "sqlite3", "time", "random", "secrets", "starlette"},
    "store": {"httpx2", "starlette", "time", "random", "secrets"},
    "net": {"starlette", "sqlite3", "time", "random"},
    "sandbox": {"time"},
    "node": {"time", "random", "secrets"},
    "feed": {"time", "random"},
}
NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "models", "types", "misc", "base"}
LINES_MAX = 450
FUNCTION_LINES_MAX = 60


def room_of(module: str) -> str:
    """`relay.core.job` is in the room `core`, `relay.node` is a room of its own."""
    return module.split(".")[1] if "." in module else ""


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Every absolute module name that is imported, with its line; `from relay import x` gives `relay.x`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "relay":
                for alias in node.names:
                    yield node.lineno, f"relay.{alias.name}"
            else:
                yield node.lineno, node.module


def misplaced(module: str, source: str) -> list[str]:
    """The import lines of a module that its room does not allow."""
    room, found = room_of(module), []
    for line, name in imports(source):
        top = name.split(".")[0]
        other = room_of(name) if top == "relay" else ""
        if other and other != "__version__" and other != room and other not in MAY_IMPORT[room]:
            found.append(f"{module}:{line} may not import {name}")
        if top in FORBIDDEN.get(room, ()):
            found.append(f"{module}:{line} may not use {top}")
    return found


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_line_is_in_its_room() -> None:
    wrong = [
        problem
        for path in python_files()
        if path != PACKAGE / "__init__.py"
        for problem in misplaced(module_name(path), path.read_text("utf-8"))
    ]

    assert wrong == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("relay.core.job", "import asyncio"),
        ("relay.core.job", "from relay.store.contract import Store"),
        ("relay.web.jobs", "from relay.net.upstream import Upstream"),
        ("relay.work.submitter", "from relay.web.app import build"),
        ("relay.net.webhook", "from relay import store"),
        ("relay.sandbox.vendor", "from relay.node import Node"),
        ("relay.vault", "import relay.core.job"),
        ("relay.store.sqlite", "from time import time"),
    ],
)
def test_a_line_in_the_wrong_room_is_found(module: str, line: str) -> None:
    assert misplaced(module, f"{line}\n") != []


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(module_name(path)) for path in python_files()} - {""}

    assert rooms == MAY_IMPORT.keys()


def test_every_file_says_what_it_is_and_stays_short() -> None:
    for path in python_files():
        source = path.read_text("utf-8")
        assert ast.get_docstring(ast.parse(source)), f"{path} has no docstring"
        assert source.count("\n") <= LINES_MAX, f"{path} has grown long"
        assert path.stem not in NAMES_THAT_SAY_NOTHING, f"{path} is named after nothing"


def test_every_function_fits_on_a_screen() -> None:
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                assert lines <= FUNCTION_LINES_MAX, f"{path}:{node.lineno} {node.name} has {lines} lines"


def test_only_the_clock_asks_for_the_time_or_sleeps() -> None:
    asks = re.compile(r"\btime\.(time|time_ns|monotonic|sleep)\(|datetime\.(now|utcnow)\(|asyncio\.sleep\((?!0\))")
    where = [
        f"{module_name(path)}: {match[0]}"
        for path in python_files()
        if module_name(path) not in {"relay.clock", "relay.serve"}
        for match in asks.finditer(path.read_text("utf-8"))
    ]

    assert where == []


def test_help_imports_no_server() -> None:
    code = "import sys, relay.cli.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"starlette", "uvicorn", "httpx2", "pydantic", "aiosqlite", "rich"} & set(loaded)


def test_no_file_names_a_machine_or_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    said = re.compile(rb"/work/main|/root/|files\.pythonhosted|pypi\.org/simple|registry\.npmjs")
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            assert not said.search(path.read_bytes()), f"{name} names a machine's path or a registry"
