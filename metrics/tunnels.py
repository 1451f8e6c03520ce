"""What the clients say of their tunnels: flow_page.Statistic turned into metrics, by tunnel device.

A tunnel can have two flows for a moment, when it reconnects; they are combined. Flows of dead owners are left out: what
they last said is not true any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.maps.flows import Flow
from qosctl.metrics.by_dscp import class_families, info_family

Columns = Sequence[Sequence[int]]
"""The statistics of one tunnel's flows: by Statistic, a value for each flow."""

MICROSECOND, MILLISECOND = 1e-6, 1e-3


@dataclass(frozen=True)
class TunnelMetric:
    """One metric family, label `device`, and `label` where it is made of several statistics (its value the key).

    `unit` turns a statistic into the metric's base unit; `combine` makes one value of two flows' for the same tunnel.
    """

    family: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    help: str
    statistics: Mapping[str, Statistic]
    label: str = ""
    unit: float = 1
    combine: Callable[[Iterable[int]], int] = sum

    def collect(self, tunnels: Mapping[str, Columns]) -> Metric:
        """Return the family with a sample for each tunnel and statistic."""
        metric = self.family(self.name, self.help, labels=["device", self.label] if self.label else ["device"])
        for device, columns in tunnels.items():
            for value, statistic in self.statistics.items():
                combined = self.combine(columns[statistic]) * self.unit
                metric.add_metric([device, value] if self.label else [device], combined)
        return metric


def _counter(name: str, statistic: Statistic, text: str) -> TunnelMetric:
    return TunnelMetric(CounterMetricFamily, name, text, {"": statistic})


def _gauge(
    name: str, statistic: Statistic, text: str, combine: Callable[[Iterable[int]], int], unit: float = 1
) -> TunnelMetric:
    return TunnelMetric(GaugeMetricFamily, name, text, {"": statistic}, unit=unit, combine=combine)


