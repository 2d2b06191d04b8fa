"""Relays as processes, started again whenever they end, behind a balancer that gives them connections in turn."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.partition import Way, way_to
from tests.journeys import Surroundings
from tests.postgres import Cluster
from tests.whole.processes import environment, free_port

LAUNCHER = (sys.executable, "-m", "tests.chaos.launcher")
AGAIN_S = 0.3
TAKEN_BYTES = 64 * 1024


@dataclass
class Replica:
    """One relay: `process` is its present life."""

    port: int
    log: Path
    way: Way
    process: asyncio.subprocess.Process | None = None
    lives: int = 0

    async def keep(self, around: Surroundings, command: tuple[str, ...], settings: dict[str, Any]) -> None:
        """As a supervisor does: whenever it has ended it is started again."""
        env = environment(around, self.port, database_url=self.way.through(around.postgres_url or ""), **settings)
        with self.log.open("ab") as log:
            while True:
                self.lives += 1
                self.process = await asyncio.create_subprocess_exec(*command, cwd=around.folder, env=env, stderr=log)
                try:
                    await self.process.wait()
                except asyncio.CancelledError:
                    self.tell(signal.SIGCONT)
                    self.tell(signal.SIGTERM)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.process.wait(), 10)
                    self.tell(signal.SIGKILL)
                    await self.process.wait()
                    raise
                await asyncio.sleep(AGAIN_S)

    def tell(self, what: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(what)


@dataclass
class Balancer:
    """Passes each connection to the next relay that takes it."""

    replicas: list[Replica]
    port: int
    _turn: int = 0
    _open: set[asyncio.Task[Any]] = field(default_factory=set)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        try:
            yield
        finally:
            server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            for _ in self.replicas:
                self._turn += 1
                replica = self.replicas[self._turn % len(self.replicas)]
                with suppress(OSError):
                    behind = await asyncio.open_connection("127.0.0.1", replica.port)
                    await self._between(reader, writer, *behind)
                    break
        except asyncio.CancelledError:
            pass  # the server would make a line of it in the log
        finally:
            self._open.discard(task)
            writer.transport.abort()

    @staticmethod
    async def _between(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        to: asyncio.StreamWriter,
    ) -> None:
        """Until either side has ended; what the relay sent before its end still arrives."""

        async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(TAKEN_BYTES):
                    sink.write(data)
                    await sink.drain()

        sides = [asyncio.ensure_future(pass_on(reader, to)), asyncio.ensure_future(pass_on(back, writer))]
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            with suppress(OSError):
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), 1)
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)
            to.transport.abort()


@asynccontextmanager
async def fleet(
    around: Surroundings, count: int, server: Cluster, *, defect: str | None = None, **settings: Any
) -> AsyncGenerator[Balancer]:
    """So many relays, and the balancer before them, by whose address the upstream knows them."""
    port = free_port()
    made = {"public_url": f"http://127.0.0.1:{port}", **settings}
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(way_to(server)) for _ in range(count)]
        replicas = [Replica(free_port(), around.folder / f"relay-{n}.log", way) for n, way in enumerate(ways)]
        balancer = Balancer(replicas, port)
        await stack.enter_async_context(balancer.serving())
        command = (*LAUNCHER, *([defect] if defect else []))
        kept = [asyncio.create_task(replica.keep(around, command, made)) for replica in replicas]

        async def end() -> None:
            for task in kept:
                task.cancel()
            await asyncio.gather(*kept, return_exceptions=True)

        stack.push_async_callback(end)
        yield balancer
