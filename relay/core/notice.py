"""A happening that only tells the operator of something around the relay."""

from dataclasses import dataclass

from relay.core.ledger import Changes, Draft, Happening, Loaded, Needs


@dataclass(frozen=True, slots=True)
class Noticed(Happening[None]):
    """An operator event, owed to every subscription that wants it; `kind` is one of `event.OPERATOR_TYPES`."""

    kind: str
    subject: str
    reason: str
    at_ms: int

    def needs(self) -> Needs:
        return Needs(subscriptions=True)

    def decide(self, loaded: Loaded) -> Changes[None]:
        draft = Draft(loaded)
        draft.warn(self.kind, self.subject, self.reason, self.at_ms)
        return draft.changes(None, quiet=True)
