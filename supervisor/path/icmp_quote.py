"""What a router says of a packet it could not forward: the head of that packet, as it had arrived.

    ICMP     | type | code | checksum |    4 bytes    | quoted IPv4 header | quoted UDP header ...    RFC 792
    ICMPv6   | type | code | checksum |    4 bytes    | quoted IPv6 header | quoted UDP header ...    RFC 4443

The quote is of the packet as received, so its traffic class is what arrived at that hop, and a change that the router
itself makes shows at the next one only. Everything here comes from strangers: parsers return None for all they do not
understand.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from qosctl.bpf.dscp import TrafficClass

UDP_HEADER_BYTES = 8
_ICMP_HEADER_BYTES = 8
_IPV4_HEADER_MIN, _IPV6_HEADER = 20, 40

_TIME_EXCEEDED = {4: 11, 6: 3}
_UNREACHABLE = {4: 3, 6: 1}
_PORT_UNREACHABLE = {4: 3, 6: 4}


@dataclass(frozen=True)
class IcmpQuote:
    """A quoted UDP packet. `payload_bytes` is the UDP length less its header, by which a probe is told from another."""

    traffic_class: TrafficClass
    destination: str
    source_port: int
    destination_port: int
    payload_bytes: int


@dataclass(frozen=True)
class Complaint:
    """An ICMP error: `expired` on the way, or the far end of the way (`port_closed`: the host itself said so)."""

    expired: bool
    port_closed: bool
    quote: IcmpQuote


def parse_icmp4(packet: bytes) -> Complaint | None:
    """Read what a raw ICMP socket yields: an IPv4 packet."""
    if len(packet) < _IPV4_HEADER_MIN:
        return None
    return _complaint(packet[(packet[0] & 0x0F) * 4 :], 4)


def parse_icmp6(message: bytes) -> Complaint | None:
    """Read what a raw ICMPv6 socket yields: the message alone."""
    return _complaint(message, 6)


def _complaint(message: bytes, family: int) -> Complaint | None:
    if len(message) < _ICMP_HEADER_BYTES:
        return None
    kind, code = message[0], message[1]
    if kind not in (_TIME_EXCEEDED[family], _UNREACHABLE[family]):
        return None
    quote = (_quote4 if family == 4 else _quote6)(message[_ICMP_HEADER_BYTES:])
    if quote is None:
        return None
    expired = kind == _TIME_EXCEEDED[family]
    return Complaint(expired, not expired and code == _PORT_UNREACHABLE[family], quote)


def _quote4(quoted: bytes) -> IcmpQuote | None:
    if len(quoted) < _IPV4_HEADER_MIN or quoted[0] >> 4 != 4 or quoted[9] != socket.IPPROTO_UDP:
        return None
    header = (quoted[0] & 0x0F) * 4
    return _quote(quoted[1], quoted[16:20], quoted[header:]) if header >= _IPV4_HEADER_MIN else None


def _quote6(quoted: bytes) -> IcmpQuote | None:
    """Our probes carry no extension headers, so UDP follows at once or the quote is of another's packet."""
    if len(quoted) < _IPV6_HEADER or quoted[0] >> 4 != 6 or quoted[6] != socket.IPPROTO_UDP:
        return None
    return _quote(int.from_bytes(quoted[:2]) >> 4 & 0xFF, quoted[24:40], quoted[_IPV6_HEADER:])


def _quote(byte: int, destination: bytes, udp: bytes) -> IcmpQuote | None:
    if len(udp) < UDP_HEADER_BYTES:
        return None
    source_port, destination_port, length = struct.unpack_from("!HHH", udp)
    address = str(ipaddress.ip_address(destination))
    return IcmpQuote(TrafficClass.from_byte(byte), address, source_port, destination_port, length - UDP_HEADER_BYTES)
