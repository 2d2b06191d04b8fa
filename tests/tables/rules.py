"""Prints a table of models and rules: how many requests on both sides of the rule were tried, accepted, refused.

    python -m tests.tables.rules

The requests and their verdicts come from the transcription of the upstream's page (tests/samples), the answers from the
native door in the strict mode. "—": the rule does not apply to the model. Exit status 1, and the requests, where an
answer is not the page's verdict.
"""

import json
import sys
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from relay.core.catalogue import BUILT_IN, Catalogue, parse
from relay.core.request import check
from tests.samples.judge import Judge
from tests.samples.page import Page
from tests.samples.probes import RULES, probes

COLUMNS = 6
MISTAKES_SHOWN = 20


@dataclass(slots=True)
class Cell:
    """One model and one rule; `mistakes` are requests whose answer is not the page's verdict."""

    accepted: int = 0
    refused: int = 0
    mistakes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        tried = self.accepted + self.refused
        return f"{tried}/{self.accepted}/{self.refused}" if tried else "—"


def built_in() -> Catalogue:
    return parse(resources.files("relay.core").joinpath(BUILT_IN).read_text("utf-8"))


def tried(judge: Judge, catalogue: Catalogue, model: str, rule: str) -> Cell:
    """Send every probe of `rule` to `model`."""
    cell = Cell()
    for request in probes(judge, model, rule):
        answer, broken = check(request, catalogue, door="native"), judge.broken(request)
        if answer.refused:
            cell.refused += 1
        else:
            cell.accepted += 1
        if answer.refused != bool(broken):
            said = [problem.message for problem in answer.problems]
            cell.mistakes.append(f"{_short(request)}: page {sorted(broken)}, relay {said}")
    return cell


def table(judge: Judge, catalogue: Catalogue) -> dict[str, dict[str, Cell]]:
    """Rule → model → cell."""
    return {rule: {model: tried(judge, catalogue, model, rule) for model in judge.page.models} for rule in RULES}


def printed(cells: dict[str, dict[str, Cell]], models: list[str]) -> str:
    """The table in blocks of a few rules, so that a line fits a terminal."""
    rules, lines = list(cells), []
    for start in range(0, len(rules), COLUMNS):
        block = rules[start : start + COLUMNS]
        lines.append(f"{'':24}" + "".join(f"{rule:>16}" for rule in block))
        lines += [f"{model:24}" + "".join(f"{cells[rule][model]!s:>16}" for rule in block) for model in models]
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    judge = Judge(Page())
    cells = table(judge, built_in())
    print("model by rule: requests tried/accepted/refused; — the rule does not apply\n")
    print(printed(cells, judge.page.models))
    every = [cell for row in cells.values() for cell in row.values()]
    mistakes = [mistake for cell in every for mistake in cell.mistakes]
    accepted, refused = sum(cell.accepted for cell in every), sum(cell.refused for cell in every)
    print(f"{len(judge.page.models)} models, {len(RULES)} rules: {accepted + refused} requests tried,")
    print(f"{accepted} accepted, {refused} refused, {len(mistakes)} not as the page says")
    for mistake in mistakes[:MISTAKES_SHOWN]:
        print("  " + mistake)
    return 1 if mistakes else 0


def _short(request: dict[str, Any]) -> str:
    cut = {name: value if not isinstance(value, str) else value[:40] for name, value in request.items()}
    return json.dumps(cut, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
