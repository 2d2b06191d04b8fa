"""Sends what is owed to subscribers: claimed first, signed anew each time, its outcome written before the next."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from relay.clock import Clock
from relay.core import event as events
from relay.core.breaker import AT_ONCE_EACH
from relay.core.delivering import CLAIMS_MAX, DeliveriesClaimed, DeliveryAttempted, DeliveryReleased
from relay.core.delivery import SECRET_SEAL, URL_SEAL, Delivery, Subscription
from relay.core.dropin import task_view
from relay.core.job import NO_OUTLOOK, Address, iso
from relay.core.retry import Answer
from relay.core.signature import sign, sign_v1a
from relay.errors import RelayError
from relay.feed import Feed
from relay.store.contract import Store
from relay.vault import WEBHOOK_KEY, Vault, jitter, new_uuid7
from relay.work.loop import Worker
from relay.work.ports import Sender

# What hangs takes a place and nothing else: there are enough for a tenth of all subscriptions to hang.
AT_ONCE: Final = 512
# Longer than any attempt: whoever holds a claim for so long is gone.
LEASE_MS: Final = 60_000
# Longer than a send: of a claim that has no more left, somebody else may be sending before this one is done.
LEFT_MS: Final = 20_000
LOOK_AGAIN_MS: Final = 10_000
RELEASED_AT_ONCE: Final = 500


class Deliverer(Worker):
    """At most `AT_ONCE` are under way here; how many may go to one place is decided where they are claimed."""

    name = "deliverer"

    def __init__(self, store: Store, feed: Feed, clock: Clock, sender: Sender, vault: Vault, address: Address) -> None:
        super().__init__(store, feed, clock)
        self._sender = sender
        self._vault = vault
        self._address = address

    async def recover(self) -> int:
        """At the start of the only relay: what it was sending when it was killed is due again. How many there were."""
        return await self._release(None)

    async def step(self) -> int | None:
        await self._release(self._clock.now_ms())
        while (room := min(CLAIMS_MAX, AT_ONCE - self.under_way)) > 0:
            due = await self._store.deliveries_due(self._clock.now_ms(), AT_ONCE_EACH, room)
            ids, now_ms = tuple(one.delivery_id for one in due), self._clock.now_ms()
            if not ids or not (claimed := await self._store.apply(DeliveriesClaimed(ids, now_ms + LEASE_MS, now_ms))):
                break
            for delivery, subscription in claimed:
                self.spawn(self._deliver(delivery, subscription))
        next_ms = await self._store.next_due_ms(AT_ONCE_EACH) if room > 0 else None
        if self._store.shared:  # a lease of a relay that is gone may end before, or what another should send be late
            return min(next_ms or 2**62, self._clock.now_ms() + LOOK_AGAIN_MS)
        return next_ms

    async def _release(self, lease_before_ms: int | None) -> int:
        stuck = await self._store.deliveries_sending(lease_before_ms, RELEASED_AT_ONCE)
        now_ms = self._clock.now_ms()
        released = (DeliveryReleased(one.id, now_ms, lease_ended=lease_before_ms is not None) for one in stuck)
        return sum(await asyncio.gather(*(self._store.apply(one) for one in released)))

    async def _deliver(self, delivery: Delivery, subscription: Subscription) -> None:
        event = await self._store.event(delivery.event_seq)
        if event is None:
            return  # removed meanwhile; the lease ends, and the removal has closed the delivery
        body_for = await self._body(subscription, event)
        if self._clock.now_ms() > (delivery.lease_until_ms or 0) - LEFT_MS:
            return  # this relay stood still: the delivery is due again when the lease ends, for whoever claims it then
        answer = await self._post(subscription, event.id, body_for)
        lease_until_ms = (delivery.lease_until_ms or 0) if self._store.shared else 2**62
        attempted = DeliveryAttempted(delivery.id, answer, jitter(), self._clock.now_ms(), lease_until_ms)
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

    async def ping(self, subscription: Subscription) -> tuple[str, Answer]:
        """Send a test event at once, in whatever state the subscription is: its id, and what came back."""
        now_ms = self._clock.now_ms()
        ping_id = f"ping-{new_uuid7(now_ms)}"
        data = {"subscription": subscription.id}
        body = {"id": ping_id, "type": events.PING, "timestamp": iso(now_ms), "data": data}
        return ping_id, await self._post(subscription, ping_id, lambda _: body)

    async def _body(self, subscription: Subscription, event: events.Event) -> Callable[[str], dict[str, Any]]:
        """What makes the body, of the address that it goes to."""
        if subscription.format == "event":
            return lambda _: events.render(event, self._address)
        job = await self._store.job(event.job_id or "")
        now_ms = self._clock.now_ms()

        def flat_task(url: str) -> dict[str, Any]:
            """The upstream's, as the client would have got it; whose replyUrl it was is nobody else's business."""
            own = url if subscription.job_id else None
            return task_view(job, self._address, NO_OUTLOOK, own, now_ms) if job else {}

        return flat_task

    async def _post(self, subscription: Subscription, msg_id: str, body_for: Callable[[str], dict[str, Any]]) -> Answer:
        """One request, signed now with every secret that is still good and with the key that all may know."""
        now_ms = self._clock.now_ms()
        try:
            url, secrets = self._opened(subscription, now_ms)
        except RelayError as error:
            # A failed attempt like any other, for everybody to see: with the right key the next one succeeds.
            return Answer("target_refused", None, None, f"the subscription cannot be opened: {error.message}", "", 0)
        timestamp_s, body = now_ms // 1000, events.encode(body_for(url))
        keys = self._vault.ed25519_seeds(WEBHOOK_KEY)
        signed = (sign(secrets, msg_id, timestamp_s, body), sign_v1a(keys, msg_id, timestamp_s, body))
        headers = {
            "content-type": "application/json",
            "webhook-id": msg_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": " ".join(filter(None, signed)),
        }
        return await self._sender.send(url, headers, body)

    def _opened(self, subscription: Subscription, now_ms: int) -> tuple[str, list[str]]:
        """The address, and the secrets that are still good."""
        url = self._vault.open(subscription.url_sealed, URL_SEAL).decode()
        keys = [
            self._vault.open(secret["sealed"], SECRET_SEAL).decode()
            for secret in subscription.secrets
            if secret["expiresAtMs"] is None or secret["expiresAtMs"] > now_ms
        ]
        return url, keys
