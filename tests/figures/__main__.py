"""Draw all that is generated in docs/ and README.md from the last results: `python -m tests.figures [NAME...]`.

A figure that would lose rows is refused: it stays as it is, the others are drawn, and the status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.figures import draw
from tests.figures.page import RefusedError

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Figure:
    """What draws it in a tree, and the command that measures it anew."""

    draw: Callable[[Path], str]
    anew: str


FIGURES = {
    "catalogue": Figure(draw.catalogue, "a change there"),
    "faults": Figure(draw.faults_page, "python -m tests.faults --run"),
    "leaks": Figure(draw.leaks_page, "python -m tests.leaks"),
    "bench": Figure(draw.bench, "make bench"),
    "bottleneck": Figure(draw.bottleneck, "make bench"),
    "grid": Figure(draw.grid, "python -m tests.simulator.plot"),
    "dashboard": Figure(draw.dashboard, "python -m tests.deploy.picture"),
    "matrix": Figure(draw.matrix, "make figures as root, and make test-kernels"),
}


def main(words: list[str], root: Path = ROOT) -> int:
    """Draw the figures named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.figures", description="Draw what is generated in docs/.")
    parser.add_argument(
        "name", nargs="*", choices=[[], *FIGURES], metavar="NAME", help=f"of {', '.join(FIGURES)} (default: all)"
    )
    refused = 0
    for name in parser.parse_args(words).name or FIGURES:
        figure = FIGURES[name]
        try:
            print(f"{figure.draw(root)} (anew by: {figure.anew})", flush=True)
        except RefusedError as error:
            refused += 1
            print(f"{name}: refused: {error} (try: {figure.anew})", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
