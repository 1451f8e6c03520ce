"""A call, and a video, beside bulk through a slow uplink: who waits, who loses, and to what.

Everything runs in the tunnel; the router's queue (tests.lab.Bottleneck) knows the outer packets only. What the server drops
as replays is counted, not guessed: datagrams with a packet in them that reached the server, less those its socket had no
room for, less the packets that came out of its tunnel device. Which of the call's these are, a tap at the server's wire
tells: those whose numbers are too far below the highest before them. Both are of the whole run; `bulk_mbit` is of the time
that the call lasted, without its first and last moments, so that bulk which had the link to itself does not flatter it.
"""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.bench.machine import sharing
from tests.bench.options import Options
from tests.bench.rows import ROWS, Row, beside_busy, named, place
from tests.bench.sides import SIDES, Side, connected, packets
from tests.lab import (
    Bottleneck,
    Load,
    Namespace,
    Ocserv,
    Tap,
    TappedRecord,
    Topology,
    TwoWays,
    bulk_bursts,
    bulk_tcp,
    bulk_udp,
    call,
)
from tests.lab.load import BulkResult

_SHORT_RATE_MBIT = 20
_SECONDS, _SHORT_SECONDS = 8.0, 5.0
_VIDEO_MBIT, _VIDEO_TOS, _VIDEO_PORT = 4.0, 34 << 2, 4003
_BULK_BYTES = 1200
_UDP_OVERLOAD = 2  # bulk offered, as a multiple of the rate
_LEAD_SECONDS = 1.0  # for the bulk's queue to fill before the call begins
_TRAIL_SECONDS = 2.0  # for the bulk to outlast the others, whose programs take a while to start on a busy machine
_EDGE_SECONDS = 0.5  # of the call at each end, where its program may not be sending yet, or no more
_DRAIN_SECONDS = 1.2  # the bulk's queue is 400 ms long at 5 Mbit/s; ours reports its counts once a second
_IDLE_SECONDS, _IDLE_GAP_SECONDS, _IDLE_PORT = 1.5, 0.005, 4004
_IP_UDP, _RECORD_OVERHEAD = 20 + 8, 13 + 8 + 16 + 1
"""Headers of IPv4 and UDP; a record's header, nonce, tag and type byte (AES-GCM)."""
_SMALLEST_DATAGRAM = 8 + _RECORD_OVERHEAD + 20  # as UDP counts: shorter ones carry no packet
_CALL_BYTES = 160
_CALL_RECORD = _CALL_BYTES + _IP_UDP + _RECORD_OVERHEAD
_ON_THE_WIRE = _BULK_BYTES + _IP_UDP + _RECORD_OVERHEAD + _IP_UDP + 14
"""Bytes of a bulk packet as a queue of the router counts it, Ethernet header included."""
_SECOND_WAY_CARRIES = 0.88
"""Of its half: 6 % of all datagrams are lost there."""
WINDOW = 64
"""A number so far below the highest one before it is too old (RFC 6347). GnuTLS, and so ocserv, takes one more."""

Figures = dict[str, Any]


@dataclass(frozen=True)
class _Counts:
    """What the server has seen so far."""

    arrived: int
    no_room: int
    left: int


def run(options: Options) -> Iterator[Figures]:
    """Yield {"bottleneck": [...]} after each row: an object for each client, the medians and in `each` the runs."""
    rows = _chosen(options)
    print("    " + _HEADING)
    with Topology() as net, Ocserv(net.server, [net.server4]) as server, _counting(net.server, server.port):
        for row in rows:
            measured: dict[str, list[Figures]] = {side.name: [] for side in options.sides}
            for _ in range(options.runs):
                for side in options.sides:  # in turn: what disturbs the machine for a while disturbs all of them
                    figures = _measure(net, server, side, row, options)
                    measured[side.name].append(figures)
                    print("    " + _line(figures), flush=True)
            yield {"bottleneck": [median_of(each) for each in measured.values()]}


def joined(known: Iterable[Figures], rows: Iterable[Figures]) -> list[Figures]:
    """Return `rows`, and of `known` the ones that are not among them, in the order of the table."""
    every = {(row["row"], row["client"]): row for row in (*known, *rows) if "row" in row}
    clients = [side.name for side in SIDES]
    places = {key: (place(row), clients.index(key[1])) for key in every if (row := named(key[0])) is not None}
    return [every[key] for key in sorted(places, key=places.__getitem__)]


def _chosen(options: Options) -> list[Row]:
    rows = [row for row in ROWS if not options.rows or row.name in options.rows]
    if options.short and not options.rows:
        rows = [row for row in rows if row.rate_mbit == _SHORT_RATE_MBIT and row.machine == "own"]
    return [beside_busy(row) for row in rows if row.machine == "own"] if options.busy else rows


def _measure(net: Topology, server: Ocserv, side: Side, row: Row, options: Options) -> Figures:
    seconds = options.seconds or (_SHORT_SECONDS if options.short else _SECONDS)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_path(net, server, row))
        client = stack.enter_context(connected(side, net, server))
        idle = {} if row.bulk == "bursts" or row.hold_ms else _idle(net)  # a steady row is judged by it
        stack.enter_context(sharing(row.machine, client.pid))
        tap = stack.enter_context(Tap(net.server, net.server_if, server.port))
        figures = _loaded(net, server, row, seconds)
        figures |= _numbers(tap.records()) | {"suspected": client.suspected()}
    return {"row": row.name, "client": side.name} | figures | ({"idle_rtt_us": idle} if idle else {})


