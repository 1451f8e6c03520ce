"""Draw the bottleneck of build/bench.json, and print it as a Markdown table.

    python -m tests.bench.picture [--json build/bench.json] [--picture build/bottleneck.svg]

The picture has a column for each path: above, how long the call waits, and what of it is lost; below, what the bulk beside
it gets. The table adds what was dropped as replays, and the rows that have no column.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.rows import BY_NAME, RATES_MBIT, named
from tests.bench.sides import QOSCTL_AUTO, SIDES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS, _THEIRS = ("#0b61a4", "#7fb2d9"), ("#6b6b6b", "#bdbdbd")  # a shade for each kind of bulk
_BAR = 0.38
_LEAST_LOSS = 0.001
"""Share of the call from which on its loss is written beside its bar."""

Figures = dict[str, Any]


@dataclass(frozen=True)
class _Column:
    """Rows of the bench, side by side in shades of one colour. `of_sent`: bulk is shown as a share of what was sent."""

    title: str
    rows: tuple[tuple[str, str], ...]
    """Name of the row, and a label."""
    of_sent: bool = False


_COLUMNS = (
    *(
        _Column(f"{rate} Mbit/s uplink", ((f"{rate}-udp-call", "UDP bulk"), (f"{rate}-tcp16-call", "16 TCP flows")))
        for rate in RATES_MBIT
    ),
    _Column("5 Mbit/s, bursts", (("burst-5", "120 kB each 0.5 s"), ("burst-5-long", "200 kB each 1 s")), of_sent=True),
    _Column("20 Mbit/s, bursts", (("burst-20", "120 kB each 0.1 s"), ("burst-20-long", "240 kB each 1 s")), of_sent=True),
    _Column("two ways to the server", (("ways-10", "10 ms apart"), ("ways-13", "13 ms apart")), of_sent=True),
)


def main() -> None:
    """Write the picture and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.picture", description="The bottleneck as one picture.")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="figures (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("build/bottleneck.svg"), help="default: %(default)s")
    given = parser.parse_args()
    measured = json.loads(given.json.read_text())["bottleneck"]
    draw(measured).savefig(given.picture, metadata={"Date": None} if given.picture.suffix == ".svg" else None, dpi=110)
    print(table(measured))


def draw(measured: Sequence[Figures]) -> Figure:
    """Return the figure: call and bulk, for the columns whose rows there are."""
    import matplotlib as mpl  # noqa: PLC0415 - costs a second, which who draws nothing need not spend
    from matplotlib.figure import Figure  # noqa: PLC0415 - the same

    mpl.rcParams["svg.hashsalt"] = "qosctl"  # the same figures give the same file
    known = {(each["row"], each["client"]): each for each in measured}
    columns = [column for column in _COLUMNS if any(row == name for row, _ in known for name, _ in column.rows)]
    clients = [side.name for side in SIDES if any(client == side.name for _, client in known)]
    figure = Figure(figsize=(3.1 * len(columns) + 1.6, 5.6), layout="constrained")
    grid = figure.subplots(2, len(columns), squeeze=False, sharey=True)
    for place, column in enumerate(columns):
        calls, bulks = grid[0][place], grid[1][place]
        _bars(calls, clients, column, {key: (each["call_p99_ms"], _call(each)) for key, each in known.items()})
        _bars(bulks, clients, column, {key: _bulk(each, column.of_sent) for key, each in known.items()})
        calls.set(title=column.title, xscale="log", xlim=(0.1, 30_000))
        calls.set_xlabel("call, 99th percentile of the round trip (ms)")
        most = 100.0 if column.of_sent else BY_NAME[column.rows[0][0]].rate_mbit
        bulks.set(xlim=(0, most * 1.5))
        bulks.set_xlabel("bulk that arrives (% of sent)" if column.of_sent else "bulk delivered beside it (Mbit/s)")
    return figure


def _call(each: Figures) -> str:
    lost = each["call_lost"] / each["call_sent"]
    return f"{each['call_p99_ms']:.1f}" + (f", {lost:.1%} lost" if lost >= _LEAST_LOSS else "")


def _bulk(each: Figures, of_sent: bool) -> tuple[float, str]:
    if not of_sent:
        return each["bulk_mbit"], f"{each['bulk_mbit']:.1f}"
    share = 100 * each["bulk_arrived"] / max(1, each["bulk_sent"])
    return share, f"{share:.0f} %"


def _bars(axes: Axes, clients: list[str], column: _Column, values: dict[tuple[str, str], tuple[float, str]]) -> None:
    places = {name: len(clients) - 1 - index for index, name in enumerate(clients)}  # the first on top
    for shade, (row, label) in enumerate(column.rows):
        known = [name for name in clients if (row, name) in values]
        bars = axes.barh(
            [places[name] + _BAR * (0.5 - shade) for name in known],
            [values[row, name][0] for name in known],
            _BAR,
            color=[(_OURS if name == QOSCTL_AUTO.name else _THEIRS)[shade] for name in known],
        )
        axes.bar_label(bars, [f"{values[row, name][1]}  {label}" for name in known], padding=2, fontsize=6)
    axes.set_yticks(list(places.values()), list(places))
    axes.spines[["top", "right"]].set_visible(False)


def table(measured: Sequence[Figures]) -> str:
    """Return a Markdown table: a line for each row, a column for each client."""
    clients = [side.name for side in SIDES if any(each["client"] == side.name for each in measured)]
    lines = [
        "| uplink, load | " + " | ".join(f"`{name}`" for name in clients) + " |",
        "|---" * (len(clients) + 1) + "|",
    ]
    for name in dict.fromkeys(each["row"] for each in measured):
        row = named(name)
        cells = {each["client"]: _cell(each) for each in measured if each["row"] == name}
        lines.append(f"| {row.shown if row else name} | " + " | ".join(cells.get(client, "") for client in clients) + " |")
    lines.append("")
    lines.append(
        "Each cell: the call's 99th percentile, its loss, and of that by the replay window; bulk that arrives;"
        " records dropped as replays."
    )
    return "\n".join(lines)


def _cell(each: Figures) -> str:
    sent = each["call_sent"]
    lost = f"{each['call_lost'] / sent:.1%} lost"
    if "call_replayed" in each:  # figures of an earlier bench do not tell
        lost += f" ({each['call_replayed'] / sent:.1%})"
    replays = each["replay_dropped"] / max(1, each["outer_received"])
    row = named(each["row"])
    arrived = (
        _bulk(each, of_sent=True)[1] if row and (row.bulk == "bursts" or row.hold_ms) else f"{each['bulk_mbit']:.1f} Mbit/s"
    )
    return f"{each['call_p99_ms']:.1f} ms, {lost}; {arrived}; {replays:.1%}"


if __name__ == "__main__":
    main()
