"""Breaks a module on purpose, one small change at a time, and says which of the changes no test of it notices.

    python -m tests.mutants relay/core/signature.py relay/core/retry.py [--sample 100] [--seed 1] [--at-once 2]

Changed are comparisons, boolean and arithmetic operators, conditions, numbers, texts, members of tables, what is
returned, and statements are left out. Messages to people, annotations and docstrings stay: no test should fail for a
sentence. Each change is tried in a copy of the tree, by the tests of that module alone and with a limit of time, at low
priority; a sample of them where there are many. It exits 1 when fewer than nine in ten are caught.

Our own because the libraries leave out what is worth most here: mutmut changes nothing outside of functions (address
tables, limits), cosmic-ray leaves no statement out, and both want a configuration of their own beside the code.
"""

import argparse
import ast
import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

ROOT: Final = Path(__file__).parent.parent
WANTED: Final = 0.9
LIMIT_MIN_S: Final = 15.0
# What a module's tests are where it is more than the test file of its name.
MORE_TESTS: Final = {
    "relay/serve.py": ("tests/test_serve_direct.py",),
    "relay/web/callbacks.py": ("tests/web/test_callback_ways.py",),
    "relay/net/transport.py": ("tests/net/test_webhook.py",),
    "relay/web/trace.py": ("tests/web/test_metrics.py",),
    "relay/observe.py": ("tests/web/test_metrics.py", "tests/net/test_silence.py"),
}
PLUGINS: Final = ("anyio", "pytest_timeout", "_hypothesis_pytestplugin")
_BLOCK: Final = re.compile(r"[0-9a-f.:]+/[0-9]{1,3}")
_OTHER: Final[dict[type, type]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


Verdict = Literal["survives", "caught", "not a module"]
# pytest's exit codes: all passed, and nothing could be collected, for the module does not even import.
_VERDICTS: Final[dict[int, Verdict]] = {0: "survives", 2: "not a module", 4: "not a module"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed source; `line` and `what` say where and how."""

    line: int
    what: str
    source: str


@dataclass(frozen=True, slots=True)
class Change:
    """One change to the tree; `make` and `undo` are called in turn."""

    line: int
    what: str
    make: Callable[[], None]
    undo: Callable[[], None]


def mutants(source: str) -> list[Mutant]:
    """Every change of a module, in the order of its lines."""
    tree = ast.parse(source)
    made = []
    for change in sorted(_changes(tree), key=lambda change: change.line):
        change.make()
        made.append(Mutant(change.line, change.what, ast.unparse(tree)))
        change.undo()
    return made


def _set(node: ast.AST, name: str, value: Any, what: str) -> Change:
    before = getattr(node, name)
    line = getattr(node, "lineno", 0)
    return Change(line, what, lambda: setattr(node, name, value), lambda: setattr(node, name, before))


def _put(held: list[Any], place: int, value: Any, line: int, what: str) -> Change:
    before = held[place]
    return Change(line, what, lambda: held.__setitem__(place, value), lambda: held.__setitem__(place, before))


def _without(held: list[Any], place: int, what: str, beside: list[Any] | None = None) -> Change:
    lists = [held] if beside is None else [held, beside]
    kept = [one[place] for one in lists]

    def make() -> None:
        for one in lists:
            del one[place]

    def undo() -> None:
        for one, member in zip(lists, kept, strict=True):
            one.insert(place, member)

    return Change(getattr(held[place], "lineno", 0), what, make, undo)


def _changes(node: ast.AST, *, in_table: bool = False) -> Iterator[Change]:
    """The changes of a node, and of all that is under it and worth one; rows of a table go as a whole."""
    yield from _of(node, in_table=in_table)
    skipped = {"annotation", "returns", "decorator_list"}
    is_type = isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
    if is_type or isinstance(node, (ast.Raise, ast.JoinedStr, ast.Assert)):
        return
    for name, value in ast.iter_fields(node):
        if name in skipped:
            continue
        children = value if isinstance(value, list) else [value]
        for child in children:
            if isinstance(child, ast.AST) and not _is_docstring(child):
                yield from _changes(child, in_table=isinstance(node, (ast.Tuple, ast.List, ast.Set)))
        if name in ("body", "orelse", "finalbody") and isinstance(value, list):
            yield from _left_out(value)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _left_out(body: list[ast.stmt]) -> Iterator[Change]:
    for place, statement in enumerate(body):
        plain = isinstance(statement, (ast.Expr, ast.Raise, ast.AugAssign, ast.Continue, ast.Break, ast.If))
        if plain and not _is_docstring(statement):
            first = ast.unparse(statement).partition("\n")[0]
            yield _put(body, place, ast.Pass(), statement.lineno, f"without: {first}")


def _of(node: ast.AST, *, in_table: bool) -> Iterator[Change]:
    match node:
        case ast.Compare(ops=ops):
            for place, operator in enumerate(ops):
                other = _OTHER[type(operator)]
                yield _put(ops, place, other(), node.lineno, f"{type(operator).__name__} is {other.__name__}")
        case ast.BoolOp(op=op) | ast.BinOp(op=op) if type(op) in _OTHER and not _is_type(node):
            yield _set(node, "op", _OTHER[type(op)](), f"{type(op).__name__} is {_OTHER[type(op)].__name__}")
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield _set(node, "test", ast.UnaryOp(ast.Not(), test), f"not: {ast.unparse(test)}")
        case ast.comprehension(ifs=ifs):
            for place, test in enumerate(ifs):
                yield _put(ifs, place, ast.UnaryOp(ast.Not(), test), test.lineno, f"not: {ast.unparse(test)}")
        case ast.Return(value=value) if value is not None and ast.unparse(value) != "None":
            yield _set(node, "value", ast.Constant(None), f"returns None, not {ast.unparse(value)}")
        case ast.Tuple(elts=elts, ctx=ast.Load()) | ast.List(elts=elts, ctx=ast.Load()) | ast.Set(elts=elts):
            if len(elts) > 1 and not in_table:
                yield from (_without(elts, place, f"no {ast.unparse(one)}") for place, one in enumerate(elts))
        case ast.Dict(keys=keys, values=values) if len(keys) > 1:
            for place, key in enumerate(keys):
                yield _without(keys, place, f"no {ast.unparse(key) if key else '**'}", values)
        case ast.Constant(value=value):
            yield from (_set(node, "value", other, f"{value!r} is {other!r}") for other in _others(value))


def _is_type(node: ast.AST) -> bool:
    """`A | B` of classes."""
    return isinstance(node, ast.BinOp) and any(
        isinstance(side, ast.Name) and side.id[:1].isupper() and not side.id.isupper()
        for side in (node.left, node.right)
    )


def _others(value: object) -> Iterator[object]:
    """Other values of the same kind; none for one that is not worth it, such as a sentence."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield value + 1
    elif isinstance(value, bytes):
        yield value + b"x"
    elif isinstance(value, str) and all(_BLOCK.fullmatch(word) for word in value.split() or [""]):
        yield from _other_blocks(value.split())
    elif isinstance(value, str) and value.count(" ") < 2:
        yield value + "x"


def _other_blocks(blocks: list[str]) -> Iterator[str]:
    """Each block of addresses half as large (twice, where it is one address), and each left out."""
    for place, block in enumerate(blocks):
        first, _, bits = block.partition("/")
        half = f"{first}/{int(bits) - 1 if bits in ('32', '128') else int(bits) + 1}"
        for instead in ([half], []) if len(blocks) > 1 else ([half],):
            yield " ".join([*blocks[:place], *instead, *blocks[place + 1 :]])


def tests_of(module: str) -> list[str]:
    """The test files of a module: the one of its name, and those that are named above."""
    path = Path(module)
    own = Path("tests", *path.parts[1:-1], f"test_{path.name}")
    return [str(own), *MORE_TESTS.get(module, ())] if (ROOT / own).exists() else [*MORE_TESTS.get(module, ())]


async def judge(tree: Path, tests: list[str], limit_s: float) -> Verdict:
    """What these tests say in that tree: tests that do not end have caught it, too."""
    own = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    plugins = [word for name in PLUGINS for word in ("-p", name)]
    options = ["-x", "-q", "--no-header", "--hypothesis-profile=ci", "-p", "no:cacheprovider"]
    process = await asyncio.create_subprocess_exec(
        *("nice", "-n", "10", sys.executable, "-m", "pytest", *plugins, *options, *tests),
        cwd=tree,
        env=os.environ | own,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limit_s):
            return _VERDICTS.get(await process.wait(), "caught")
    except TimeoutError:
        return "caught"
    finally:
        with suppress(ProcessLookupError):  # whatever the tests have left running ends with them
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def copied(folder: Path) -> Path:
    """A copy of what the tests need, so that nobody works in the tree that is broken."""
    ignore = shutil.ignore_patterns("__pycache__", "node_modules", ".hypothesis")
    for name in ("relay", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


async def judged(module: str, sample: int | None, seed: int, trees: list[Path]) -> tuple[int, int]:
    """Print what survives of a module; how many of those that import were tried, and how many caught."""
    source, tests = (trees[0] / module).read_text("utf-8"), tests_of(module)
    began_s = time.monotonic()
    if not tests or await judge(trees[0], tests, 600) != "survives":
        raise SystemExit(f"{module}: its tests must be there and pass first: {' '.join(tests)}")
    limit_s = max(LIMIT_MIN_S, 4 * (time.monotonic() - began_s))
    every = mutants(source)
    left = every if sample is None or sample >= len(every) else Random(seed).sample(every, sample)  # noqa: S311
    left, found = sorted(left, key=lambda one: -one.line), Counter[Verdict]()

    async def work(tree: Path) -> None:
        while left:
            one = left.pop()
            (tree / module).write_text(one.source, "utf-8")
            verdict = await judge(tree, tests, limit_s)
            found[verdict] += 1
            if verdict == "survives":
                print(f"{module}:{one.line}: survives: {one.what}", flush=True)
        (tree / module).write_text(source, "utf-8")

    await asyncio.gather(*map(work, trees))
    tried, caught = found["caught"] + found["survives"], found["caught"]
    share = f"{caught / tried:.1%}" if tried else "-"
    print(
        f"{module}: {caught} of {tried} caught ({share}; {found['not a module']} more do not even import; "
        f"there are {len(every)}), by {' '.join(tests)}",
        flush=True,
    )
    return tried, caught


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("module", nargs="+", help="relay/core/retry.py …")
    parser.add_argument("--sample", type=int, help="try only so many of each module, by chance")
    parser.add_argument("--seed", type=int, default=1, help="of that chance")
    parser.add_argument("--at-once", type=int, default=2, choices=(1, 2))
    given = parser.parse_args()
    # So that whoever ends this ends the tests that it runs, and takes its copies away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [copied(Path(folder, str(n))) for n in range(given.at_once)]
        found = [await judged(module, given.sample, given.seed, trees) for module in given.module]
    return 0 if all(caught >= WANTED * tried for tried, caught in found) else 1


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
