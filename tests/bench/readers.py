"""Thousands of readers of one hub in one thread, as cheap as Python allows: they count frames and parse nothing."""

import resource
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

from tests.bench.hubs import MARK, Hub

RECEIVE_BYTES = 256 * 1024
CONNECTING_MAX = 200
PUBLISHERS = 16


@dataclass
class Load:
    """Requests at a steady rate, whatever the answers take; each one's time is counted from when it was due."""

    requests: Iterator[bytes]
    rate: float
    count: int
    began_s: float = field(default_factory=time.monotonic)
    begun: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def next_s(self) -> float:
        return self.began_s + self.begun / self.rate

    @property
    def done(self) -> bool:
        return len(self.latencies_s) >= self.count


class Crowd:
    """`frames` is how many have come to all readers together, `last_s` when the last one did.

    `pace_s`: how long it sleeps between two looks at its sockets. None is until something comes, and then each frame
    wakes it, at the expense of the server that sends it, as no reader on another machine would. 0 is never.
    """

    def __init__(self, hub: Hub) -> None:
        self.frames = 0
        self.last_s = 0.0
        self.pace_s: float | None = None
        self._hub = hub
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._heads: dict[int, bytes] = {}
        self._busy: dict[int, tuple[float, bytes, bytes]] = {}
        self._free: deque[int] = deque()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        for _ in range(PUBLISHERS):
            self._free.append(self._connect())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *of: object) -> None:
        for made in self._sockets.values():
            made.close()
        self._epoll.close()

    @property
    def readers(self) -> int:
        return len(self._sockets) - PUBLISHERS

    def _connect(self) -> int:
        made = socket.create_connection(("127.0.0.1", self._hub.port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        self._sockets[made.fileno()] = made
        self._epoll.register(made.fileno(), select.EPOLLIN)
        return made.fileno()

    def open(self, requests: list[bytes]) -> None:
        """Connect a reader for each request, and return when all have got their heads."""
        for begin in range(0, len(requests), CONNECTING_MAX):
            for sent in requests[begin : begin + CONNECTING_MAX]:
                number = self._connect()
                self._heads[number] = b""
                self._sockets[number].sendall(sent)
            self.pump(lambda: not self._heads)

    def pump(self, done: Callable[[], bool], load: Load | None = None, limit_s: float = 120.0) -> None:
        """Take what comes, and send what is due, until `done`; as `pace_s` says."""
        mark, frames, ends_s = MARK.encode(), 0, time.monotonic() + limit_s
        sockets, busy = self._sockets, self._busy
        while not done():
            now_s, wait_s = time.monotonic(), 0.05
            assert now_s < ends_s, f"{self._hub.name}: {self.frames} frames, and no more came"
            if load is not None and load.begun < load.count:
                while load.begun < load.count and load.next_s <= now_s and self._free:
                    number = self._free.popleft()
                    self._publish(number, load.next_s, next(load.requests))
                    load.begun += 1
                wait_s = min(wait_s, max(0.0, load.next_s - now_s))
            if self.pace_s:
                time.sleep(min(wait_s, self.pace_s))
            for number, _ in self._epoll.poll(0 if self.pace_s is not None else wait_s, 4096):
                try:
                    data = sockets[number].recv(RECEIVE_BYTES)
                except ConnectionResetError:
                    data = b""
                if not data:
                    self._again(number)
                    continue
                if number in busy:
                    self._answered(number, data, load)
                    continue
                if number in self._heads:
                    self._head(number, data)
                frames = data.count(mark)
                if frames:
                    self.frames += frames
                    self.last_s = time.monotonic()

    def _publish(self, number: int, due_s: float, request: bytes) -> None:
        self._busy[number] = due_s, request, b""
        self._sockets[number].sendall(request)

    def _again(self, number: int) -> None:
        """Servers end connections that nobody uses, perhaps at the moment when somebody begins to."""
        assert number in self._free or number in self._busy, f"{self._hub.name} has ended a stream"
        self._sockets.pop(number).close()
        if number in self._busy:
            due_s, request, _ = self._busy.pop(number)
            self._publish(self._connect(), due_s, request)
        else:
            self._free.remove(number)
            self._free.append(self._connect())

    def _head(self, number: int, data: bytes) -> None:
        self._heads[number] += data
        if b"\r\n\r\n" in self._heads[number]:
            assert self._heads[number].startswith(b"HTTP/1.1 200"), self._heads[number][:300]
            del self._heads[number]

    def _answered(self, number: int, data: bytes, load: Load | None) -> None:
        due_s, request, before = self._busy[number]
        head, end, body = (before + data).partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not end or len(body) < int(length or 0):
            self._busy[number] = due_s, request, before + data
            return
        assert head.startswith(b"HTTP/1.1 2"), head
        del self._busy[number]
        self._free.append(number)
        if load is not None:
            load.latencies_s.append(time.monotonic() - due_s)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
