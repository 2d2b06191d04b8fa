"""Asks the two doors, with the built-in catalogue."""

from relay.core.catalogue import parse
from relay.core.request import Checked, Door, Mode, check
from relay.errors import Problem
from tests.samples.mutants import TEXT

CATALOGUE = parse(TEXT)
DOORS: list[Door] = ["native", "dropin"]
MODES: list[Mode] = ["strict", "warn", "off"]


def native(request: object, mode: Mode = "strict") -> Checked:
    return check(request, CATALOGUE, door="native", mode=mode)


def dropin(request: object, mode: Mode = "strict", *, textual: bool = False) -> Checked:
    return check(request, CATALOGUE, door="dropin", mode=mode, textual=textual)


def only_problem(answer: Checked) -> Problem:
    """The problem of a request that has one."""
    (problem,) = answer.problems
    return problem
