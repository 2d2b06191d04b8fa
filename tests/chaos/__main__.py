"""`python -m tests.chaos --minutes 5 --seed 1`: break relays and PostgreSQL, say what came of it; exit 1 if anything.

`--defect NAME` puts a defect into the relays, to see it found: see `tests.chaos.launcher`.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.chaos.launcher import DEFECTS
from tests.chaos.storm import SHORT, Size, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, help="without it the short run that the tests do")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--defect", choices=sorted(DEFECTS))
    given = parser.parse_args()
    size = Size(seconds=given.minutes * 60) if given.minutes else SHORT
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(run(Path(folder), size, given.seed, given.defect))
        if outcome.wrong:
            for log in sorted(Path(folder).glob("relay-*.log")):
                sys.stderr.write(f"--- {log.name}\n{log.read_text()}\n")
    print(outcome)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
