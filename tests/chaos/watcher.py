"""A subscriber that takes its time, and sees what comes to it at once, out of order or more than once."""

import asyncio
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tests.bench.replicas import Subscriber


@dataclass
class Watcher(Subscriber):
    """While `open` is clear it takes what comes and answers nothing; `took_s` is what it takes for each."""

    took_s: float = 0.0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: Counter[str] = field(default_factory=Counter)
    # By path: how many came at once at most. By path and job: the numbers of the events, as they came first.
    most: Counter[str] = field(default_factory=Counter)
    order: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    # Jobs of which two events were under way to one path.
    overlapping: set[str] = field(default_factory=set)

    async def take(self, path: bytes, event: bytes, body: bytes) -> None:
        to, job = path.decode(), json.loads(body)["data"]["job"]["id"]
        seq, lane = int(event.decode().rpartition("-")[2]), f"{to} {job}"
        if self.under_way[lane]:
            self.overlapping.add(lane)
        if seq not in self.order[lane]:
            self.order[lane].append(seq)
        both = Counter((to, lane))
        self.under_way += both
        self.most[to] = max(self.most[to], self.under_way[to])
        try:
            await self.open.wait()
            await asyncio.sleep(self.took_s)
            await super().take(path, event, body)
        finally:
            self.under_way -= both

    @property
    def wrong(self) -> list[str]:
        """In words, what no subscriber may see, however many relays send and whatever becomes of them."""
        back = [lane for lane, seqs in self.order.items() if seqs != sorted(seqs)]
        return [
            *(f"{most} came to {path} at once" for path, most in self.most.items() if most > 8),
            *(f"two at once of {lane}" for lane in self.overlapping),
            *(f"out of order: {lane}" for lane in back),
        ]

    async def until_under_way(self, path: str, count: int) -> None:
        async with asyncio.timeout(30):
            while self.under_way[path] < count:  # noqa: ASYNC110 - it is told of nothing else
                await asyncio.sleep(0.005)
