"""Makes the server send over TLS when DTLS has died: a packet over TLS is its sign to change.

A client that only receives sends none, and the server would go on sending over the dead path. So a packet is made here: a
UDP datagram to the discard port with a hop limit of one, which ends at the server. Servers differ in how long after the
last word over UDP they believe the sign (up to 15 s), so it is given again, at longer and longer intervals. No I/O, no
clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from qosctl.dtls.vpn.session import Interface

FIRST_WAIT_S = 1.0
LAST_WAIT_S = 32.0
_IPV4 = Struct(">BBHHHBBH4s4s")
_IPV6 = Struct(">IHBB16s16s")
_UDP = Struct(">HHHH")
_UDP_PROTOCOL = 17
_DISCARD = 9
_ONE_HOP = 1
_NOWHERE4 = IPv4Address("192.0.2.1")  # RFC 5737: documentation
_NOWHERE6 = IPv6Address("100::1")  # RFC 6666: to be discarded


class TlsWakeup:
    """Says when to send the packet. Quiet until `begin`."""

    def __init__(self, addresses: Sequence[Interface]) -> None:
        """`addresses` are those that the tunnel device has; without one there is nobody to send to, and it stays quiet."""
        self._packet = _packet(min(addresses, key=lambda each: each.version)) if addresses else None
        self._next = math.inf
        self._wait = FIRST_WAIT_S

    def begin(self, now: float) -> None:
        """TLS has taken over."""
        self._next, self._wait = now if self._packet else math.inf, FIRST_WAIT_S

    def stop(self) -> None:
        """DTLS carries again."""
        self._next = math.inf

    def due(self, now: float) -> bytes | None:
        """Return the packet when it is time to send it, and take it as sent."""
        if now < self._next:
            return None
        self._next = now + self._wait if self._wait <= LAST_WAIT_S else math.inf
        self._wait *= 2
        return self._packet

    def next_time(self) -> float:
        """Return when to ask `due` again."""
        return self._next


def _packet(own: Interface) -> bytes:
    source = own.ip
    if isinstance(source, IPv4Address):
        size = _IPV4.size + _UDP.size
        head = (0x45, 0, size, 0, 0, _ONE_HOP, _UDP_PROTOCOL)
        unsummed = _IPV4.pack(*head, 0, source.packed, _NOWHERE4.packed)
        header = _IPV4.pack(*head, _checksum(unsummed), source.packed, _NOWHERE4.packed)
        return header + _UDP.pack(_DISCARD, _DISCARD, _UDP.size, 0)  # IPv4 lets UDP go without a checksum
    ends = source.packed + _NOWHERE6.packed
    pseudo = ends + _UDP.size.to_bytes(4) + _UDP_PROTOCOL.to_bytes(4)
    checksum = _checksum(pseudo + _UDP.pack(_DISCARD, _DISCARD, _UDP.size, 0)) or 0xFFFF
    return _IPV6.pack(6 << 28, _UDP.size, _UDP_PROTOCOL, _ONE_HOP, source.packed, _NOWHERE6.packed) + _UDP.pack(
        _DISCARD, _DISCARD, _UDP.size, checksum
    )


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
