"""What the tunnels have carried and have queued, by inner class, and what carries it by name: see tunnels.py.

Only classes that have carried something have series, so there are as many as there are classes in use. A cipher goes by the
name that OpenSSL has for it: a client that was taken over can say anything, and must not make ever new series.
"""

from __future__ import annotations

import functools
import ssl
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from qosctl.bpf.dscp import Dscp
from qosctl.bpf.flow_page.by_dscp import ClassUse, Queued
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.flow_page.tunnel_state import TunnelState, state_name
from qosctl.bpf.maps.flows import Flow

_LABELS = ["device", "dscp"]
_MICROSECOND = 1e-6
_CARRYING = (TunnelState.TLS, TunnelState.DTLS)

Tunnels = Mapping[str, Sequence[Flow]]
"""By tunnel device: mostly one flow, two for a moment when it reconnects."""


def class_families(tunnels: Tunnels) -> Iterator[Metric]:
    """Yield counters both ways, and the backlog."""
    counters = [
        CounterMetricFamily(
            "qosctl_tunnel_class_sent_packets",
            "Inner packets of this DSCP that left through the tunnel, over DTLS or TLS; classes seen only.",
            labels=_LABELS,
        ),
        CounterMetricFamily(
            "qosctl_tunnel_class_sent_bytes",
            "Bytes of the inner packets in qosctl_tunnel_class_sent_packets_total.",
            labels=_LABELS,
        ),
        CounterMetricFamily(
            "qosctl_tunnel_class_received_packets",
            "Inner packets of this DSCP that arrived through the tunnel, over DTLS or TLS; classes seen only.",
            labels=_LABELS,
        ),
        CounterMetricFamily(
            "qosctl_tunnel_class_received_bytes",
            "Bytes of the inner packets in qosctl_tunnel_class_received_packets_total.",
            labels=_LABELS,
        ),
    ]
    records = GaugeMetricFamily(
        "qosctl_tunnel_class_backlog_records",
        "Records of this class estimated to be queued between this machine and the server; missing where nobody knows.",
        labels=_LABELS,
    )
    seconds = GaugeMetricFamily(
        "qosctl_tunnel_class_backlog_seconds",
        "Time that a record of this class is estimated to wait in queues on its way to the server.",
        labels=_LABELS,
    )
    for device, flows in tunnels.items():
        for dscp, uses in _by_class(flows).items():
            labels = [device, dscp.name]
            for counter, column in zip(counters, zip(*uses, strict=True), strict=False):  # the last one is the backlog
                counter.add_metric(labels, sum(column))
            backlog = [queued for use in uses if (queued := use.queued) is not None]
            if backlog:
                records.add_metric(labels, sum(queued.records for queued in backlog))
                seconds.add_metric(labels, max(map(_waiting, backlog)) * _MICROSECOND)
    yield from (*counters, records, seconds)


def info_family(tunnels: Tunnels) -> Metric:
    """Return how each tunnel is by name. Of two flows, the one that carries more than the other."""
    info = InfoMetricFamily(
        "qosctl_tunnel",
        "What carries the packets by name: the state (dtls, tls, reconnecting), the channel (dtls, tls, or empty where "
        "there is none) and its cipher suite.",
        labels=["device"],
    )
    for device, flows in tunnels.items():
        best = max(flows, key=_state)
        state = state_name(_state(best))
        channel = state if _state(best) in _CARRYING else ""
        cipher = best.suite if best.suite in _suites() else "other"
        info.add_metric([device], {"state": state, "channel": channel, "cipher": cipher})
    return info


@functools.cache
def _suites() -> frozenset[str]:
    """All names there are, and none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    return frozenset({"", *(cipher["name"] for cipher in context.get_ciphers())})


def _by_class(flows: Sequence[Flow]) -> Mapping[Dscp, Sequence[ClassUse]]:
    found: dict[Dscp, list[ClassUse]] = defaultdict(list)
    for flow in flows:
        for dscp, use in flow.classes.items():
            found[dscp].append(use)
    return dict(sorted(found.items()))


def _state(flow: Flow) -> int:
    return flow.statistics[Statistic.STATE]


def _waiting(queued: Queued) -> int:
    return queued.microseconds
