"""What a server gives when it takes a client in, and how large packets may then be. Sizes are in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from qosctl.dtls.ip_sizes import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, UDP_HEADER_BYTES
from qosctl.dtls.vpn.host_routes import Network

Interface = IPv4Interface | IPv6Interface

TUNNEL_MTU_MIN = 576
RECORD_OVERHEAD = 37
"""Bytes that a record adds with the suite that servers choose, AES-GCM; for the MTU before there is a suite."""
LINK_MTU_MAX = 9000
ADDRESSES_MAX = 8
# A prefix as short as a default route would take the user's other traffic, which nobody asked for.
_PREFIX_MIN = {4: 8, 6: 16}


@dataclass(frozen=True)
class Timers:
    """What one channel is to do when it is quiet; seconds, 0 for never."""

    dpd: int
    keepalive: int


@dataclass(frozen=True)
class Session:
    """What the server gave; every value is checked.

    `app_id` names the session to the server's DTLS side; it is empty where there is none that we can speak to, and
    `no_dtls` then says why.
    """

    addresses: tuple[Interface, ...]
    mtu: int
    base_mtu: int
    tls: Timers
    dtls: Timers
    dtls_port: int
    app_id: bytes = field(repr=False)
    server: str
    rekey_s: int = 0
    """Seconds after which the server wants a session with new keys, 0 for never."""
    timeout_s: int = 0
    """Seconds after which the server ends the session, and its cookie, whatever happens; 0 for never."""
    network: Network = field(default_factory=Network)
    """Routes and DNS; whoever sets them decides."""
    no_dtls: str = ""

    def tunnel_mtu(self, outer: IPv4Address | IPv6Address, record_overhead: int) -> int:
        """Return the largest inner packet in bytes, given the server's address and the bytes a record adds."""
        return min(self.mtu, min(self.base_mtu, LINK_MTU_MAX) - outer_headers(outer, record_overhead))

    @property
    def has_ipv6(self) -> bool:
        """Whether it has an IPv6 address."""
        return any(each.version == 6 for each in self.addresses)


def outer_headers(outer: IPv4Address | IPv6Address, record_overhead: int) -> int:
    """Return the bytes around an inner packet on its way to `outer`, where a record adds `record_overhead`."""
    ip_header, type_byte = IPV4_HEADER_BYTES if outer.version == 4 else IPV6_HEADER_BYTES, 1
    return ip_header + UDP_HEADER_BYTES + record_overhead + type_byte


def is_tunnels(address: Interface) -> bool:
    """Whether a tunnel's device may have this address, with so short a prefix."""
    return not (
        address.is_loopback
        or address.is_multicast
        or address.ip.is_unspecified
        or address.network.prefixlen < _PREFIX_MIN[address.version]
    )
