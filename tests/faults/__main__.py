"""`python -m tests.faults --cuts 10000 --seed 1`: cut, stall and kill, and print what became of it; exit 1 if anything.

On SQLite, or with `--postgres` on a PostgreSQL of its own.

`--defect NAME` puts a defect into the relay, to see it found: see `tests.faults.launcher`.
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from tests.faults.launcher import DEFECTS
from tests.faults.storm import run
from tests.postgres import cluster


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--cuts", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--defect", choices=sorted(DEFECTS))
    parser.add_argument("--postgres", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, cluster() if given.postgres else nullcontext() as on:
        outcome = asyncio.run(run(Path(folder), cuts=given.cuts, seed=given.seed, defect=given.defect, on=on))
    print(outcome)
    return 1 if outcome.verdict.wrong or outcome.tally.truncated else 0


if __name__ == "__main__":
    sys.exit(main())
