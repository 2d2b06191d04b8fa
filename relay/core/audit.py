"""The audit: who changed what, written in the very transaction of the change, so that neither is there alone."""

from dataclasses import dataclass, replace

from relay.core.ledger import Changes, Deed, Happening, Loaded, Needs, R


@dataclass(frozen=True, slots=True)
class Audited(Happening[R]):
    """A happening that somebody asked for, with the line about it; what changes nothing leaves none."""

    happening: Happening[R]
    deed: Deed

    def needs(self) -> Needs:
        return self.happening.needs()

    def decide(self, loaded: Loaded) -> Changes[R]:
        changes = self.happening.decide(loaded)
        if not changes.puts and not changes.drops:
            return changes
        return replace(changes, puts=(*changes.puts, self.deed))


@dataclass(frozen=True, slots=True)
class Noted(Happening[None]):
    """The line alone: of what changes nothing by itself, before it is done."""

    deed: Deed

    def needs(self) -> Needs:
        return Needs()

    def decide(self, loaded: Loaded) -> Changes[None]:
        return Changes(None, (self.deed,), quiet=True)
