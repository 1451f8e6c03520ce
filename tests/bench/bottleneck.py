"""A call, and a video, beside bulk through a slow uplink: who waits, who loses, and to what.

Everything runs in the tunnel; the router's queue (tests.lab.Bottleneck) knows the outer packets only. Replay losses are
counted, not guessed: datagrams with a packet in them that reached the server, less those its socket had no room for,
less the packets that came out of its tunnel device. They are of the whole run; `bulk_mbit` is of the time that the call
lasted, without its first and last moments, so that bulk which had the link to itself does not flatter it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.bench.options import Options
from tests.bench.sides import Side, connected, packets
from tests.lab import Bottleneck, Load, Namespace, Ocserv, Topology, bulk_tcp, bulk_udp, call
from tests.lab.load import BulkResult

RATES_MBIT = (5, 20, 80)
BULKS = ("udp", "tcp16")
CLASSES = ("call", "call+video")
_SHORT_RATES_MBIT = (20,)
_SECONDS, _SHORT_SECONDS = 8.0, 5.0
_VIDEO_MBIT, _VIDEO_TOS, _VIDEO_PORT = 4.0, 34 << 2, 4003
_VIDEO_LEAST_RATE_MBIT = 20  # at 5 Mbit/s it would be nearly all there is
_BULK_BYTES = 1200
_UDP_OVERLOAD = 2  # bulk offered, as a multiple of the rate
_LEAD_SECONDS = 1.0  # for the bulk's queue to fill before the call begins
_TRAIL_SECONDS = 2.0  # for the bulk to outlast the others, whose programs take a while to start on a busy machine
_EDGE_SECONDS = 0.5  # of the call at each end, where its program may not be sending yet, or no more
_DRAIN_SECONDS = 0.7  # the bulk's queue is 400 ms long at 5 Mbit/s
_IDLE_SECONDS, _IDLE_GAP_SECONDS, _IDLE_PORT = 1.5, 0.005, 4004
# UDP header, DTLS header, nonce, tag, type byte, smallest IPv4 header: shorter datagrams carry no packet.
_SMALLEST_DATAGRAM = 8 + 13 + 8 + 16 + 1 + 20

Figures = dict[str, Any]


@dataclass(frozen=True)
class _Counts:
    """What the server has seen so far."""

    arrived: int
    no_room: int
    left: int


def run(options: Options) -> Figures:
    """Return {"bottleneck": [...]}, one object for each run."""
    rates = options.rates or (_SHORT_RATES_MBIT if options.short else RATES_MBIT)
    seconds = options.seconds or (_SHORT_SECONDS if options.short else _SECONDS)
    loads = [
        (bulk, classes)
        for bulk, classes in itertools.product(BULKS, CLASSES)
        if bulk in (options.bulks or BULKS) and classes in (options.classes or CLASSES)
    ]
    rows = []
    print("    " + _HEADING)
    with Topology() as net, Ocserv(net.server, [net.server4]) as server, _counting(net.server, server.port):
        for rate, side in itertools.product(rates, options.sides):
            with Bottleneck(net.router, net.router_server_if, rate), connected(side, net, server):
                idle = _idle(net)
                for bulk, classes in loads:
                    if classes == "call+video" and rate < _VIDEO_LEAST_RATE_MBIT:
                        continue
                    rows.append(_row(net, server, side, rate, bulk, classes, seconds) | {"idle_rtt_us": idle})
                    print("    " + _line(rows[-1]), flush=True)
    return {"bottleneck": rows}


def joined(known: list[Figures], rows: list[Figures]) -> list[Figures]:
    """Return `rows`, and of `known` the runs that are not among them, in the order of the table."""
    every = {_key(row): row for row in (*known, *rows)}
    return [every[key] for key in sorted(every)]


def _key(row: Figures) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("rate_mbit", "bulk", "classes", "client"))


def _row(  # noqa: PLR0917 - the columns of the row
    net: Topology, server: Ocserv, side: Side, rate: int, bulk: str, classes: str, seconds: float
) -> Figures:
    before = _counts(net.server, server.port)
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(_bulk(net, bulk, rate, _LEAD_SECONDS + seconds + _TRAIL_SECONDS))
        time.sleep(_LEAD_SECONDS)
        video = stack.enter_context(_video(net, seconds)) if classes == "call+video" else None
        talk = stack.enter_context(call(net.client, net.server, Ocserv.inner4, seconds=seconds))
        mbit = _delivered_mbit(net.server, bulk, seconds - 2 * _EDGE_SECONDS)
        voice, seen, carried = talk.result(), video.result() if video else None, load.result()
    if bulk == "udp":
        others = voice.sent + (seen.packets if seen else 0)
        mbit = max(0.0, mbit - others * _BULK_BYTES * 8e-6 / seconds)
    time.sleep(_DRAIN_SECONDS)
    after = _counts(net.server, server.port)
    arrived = after.arrived - before.arrived
    no_room = after.no_room - before.no_room
    figures: Figures = {
        "client": side.name,
        "rate_mbit": rate,
        "bulk": bulk,
        "classes": classes,
        "call_sent": voice.sent,
        "call_lost": voice.lost,
        "call_p50_ms": round(voice.p50_ms, 2),
        "call_p99_ms": round(voice.p99_ms, 2),
        "bulk_mbit": round(mbit, 2),
        "retransmits": carried.retransmits,
        "outer_received": arrived,
        "replay_dropped": max(0, arrived - no_room - (after.left - before.left)),
        "socket_dropped": no_room,
    }
    if seen is not None:
        figures |= {"video_sent": seen.packets_sent, "video_lost": seen.packets_sent - seen.packets}
    return figures


def _bulk(net: Topology, kind: str, rate: int, seconds: float) -> Load[BulkResult]:
    if kind == "udp":
        offered = rate * _UDP_OVERLOAD
        return bulk_udp(net.client, net.server, Ocserv.inner4, offered, seconds=seconds, size=_BULK_BYTES)
    return bulk_tcp(net.client, net.server, Ocserv.inner4, seconds=seconds, flows=16)


def _video(net: Topology, seconds: float) -> Load[BulkResult]:
    return bulk_udp(net.client, net.server, Ocserv.inner4, _VIDEO_MBIT, seconds=seconds, tos=_VIDEO_TOS, port=_VIDEO_PORT)


def _delivered_mbit(server: Namespace, bulk: str, seconds: float) -> float:
    """Return the payload delivered in `seconds`, beginning shortly; of UDP, with every other packet as if it were bulk."""

    def delivered() -> int:
        if bulk == "udp":
            return packets(server, "vpns")[1] * _BULK_BYTES
        said = server.run(["ss", "--no-header", "--tcp", "--info", "state", "established"]).stdout
        return sum(map(int, re.findall(r"bytes_received:(\d+)", said)))

    time.sleep(_EDGE_SECONDS)
    began, before = time.monotonic(), delivered()
    time.sleep(seconds)
    after, ended = delivered(), time.monotonic()
    return (after - before) * 8e-6 / (ended - began)


def _idle(net: Topology) -> Figures:
    """Return the call's round trip while nothing else runs, in microseconds."""
    ends = (net.client, net.server, Ocserv.inner4)
    with call(*ends, seconds=_IDLE_SECONDS, interval=_IDLE_GAP_SECONDS, port=_IDLE_PORT) as alone:
        heard = alone.result()
    return {"p50": round(heard.p50_ms * 1000), "p99": round(heard.p99_ms * 1000)}


