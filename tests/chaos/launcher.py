"""`relay serve`, impatient as in the crash tests, and with leases of seconds: who is gone is taken for gone soon.

    python -m tests.chaos.launcher [DEFECT]

Each defect is one that several relays on one database may have, to show that the chaos run finds it.
"""

import sys
from collections.abc import Callable
from typing import Any, Final

from relay import crew
from relay.core.receiving import CallbackReceived
from relay.errors import Unavailable
from relay.net import upstream, webhook
from relay.store import postgres
from relay.work import deliverer, submitter
from tests.crash.launcher import Plan, serve

CREATE_S, SEND_S, LEASE_S, LEFT_S = 3.0, 3.0, 6.0, 4.0


def hurry() -> None:
    """Each lease stays longer than what it is for."""
    _put(upstream, CREATE_DEADLINE_S=CREATE_S)
    _put(crew, SENDING_LEASE_S=LEASE_S)
    _put(submitter, BEGUN_MS=int((LEASE_S - LEFT_S) * 1000), LOOK_AGAIN_MS=1_000)
    _put(deliverer, LEASE_MS=int(LEASE_S * 1000), LEFT_MS=int(LEFT_S * 1000), LOOK_AGAIN_MS=1_000)
    defaults = webhook.WebhookSender.__init__.__kwdefaults__
    assert defaults is not None and "deadline_s" in defaults  # noqa: PT018
    defaults["deadline_s"] = SEND_S


def careless() -> None:
    """A callback that cannot be written is acknowledged all the same."""
    apply = postgres.PostgresStore.apply

    async def acknowledged(store: postgres.PostgresStore, happening: Any) -> Any:
        try:
            return await apply(store, happening)
        except Unavailable:
            if isinstance(happening, CallbackReceived):
                return "stored"
            raise

    _put(postgres.PostgresStore, apply=acknowledged)


DEFECTS: Final[dict[str, Callable[[], None]]] = {made.__name__: made for made in (careless,)}


def _put(where: object, **what: object) -> None:
    for name, value in what.items():
        assert hasattr(where, name), f"{where} has no {name} any more"
        setattr(where, name, value)


if __name__ == "__main__":
    hurry()
    for chosen in sys.argv[1:]:
        DEFECTS[chosen]()
    serve(Plan(impatient=True))
