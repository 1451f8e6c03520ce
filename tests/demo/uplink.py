"""A call beside bulk through a slow uplink, both in the tunnel: what the mark is for, and what it costs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from tests.demo.stage import Stage
from tests.lab import Bottleneck, Capture, Ocserv, bulk_udp, call

RATE_MBIT = 20
OFFERED_MBIT = 40
_CALL_TOS = 46 << 2
# DTLS header, nonce, tag and type byte around the smallest IPv4 header: shorter records carry no packet.
_SMALLEST_RECORD = 13 + 8 + 16 + 1 + 20
_DRAIN_SECONDS = 0.5
_LEAD_SECONDS = 1.0  # let the bulk queue fill before the call begins


@dataclass(frozen=True)
class Uplink:
    """Figures of one run. Times are round trips; the way back is not slow."""

    ef_p50_ms: float
    ef_p99_ms: float
    ef_lost: float  # share of the call's datagrams, 0..1
    bulk_mbit: float  # payload that arrived
    replay_dropped: int  # records that reached the server and never left its tunnel device


def measure(stage: Stage, seconds: float) -> Uplink:
    """Load the tunnel for `seconds` through a bottleneck on the router."""
    net = stage.net
    with (
        Bottleneck(net.router, net.router_server_if, RATE_MBIT),
        Capture(net.server, net.server_if, stage.is_tunnel) as arrivals,
    ):
        before = _left_tunnel(stage)
        with bulk_udp(net.client, net.server, Ocserv.inner4, OFFERED_MBIT, seconds=seconds + 2 * _LEAD_SECONDS) as bulk:
            time.sleep(_LEAD_SECONDS)
            with call(net.client, net.server, Ocserv.inner4, seconds=seconds, tos=_CALL_TOS) as voice:
                heard = voice.result()
            received = bulk.result()
        time.sleep(_DRAIN_SECONDS)
        left = _left_tunnel(stage) - before
        arrived = sum(len(frame.payload) >= _SMALLEST_RECORD for frame in arrivals.frames())
    return Uplink(
        ef_p50_ms=round(heard.p50_ms, 2),
        ef_p99_ms=round(heard.p99_ms, 2),
        ef_lost=round(heard.lost_share, 4),
        bulk_mbit=round(received.mbit, 2),
        replay_dropped=arrived - left,
    )


def _left_tunnel(stage: Stage) -> int:
    """How many packets the server has put into its tunnel device."""
    links = json.loads(stage.net.server.run(["ip", "-s", "-j", "link", "show"]).stdout)
    return sum(link["stats64"]["rx"]["packets"] for link in links if link["ifname"].startswith("vpns"))
