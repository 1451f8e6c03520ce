"""Runs the grid of the simulator and draws docs/numbering-grid.png, with docs/numbering-grid.json beside it.

    python -m tests.simulator.plot [--draw]

Three questions, each asked of replay-safe and of plain numbers on the same arrivals: steady bulk that fills a queue, over
rates, queues, round trips and shares; bursts of bulk beside a call, over sizes, periods and rates; and the border, which is
reordering within a class, by two ways or by jitter.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from tests.simulator.case import BULK_SIZE, Bursts, Call, Case, Path, Steady
from tests.simulator.run import run
from tests.simulator.steady import offered, path, share, timed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATES = (1.0, 10.0, 100.0, 1000.0)
QUEUES = (10, 200, 2000)
ROUND_TRIPS = (1.0, 30.0, 300.0)
SHARES = (0.1, 1.0, 10.0, 30.0, 60.0)
MOST_RECORDS = 150_000
"""Runs longer than this are left to those with time."""
BURST_RATES = (2.0, 5.0, 20.0, 50.0)
BURST_KILOBYTES = (10.0, 30.0, 60.0, 120.0, 240.0, 500.0)
BURST_PERIODS = (0.1, 0.3, 0.5, 1.0, 2.0)
BURST_SEEDS = (1, 2, 3)
HOLDS = (0.0, 2.0, 5.0, 8.0, 10.0, 13.0, 16.0, 20.0, 30.0)
"""Milliseconds; at 42 Mbit/s a window of 64 is 16 ms."""
LEAST_SHOWN = 0.003
"""Per cent; what is less, or none, stands at the bottom."""

Point = dict[str, Any]


def steady() -> Iterator[Case]:
    """Yield the steady cases that a run in reasonable time can hold."""
    for mbit, packets, trip, percent in itertools.product(RATES, QUEUES, ROUND_TRIPS, SHARES):
        for bulk in ("udp", "tcp"):
            case = timed(Case((*offered(bulk, mbit), share(mbit, percent)), path(mbit, packets, trip)))
            if case.seconds * mbit * 1e6 / 8 / BULK_SIZE <= MOST_RECORDS:
                yield case


def bursts() -> Iterator[Case]:
    """Yield bursts beside a call, up to one and a half times the rate on average."""
    for mbit, kilobytes, period, seed in itertools.product(BURST_RATES, BURST_KILOBYTES, BURST_PERIODS, BURST_SEEDS):
        if kilobytes * 8e-3 / period <= 1.5 * mbit:
            sources = (Bursts(kilobytes=kilobytes, period_s=period), Call(start_s=0.5))
            yield Case(sources, Path(mbit=mbit), seconds=max(8.0, 8 * period), seed=seed)


def border() -> Iterator[Case]:
    """Yield bulk and a call on paths that reorder within a class."""
    for hold in HOLDS:
        for each in (Path(second_way=0.5 if hold else 0.0, hold_ms=hold), Path(jitter_ms=2 * hold)):
            yield Case((Steady(mbit=42.0), Call()), replace(each, mbit=200.0, lanes="one"), seconds=4.0)


def measure(case: Case) -> Point:
    """Run one case."""
    outcome = run(case)
    return {
        "case": repr(case),
        **{
            name: {
                "arrived": fate.arrived, "replayed": fate.replayed, "plain_replayed": fate.plain_replayed,
            }
            for name, fate in outcome.classes.items() if fate.arrived
        },
        "probes": outcome.probes,
    }  # fmt: skip


def lost(point: Point, name: str, kind: str) -> float:
    """Return the share of a class that was dropped as replays, in per cent, no less than can be shown."""
    fate = point.get(name, {"arrived": 0})
    return float(max(LEAST_SHOWN, 100 * fate[kind] / fate["arrived"])) if fate["arrived"] else LEAST_SHOWN


def _scatter(axes: Axes, cases: list[Case], points: list[Point], name: str, where: Callable[[Case], float]) -> None:
    for kind, colour, shift, label in (
        ("plain_replayed", "tab:gray", 1.08, "plain numbers"),
        ("replayed", "tab:blue", 0.93, "replay-safe"),
    ):
        places = [where(case) * shift for case in cases]
        axes.plot(
            places, [lost(point, name, kind) for point in points],
            "o", color=colour, alpha=0.4, markersize=4, label=label,
        )  # fmt: skip
    worse = sum(point[name]["replayed"] > point[name]["plain_replayed"] for point in points if name in point)
    axes.set_title(f"{name}: worse than plain on {worse} of {len(points)}", fontsize=10)
    axes.set(xscale="log", yscale="log", ylim=(LEAST_SHOWN / 1.5, 130))


def _lines(axes: Axes, cases: list[Case], points: list[Point], name: str) -> None:
    """Draw the border: milliseconds by which a record may be late to its own class."""
    for ways, style, what in ((True, "-", "two ways"), (False, ":", "jitter")):
        chosen = [
            (case.path.hold_ms if ways else case.path.jitter_ms, point)
            for case, point in zip(cases, points, strict=True)
            if (case.path.jitter_ms == 0 if ways else not case.path.second_way)
        ]
        for kind, colour, mark in (("plain_replayed", "tab:gray", "s"), ("replayed", "tab:blue", "o")):
            label = f"{what}, {'plain' if kind.startswith('plain') else 'replay-safe'}"
            places = [place for place, _ in chosen]
            losses = [lost(point, name, kind) for _, point in chosen]
            axes.plot(places, losses, style, marker=mark, color=colour, markersize=4, label=label)
    axes.set(yscale="log", ylim=(LEAST_SHOWN / 1.5, 130), title=f"{name}: the border")
    axes.set_xlabel("late to its own class by up to, ms (42 Mbit/s)")


def draw(steadily: list[Point], bursting: list[Point], at_the_border: list[Point], to: File) -> None:
    """Draw both classes (rows) of the three sets (columns)."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - costs a second, which who draws nothing need not spend

    figure = Figure(figsize=(13, 7.5))
    grid = figure.subplots(2, 3)
    sets = [(list(cases()), points) for cases, points in ((steady, steadily), (bursts, bursting), (border, at_the_border))]
    for row, name in enumerate(("EF", "DF")):
        cases, points = sets[0]
        _scatter(grid[row][0], cases, points, name, lambda case: case.sources[-1].mbit / case.path.mbit * 100)  # type: ignore[union-attr]
        grid[row][0].set_xlabel("EF's share of the link, %; bulk fills the queue")
        cases, points = sets[1]
        _scatter(grid[row][1], cases, points, name, lambda case: case.sources[0].kilobytes)  # type: ignore[union-attr]
        grid[row][1].set_xlabel("kB of bulk at once, beside a call")
        _lines(grid[row][2], *sets[2], name)
        grid[row][0].set_ylabel("dropped as replays, % (0 at the bottom)")
    for axes in grid[0]:
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(to, dpi=110, metadata={"Software": None})


def _text(sets: dict[str, list[Point]]) -> str:
    """Return JSON with a line for each point."""
    parts = [f' "{name}": [\n' + ",\n".join(f"  {json.dumps(point)}" for point in points) for name, points in sets.items()]
    return '{\n "schema_version": 2,\n' + "\n ],\n".join(parts) + "\n ]\n}\n"


def main() -> None:
    """Run, write, draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulator.plot", description=__doc__)
    parser.add_argument("--draw", action="store_true", help="draw what the last run has written")
    parser.add_argument("--out", type=File, default=File("docs"))
    options = parser.parse_args()
    figures = options.out / "numbering-grid.json"
    if not options.draw:
        options.out.mkdir(exist_ok=True)
        with multiprocessing.Pool(os.cpu_count()) as pool:
            sets = {kind.__name__: pool.map(measure, kind(), chunksize=1) for kind in (border, bursts, steady)}
        figures.write_text(_text(sets))
    known = json.loads(figures.read_text())
    draw(known["steady"], known["bursts"], known["border"], options.out / "numbering-grid.png")


if __name__ == "__main__":
    main()
