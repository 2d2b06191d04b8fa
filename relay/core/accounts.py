"""Happenings on the upstream's accounts: which there are, and how many tasks each may run."""

from dataclasses import dataclass, replace

from relay.core.dispatch import PARKED_MS, Account
from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs


@dataclass(frozen=True, slots=True)
class SeenAccount:
    """One account as the upstream or the settings name it; `error` says that the upstream calls it broken."""

    email: str
    slots: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AccountsListed(Happening[tuple[Account, ...]]):
    """The whole list of accounts was read. Those that are no longer in it get no more jobs (no slots)."""

    seen: tuple[SeenAccount, ...]
    at_ms: int

    def needs(self) -> Needs:
        return Needs(accounts=True)

    def decide(self, loaded: Loaded) -> Changes[tuple[Account, ...]]:
        draft = Draft(loaded)
        known = {account.email: account for account in loaded.accounts}
        now = []
        for seen in self.seen:
            before = known.pop(seen.email, None) or Account(email=seen.email, slots=seen.slots)
            after = replace(before, slots=seen.slots, updated_at_ms=self.at_ms)
            if seen.error:
                after = replace(after, parked="broken", reason=seen.error, retry_at_ms=self.at_ms + PARKED_MS)
            draft.put(after)
            now.append(after)
        for gone in known.values():
            draft.put(replace(gone, slots=0, updated_at_ms=self.at_ms))
        return draft.changes(tuple(now))
