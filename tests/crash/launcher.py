"""Runs `relay serve` with a store that is made to break; the crash tests start it in the place of the command.

    python -m tests.crash.launcher PLAN     one relay in this process, under a plan (JSON)
    python -m tests.crash.launcher          forks a relay for each line of JSON on stdin, and says how it goes on stdout

Forking pays for the interpreter and the imports once, so that a thousand kills take minutes. Everything that is changed
here is changed from outside: the product has no switch for any of it.
"""

import functools
import importlib
import json
import os
import signal
import sys
import traceback
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from types import FrameType, ModuleType
from typing import Any

from starlette.applications import Starlette

from relay import settings
from relay.cli import main
from relay.core import watch
from relay.node import Node
from relay.store import sqlite
from relay.store.driver import sqlite3

LOG = "relay.log"
# What a relay imports late, loaded before the forks.
LATE = ("relay.cli.serve", "uvicorn.lifespan.on", "uvicorn.protocols.http.httptools_impl", "uvloop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is different from the real relay.

    `kill_at`: the process dies at this step of its writing connection: before each statement, and right after each
    commit. `pragmas` are set after those of the store. `broken` names a defect of `Watched`. `impatient` is a relay
    whose waits for the upstream are a tenth and less of what they are.
    """

    kill_at: int | None = None
    pragmas: tuple[str, ...] = ()
    broken: str | None = None
    impatient: bool = False

    def as_json(self) -> str:
        return json.dumps(asdict(self))


class Watched(sqlite3.Connection):
    """The writing connection: counts its steps, dies at one of them, and has one of these defects:

    `late_commit`   callbacks are answered before their COMMIT, which comes with the next statement
    `deaf`          a COMMIT that fails is taken for one that worked
    """

    plan = Plan()
    _steps = 0
    _holds_callback = False
    _owes_commit = False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        self._step()
        if self._owes_commit:
            self._owes_commit = False
            super().execute("COMMIT")
        self._holds_callback |= sql.startswith("INSERT INTO callbacks")
        if sql == "COMMIT" and self._holds_callback and self.plan.broken == "late_commit":
            self._holds_callback, self._owes_commit = False, True
            return self.cursor()
        try:
            found = super().execute(sql, *values)
        except sqlite3.OperationalError:
            if sql != "COMMIT" or self.plan.broken != "deaf":
                raise
            if self.in_transaction:
                super().execute("ROLLBACK")
            return self.cursor()
        if sql == "COMMIT":
            self._step()
        return found

    def executescript(self, script: str) -> sqlite3.Cursor:
        self._step()
        found = super().executescript(script)
        self._step()
        return found

    def _step(self) -> None:
        self._steps += 1
        if self._steps == self.plan.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def serve(plan: Plan) -> None:
    """`relay serve` under `plan`."""
    _watch(plan)
    if plan.impatient:
        _hurry()
    sys.argv = ["relay", "serve"]
    main.main()


def _watch(plan: Plan) -> None:
    Watched.plan = plan
    seen = ModuleType("sqlite3")
    vars(seen).update(vars(sqlite3), connect=functools.partial(sqlite3.connect, factory=Watched))
    begin, prepare = sqlite.WritingFile.__init__, sqlite.WritingFile._prepare

    def begun(file: sqlite.WritingFile, *values: Any, **more: Any) -> None:
        _replace(sqlite, sqlite3=seen)  # for this connection alone, not for the readers'
        try:
            begin(file, *values, **more)
        finally:
            _replace(sqlite, sqlite3=sqlite3)

    def prepared(file: sqlite.WritingFile, *values: Any) -> None:
        prepare(file, *values)
        for pragma in plan.pragmas:
            file._sql.execute(f"PRAGMA {pragma}")

    _replace(sqlite.WritingFile, __init__=begun, _prepare=prepared)


def _hurry() -> None:
    _replace(watch, ASK_EVERY_MS=300, LATE_MS=300)
    _replace(watch, HINT_STEPS_MS=(0, 50, 100, 200, 300), LOOK_STEPS_MS=(50, 100, 200, 200, 200), LOOK_EVERY_MS=300)
    load = settings.load
    _replace(settings, load=lambda: load().model_copy(update={"in_doubt_after": 2}))


def nursery() -> None:
    """Fork a relay for each line of stdin, one at a time: {"begun": pid}, {"ready": pid}, {"ended": pid, "code"}."""
    living: set[int] = set()
    for name in LATE:
        importlib.import_module(name)

    def reap(number: int, frame: FrameType | None) -> None:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            living.discard(pid)
            say(1, ended=pid, code=os.waitstatus_to_exitcode(status))

    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        order = json.loads(line)
        # Its end must not be heard of before its beginning.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            be_relay(**order)
        living.add(pid)
        say(1, begun=pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def say(to: int, **what: int) -> None:
    os.write(to, json.dumps(what).encode() + b"\n")


def be_relay(folder: str, environment: dict[str, str], plan: dict[str, Any]) -> None:
    """The child: a relay in `folder`, with a log of its own there, that says when it is ready."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        to = os.dup(1)
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _announce(to)
        serve(_plan(plan))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _announce(to: int) -> None:
    start = Node._start

    async def started(node: Node, app: Starlette, stack: AsyncExitStack) -> None:
        await start(node, app, stack)
        say(to, ready=os.getpid())

    _replace(Node, _start=started)


def _replace(where: object, **what: object) -> None:
    for name, value in what.items():
        setattr(where, name, value)


def _plan(values: dict[str, Any]) -> Plan:
    return Plan(**values | {"pragmas": tuple(values.get("pragmas", ()))})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(_plan(json.loads(sys.argv[1])))
    else:
        nursery()
