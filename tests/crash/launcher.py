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
from itertools import count
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
SERVER = ("uvicorn.lifespan.on", "uvicorn.protocols.http.httptools_impl", "uvloop")
# What a relay imports late, loaded before the forks.
LATE = ("relay.cli.serve", "relay.store.postgres", *SERVER)
# Of an impatient relay on PostgreSQL.
CREATE_S, SEND_S, LEASE_S, LEFT_S = 3.0, 3.0, 6.0, 4.0


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
    """The writing connection to a file: counts its steps, dies at one of them, and has one of these defects:

    `late_commit`   callbacks are answered before their COMMIT, which comes with the next statement
    `deaf`          a COMMIT that fails is taken for one that worked
    """

    plan = Plan()
    _steps = count(1)
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

    @classmethod
    def _step(cls) -> None:
        if next(cls._steps) == cls.plan.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class WatchedServer:
    """A transaction's connection to PostgreSQL, which counts the same steps."""

    def __init__(self, sql: Any) -> None:
        self._sql = sql

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._sql, name)

        async def stepped(sql: str, *values: Any) -> Any:
            Watched._step()
            found = await call(sql, *values)
            if sql.endswith("COMMIT"):
                Watched._step()
            return found

        return stepped


def serve(plan: Plan) -> None:
    """`relay serve` under `plan`."""
    on_postgres = os.environ["RELAY_DATABASE_URL"].startswith("postgresql:")
    Watched.plan = plan
    (_watch_server if on_postgres else _watch_file)(plan)
    if plan.impatient:
        _hurry()
        if on_postgres:
            _hurry_leases()
    sys.argv = ["relay", "serve"]
    main.main()


def _watch_server(plan: Plan) -> None:
    from relay.store.postgres import PostgresStore

    assert not plan.pragmas
    assert plan.broken is None
    transaction = PostgresStore._transaction

    async def watched(store: PostgresStore, sql: Any, *given: Any) -> Any:
        return await transaction(store, WatchedServer(sql), *given)

    put(PostgresStore, _transaction=watched)


def _watch_file(plan: Plan) -> None:
    seen = ModuleType("sqlite3")
    vars(seen).update(vars(sqlite3), connect=functools.partial(sqlite3.connect, factory=Watched))
    begin, prepare = sqlite.WritingFile.__init__, sqlite.WritingFile._prepare

    def begun(file: sqlite.WritingFile, *values: Any, **more: Any) -> None:
        put(sqlite, sqlite3=seen)  # for this connection alone, not for the readers'
        try:
            begin(file, *values, **more)
        finally:
            put(sqlite, sqlite3=sqlite3)

    def prepared(file: sqlite.WritingFile, *values: Any) -> None:
        prepare(file, *values)
        for pragma in plan.pragmas:
            file._sql.execute(f"PRAGMA {pragma}")

    put(sqlite.WritingFile, __init__=begun, _prepare=prepared)


def _hurry() -> None:
    put(watch, ASK_EVERY_MS=300, LATE_MS=300)
    put(watch, HINT_STEPS_MS=(0, 50, 100, 200, 300), LOOK_STEPS_MS=(50, 100, 200, 200, 200), LOOK_EVERY_MS=300)
    load = settings.load
    put(settings, load=lambda: load().model_copy(update={"in_doubt_after": 2}))


def _hurry_leases() -> None:
    """On PostgreSQL nobody knows who was killed: what a relay had begun is taken up when its lease has ended.

    Each lease stays longer than what it is for.
    """
    from relay import crew
    from relay.net import upstream, webhook
    from relay.work import deliverer, submitter

    put(upstream, CREATE_DEADLINE_S=CREATE_S)
    put(crew, SENDING_LEASE_S=LEASE_S)
    put(submitter, BEGUN_MS=int((LEASE_S - LEFT_S) * 1000), LOOK_AGAIN_MS=1_000)
    put(deliverer, LEASE_MS=int(LEASE_S * 1000), LEFT_MS=int(LEFT_S * 1000), LOOK_AGAIN_MS=1_000)
    defaults = webhook.WebhookSender.__init__.__kwdefaults__
    assert defaults is not None and "deadline_s" in defaults  # noqa: PT018
    defaults["deadline_s"] = SEND_S


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

    put(Node, _start=started)


def put(where: object, **what: object) -> None:
    """Change what is there."""
    for name, value in what.items():
        assert hasattr(where, name), f"{where} has no {name} any more"
        setattr(where, name, value)


def _plan(values: dict[str, Any]) -> Plan:
    return Plan(**values | {"pragmas": tuple(values.get("pragmas", ()))})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(_plan(json.loads(sys.argv[1])))
    else:
        nursery()
