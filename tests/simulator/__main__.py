"""Runs cases drawn at random, and reports each that breaks the law (see run.py); exit code 1 if any does.

python -m tests.simulator [--cases 10000] [--seed 1] [--worst 20]
python -m tests.simulator --case 'Case(sources=(Bursts(), Call()), path=Path(mbit=5.0))'
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time

from tests.simulator.border import table
from tests.simulator.case import parse
from tests.simulator.chance import draw
from tests.simulator.run import Outcome, run


def main() -> int:
    """Run the case given, or many."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first case; the next ones count up")
    parser.add_argument("--worst", type=int, default=20, help="how many of the worst to print")
    parser.add_argument("--case", help="run this one, as a report printed it")
    given = parser.parse_args()
    if given.case:
        outcome = run(parse(given.case))
        print(described(outcome))
        return 1 if outcome.guilty else 0
    return _many(given.cases, given.seed, given.worst)


def described(outcome: Outcome) -> str:
    """Return what became of each class, a line each."""
    lines = [
        f"{name:5} arrived {fate.arrived:6} replayed {fate.replayed:5} (plain {fate.plain_replayed:5})"
        f" queue {fate.queue_dropped:5} path {fate.path_lost:4}{'  WORSE THAN PLAIN' if fate.excess > 0 else ''}"
        for name, fate in outcome.classes.items()
    ]
    lines.append(f"probes {outcome.probes}, of which replayed {outcome.probes_replayed}")
    lines.append(f"dropped for their numbers {outcome.replayed}, suspected {outcome.suspected}")
    return "\n".join(lines)


def drawn(seed: int) -> Outcome:
    """Run the case of a seed."""
    case = draw(random.Random(seed))
    try:
        return run(case)
    except Exception as error:  # whatever the numbering raises would have ended the client: it goes into the report
        return Outcome(case, error=f"{type(error).__name__}: {error}")


def _many(cases: int, seed: int, worst: int) -> int:
    began = time.monotonic()
    with multiprocessing.Pool(os.cpu_count()) as pool:
        outcomes = pool.map(drawn, range(seed, seed + cases), chunksize=8)
    took = time.monotonic() - began
    guilty = [outcome for outcome in outcomes if outcome.guilty]
    guilty.sort(key=lambda outcome: (not outcome.error, -outcome.urgent_excess, -sum(outcome.violations.values())))
    for outcome in guilty[:worst]:
        said = outcome.error or ", ".join(f"{name} +{excess}" for name, excess in outcome.violations.items())
        print(f"{said}: {outcome.case}")
    print(table(outcomes))
    urgent = sum(outcome.urgent_excess > 0 for outcome in outcomes)
    probes = sum(outcome.costs_of_probes for outcome in outcomes)
    print(f"{probes} more would lose less if nobody sent probes: each takes a place in the window")
    print(f"{cases} cases in {took:.0f} s: {len(guilty)} break the law, {urgent} of them for an urgent class")
    return 1 if guilty else 0


if __name__ == "__main__":
    sys.exit(main())
