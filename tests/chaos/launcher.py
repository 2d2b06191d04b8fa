"""`relay serve`, impatient as in the crash tests.

    python -m tests.chaos.launcher [DEFECT]

Each defect is one that several relays on one database may have, to show that the chaos run finds it.
"""

import sys
from collections.abc import Callable
from typing import Any, Final

from relay.core.receiving import CallbackReceived
from relay.errors import Unavailable
from relay.store import postgres, reads
from tests.crash.launcher import Plan, put, serve

SILENT_S, IDLE_S, LATE_MS = 3.0, 4, 1_500


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

    put(postgres.PostgresStore, apply=acknowledged)


DEFECTS: Final[dict[str, Callable[[], None]]] = {made.__name__: made for made in (careless,)}


if __name__ == "__main__":
    put(postgres, SILENT_S=SILENT_S, IDLE_S=IDLE_S)
    put(reads, LATE_MS=LATE_MS)
    for chosen in sys.argv[1:]:
        DEFECTS[chosen]()
    serve(Plan(impatient=True))