@contextlib.contextmanager
def _counting(server: Namespace, port: int) -> Iterator[None]:
    """Count in the kernel what reaches the server: reading each packet here would take a core from the tunnel."""
    rules = f"""table inet bench {{
        chain arrivals {{
            type filter hook input priority 0
            udp dport {port} udp length >= {_SMALLEST_DATAGRAM} counter
        }}
    }}"""
    server.run(["nft", "-f", "-"], stdin=rules)
    try:
        yield
    finally:
        server.run(["nft", "delete", "table", "inet", "bench"])


def _counts(server: Namespace, port: int) -> _Counts:
    said = json.loads(server.run(["nft", "-j", "list", "table", "inet", "bench"]).stdout)
    expressions = [part for item in said["nftables"] if "rule" in item for part in item["rule"]["expr"]]
    (arrived,) = (part["counter"]["packets"] for part in expressions if "counter" in part)
    rows = [row.split() for name in ("udp", "udp6") for row in server.read(f"/proc/net/{name}").splitlines()[1:]]
    no_room = sum(int(row[-1]) for row in rows if row[1].endswith(f":{port:04X}"))
    return _Counts(arrived, no_room, packets(server, "vpns")[1])


_HEADING = (
    f"{'client':22} {'rate':>4} {'bulk':>5} {'classes':>10} {'lost':>9} {'p50 ms':>7} {'p99 ms':>7}"
    f" {'idle p99':>8} {'bulk Mbit/s':>11} {'retrans':>7} {'replay':>13}"
)


def _line(row: Figures) -> str:
    lost = f"{row['call_lost']}/{row['call_sent']}"
    replay = f"{row['replay_dropped']} {row['replay_dropped'] / max(1, row['outer_received']):.1%}"
    idle = row["idle_rtt_us"]["p99"] / 1000
    return (
        f"{row['client']:22} {row['rate_mbit']:4} {row['bulk']:>5} {row['classes']:>10} {lost:>9}"
        f" {row['call_p50_ms']:7.2f} {row['call_p99_ms']:7.2f} {idle:8.2f} {row['bulk_mbit']:11.2f}"
        f" {row['retransmits']:7} {replay:>13}"
    )
