"""Draw the dashboard without Grafana: its own queries, asked of a real Prometheus that scrapes a real qosctl under load.

    python -m tests.deploy.picture [--seconds 60] [--out docs]          (root)

The line is that of the demo: a call, a video and bulk through a slow uplink; passtos is switched on after a quarter of the
time. Every panel must have data, or this fails. What Prometheus answered goes into dashboard.json beside the picture, from
which `make figures` draws again. It is a drawing after deploy/grafana/dashboard.json and says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.deploy.test_dashboard import DASHBOARD, filled_in
from tests.lab import Bottleneck, LabError, Ocserv, Qosctl, Topology, bulk_udp, call, enter_sandbox, unwind_on_signals
from tests.lab.qosctl import COMMAND
from tests.metrics.test_prometheus import Prometheus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_METRICS = "127.0.0.1:24740"
_RATE_INTERVAL = "8s"
_AF41_TOS = 34 << 2
_INCH_PER_COLUMN, _INCH_PER_UNIT = 0.62, 0.235
_UNITS = {"pps": "packets/s", "bps": "bit/s", "percentunit": "share", "s": "s", "short": "", "none": ""}
_COLOURS = {"green": "#3d9a50", "red": "#c4403a", "orange": "#d98a2b", "blue": "#3a6ea5", "purple": "#7b5aa6"}
_CLASSES = {"DF": "#8f96a3", "EF": "#c4403a", "AF41": "#3a6ea5"}
# May well be silent on a healthy line.
_MAY_BE_EMPTY = frozenset({"Reconnects", "Dropped by the clients", "Probes lost", "Suspected replay losses"})

Series = list[dict[str, Any]]


@dataclass(frozen=True)
class Answers:
    """What Prometheus said to the queries of each panel, by its id, about the time from `begin` to `end` (Unix time)."""

    begin: float
    end: float
    panels: dict[int, Series]


def main() -> int:
    """Run the load, ask, draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.picture", description="The dashboard as a picture.")
    parser.add_argument("--seconds", type=float, default=60, help="length of the load (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder (default: %(default)s)")
    given = parser.parse_args()
    unwind_on_signals()
    enter_sandbox()
    with under_load(given.seconds) as (prometheus, begin, end):
        panels = {panel["id"]: _ask(prometheus, panel, begin, end) for panel in DASHBOARD["panels"]}
    answers = Answers(begin, end, panels)
    _store(answers, given.out / "dashboard.json")
    draw(answers).savefig(given.out / "dashboard.png", dpi=80, metadata={"Software": None})
    return 0


class MissingError(Exception):
    """A panel has no stored answer: the picture would be less than the dashboard."""


def _store(answers: Answers, to: Path) -> None:
    lines = [f'  "{number}": {json.dumps(series, separators=(",", ":"))}' for number, series in answers.panels.items()]
    to.write_text(f'{{"begin": {answers.begin}, "end": {answers.end}, "panels": {{\n' + ",\n".join(lines) + "\n}}\n")


def stored(file: Path) -> Answers:
    """Read what was answered last. MissingError unless there is an answer for each panel of the dashboard."""
    if not file.exists():
        raise MissingError(f"there is no {file.name}")
    known = json.loads(file.read_text(encoding="utf-8"))
    answers = Answers(known["begin"], known["end"], {int(number): series for number, series in known["panels"].items()})
    if missing := [panel["title"] for panel in DASHBOARD["panels"] if panel["id"] not in answers.panels]:
        raise MissingError(f"no answers for: {'; '.join(missing)}")
    return answers


@contextlib.contextmanager
def under_load(seconds: float) -> Iterator[tuple[Prometheus, float, float]]:
    """Run the load to its end; give a Prometheus that has seen it, and its time."""
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(Topology())
        server = stack.enter_context(Ocserv(net.server, [net.server4]))
        stack.enter_context(Bottleneck(net.router, net.router_server_if))
        qosctl = Qosctl(net.client)
        qosctl("attach", net.client_if)
        stack.callback(qosctl, "detach", "--all", check=False)
        stack.enter_context(qosctl.connect(server, net.server4))
        exporter = net.client.popen([str(COMMAND), "metrics", "--listen", _METRICS])
        if not net.client.wait_for_listener(int(_METRICS.split(":")[1]), exporter):
            raise LabError("no exporter")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prometheus = stack.enter_context(Prometheus(net.client, folder, _METRICS))
        prometheus.wait_for_scrape()
        begin = time.time()
        with (
            call(net.client, net.server, server.inner4, seconds=seconds),
            bulk_udp(net.client, net.server, server.inner4, 3, seconds=seconds, tos=_AF41_TOS, port=4003),
            bulk_udp(net.client, net.server, server.inner4, 25, seconds=seconds) as bulk,
        ):
            time.sleep(seconds / 4)
            qosctl("passtos", "on")
            bulk.result()
        yield prometheus, begin, time.time()


def _ask(prometheus: Prometheus, panel: dict[str, Any], begin: float, end: float) -> Series:
    found: Series = []
    for target in panel.get("targets", ()):
        expression = filled_in(target["expr"]).replace("[1m]", f"[{_RATE_INTERVAL}]")
        if panel["type"] == "stat":
            found += prometheus.ask(f"query?query={quote(expression)}&time={end}")["result"]
            continue
        asked = f"query_range?query={quote(expression)}&start={begin}&end={end}&step=1"
        for series in prometheus.ask(asked)["result"]:
            found.append({"values": series["values"], "legend": _legend(target["legendFormat"], series["metric"])})
    if not found and panel["type"] != "row" and panel["title"] not in _MAY_BE_EMPTY:
        raise LabError(f"panel {panel['title']!r} has no data")
    return found


