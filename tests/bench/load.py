"""A load of HTTP/1.1 POSTs over kept connections, as cheap as Python allows, every answer checked."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Result:
    """What a run of load saw; `acknowledged` holds the index of every request that was answered 200."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)
    refused: int = 0

    @property
    def rate(self) -> float:
        return len(self.acknowledged) / self.seconds

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0.0


async def run(port: int, requests: Iterator[tuple[int, bytes]], connections: int, seconds: float) -> Result:
    """Send `requests` (index, whole request) over so many connections for so long; each waits for its answer."""
    result, ends_s = Result(), time.monotonic() + seconds
    began_s = time.monotonic()
    await asyncio.gather(*(_connection(port, requests, result, ends_s) for _ in range(connections)))
    result.seconds = time.monotonic() - began_s
    return result


async def _connection(port: int, requests: Iterator[tuple[int, bytes]], result: Result, ends_s: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while time.monotonic() < ends_s:
            index, request = next(requests, (-1, b""))
            if index < 0:
                return
            began_s = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            result.latencies_s.append(time.monotonic() - began_s)
            if head.startswith(b"HTTP/1.1 200"):
                result.acknowledged.append(index)
            else:
                result.refused += 1
    finally:
        writer.close()