def _path(net: Topology, server: Ocserv, row: Row) -> contextlib.AbstractContextManager[object]:
    if not row.hold_ms:
        return Bottleneck(net.router, net.router_server_if, row.rate_mbit)
    half = row.rate_mbit / 2 * _ON_THE_WIRE / _BULK_BYTES
    return TwoWays(
        net.router, net.router_server_if, server.port, kbit=round(half * 1000 * _SECOND_WAY_CARRIES), hold_ms=row.hold_ms
    )


def _loaded(net: Topology, server: Ocserv, row: Row, seconds: float) -> Figures:
    before = _counts(net.server, server.port)
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(_bulk(net, row, _LEAD_SECONDS + seconds + _TRAIL_SECONDS))
        time.sleep(_LEAD_SECONDS)
        video = stack.enter_context(_video(net, seconds)) if row.classes == "call+video" else None
        talk = stack.enter_context(call(net.client, net.server, Ocserv.inner4, seconds=seconds, size=_CALL_BYTES))
        mbit = _delivered_mbit(net.server, row, seconds - 2 * _EDGE_SECONDS)
        voice, seen, carried = talk.result(), video.result() if video else None, load.result()
    if row.bulk != "tcp16":
        others = voice.sent + (seen.packets if seen else 0)
        mbit = max(0.0, mbit - others * _BULK_BYTES * 8e-6 / seconds)
    time.sleep(_DRAIN_SECONDS)
    after = _counts(net.server, server.port)
    arrived = after.arrived - before.arrived
    no_room = after.no_room - before.no_room
    figures: Figures = {
        "call_sent": voice.sent,
        "call_lost": voice.lost,
        "call_p50_ms": round(voice.p50_ms, 2),
        "call_p99_ms": round(voice.p99_ms, 2),
        "bulk_mbit": round(mbit, 2),
        "bulk_sent": carried.packets_sent,
        "bulk_arrived": carried.packets,
        "retransmits": carried.retransmits,
        "outer_received": arrived,
        "replay_dropped": max(0, arrived - no_room - (after.left - before.left)),
        "socket_dropped": no_room,
    }
    if seen is not None:
        figures |= {"video_sent": seen.packets_sent, "video_lost": seen.packets_sent - seen.packets}
    return figures


def _numbers(records: list[TappedRecord]) -> Figures:
    """Return how many of the call's records reached the server's wire, and how many of them were too old there."""
    highest = reached = too_old = 0
    for record in records:
        old = highest - record.number >= WINDOW
        highest = max(highest, record.number)
        if record.size == _CALL_RECORD:
            reached += 1
            too_old += old
    return {"call_reached": reached, "call_replayed": too_old}


def median_of(runs: list[Figures]) -> Figures:
    """Return the runs as one: the median of each figure, and beside it all of them."""
    first = runs[0]
    if len(runs) == 1:
        return first
    middle = {name: statistics.median(run[name] for run in runs) for name, value in first.items() if _is_number(value)}
    return first | middle | {"each": [{name: run[name] for name in middle} for run in runs]}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _bulk(net: Topology, row: Row, seconds: float) -> Load[BulkResult]:
    ends = (net.client, net.server, Ocserv.inner4)
    if row.bulk == "tcp16":
        return bulk_tcp(*ends, seconds=seconds, flows=16)
    if row.bulk == "bursts":
        return bulk_bursts(*ends, row.kilobytes, row.period_s, seconds=seconds, size=_BULK_BYTES)
    offered = row.rate_mbit * (1 if row.hold_ms else _UDP_OVERLOAD)
    return bulk_udp(*ends, offered, seconds=seconds, size=_BULK_BYTES)


def _video(net: Topology, seconds: float) -> Load[BulkResult]:
    return bulk_udp(net.client, net.server, Ocserv.inner4, _VIDEO_MBIT, seconds=seconds, tos=_VIDEO_TOS, port=_VIDEO_PORT)


def _delivered_mbit(server: Namespace, row: Row, seconds: float) -> float:
    """Return the payload delivered in `seconds`, beginning shortly; of UDP, with every other packet as if it were bulk."""

    def delivered() -> int:
        if row.bulk != "tcp16":
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
    f"{'row':16} {'client':22} {'call lost':>9} {'by window':>9} {'p50 ms':>7} {'p99 ms':>7} {'idle p99':>8}"
    f" {'bulk Mbit/s':>11} {'of sent':>7} {'retrans':>7} {'replays':>13} {'suspected':>9}"
)


def _line(row: Figures) -> str:
    lost = f"{row['call_lost']}/{row['call_sent']}"
    replay = f"{row['replay_dropped']} {row['replay_dropped'] / max(1, row['outer_received']):.1%}"
    inside = f"{row['bulk_arrived'] / row['bulk_sent']:.1%}" if row["bulk_sent"] else ""
    idle = f"{row['idle_rtt_us']['p99'] / 1000:.2f}" if "idle_rtt_us" in row else ""
    suspected = "" if row["suspected"] is None else row["suspected"]
    return (
        f"{row['row']:16} {row['client']:22} {lost:>9} {row['call_replayed']:9}"
        f" {row['call_p50_ms']:7.2f} {row['call_p99_ms']:7.2f} {idle:>8}"
        f" {row['bulk_mbit']:11.2f} {inside:>7} {row['retransmits']:7} {replay:>13} {suspected:>9}"
    )
