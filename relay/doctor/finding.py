"""One thing that the doctor looked at: how it is, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "failure", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, a sentence, and what to do about it where something is to be done."""

    name: str
    verdict: Verdict
    sentence: str
    remedy: str | None = None
