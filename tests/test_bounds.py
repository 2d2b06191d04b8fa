"""The table of bounds in `deploy/README.md` says what is in the code, and names tests that there are."""

import importlib
import re
from collections.abc import Iterator

import pytest

from tests.test_documents import OPERATING, ROOT

TABLE = OPERATING.partition("\n## Bounds\n")[2].partition("\n## ")[0]
ROWS = [[cell.strip() for cell in line.split("|")[1:5]] for line in TABLE.splitlines() if line.startswith("| ")][1:]
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def spellings(name: str, value: float) -> Iterator[str]:
    """How the value of a constant may be said in a sentence."""
    yield f"{value:,g}" if value < 1_000_000 else f"{value:,.0f}"
    if name.endswith("_S"):
        yield f"{value:g} s"
    if "BYTES" in name:
        yield from (f"{value / unit:g} {of}" for unit, of in ((1024, "KiB"), (2**20, "MiB"), (2**30, "GiB")))


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_bound_is_as_the_code_has_it_and_a_test_shows_it(row: list[str]) -> None:
    _, said, constants, shown = row
    for path in re.findall(r"`([\w.]+)`", constants):
        module, _, name = path.rpartition(".")
        value = getattr(importlib.import_module(f"relay.{module}"), name)
        assert any(re.search(rf"(?<![\d,.]){re.escape(text)}(?![\d,.]*\d)", said) for text in spellings(name, value)), (
            path
        )
    assert NAMED.search(shown), "no test shows it"


def test_every_test_that_the_table_names_is_there() -> None:
    named = NAMED.findall(TABLE)
    missing = [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / "tests" / file).read_text("utf-8")
    ]

    assert len(named) >= len(ROWS) > 25
    assert missing == []
