"""How fast a client is, and what a packet costs it: ours beside openconnect --passtos, on one server, in turns.

Datagrams of 1,200 bytes whose DSCP changes from each to the next, at several offered loads: `goodput_mbit` is the most
that came out at the far end of the tunnel at any of them, with `sent_pps` and `cpu_us_per_packet` at that load.
`equal_load` is a load that both carry with ease; at `overload` the sender sends all it can, which is more than any client
takes, and what the tunnel cannot carry is lost. Client, server and sender share the machine's cores, so an idle core
for one is goodput for another, and a wire is a call into the other end's stack: the client pays for a part of that.

`wire` says how batches (GSO) travel. "whole": as to a network card that segments by itself. "cut": each packet by
itself on the wire, cut in the client's time.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.options import Options
from tests.bench.sides import OPENCONNECT_PASSTOS, QOSCTL_AUTO, Client, connected, packets
from tests.lab import LabError, Namespace, Ocserv, Topology, bulk_tcp

_FLOOD = Path(__file__).with_name("flood.py")
_PORT = 5001
_BYTES = 1200
_DSCPS = (0, 10, 34, 46)  # DF, AF11, AF41, EF
_EQUAL_PPS = 15_000
_OFFERED_PPS = (70_000, 110_000, 180_000)
_ALL_IT_CAN = 0
_SETTLE_SECONDS = 0.1
_PINGS, _PING_GAP_SECONDS = 500, 0.002

Figures = dict[str, Any]
_SIDES = {"openconnect": OPENCONNECT_PASSTOS, "qosctl": QOSCTL_AUTO}


def run(options: Options) -> Figures:
    """Return {"tunnel": {...}}; medians over the rounds, and ours over theirs as ratios."""
    rounds, seconds = (1, 1.0) if options.short else (3, 1.5)
    seconds = options.seconds or seconds
    found: dict[str, list[Figures]] = {name: [] for name in _SIDES}
    for _ in range(rounds):
        whole, cut = _round("whole", seconds), _round("cut", seconds)
        for name, rows in found.items():
            rows.append({**whole[name], "cut_wire": cut[name]})
    sides = {name: _best(_median(rows)) for name, rows in found.items()}
    return {"tunnel": {"wire": "whole", "rounds": rounds, **sides, "ratio": _ratio(sides["qosctl"], sides["openconnect"])}}


def _round(wire: str, seconds: float) -> Figures:
    """Measure each side once; on the cut wire only the uplink, which is where it matters."""
    figures = {}
    with (
        Topology(batches=wire == "whole") as net,
        Ocserv(net.server, [net.server4]) as server,
        _hole(net.client),
        _hole(net.server),
    ):
        for name, side in _SIDES.items():
            with connected(side, net, server) as client:
                figures[name] = _measure(net, client, seconds, only_uplink=wire == "cut")
            print(f"    {wire} wire, {side.name}: {_brief(figures[name])}", flush=True)
    return figures


def _measure(net: Topology, client: Client, seconds: float, *, only_uplink: bool) -> Figures:
    def loads(*, up: bool) -> Figures:
        offered = {str(pps): _udp(net, client, seconds, pps, up=up) for pps in _OFFERED_PPS}
        return {
            "offered_pps": offered,
            "equal_load": _udp(net, client, seconds, _EQUAL_PPS, up=up),
            "overload": _udp(net, client, seconds, _ALL_IT_CAN, up=up),
        }

    if only_uplink:
        return loads(up=True)
    return {
        "idle_rtt_us": _ping(net.client),
        **loads(up=True),
        "downlink": loads(up=False),
        "tcp_up": _tcp(net, client, seconds, up=True),
        "tcp_down": _tcp(net, client, seconds, up=False),
    }


def _udp(net: Topology, client: Client, seconds: float, pps: int, *, up: bool) -> Figures:
    """Offer a load and count at both ends of the tunnel, by the devices."""
    near, target = (net.client, Ocserv.inner4) if up else (net.server, client.address)
    taken, cpu, delivered = client.packets(), client.cpu_us(), packets(net.server, "vpns")
    tos = ",".join(str(dscp << 2) for dscp in _DSCPS)
    words = [target, str(_PORT), str(seconds), str(_BYTES), str(pps), tos]
    sender = near.popen([sys.executable, "-I", str(_FLOOD), *words], stdout=subprocess.PIPE)
    text, _ = sender.communicate(timeout=seconds + 30)
    if sender.returncode != 0:
        raise LabError("the sender failed")
    said = json.loads(text)
    time.sleep(_SETTLE_SECONDS)
    cpu = client.cpu_us() - cpu
    out, into = (after - before for after, before in zip(client.packets(), taken, strict=True))
    if up:
        moved, arrived = out, packets(net.server, "vpns")[1] - delivered[1]
    else:
        moved = arrived = into
    return {
        "goodput_mbit": arrived * _BYTES * 8 / said["seconds"] / 1e6,
        "sent_pps": moved / said["seconds"],
        "cpu_us_per_packet": cpu / max(1, moved),
    }


def _tcp(net: Topology, client: Client, seconds: float, *, up: bool) -> Figures:
    """One flow; the packets are those of the flow's direction."""
    taken, cpu = client.packets(), client.cpu_us()
    near, far, address = (net.client, net.server, Ocserv.inner4) if up else (net.server, net.client, client.address)
    with bulk_tcp(near, far, address, seconds=seconds) as bulk:
        mbit = bulk.result().mbit
    cpu = client.cpu_us() - cpu
    moved = [after - before for after, before in zip(client.packets(), taken, strict=True)][0 if up else 1]
    return {"goodput_mbit": mbit, "cpu_us_per_packet": cpu / max(1, moved)}


