"""Draw the bottleneck of build/bench.json, and print it as a Markdown table.

    python -m tests.bench.picture [--json build/bench.json] [--picture build/bottleneck.svg]

The picture has a column for each rate: above, how long the call waits; below, what the bulk beside it gets. The table
adds what was lost and the runs with a video.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.sides import QOSCTL_AUTO, SIDES

_BULKS = {"udp": "UDP bulk", "tcp16": "16 TCP flows"}
_OURS, _THEIRS = ("#0b61a4", "#7fb2d9"), ("#6b6b6b", "#bdbdbd")  # a shade for each kind of bulk
_BAR = 0.38

Row = dict[str, Any]


def main() -> None:
    """Write the picture and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.picture", description="The bottleneck as one picture.")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="figures (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("build/bottleneck.svg"), help="default: %(default)s")
    given = parser.parse_args()
    rows = json.loads(given.json.read_text())["bottleneck"]
    draw(rows).savefig(given.picture, metadata={"Date": None} if given.picture.suffix == ".svg" else None)
    print(table(rows))


def draw(rows: list[Row]) -> Figure:
    """Return the figure: call and bulk, without video, at each rate there is."""
    mpl.rcParams["svg.hashsalt"] = "qosctl"  # the same figures give the same file
    rates = sorted({row["rate_mbit"] for row in rows})
    clients = [side.name for side in SIDES if any(row["client"] == side.name for row in rows)]
    figure = Figure(figsize=(3.4 * len(rates) + 1.6, 5.6), layout="constrained")
    grid = figure.subplots(2, len(rates), squeeze=False, sharey=True)
    for column, rate in enumerate(rates):
        calls, bulks = grid[0][column], grid[1][column]
        _bars(calls, clients, _values(rows, rate, "call_p99_ms"), "{:.1f}")
        _bars(bulks, clients, _values(rows, rate, "bulk_mbit"), "{:.1f}")
        calls.set(title=f"{rate} Mbit/s uplink", xscale="log", xlim=(0.1, 3000))
        calls.set_xlabel("call, 99th percentile of the round trip (ms)")
        bulks.set(xlim=(0, rate * 1.25))
        bulks.set_xlabel("bulk delivered beside it (Mbit/s)")
    return figure


def _values(rows: list[Row], rate: int, name: str) -> dict[tuple[str, str], float]:
    chosen = (row for row in rows if row["rate_mbit"] == rate and row["classes"] == "call")
    return {(row["client"], row["bulk"]): row[name] for row in chosen}


def _bars(axes: Axes, clients: list[str], values: dict[tuple[str, str], float], text: str) -> None:
    places = {name: len(clients) - 1 - index for index, name in enumerate(clients)}  # the first on top
    for shade, (bulk, label) in enumerate(_BULKS.items()):
        known = [name for name in clients if (name, bulk) in values]
        bars = axes.barh(
            [places[name] + _BAR * (0.5 - shade) for name in known],
            [values[name, bulk] for name in known],
            _BAR,
            color=[(_OURS if name == QOSCTL_AUTO.name else _THEIRS)[shade] for name in known],
        )
        labels = [f"{text.format(values[name, bulk])}  {label}" for name in known]
        axes.bar_label(bars, labels, padding=2, fontsize=6)
    axes.set_yticks(list(places.values()), list(places))
    axes.spines[["top", "right"]].set_visible(False)


def table(rows: list[Row]) -> str:
    """Return a Markdown table: a line for each load, a column for each client."""
    clients = [side.name for side in SIDES if any(row["client"] == side.name for row in rows)]
    lines = [
        "| uplink, load | " + " | ".join(f"`{name}`" for name in clients) + " |",
        "|---" * (len(clients) + 1) + "|",
    ]
    by_load: dict[tuple[int, str, str], dict[str, Row]] = {}
    for row in rows:
        by_load.setdefault((row["rate_mbit"], row["bulk"], row["classes"]), {})[row["client"]] = row
    for (rate, bulk, classes), runs in sorted(by_load.items()):
        cells = [_cell(runs[name]) if name in runs else "" for name in clients]
        lines.append(f"| {rate} Mbit/s, {classes}, {_BULKS[bulk]} | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append("Each cell: the call's 99th percentile and loss; bulk delivered; records dropped as replays.")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    lost, replay = row["call_lost"] / row["call_sent"], row["replay_dropped"] / max(1, row["outer_received"])
    return f"{row['call_p99_ms']:.1f} ms, {lost:.1%} lost; {row['bulk_mbit']:.1f} Mbit/s; {replay:.1%}"


if __name__ == "__main__":
    main()
