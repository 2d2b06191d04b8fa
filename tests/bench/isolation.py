"""What endpoints that accept and never answer do to all others: their latency with and without such, in one run.

    python -m tests.bench.isolation [--seconds 20] [--rate 100] [--endpoints 100]

Store, deliverer and sender are the relay's own, the endpoints loopback addresses. So many events a second come, owed to
one endpoint after the other; a tenth of these hangs in the second round. Measured is the time from the moment
before an event is committed to its arrival, at the endpoints that are well in both rounds.
"""

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from relay.clock import SystemClock
from relay.core.delivering import SubscriptionSaved
from relay.core.delivery import SECRET_SEAL, URL_SEAL
from relay.core.target import parse_allow
from relay.feed import Feed
from relay.net.webhook import WebhookSender
from relay.store.sqlite import SqliteStore, open_store
from relay.vault import Vault, new_hex, new_webhook_secret
from relay.work.deliverer import Deliverer
from tests.core.builders import subscription
from tests.store.serving import queued

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
WORSE_AT_MOST = 0.2
UNBOUNDED = {"queue_per_token": 10**6, "queue_max": 10**6}


@dataclass
class Endpoints:
    """Receivers on loopback addresses; those that hang take a request and say nothing."""

    hanging: set[str] = field(default_factory=set)
    arrived_s: dict[str, float] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
                if host in self.hanging:
                    await reader.read()
                    return
                self.arrived_s[head.partition("webhook-id: ")[2].partition("\r\n")[0]] = time.monotonic()
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def subscribe(store: SqliteStore, vault: Vault, hosts: list[str], port: int) -> None:
    """Each endpoint is told of the jobs of its own reference."""
    for host in hosts:
        secret = {"sealed": vault.seal(new_webhook_secret(), SECRET_SEAL), "expiresAtMs": None}
        url = vault.seal(f"http://{host}:{port}/hook", URL_SEAL)
        made = subscription(host, url_sealed=url, secrets=[secret], types=["job.queued"], reply_ref=host)
        await store.apply(SubscriptionSaved(made))


async def round_of(hosts: list[str], hanging: set[str], rate: float, seconds: float) -> list[float]:
    """The latencies of all deliveries to the endpoints that never hang."""
    endpoints, clock, feed, vault = Endpoints(hanging), SystemClock(), Feed(), Vault(b"k" * 32)
    server = await asyncio.start_server(endpoints.serve, "0.0.0.0", 0)  # noqa: S104 # all of 127/8
    port = server.sockets[0].getsockname()[1]
    sender = WebhookSender(parse_allow([f"{host}:{port}" for host in hosts]), clock=clock)
    with tempfile.TemporaryDirectory() as folder:
        store = await open_store(Path(folder) / "relay.db", new_hex=new_hex, committed=feed.committed)
        await subscribe(store, vault, hosts, port)
        deliverer = Deliverer(store, feed, clock, sender, vault, lambda artifact, name: "")
        deliverer.start()
        began_s, sent_s, places = time.monotonic(), {}, len(hosts)
        for number in count():
            due_s = began_s + number / rate
            if due_s > began_s + seconds:
                break
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            host, at_s = hosts[number * 7 % places], time.monotonic()
            await store.apply(queued(f"job-{number}", reply_ref=host, **UNBOUNDED))
            if host not in hosts[: places // 10]:
                sent_s[f"{store.epoch}-{number + 1}"] = at_s
        async with asyncio.timeout(30):
            while not sent_s.keys() <= endpoints.arrived_s.keys():  # noqa: ASYNC110 # nothing tells of it
                await asyncio.sleep(0.01)
        await sender.aclose()
        await deliverer.stop()
        await store.close()
    server.close()
    return sorted(endpoints.arrived_s[name] - at_s for name, at_s in sent_s.items())


def percentile_ms(ordered_s: list[float], share: float) -> float:
    return ordered_s[min(len(ordered_s) - 1, int(len(ordered_s) * share))] * 1_000


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--endpoints", type=int, default=100)
    given = parser.parse_args()
    hosts = [f"127.1.{n // 200}.{n % 200 + 1}" for n in range(given.endpoints)]
    await round_of(hosts, set(), given.rate, 3.0)
    p99s = {}
    for name, hanging in (("all answer", set()), ("a tenth hangs", set(hosts[: len(hosts) // 10]))):
        found = await round_of(hosts, hanging, given.rate, given.seconds)
        p99s[name] = percentile_ms(found, 0.99)
        print(
            f"{name:14} {len(found)} deliveries, p50 {percentile_ms(found, 0.5):.1f} ms, p99 {p99s[name]:.1f} ms, "
            f"max {percentile_ms(found, 1.0):.1f} ms",
            flush=True,
        )
    worse = p99s["a tenth hangs"] / p99s["all answer"] - 1
    print(
        f"p99 {'worse' if worse > 0 else 'better'} by {abs(worse):.0%}; at most {WORSE_AT_MOST:.0%} worse is the goal"
    )


if __name__ == "__main__":
    asyncio.run(main())
