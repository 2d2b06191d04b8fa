"""Named tokens: their limits, and the happenings that make and revoke them."""

from dataclasses import dataclass
from typing import Final

from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs, Token
from relay.core.wording import counted
from relay.errors import Conflict, NotFound, QuotaReached

TOKENS_MAX: Final = 1_000
DAY_MS: Final = 24 * 3_600_000
WAITING_RETRY_AFTER_S: Final = 60
# What else is shown as a job's submitter.
RESERVED_NAMES: Final = frozenset({"admin", "inbox"})


@dataclass(frozen=True, slots=True)
class TokenCreated(Happening[Token]):
    """A new token; `Conflict` when a living one has its name, or when there are as many as are kept."""

    token: Token

    def needs(self) -> Needs:
        return Needs(tokens=True)

    def decide(self, loaded: Loaded) -> Changes[Token]:
        name = self.token.name
        if name in RESERVED_NAMES or any(token.name == name for token in loaded.tokens):
            raise Conflict(f"there is a token of the name {name}; revoke it first, or take another name")
        if len(loaded.tokens) >= TOKENS_MAX:
            raise Conflict(f"there are {TOKENS_MAX} tokens, and no more are kept; revoke one first")
        draft = Draft(loaded)
        draft.put(self.token)
        return draft.changes(self.token, quiet=True)


@dataclass(frozen=True, slots=True)
class TokenRevoked(Happening[None]):
    """A token opens nothing any more. The jobs that it submitted go on; `NotFound` when there is no such token."""

    token_id: str

    def needs(self) -> Needs:
        return Needs(tokens=True)

    def decide(self, loaded: Loaded) -> Changes[None]:
        token = next((token for token in loaded.tokens if token.id == self.token_id), None)
        if token is None:
            raise NotFound(f"there is no token {self.token_id[:80]}")
        draft = Draft(loaded)
        draft.drop(token)
        return draft.changes(None, quiet=True)


def check_quota(token: Token, waiting: int, of_day: int, oldest_ms: int | None, now_ms: int) -> None:
    """`QuotaReached` when a token may submit no more now.

    `waiting` jobs of it wait, and it submitted `of_day` jobs in the last 24 h, the oldest of them at `oldest_ms`.
    """
    if token.max_waiting is not None and waiting >= token.max_waiting:
        raise QuotaReached(
            f"this token has {counted(waiting, 'waiting job')}, and {token.max_waiting} is its limit; "
            "nothing was stored",
            retry_after_s=WAITING_RETRY_AFTER_S,
        )
    if token.max_per_day is not None and of_day >= token.max_per_day:
        frees_ms = min((oldest_ms or now_ms) + DAY_MS, now_ms + DAY_MS)
        raise QuotaReached(
            f"this token has submitted {counted(of_day, 'job')} in 24 hours, and {token.max_per_day} is its limit; "
            "nothing was stored",
            retry_after_s=max(1, -(-(frees_ms - now_ms) // 1000)),
        )