def _ping(namespace: Namespace) -> Figures:
    """Round trips to the server's end, whose kernel answers: what is left is the two ends of the tunnel."""
    words = ["ping", "-n", "-c", str(_PINGS), "-i", str(_PING_GAP_SECONDS), Ocserv.inner4]
    with tempfile.TemporaryFile("w+") as said:  # whoever read it from a pipe would want a core for each line
        namespace.popen(words, stdout=said).wait(_PINGS)
        said.seek(0)
        trips = sorted(float(ms) * 1000 for ms in re.findall(r"time=([\d.]+) ms", said.read()))
    if not trips:
        raise LabError("no answer to ping through the tunnel")
    return {"p50": trips[len(trips) // 2], "p99": trips[len(trips) * 99 // 100]}


@contextlib.contextmanager
def _hole(namespace: Namespace) -> Iterator[None]:
    """Take datagrams without reading them: a reader would need a core that is not there."""
    with namespace.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sock.bind(("", _PORT))
        yield


def _best(figures: Figures) -> Figures:
    """Add the figures of the load with the highest goodput, here and wherever loads were tried below."""
    figures = {name: _best(value) if isinstance(value, dict) else value for name, value in figures.items()}
    if "offered_pps" in figures:
        loads = [*figures["offered_pps"].values(), figures["overload"]]
        figures |= max(loads, key=lambda load: load["goodput_mbit"])
    return figures


def _median(rows: list[Any]) -> Any:
    """Merge figures of one shape into medians."""
    if isinstance(rows[0], dict):
        return {name: _median([row[name] for row in rows]) for name in rows[0]}
    return round(statistics.median(rows), 2)


def _ratio(ours: Figures, theirs: Figures) -> Figures:
    """Divide ours by theirs, figure by figure."""
    return {
        name: _ratio(value, theirs[name]) if isinstance(value, dict) else round(value / theirs[name], 3)
        for name, value in ours.items()
        if name != "offered_pps" and theirs[name]
    }


def _brief(figures: Figures) -> str:
    best = _best(figures)
    return f"{best['goodput_mbit']:.0f} Mbit/s up, {best['cpu_us_per_packet']:.1f} us a packet"
