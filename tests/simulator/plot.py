"""Runs the grid of the simulator and draws docs/numbering-grid.png, with docs/numbering-grid.json beside it.

    python -m tests.simulator.plot [--quick]

Each point is one run: a rate, a queue, a round trip, a priority share, and UDP at twice the rate or sixteen TCP flows.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from qosctl.bpf.dscp import DF, EF
from qosctl.dtls.replaysafe import ReplaySafeNumbering

from tests.simulator.path import WINDOWS
from tests.simulator.world import BULK_SIZE, Scenario, simulate

RATES = (1.0, 10.0, 100.0, 1000.0)
QUEUES = (10, 200, 2000)
ROUND_TRIPS = (1.0, 30.0, 300.0)
SHARES = (0.1, 1.0, 10.0, 30.0, 60.0)
MOST_RECORDS = 150_000
"""Runs longer than this are left to those with time."""
JITTERS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)


def grid() -> Iterator[Scenario]:
    """Yield the scenarios of the grid that a run in reasonable time can hold."""
    for rate, queue, trip, share, bulk in itertools.product(RATES, QUEUES, ROUND_TRIPS, SHARES, ("udp", "tcp")):
        scenario = Scenario(rate=rate, queue=queue, round_trip=trip, share=share, bulk=bulk, poisson=False)  # type: ignore[arg-type]
        if records(scenario) <= MOST_RECORDS:
            yield scenario


def records(scenario: Scenario) -> float:
    """Return about how many records the link carries in a run."""
    return scenario.timed().seconds * scenario.rate * 1e6 / 8 / BULK_SIZE


def measure(scenario: Scenario) -> dict[str, Any]:
    """Run one point."""
    outcome = simulate(scenario, ReplaySafeNumbering)
    turn = scenario.full_queue + scenario.round_trip / 1000
    return {
        "rate_mbit": scenario.rate, "queue": scenario.queue, "round_trip_ms": scenario.round_trip,
        "share_percent": scenario.share, "bulk": scenario.bulk, "jitter_ms": scenario.jitter,
        "priority_replay_percent": {str(w): outcome.replay_loss(EF, i) for i, w in enumerate(WINDOWS)},
        "bulk_replay_percent": {str(w): outcome.replay_loss(DF, i) for i, w in enumerate(WINDOWS)},
        "start_losses_in_turns": sum(outcome.start_losses.values()) * BULK_SIZE * 8 / (scenario.rate * 1e6 * turn),
        "probe_bytes_percent": outcome.probe_load[0],
    }  # fmt: skip


def draw(points: list[dict[str, Any]], border: list[dict[str, Any]], to: Path) -> None:
    """Draw losses against the priority share, and the border that jitter sets."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    for axis, key, goal in ((axes[0], "priority_replay_percent", 0.1), (axes[1], "bulk_replay_percent", 1.0)):
        for bulk, colour, shift in (("udp", "tab:blue", 0.93), ("tcp", "tab:orange", 1.07)):
            chosen = [p for p in points if p["bulk"] == bulk]
            axis.plot(
                [p["share_percent"] * shift for p in chosen], [max(0.003, p[key]["64"]) for p in chosen],
                "o", color=colour, alpha=0.4, markersize=4, label=f"bulk: {bulk}",
            )  # fmt: skip
        axis.axhline(goal, color="black", linewidth=0.8, linestyle="--", label=f"goal: {goal} %")
        axis.set(xscale="log", yscale="log", ylim=(0.002, 110), xlabel="priority share of the link, %")
        axis.set_ylabel("dropped as replay, % (0 at the bottom)")
        axis.set_title(f"{key.split('_')[0]} class, window of 64, {len(points)} paths")
        axis.legend(fontsize=8)
    axis = axes[2]
    for rate, colour in ((20.0, "tab:blue"), (1000.0, "tab:red")):
        chosen = [p for p in border if p["rate_mbit"] == rate]
        jitter = [max(0.1, p["jitter_ms"]) for p in chosen]
        for key, style in (("bulk_replay_percent", "-o"), ("priority_replay_percent", ":s")):
            label = f"{rate:g} Mbit/s, {key.split('_')[0]}"
            axis.plot(jitter, [max(0.003, p[key]["64"]) for p in chosen], style, color=colour, label=label, markersize=4)
    axis.set(xscale="log", yscale="log", ylim=(0.002, 110), xlabel="jitter, ms (reorders)", title="the border: jitter")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(to, dpi=110, metadata={"Software": None})


def main() -> None:
    """Run, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every fifth point only")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    points = [measure(s) for s in list(grid())[:: 5 if options.quick else 1]]
    border = [
        measure(Scenario(rate=rate, queue=200, round_trip=10, share=0.4 if rate < 100 else 0.1, jitter=jitter))
        for rate in (20.0, 1000.0)
        for jitter in JITTERS
    ]
    options.out.mkdir(exist_ok=True)
    text = json.dumps({"schema_version": 1, "grid": points, "jitter": border}, indent=1)
    (options.out / "numbering-grid.json").write_text(text + "\n")
    draw(points, border, options.out / "numbering-grid.png")


if __name__ == "__main__":
    main()
