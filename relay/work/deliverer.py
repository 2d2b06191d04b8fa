"""Sends what is owed to subscribers: claimed first, signed anew each time, its outcome written before the next."""

import asyncio
from collections import Counter
from typing import Any, Final

from relay.clock import Clock
from relay.core import event as events
from relay.core.delivering import DeliveryAttempted, DeliveryClaimed, DeliveryReleased
from relay.core.delivery import Delivery, Subscription
from relay.core.dropin import task_view
from relay.core.job import NO_OUTLOOK, Address
from relay.core.retry import Answer
from relay.core.signature import sign, sign_v1a
from relay.errors import RelayError
from relay.feed import Feed
from relay.store.contract import Store
from relay.vault import WEBHOOK_KEY, Vault, jitter
from relay.work.loop import Worker
from relay.work.ports import Sender

AT_ONCE: Final = 128
AT_ONCE_EACH: Final = 8
# Longer than any attempt: whoever holds a claim for so long is gone.
LEASE_MS: Final = 60_000
RELEASED_AT_ONCE: Final = 500


class Deliverer(Worker):
    """At most `AT_ONCE_EACH` deliveries of one subscription are under way, so that no subscriber takes all places."""

    name = "deliverer"

    def __init__(self, store: Store, feed: Feed, clock: Clock, sender: Sender, vault: Vault, address: Address) -> None:
        super().__init__(store, feed, clock)
        self._sender = sender
        self._vault = vault
        self._address = address
        self._flying: Counter[str] = Counter()

    async def recover(self) -> int:
        """At start: what somebody was sending when the relay was killed is due again. How many there were."""
        return await self._release(None)

    async def step(self) -> int | None:
        await self._release(self._clock.now_ms())
        while (room := AT_ONCE - self._flying.total()) > 0:
            full = [subscription for subscription, flying in self._flying.items() if flying >= AT_ONCE_EACH]
            due = await self._store.deliveries_due(self._clock.now_ms(), AT_ONCE_EACH, full, room)
            due = self._fitting(due)
            if not due:
                break
            claims = [
                DeliveryClaimed(delivery.id, self._clock.now_ms() + LEASE_MS, self._clock.now_ms()) for delivery in due
            ]
            for claimed in await asyncio.gather(*(self._store.apply(claim) for claim in claims)):
                if claimed is not None:
                    self._flying[claimed.subscription_id] += 1
                    self.spawn(self._deliver(claimed))
        full = [subscription for subscription, flying in self._flying.items() if flying >= AT_ONCE_EACH]
        return await self._store.next_due_ms(full) if room > 0 else None

    def _fitting(self, due: list[Delivery]) -> list[Delivery]:
        taken = Counter(self._flying)
        fitting = []
        for delivery in due:
            taken[delivery.subscription_id] += 1
            if taken[delivery.subscription_id] <= AT_ONCE_EACH:
                fitting.append(delivery)
        return fitting

    async def _release(self, lease_before_ms: int | None) -> int:
        stuck = await self._store.deliveries_sending(lease_before_ms, RELEASED_AT_ONCE)
        now_ms = self._clock.now_ms()
        released = (DeliveryReleased(one.id, now_ms, lease_ended=lease_before_ms is not None) for one in stuck)
        return sum(await asyncio.gather(*(self._store.apply(one) for one in released)))

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            subscription = await self._store.subscription(delivery.subscription_id)
            event = await self._store.event(delivery.event_seq)
            if subscription is None or event is None:
                return  # removed meanwhile; the lease ends, and the removal has closed the delivery
            answer = await self._attempt(subscription, event)
            attempted = DeliveryAttempted(delivery.id, answer, jitter(), self._clock.now_ms())
            after = await self.surely(attempted)
            self._log.info(
                "delivery.attempted",
                delivery=delivery.id,
                job=delivery.job_id,
                state=after.state if after else None,
                answer=answer.kind,
                status=answer.status,
                took_ms=answer.took_ms,
            )
        finally:
            self._flying[delivery.subscription_id] -= 1
            if self._flying[delivery.subscription_id] <= 0:
                del self._flying[delivery.subscription_id]

    async def _attempt(self, subscription: Subscription, event: events.Event) -> Answer:
        now_ms = self._clock.now_ms()
        try:
            url, keys = self._opened(subscription, now_ms)
        except RelayError as error:
            # A failed attempt like any other, for everybody to see: with the right key the next one succeeds.
            return Answer("target_refused", None, None, f"the subscription cannot be opened: {error.message}", "", 0)
        timestamp_s = now_ms // 1000
        if subscription.format == "task":
            body = events.encode(await self._flat_task(event, url, now_ms))
            # Its client has no secret of ours: whoever wants to verify has the public key.
            signature = sign_v1a([self._vault.ed25519_seed(WEBHOOK_KEY)], event.id, timestamp_s, body)
        else:
            body = events.encode(events.render(event, self._address))
            signature = sign(keys, event.id, timestamp_s, body)
        headers = {
            "content-type": "application/json",
            "webhook-id": event.id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": signature,
        }
        return await self._sender.send(url, headers, body)

    async def _flat_task(self, event: events.Event, url: str, now_ms: int) -> dict[str, Any]:
        """The upstream's flat task, as the client would have got it from the upstream."""
        job = await self._store.job(event.job_id or "")
        return task_view(job, self._address, NO_OUTLOOK, url, now_ms) if job else {}

    def _opened(self, subscription: Subscription, now_ms: int) -> tuple[str, list[str]]:
        """The address, and the secrets that are still good."""
        url = self._vault.open(subscription.url_sealed, "subscription-url").decode()
        keys = [
            self._vault.open(secret["sealed"], "webhook-secret").decode()
            for secret in subscription.secrets
            if secret["expiresAtMs"] is None or secret["expiresAtMs"] > now_ms
        ]
        return url, keys