TUNNEL_METRICS: Sequence[TunnelMetric] = (
    _counter(
        "qosctl_tunnel_sent_packets", Statistic.PACKETS_SENT,
        "Packets that left through the tunnel, as counted by its client.",
    ),
    _counter(
        "qosctl_tunnel_sent_bytes", Statistic.BYTES_SENT,
        "Bytes of the inner packets that left through the tunnel, as counted by its client.",
    ),
    _counter(
        "qosctl_tunnel_received_packets", Statistic.PACKETS_RECEIVED,
        "Packets that arrived through the tunnel, as counted by its client.",
    ),
    _counter(
        "qosctl_tunnel_received_bytes", Statistic.BYTES_RECEIVED,
        "Bytes of the inner packets that arrived through the tunnel, as counted by its client.",
    ),
    TunnelMetric(
        CounterMetricFamily,
        "qosctl_tunnel_dropped_packets",
        "Packets the client dropped, by reason. forged: failed authentication; replayed: seen before or too old; "
        "malformed: not a record or frame it knows; unexpected: one that means nothing then; socket_full: the kernel took "
        "no more to send; tunnel_full: the tunnel device took no more; too_long: larger than a record can be; channel_lost:"
        " sealed, and waiting for room when its channel was lost; ecn: marked on the way, and unable to carry the mark "
        "inside (RFC 6040). forged and malformed should stay near 0 on an honest path.",
        {
            "forged": Statistic.DROPPED_FORGED,
            "replayed": Statistic.DROPPED_REPLAYED,
            "malformed": Statistic.DROPPED_MALFORMED,
            "unexpected": Statistic.DROPPED_UNEXPECTED,
            "socket_full": Statistic.DROPPED_SOCKET_FULL,
            "tunnel_full": Statistic.DROPPED_TUNNEL_FULL,
            "too_long": Statistic.DROPPED_TOO_LONG,
            "channel_lost": Statistic.DROPPED_CHANNEL_LOST,
            "ecn": Statistic.DROPPED_ECN,
        },
        label="reason",
    ),
    _gauge(
        "qosctl_tunnel_dpd_round_trip_seconds", Statistic.DPD_ROUND_TRIP_US,
        "Round trip of the last dead peer detection probe that the server answered; 0 until the first answer.",
        max, MICROSECOND,
    ),
    _gauge(
        "qosctl_tunnel_numbering_replay_safe", Statistic.NUMBERING_REPLAY_SAFE,
        "1 while record numbers are chosen so that the server's replay window lets overtaken records pass; at 0, bulk may "
        "be dropped by the server whenever a priority class overtakes it.",
        min,
    ),
    _counter(
        "qosctl_tunnel_probes_sent", Statistic.PROBES_SENT,
        "Probes sent to learn which record number has reached the server.",
    ),
    _counter(
        "qosctl_tunnel_probes_echoed", Statistic.PROBES_ECHOED,
        "Probes that the server echoed: each tells where the receiver was, and when.",
    ),
    _counter(
        "qosctl_tunnel_probes_lost", Statistic.PROBES_LOST,
        "Probes given up on. Where there are many against qosctl_tunnel_probes_sent_total, numbers are plain mostly.",
    ),
    _gauge(
        "qosctl_tunnel_backlog_records", Statistic.BACKLOG_RECORDS,
        "Records estimated to be queued between this machine and the server.",
        sum,
    ),
    _gauge(
        "qosctl_tunnel_backlog_seconds", Statistic.BACKLOG_MS,
        "Time that the estimated backlog takes to drain: the delay that bulk sees, and that priority classes are spared.",
        max, MILLISECOND,
    ),
    _counter(
        "qosctl_tunnel_gaps_used", Statistic.GAPS_USED,
        "Record numbers left free by bulk that a record of a priority class took, to stay inside the replay window.",
    ),
    _counter(
        "qosctl_tunnel_replay_losses_suspected", Statistic.REPLAY_LOSSES_SUSPECTED,
        "Records that the server has probably dropped as replays, because others overtook them by too much.",
    ),
    _gauge(
        "qosctl_tunnel_state", Statistic.STATE,
        "What carries the packets: 2 DTLS, 1 TLS (unmarked: nothing comes back over UDP), 0 nothing, it is reconnecting.",
        max,
    ),
    _gauge(
        "qosctl_tunnel_state_since_timestamp_seconds", Statistic.STATE_SINCE_S,
        "Unix time since when qosctl_tunnel_state is what it is.",
        max,
    ),
    TunnelMetric(
        CounterMetricFamily,
        "qosctl_tunnel_reconnects",
        "Sessions that ended and were begun anew, by reason. rekey is the server's wish for new keys and no fault.",
        {
            "server_closed": Statistic.RECONNECTS_SERVER_CLOSED,
            "server_silent": Statistic.RECONNECTS_SERVER_SILENT,
            "server_goodbye": Statistic.RECONNECTS_SERVER_GOODBYE,
            "session_timeout": Statistic.RECONNECTS_SESSION_TIMEOUT,
            "address_changed": Statistic.RECONNECTS_ADDRESS_CHANGED,
            "rekey": Statistic.RECONNECTS_REKEY,
            "path_mtu": Statistic.RECONNECTS_PATH_MTU,
            "broken": Statistic.RECONNECTS_BROKEN,
        },
        label="reason",
    ),
    _counter(
        "qosctl_tunnel_dtls_losses", Statistic.DTLS_LOST,
        "How often DTLS died while the session lived, so that TLS had to carry the packets.",
    ),
    _counter(
        "qosctl_tunnel_black_holes", Statistic.BLACK_HOLES,
        "How often records of full size stopped to arrive although the path had not said that they are too big.",
    ),
    _counter(
        "qosctl_tunnel_lost_records", Statistic.RECORDS_LOST,
        "Records of the server that never arrived, by the gaps in their numbers.",
    ),
    _counter(
        "qosctl_tunnel_packets_over_tls", Statistic.PACKETS_OVER_TLS,
        "Packets of both directions that went over TLS: while DTLS was not to be had, or too large for its path.",
    ),
    _gauge(
        "qosctl_tunnel_mtu_bytes", Statistic.INNER_MTU,
        "The largest packet that the tunnel device takes.",
        min,
    ),
    _gauge(
        "qosctl_tunnel_cipher_key_bytes", Statistic.CIPHER_KEY_BYTES,
        "Key length of the records' cipher; 0 while TLS carries the packets.",
        min,
    ),
    _gauge(
        "qosctl_tunnel_cipher_chacha20", Statistic.CIPHER_CHACHA20,
        "1 where the records' cipher is ChaCha20-Poly1305, 0 where it is AES-GCM.",
        max,
    ),
)  # fmt: skip


def tunnel_families(flows: Sequence[Flow] | None) -> Iterator[Metric]:
    """Yield every tunnel metric, without samples where the flows could not be read (None). `flows`: of live owners."""
    tunnels: dict[str, list[Flow]] = defaultdict(list)
    for flow in flows or ():
        tunnels[flow.owner.tunnel].append(flow)
    columns = {device: tuple(zip(*(flow.statistics for flow in each), strict=True)) for device, each in tunnels.items()}
    for metric in TUNNEL_METRICS:
        yield metric.collect(columns)
    yield info_family(tunnels)
    yield from class_families(tunnels)
