"""Run packets from a seed through the program and its reference, and stop at the first disagreement.

    python -m tests.fuzz [--packets N] [--seed S]

One process, one CPU. The packet that disagreed is printed with its seed and position; the same call finds it again.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time

from tests.bpf.program.differential import Differential, DisagreementError, on_one_cpu
from tests.fuzz.real import FLOWS
from tests.fuzz.run import crowd, fuzz
from tests.lab import enter_sandbox
from tests.lab.program import kernel


def main() -> int:
    """Parse the command line and fuzz."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--packets", type=int, default=1_000_000, help="how many (default 1,000,000)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="where to begin (default: anywhere)")
    arguments = parser.parse_args()
    enter_sandbox()
    print(f"seed {arguments.seed}", file=sys.stderr)
    started = time.monotonic()
    with on_one_cpu() as cpu, kernel() as loaded, Differential(loaded, cpu, [*crowd(), *FLOWS]) as world:
        try:
            refused = fuzz(world, arguments.seed, arguments.packets, report=True)
        except DisagreementError as difference:
            print(difference, file=sys.stderr)
            return 1
        finally:
            for outcome, count in world.ran.items():
                print(f"{outcome.label:16}{count:>12,}")
    seconds = time.monotonic() - started
    print(f"{arguments.packets:,} packets, 0 disagreements, {arguments.packets / seconds:,.0f} packets/s")
    print(f"{refused:,} of them are too short for their ethertype to become an skb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
