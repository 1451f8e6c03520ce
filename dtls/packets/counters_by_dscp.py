"""Packets and bytes by class, in one direction: every packet of the tunnel is counted here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qosctl.bpf.dscp import TRAFFIC_CLASS_COUNT, Dscp, Ecn, TrafficClass
from qosctl.dtls.packets.inner_header import traffic_class_of

_BYTES = tuple(TrafficClass.of(dscp, Ecn.NOT_ECT).byte for dscp in Dscp.all())


@dataclass(frozen=True)
class InnerTraffic:
    """Inner packets and their bytes in one direction, over DTLS or TLS."""

    packets: int
    bytes: int


class DscpCounters:
    """Counts that only grow. By the whole traffic-class byte, so that the fast path has nothing to work out."""

    __slots__ = ("octets", "packets")

    packets: list[int]
    """By traffic-class byte, 256 of them."""
    octets: list[int]

    def __init__(self) -> None:
        self.packets = [0] * TRAFFIC_CLASS_COUNT
        self.octets = [0] * TRAFFIC_CLASS_COUNT

    def add(self, dscp: Dscp, packets: int, size: int) -> None:
        """Count packets of one class that have `size` bytes in all."""
        at = _BYTES[dscp.value]
        self.packets[at] += packets
        self.octets[at] += size

    def count(self, packet: bytes | memoryview) -> TrafficClass:
        """Count one packet by what its header says, and return that."""
        found = traffic_class_of(packet)
        at = found.byte
        self.packets[at] += 1
        self.octets[at] += len(packet)
        return found

    @property
    def total(self) -> InnerTraffic:
        """All classes together."""
        return InnerTraffic(sum(self.packets), sum(self.octets))

    def by_class(self) -> Mapping[Dscp, InnerTraffic]:
        """Return the classes that have carried something, in the order of their numbers."""
        found: dict[Dscp, InnerTraffic] = {}
        for at, packets in enumerate(self.packets):
            if packets:
                dscp = TrafficClass.from_byte(at).dscp
                before = found.get(dscp, InnerTraffic(0, 0))
                found[dscp] = InnerTraffic(before.packets + packets, before.bytes + self.octets[at])
        return found
