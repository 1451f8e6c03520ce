"""What the program must do to a packet, in plain Python: packet, maps and context in; packet, outcome and priority out.

Written from abi.h, outcome.py and the RFCs, not from the C. It peels layers off as byte strings where the program walks
offsets, and it sums up whole headers where the program updates one word, so that a mistake is not made twice. Two rules
are worth knowing: headers are read from whatever bytes are there, and lengths are held against each other only once the
flow is known to be ours.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qosctl.bpf.outcome import Outcome

_TAGS = (b"\x81\x00", b"\x88\xa8")  # IEEE 802.1Q, 802.1ad
_ETHERTYPES = {b"\x08\x00": 4, b"\x86\xdd": 6}
_PPPOE_SESSION = b"\x88\x64"
_PPP_PROTOCOLS = {b"\x00\x21": 4, b"\x00\x57": 6}
_UDP, _IPV6_FRAGMENT = 17, 44
_IPV6_EXTENSIONS = frozenset({0, 43, 60})  # hop-by-hop, routing, destination options (RFC 8200 section 4)
_EXTENSIONS_MAX = 6
_IPV4_MAPPED = bytes(10) + b"\xff\xff"
_RECORD = struct.Struct("!BHQH")  # type, version, epoch and number, length (RFC 6347 section 4.1)


@dataclass
class Maps:
    """The content of the maps. `policy` has two banks of 64 (action, outer DSCP, set priority, priority)."""

    passtos: bool
    bank: int
    policy: Sequence[tuple[int, int, int, int]]
    flows: Mapping[bytes, Sequence[int]]  # struct flow_key to the words of its ring


@dataclass(frozen=True)
class Expected:
    """What must come of a packet; `outer` is the class it counts in, or None."""

    packet: bytes
    outcome: Outcome
    priority: int
    outer: int | None = None


class _Leave(Exception):  # noqa: N818 - not an error: the way out for a packet that is left alone
    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


def expect(packet: bytes, maps: Maps, *, ethernet: bool, gso_size: int = 0, priority: int = 0) -> Expected:
    """Say what must come of `packet`."""
    if not maps.passtos:
        return Expected(packet, Outcome.OFF, priority)
    try:
        link, version, room = _ethernet(packet) if ethernet else _raw(packet)
        ip = packet[link:]
        ring, payload = (_ipv4 if version == 4 else _ipv6)(ip, room, maps.flows)
        number = _record_number(payload, gso_size)
        action, outer, set_priority, wanted = maps.policy[(maps.bank & 1) * 64 + _class_of(ring, number)]
    except _Leave as leave:
        return Expected(packet, leave.outcome, priority)
    if action != 1:
        return Expected(packet, Outcome.POLICY_LEAVE, priority)
    outer %= 64
    stamped = packet[:link] + (_stamp_ipv4 if version == 4 else _stamp_ipv6)(ip, outer)
    outcome = Outcome.UNCHANGED if stamped == packet else Outcome.STAMPED
    return Expected(stamped, outcome, wanted if set_priority else priority, outer)


def _need(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise _Leave(Outcome.TRUNCATED)
    return data[:size]


def _ethernet(frame: bytes) -> tuple[int, int, int]:
    """Return where the IP packet begins, its version, and how many bytes the link has for it at most."""
    kind, at = _need(frame, 14)[12:], 14
    for _ in range(2):
        if kind in _TAGS:
            kind, at = _need(frame[at:], 4)[2:], at + 4
    room = len(frame) - at
    if kind == _PPPOE_SESSION:
        session = _need(frame[at:], 8)  # RFC 2516: version and type, code, session, length; then the PPP protocol
        at += 8
        version = _PPP_PROTOCOLS.get(session[6:])
        room = int.from_bytes(session[4:6]) - 2
    else:
        version = _ETHERTYPES.get(kind)
    if version is None:
        raise _Leave(Outcome.NOT_IP)
    return at, version, room


def _raw(packet: bytes) -> tuple[int, int, int]:
    version = _need(packet, 1)[0] >> 4
    if version not in (4, 6):
        raise _Leave(Outcome.NOT_IP)
    return 0, version, len(packet)


def _ipv4(ip: bytes, room: int, flows: Mapping[bytes, Sequence[int]]) -> tuple[Sequence[int], bytes]:
    """Return the flow's ring and the UDP payload (RFC 791)."""
    header = _need(ip, 20)
    if header[0] >> 4 != 4:
        raise _Leave(Outcome.NOT_IP)
    if header[9] != _UDP:
        raise _Leave(Outcome.NOT_UDP)
    if header[6] & 0x3F or header[7]:  # more fragments, or an offset
        raise _Leave(Outcome.FRAGMENT)
    size = (header[0] & 0x0F) * 4
    if size < 20:
        raise _Leave(Outcome.TRUNCATED)
    addresses = _IPV4_MAPPED + header[12:16] + _IPV4_MAPPED + header[16:20]
    return _udp(ip, size, addresses, int.from_bytes(header[2:4]), room, flows)


