"""Soak, and print what was seen: `python -m tests.soak [--seconds N] [--seed S]`. Exit status 1 when a promise broke."""

from __future__ import annotations

import argparse
import secrets
import sys

from tests.lab import enter_sandbox, unwind_on_signals
from tests.soak.run import Soak


def main() -> int:
    """Parse the command line and soak."""
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600, help="how long (default 3600)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="which faults when (default: anything)")
    arguments = parser.parse_args()
    enter_sandbox()
    unwind_on_signals()
    print(f"seed {arguments.seed}", file=sys.stderr)
    report = Soak(arguments.seed, arguments.seconds, loud=True).run()
    before, after = report.resident
    print(f"faults            {dict(report.faults)}")
    print(f"flowing again     median {sorted(report.recoveries_s)[len(report.recoveries_s) // 2]:.2f} s, "
          f"longest {max(report.recoveries_s):.2f} s after the repair")  # fmt: skip
    print(f"records           {report.records:,}, mis-stamped {report.mis_stamped}, unreadable {report.unreadable}")
    print(f"resident size     {before:,} kB early, {after:,} kB late ({(after - before) / before:+.1%})")
    print(f"descriptors       {report.descriptors[0]} at first, {report.descriptors[1]} at last; threads {report.threads}")
    print(f"strange lines     {report.strange_lines}")
    good = (
        abs(after - before) <= before / 10
        and report.descriptors[0] == report.descriptors[1]
        and not report.mis_stamped
        and not report.strange_lines
        and report.kept
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
