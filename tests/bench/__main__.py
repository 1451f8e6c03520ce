"""Measure the parts named, or all of them, and merge their figures into build/bench.json.

    python -m tests.bench [PART...] [--short]
    python -m tests.bench bottleneck --row burst-5 --client 'qosctl auto' --runs 8

A part is a module here with `run() -> dict`: it prints its own table and returns what goes into the file, under keys of
its own. Parts that did not run keep their earlier figures, and so do rows of the bottleneck that were not chosen. Those
named in TAKE_OPTIONS have `run(Options)`. One that takes long yields such objects, and what it has is kept as it goes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench import bottleneck, machine
from tests.bench.options import Options
from tests.bench.rows import BY_NAME
from tests.bench.sides import SIDES
from tests.lab import enter_sandbox, unwind_on_signals

# Name on the command line, module, what it measures.
PARTS = {
    "stamp": ("tests.bench.stamp", "the program, per packet, by BPF_PROG_TEST_RUN"),
    "following": ("tests.bench.following", "tunnels of other programs, per packet and per read, and those who have none"),
    "sends": ("tests.bench.sends", "ways to mark a packet, per send from Python"),
    "tunnel": ("tests.bench.tunnel", "the client, beside openconnect --passtos"),
    "bottleneck": ("tests.bench.bottleneck", "a call beside bulk through a slow uplink, five clients"),
}
TAKE_OPTIONS = {"tunnel", "bottleneck"}
FILE = Path(__file__).parent.parent.parent / "build" / "bench.json"


def main() -> None:
    """Run parts and keep what they found."""
    listed = "\n".join(f"  {name:10}{summary}" for name, (_, summary) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="tests.bench", epilog=f"parts:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", help="what to measure (default: everything)", metavar="PART")
    parser.add_argument("--short", action="store_true", help="20 Mbit/s only, and fewer seconds, for daily use")
    parser.add_argument("--seconds", type=float, help="length of each run of tunnel and bottleneck")
    rows = parser.add_argument_group("of the bottleneck (rows and clients: each may be given several times; default: all)")
    rows.add_argument("--row", action="append", default=[], choices=list(BY_NAME), metavar="ROW", help=", ".join(BY_NAME))
    rows.add_argument("--client", action="append", default=[], choices=[side.name for side in SIDES])
    rows.add_argument("--runs", type=int, default=1, help="measure each so many times and take the median")
    rows.add_argument("--busy", action="store_true", help="with a busy loop on one core")
    given = parser.parse_args()
    options = Options(
        short=given.short,
        seconds=given.seconds,
        rows=tuple(given.row),
        clients=tuple(given.client),
        runs=given.runs,
        busy=given.busy,
    )
    wanted = given.part or list(PARTS)
    unknown = set(wanted) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    enter_sandbox()
    unwind_on_signals()
    for name in wanted:
        print(f"\n{name}: {PARTS[name][1]}")
        part = importlib.import_module(PARTS[name][0])
        found = part.run(options) if name in TAKE_OPTIONS else part.run()
        for figures in found if isinstance(found, Iterator) else (found,):
            _merge(figures)


def _merge(figures: dict[str, Any]) -> None:
    known: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    if "bottleneck" in figures:
        figures = figures | {"bottleneck": bottleneck.joined(known.get("bottleneck", []), figures["bottleneck"])}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({**known, **_where(), **figures}, indent=2) + "\n")


def _where() -> dict[str, Any]:
    return {"kernel": platform.release(), "machine": machine.described(), "measured": time.strftime("%Y-%m-%d")}


if __name__ == "__main__":
    main()