def _ipv6(ip: bytes, room: int, flows: Mapping[bytes, Sequence[int]]) -> tuple[Sequence[int], bytes]:
    """The same for RFC 8200."""
    header = _need(ip, 40)
    if header[0] >> 4 != 6:
        raise _Leave(Outcome.NOT_IP)
    following, size, passed = header[6], 40, 0
    while following in _IPV6_EXTENSIONS:
        extension = _need(ip[size : size + 2], 2)
        if passed == _EXTENSIONS_MAX:
            raise _Leave(Outcome.IPV6_EXT_HEADERS)
        following, size, passed = extension[0], size + 8 + 8 * extension[1], passed + 1
    if following == _IPV6_FRAGMENT:
        raise _Leave(Outcome.FRAGMENT)
    if following != _UDP:
        raise _Leave(Outcome.NOT_UDP)
    return _udp(ip, size, header[8:40], 40 + int.from_bytes(header[4:6]), room, flows)


def _udp(  # noqa: PLR0917 - six things that three layers say of one datagram
    ip: bytes, at: int, addresses: bytes, ip_length: int, room: int, flows: Mapping[bytes, Sequence[int]]
) -> tuple[Sequence[int], bytes]:
    """RFC 768, in an IP packet that claims `ip_length` bytes of the `room` that its link claims to have."""
    header = _need(ip[at : at + 8], 8)
    ring = flows.get(addresses + header[:4])
    if ring is None:
        raise _Leave(Outcome.NO_FLOW)
    length = int.from_bytes(header[4:6])
    if not 8 <= length <= ip_length - at or ip_length > room or room > len(ip):
        raise _Leave(Outcome.TRUNCATED)
    return ring, ip[at + 8 : at + length]


def _record_number(payload: bytes, gso_size: int) -> int:
    """Return the number of the one record of application data in the (first) datagram."""
    datagram = payload[:gso_size] if gso_size else payload
    if len(payload) < _RECORD.size:
        raise _Leave(Outcome.NOT_DTLS)
    kind, version, number, length = _RECORD.unpack_from(payload)
    if kind == 25 or kind >> 5 == 0b001:  # RFC 9146; RFC 9147 section 4
        raise _Leave(Outcome.CID_OR_DTLS13)
    if kind not in range(20, 25):
        raise _Leave(Outcome.NOT_DTLS)
    if kind != 23:
        raise _Leave(Outcome.NOT_DATA)
    if version != 0xFEFD:
        raise _Leave(Outcome.NOT_DTLS)
    if _RECORD.size + length != len(datagram):
        raise _Leave(Outcome.PARTIAL_RECORD if _RECORD.size + length > len(datagram) else Outcome.MULTIPLE_RECORDS)
    return int(number)


def _class_of(ring: Sequence[int], number: int) -> int:
    """Return the inner class that the ring holds for this record: 56 bits of the number, 8 of the class."""
    word = ring[number % 8192]
    if word == 0 or word >> 8 != number % 2**56 or word % 256 > 63:
        raise _Leave(Outcome.NO_MARK)
    return word % 256


def _stamp_ipv4(ip: bytes, dscp: int) -> bytes:
    """Write the DSCP, and a checksum that leaves the whole header's sum as it was, right or wrong.

    Sums in ones' complement are sums modulo 0xffff (RFC 1071).
    """
    if ip[1] >> 2 == dscp:
        return ip
    header = bytearray(ip[: (ip[0] & 0x0F) * 4])
    before = int.from_bytes(header)
    header[1] = dscp << 2 | header[1] & 0b11
    header[10:12] = bytes(2)
    header[10:12] = ((before - int.from_bytes(header)) % 0xFFFF).to_bytes(2)
    return bytes(header) + ip[len(header) :]


def _stamp_ipv6(ip: bytes, dscp: int) -> bytes:
    head = int.from_bytes(ip[:4])  # version 4, DSCP 6, ECN 2, flow label 20
    return (head & ~(0x3F << 22) | dscp << 22).to_bytes(4) + ip[4:]
