"""What class the inner packet asks for: the DSCP of an IPv4 or IPv6 header, and nothing else of the packet.

    IPv4 (RFC 791 3.1)              |Version|  IHL  | traffic class |  ...
    IPv6 (RFC 8200 3)               |Version| traffic class |  flow label ...
                                     0     3 4     7 8    11 12    15

Total: any bytes give a class. What is not IPv4 or IPv6, and what is shorter than that protocol's fixed header,
is class 0, which is what the network would give it without us. Extension headers do not matter, and a tunnel
inside the tunnel counts by its own outer header.
"""

from __future__ import annotations

from qosctl.bpf.dscp import Dscp, TrafficClass
from qosctl.dtls.ip_sizes import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES

IPV4_WITHOUT_OPTIONS = 0x45
"""The first byte of nearly every packet: the second one is the traffic class then."""

_CLASSES = tuple(TrafficClass.from_byte(byte) for byte in range(256))
_NO_CLASS = _CLASSES[0]
_DSCPS = tuple(each.dscp for each in _CLASSES)  # by the whole byte, so that the fast path shifts nothing
_NO_DSCP = _NO_CLASS.dscp


def traffic_class_of(packet: bytes | bytearray | memoryview) -> TrafficClass:
    """Return the traffic class in the header of `packet` (a memoryview must be of bytes). Never raises."""
    size = len(packet)
    if size < IPV4_HEADER_BYTES:
        return _NO_CLASS
    first = packet[0]
    version = first >> 4
    if version == 4:
        return _CLASSES[packet[1]]
    if version == 6 and size >= IPV6_HEADER_BYTES:
        return _CLASSES[(first & 0x0F) << 4 | packet[1] >> 4]
    return _NO_CLASS


def dscp_of(packet: bytes | bytearray | memoryview) -> Dscp:
    """Return `traffic_class_of(packet).dscp`; written out because every packet of the tunnel passes here."""
    size = len(packet)
    if size < IPV4_HEADER_BYTES:
        return _NO_DSCP
    first = packet[0]
    version = first >> 4
    if version == 4:
        return _DSCPS[packet[1]]
    if version == 6 and size >= IPV6_HEADER_BYTES:
        return _DSCPS[(first & 0x0F) << 4 | packet[1] >> 4]
    return _NO_DSCP
