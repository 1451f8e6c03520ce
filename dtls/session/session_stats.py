"""What the client counted. Counts only grow, and go on over reconnects."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.numbering.snapshot import Snapshot
from qosctl.dtls.packets.counters_by_dscp import DscpCounters, InnerTraffic
from qosctl.dtls.record.protection import RecordOpener
from qosctl.dtls.session.reconnect import Reason
from qosctl.dtls.transport.udp import UdpSocket


class State(enum.Enum):
    """What carries the packets."""

    DTLS = "dtls"
    TLS = "tls"
    """Both ways, unmarked: nothing comes back over UDP."""
    RECONNECTING = "reconnecting"
    """Nothing: packets wait in the tunnel device."""


@dataclass(slots=True)
class Counts:
    """What is counted one by one, and only grows: each under the name of its statistic (bpf/flow_page/statistics.py)."""

    packets_over_tls: int = 0
    """Of both directions; they are among those sent and received, too."""
    records_lost: int = 0
    """Of the server's, that never came."""
    dtls_lost: int = 0
    """How often TLS had to take over because DTLS died."""
    black_holes: int = 0
    """How often packets of full size stopped to arrive without a word from the path."""


@dataclass(frozen=True)
class TunnelStatus:
    """How the tunnel is. `since_s` is Unix time; `suite` is the DTLS cipher suite or empty; `mtu` of inner packets."""

    state: State
    since_s: float
    suite: str
    cipher: str
    """The suite of whatever carries the packets, DTLS or TLS, by OpenSSL's name; empty without either."""
    mtu: int
    reconnects: Mapping[Reason, int]


@dataclass(frozen=True)
class Statistics:
    """A snapshot.

    `control` counts frames that are no packets, as in "dtls dpd_out received"; `dropped` has a count for each reason
    that occurred; `socket_full` is how often packets had to wait for room in the UDP socket. `dpd_round_trip_s` is the
    newest of the DTLS channel, or None before the first.
    """

    sent: InnerTraffic
    received: InnerTraffic
    sent_by_class: Mapping[Dscp, InnerTraffic]
    """Classes that have carried something; they add up to `sent`."""
    received_by_class: Mapping[Dscp, InnerTraffic]
    control: Mapping[str, int]
    dropped: Mapping[DropReason, int]
    counts: Counts
    socket_full: int
    dpd_round_trip_s: float | None
    standing: TunnelStatus
    numbering: Snapshot | None


@dataclass(slots=True)
class SessionCounters(Counts):
    """The counts while they grow; plain attributes, because every packet passes here."""

    sent: DscpCounters = field(default_factory=DscpCounters)
    received: DscpCounters = field(default_factory=DscpCounters)
    socket_full: int = 0
    control: dict[str, int] = field(default_factory=dict)
    dropped: dict[DropReason, int] = field(default_factory=dict)
    reconnects: dict[Reason, int] = field(default_factory=dict)
    dpd_round_trip_s: float | None = None
    numbering: Snapshot | None = None
    """Of the channels that have ended."""
    state: State = State.RECONNECTING
    since_s: float = 0.0

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count packets, frames or records that went nowhere."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def count_control(self, what: str) -> None:
        """Count one frame that is no packet."""
        self.control[what] = self.control.get(what, 0) + 1

    def enter(self, state: State, wall_s: float) -> None:
        """Note that the tunnel is in `state` from Unix time `wall_s` on, unless it has been already."""
        if state is not self.state or not self.since_s:
            self.state, self.since_s = state, wall_s

    def absorb(self, opener: RecordOpener, udp: UdpSocket, numbering: Snapshot | None) -> None:
        """Keep what a DTLS channel that ends has counted."""
        if numbering is not None:
            self.numbering = self._with_earlier(numbering.ended())
        self.records_lost += opener.missing
        self.socket_full += udp.counts.full
        for reason, count in _dropped_by(opener, udp).items():
            self.drop(reason, count)

    def snapshot(  # noqa: PLR0913  (what each part of a client has counted)
        self,
        opener: RecordOpener | None,
        udp: UdpSocket | None,
        *,
        suite: str,
        tls_suite: str,
        mtu: int,
        tun_refused: int,
        numbering: Snapshot | None,
    ) -> Statistics:
        """Freeze the counts, with those of the DTLS channel that is up, of its numbering and of the device."""
        numbering = self.numbering if numbering is None else self._with_earlier(numbering)
        dropped = self.dropped | {DropReason.TUN_REFUSED: tun_refused}
        counts = Counts(**{each.name: getattr(self, each.name) for each in dataclasses.fields(Counts)})
        full = self.socket_full
        if opener is not None and udp is not None:
            counts.records_lost += opener.missing
            full += udp.counts.full
            for reason, count in _dropped_by(opener, udp).items():
                dropped[reason] = dropped.get(reason, 0) + count
        cipher = {State.DTLS: suite, State.TLS: tls_suite, State.RECONNECTING: ""}[self.state]
        return Statistics(
            self.sent.total,
            self.received.total,
            self.sent.by_class(),
            self.received.by_class(),
            dict(self.control),
            {reason: count for reason, count in dropped.items() if count},
            counts,
            full,
            self.dpd_round_trip_s,
            TunnelStatus(
                state=self.state,
                since_s=self.since_s,
                suite=suite,
                cipher=cipher,
                mtu=mtu,
                reconnects=dict(self.reconnects),
            ),
            numbering,
        )

    def _with_earlier(self, numbering: Snapshot) -> Snapshot:
        return numbering if self.numbering is None else numbering.following(self.numbering)


def _dropped_by(opener: RecordOpener, udp: UdpSocket) -> dict[DropReason, int]:
    counts = dataclasses.asdict(opener.counts)
    del counts["opened"]
    return {DropReason[name.upper()]: count for name, count in counts.items()} | {DropReason.UDP_LOST: udp.counts.lost}
