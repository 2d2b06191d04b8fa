"""All checks, in the order in which they are shown."""

from typing import Final

from tests.conformance import access_checks, place_checks, time_checks, wire_checks
from tests.conformance.target import CHECKS, Check

ALL: Final[tuple[Check, ...]] = tuple(CHECKS)
PARTS: Final = (wire_checks, place_checks, access_checks, time_checks)
