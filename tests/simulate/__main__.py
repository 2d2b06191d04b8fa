"""`python -m tests.simulate SEED` plays one schedule; `--count N` plays N, and prints what became of all of them."""

import argparse
import sys
import time
from collections import Counter

from tests.simulate.ledger import Broken
from tests.simulate.schedule import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulate", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--count", type=int, default=1)
    chosen = parser.parse_args()
    began, totals, states, broken = time.monotonic(), Counter[str](), Counter[str](), 0
    for seed in range(chosen.seed, chosen.seed + chosen.count):
        try:
            outcome = run(seed)
        except Broken as error:
            broken += 1
            print(f"seed {seed}: {error}")
            continue
        totals.update(jobs=outcome.jobs, steps=outcome.steps, crashes=outcome.crashes, tasks=outcome.tasks)
        states.update(outcome.states)
    took_s = time.monotonic() - began
    print(f"{chosen.count} schedules in {took_s:.1f} s, {broken} broken: {dict(totals)}, {dict(states)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
