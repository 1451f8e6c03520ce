"""Building outer packets, true ones by default, with every length field open to a lie.

    frame(ipv4(udp(record(number))))            Ethernet, IPv4, UDP, one DTLS 1.2 record of application data
    frame(ipv6(udp(record(7))), tags=(VLAN,))   behind one 802.1Q tag

Layers are bytes, so tests can cut and splice them anywhere. Checksums are computed here from the whole header.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

VLAN, QINQ = 0x8100, 0x88A8  # tag protocol identifiers: IEEE 802.1Q, 802.1ad
IPV4, IPV6, PPPOE = 0x0800, 0x86DD, 0x8864
TCP, UDP, ESP, ICMPV6 = 6, 17, 50, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, NO_NEXT = 0, 43, 44, 60, 59

CLIENT4, SERVER4 = "192.0.2.1", "198.51.100.7"
CLIENT6, SERVER6 = "2001:db8::1", "2001:db8:ffff::7"
CLIENT_PORT, SERVER_PORT = 40000, 4443

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA, HEARTBEAT, CID = 20, 21, 22, 23, 24, 25
DTLS_1_0, DTLS_1_2 = 0xFEFF, 0xFEFD

MORE_FRAGMENTS, DONT_FRAGMENT = 0x2000, 0x4000


def record(
    number: int,
    body: bytes = b"sealed" * 4,
    *,
    kind: int = APPLICATION_DATA,
    version: int = DTLS_1_2,
    length: int | None = None,
) -> bytes:
    """One DTLS record (RFC 6347 section 4.1); `number` is epoch << 48 | sequence number."""
    return struct.pack("!BHQH", kind, version, number, len(body) if length is None else length) + body


def udp(payload: bytes, *, source: int = CLIENT_PORT, destination: int = SERVER_PORT, length: int | None = None) -> bytes:
    """A UDP datagram without a checksum."""
    return struct.pack("!HHHH", source, destination, 8 + len(payload) if length is None else length, 0) + payload


def ipv4(
    payload: bytes,
    *,
    traffic_class: int = 0,
    protocol: int = UDP,
    flags_and_offset: int = DONT_FRAGMENT,
    options: bytes = b"",
    source: str = CLIENT4,
    destination: str = SERVER4,
    header_length: int | None = None,
    total_length: int | None = None,
    checksum: int | None = None,
    version: int = 4,
) -> bytes:
    """An IPv4 packet; `options` are padded to whole words, `header_length` is in words."""
    options += bytes(-len(options) % 4)
    words = 5 + len(options) // 4
    header = bytearray(
        struct.pack(
            "!BBHHHBBH4s4s",
            version << 4 | (words if header_length is None else header_length),
            traffic_class,
            4 * words + len(payload) if total_length is None else total_length,
            0x1234,
            flags_and_offset,
            64,
            protocol,
            0,
            ipaddress.IPv4Address(source).packed,
            ipaddress.IPv4Address(destination).packed,
        )
        + options
    )
    struct.pack_into("!H", header, 10, internet_checksum(header) if checksum is None else checksum)
    return bytes(header) + payload


def ipv6(
    payload: bytes,
    *,
    traffic_class: int = 0,
    flow_label: int = 0xABCDE,
    next_header: int = UDP,
    source: str = CLIENT6,
    destination: str = SERVER6,
    payload_length: int | None = None,
    version: int = 6,
) -> bytes:
    """An IPv6 packet; put extension headers around the payload with `extended`."""
    return (
        struct.pack(
            "!IHBB",
            version << 28 | traffic_class << 20 | flow_label,
            len(payload) if payload_length is None else payload_length,
            next_header,
            64,
        )
        + ipaddress.IPv6Address(source).packed
        + ipaddress.IPv6Address(destination).packed
        + payload
    )


def extended(payload: bytes, kinds: Sequence[int], *, last: int = UDP, words: int = 1) -> bytes:
    """`payload` behind extension headers of these kinds, each of `words` times 8 bytes."""
    for kind, following in reversed(list(zip(kinds, [*kinds[1:], last], strict=True))):
        if kind == FRAGMENT:
            payload = fragment_header(following) + payload
        else:
            payload = bytes([following, words - 1]) + bytes(8 * words - 2) + payload
    return payload


def fragment_header(following: int, *, offset: int = 0, more: bool = False) -> bytes:
    """An IPv6 fragment header (RFC 8200 section 4.5); `offset` in units of 8 bytes. By default an atomic one."""
    return struct.pack("!BBHI", following, 0, offset << 3 | more, 0xCAFE)


def frame(packet: bytes, *, tags: Sequence[int] = (), ethertype: int | None = None) -> bytes:
    """An Ethernet frame, with a VLAN tag for each of `tags`, outermost first."""
    if ethertype is None:
        ethertype = IPV6 if packet[:1] and packet[0] >> 4 == 6 else IPV4
    head = bytes.fromhex("020000000002020000000001")
    for tag in tags:
        head += struct.pack("!HH", tag, 0x2064)  # priority 1, identifier 100
    return head + struct.pack("!H", ethertype) + packet


def pppoe(packet: bytes, *, protocol: int | None = None, length: int | None = None) -> bytes:
    """A PPPoE session frame's content (RFC 2516), to be sent with ethertype PPPOE."""
    if protocol is None:
        protocol = 0x0057 if packet[0] >> 4 == 6 else 0x0021
    return struct.pack("!BBHHH", 0x11, 0, 0x0815, 2 + len(packet) if length is None else length, protocol) + packet


def internet_checksum(header: bytes | bytearray) -> int:
    """RFC 1071, over a header whose checksum field is zero."""
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
