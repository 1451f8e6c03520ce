"""Measure the parts named, or all of them, and merge their figures into build/bench.json.

    python -m tests.bench [PART...] [--short]
    python -m tests.bench bottleneck --rate 20 --client 'qosctl auto' --bulk udp --classes call

A part is a module here with `run() -> dict`: it prints its own table and returns what goes into the file, under keys of
its own. Parts that did not run keep their earlier figures, and so do rows of the bottleneck that were not chosen. Those
named in TAKE_OPTIONS have `run(Options)`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from pathlib import Path
from typing import Any

from tests.bench import bottleneck
from tests.bench.options import Options
from tests.bench.sides import SIDES
from tests.lab import enter_sandbox, unwind_on_signals

# Name on the command line, module, what it measures.
PARTS = {
    "stamp": ("tests.bench.stamp", "the program, per packet, by BPF_PROG_TEST_RUN"),
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
    rows = parser.add_argument_group("rows of the bottleneck (each may be given several times; default: all)")
    rows.add_argument("--rate", type=int, action="append", default=[], metavar="MBIT")
    rows.add_argument("--client", action="append", default=[], choices=[side.name for side in SIDES])
    rows.add_argument("--bulk", action="append", default=[], choices=bottleneck.BULKS)
    rows.add_argument("--classes", action="append", default=[], choices=bottleneck.CLASSES)
    given = parser.parse_args()
    options = Options(
        short=given.short,
        seconds=given.seconds,
        rates=tuple(given.rate),
        clients=tuple(given.client),
        bulks=tuple(given.bulk),
        classes=tuple(given.classes),
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
        _merge(part.run(options) if name in TAKE_OPTIONS else part.run())


def _merge(figures: dict[str, Any]) -> None:
    known: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    if "bottleneck" in figures:
        figures = figures | {"bottleneck": bottleneck.joined(known.get("bottleneck", []), figures["bottleneck"])}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps({**known, "kernel": platform.release(), **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