def _legend(pattern: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        pattern = pattern.replace(f"{{{{{name}}}}}", value)
    return pattern.replace(_METRICS, "host")


def draw(answers: Answers) -> Figure:
    """Return the figure, laid out as the dashboard is."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - costs a second, which who draws nothing need not spend

    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in DASHBOARD["panels"]) + 2
    figure = Figure(figsize=(24 * _INCH_PER_COLUMN, height * _INCH_PER_UNIT), facecolor="#f4f5f5")
    note = "drawn by a script from the panels' queries, answered by a real Prometheus; not a screenshot of Grafana"
    figure.text(0.005, 1 - 1.2 / height, DASHBOARD["title"], fontsize=15, weight="bold")
    figure.text(0.995, 1 - 1.2 / height, note, fontsize=9, ha="right", color="#555555")
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        left, top = place["x"] / 24, 1 - (place["y"] + 2) / height
        if panel["type"] == "row":
            figure.text(0.005, top - 0.75 / height, panel["title"], fontsize=11, weight="bold", color="#333333")
            continue
        box = (left + 0.004, top - (place["h"] - 0.25) / height, place["w"] / 24 - 0.008, (place["h"] - 0.5) / height)
        figure.add_axes(box, facecolor="white", xticks=[], yticks=[])
        if panel["type"] == "stat":
            _stat(figure.add_axes(box), panel, answers.panels[panel["id"]])
        else:
            margin = 0.062 if panel["type"] == "state-timeline" else 0.045
            inner = (box[0] + margin, box[1] + 1.2 / height, box[2] - margin - 0.01, box[3] - 2.6 / height)
            _lines(figure.add_axes(inner), panel, answers.panels[panel["id"]], answers.begin, answers.end)
    return figure


def _stat(axes: Axes, panel: dict[str, Any], series: Series) -> None:
    value = float(series[0]["value"][1])
    defaults = panel["fieldConfig"]["defaults"]
    mapped = next((one["options"][f"{value:g}"] for one in defaults["mappings"] if f"{value:g}" in one["options"]), None)
    steps = [step["color"] for step in defaults["thresholds"]["steps"] if step["value"] is None or value >= step["value"]]
    colour = mapped["color"] if mapped else steps[-1]
    text = mapped["text"] if mapped else f"{value:.1%}" if defaults["unit"] == "percentunit" else f"{value:.0f}"
    axes.set(facecolor=_COLOURS[colour], xticks=[], yticks=[])
    axes.text(0.04, 0.86, panel["title"], transform=axes.transAxes, fontsize=9, color="white", va="center")
    unit = " s" if defaults["unit"] == "s" else ""
    axes.text(0.5, 0.4, text + unit, transform=axes.transAxes, fontsize=19, color="white", ha="center", va="center")


def _lines(axes: Axes, panel: dict[str, Any], series: Series, begin: float, end: float) -> None:
    from matplotlib.ticker import EngFormatter, ScalarFormatter, StrMethodFormatter  # noqa: PLC0415 - see draw

    defaults = panel["fieldConfig"]["defaults"]
    axes.set_title(panel["title"], fontsize=9, loc="left")
    curves = {one["legend"]: {float(t) - begin: float(v) for t, v in one["values"]} for one in series}
    # Of many series at zero a legend would be all that is seen.
    curves = {name: points for name, points in sorted(curves.items()) if any(v > 0 for v in points.values())}
    colours = [_CLASSES.get(name, f"C{number}") for number, name in enumerate(curves)]
    times = sorted({t for points in curves.values() for t in points})
    if defaults["custom"].get("stacking", {}).get("mode") == "normal":
        heights = [[points.get(t, 0) for t in times] for points in curves.values()]
        axes.stackplot(times, heights, labels=list(curves), colors=colours, alpha=0.75)
    else:
        for (name, points), colour in zip(curves.items(), colours, strict=True):
            style = {"label": name, "color": colour, "linewidth": 1.3, "drawstyle": "steps-post"}
            axes.plot(list(points), list(points.values()), **style)
    if panel["type"] == "state-timeline":
        states = defaults["mappings"][0]["options"]
        axes.set_yticks([int(state) for state in states], [state["text"] for state in states.values()])
        axes.set_ylim(-0.4, 2.4)
    else:
        axes.set_ylim(bottom=0)
        axes.set_ylabel(_UNITS[defaults["unit"]], fontsize=7)
        axes.yaxis.set_major_formatter(EngFormatter(sep=" ") if defaults["unit"] == "bps" else ScalarFormatter())
    if curves:
        beside_the_title = (1.0, 1.0)
        legend = axes.legend(loc="lower right", bbox_to_anchor=beside_the_title, ncols=len(curves), fontsize=7.5)
        legend.set_frame_on(False)
    else:
        axes.set(yticks=[0])
        axes.text(0.5, 0.5, "0" if series else "none", transform=axes.transAxes, ha="center", color="#777777")
    axes.set_xlim(0, end - begin)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f} s"))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
