"""A range of whole numbers, both ends included."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """From `first` to `last`; the unit is that of whatever holds it."""

    first: int
    last: int

    def __contains__(self, value: object) -> bool:
        """True for whole numbers only: 5.5 lies in no span, and True is no number."""
        return isinstance(value, int) and not isinstance(value, bool) and self.first <= value <= self.last

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"

    @property
    def middle(self) -> float:
        return (self.first + self.last) / 2

    def as_json(self) -> dict[str, int]:
        return {"from": self.first, "to": self.last}
