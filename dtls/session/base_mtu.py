"""How large the packets of a session may be, from what this machine knows by itself: no ICMP is believed here.

The kernel remembers for ten minutes what it was told of a path, and it takes that from anybody: for a message that quotes
an echo reply it does not even look for a socket (net/ipv4/icmp.c, icmp_err). A session that was built on a lie would be
small, or without IPv6, for as long as it lasts. So the device is asked, the operator's own word on the route, and what the
server's TCP said in its handshake; whether the path takes that much, probes find out (`path_mtu`).
"""

from __future__ import annotations

import errno
import socket
import sys
from ipaddress import IPv4Address, IPv6Address

from qosctl.dtls.ip_sizes import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, IPV6_MTU_MIN, MTU_OPTION, TCP_HEADER_BYTES
from qosctl.dtls.transport.outer_sockets import way_to
from qosctl.dtls.transport.pyroute2_by_need import IPRoute, NetlinkError
from qosctl.dtls.transport.tls_channel import TlsChannel
from qosctl.dtls.vpn.session import LINK_MTU_MAX, RECORD_OVERHEAD, TUNNEL_MTU_MIN, outer_headers

_TIMESTAMPS_BYTES = 12
_TCPI_OPT_TIMESTAMPS = 1


def fitting(channel: TlsChannel, device: int) -> int:
    """Return how large a packet towards the server may be, in bytes, where the device takes `device`."""
    by_segment = _by_segment(channel)
    # A segment shorter than what the kernel believes of the path is what the server's end has asked for, or a router
    # that clamps; one as long is only the belief again.
    fits = min(device, by_segment) if by_segment < _believed(channel) else device
    return max(TUNNEL_MTU_MIN, min(fits, LINK_MTU_MAX))


def base_for(fits: int, device: int, outer: IPv4Address | IPv6Address, *, ipv6: bool) -> int:
    """Return the base MTU to ask the server for, in bytes, where the path takes `fits` and the device `device`.

    Where that leaves no room for IPv6 (`ipv6`: it is wanted), ask for what the device takes: TLS fits every path, and the
    server would not give an address that it thinks has no room.
    """
    least = IPV6_MTU_MIN + outer_headers(outer, RECORD_OVERHEAD)
    return fits if fits >= least or not ipv6 else max(device, least)


def device_mtu(remote: str) -> int:
    """Return the MTU of the device on the way to `remote`, or what the operator says of the route, if that is less."""
    try:
        way = way_to(remote)
        if way is None:
            return LINK_MTU_MAX
        with IPRoute() as ip:
            (link,) = ip.get_links(way.device)
    except (NetlinkError, OSError, ValueError):  # between two routes: the next packet finds the new one
        return LINK_MTU_MAX
    mtu = int(link.get_attr("IFLA_MTU"))
    return min(mtu, way.mtu or mtu)


def _by_segment(channel: TlsChannel) -> int:
    """Return the packets that the segments of the channel's TCP make."""
    segment = int.from_bytes(channel.socket_option(socket.IPPROTO_TCP, socket.TCP_MAXSEG), sys.byteorder)
    options = channel.socket_option(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[5]
    timestamps = _TIMESTAMPS_BYTES if options & _TCPI_OPT_TIMESTAMPS else 0
    ip_header = IPV4_HEADER_BYTES if channel.peer[0] == socket.AF_INET else IPV6_HEADER_BYTES
    return segment + timestamps + TCP_HEADER_BYTES + ip_header


def _believed(channel: TlsChannel) -> int:
    """Return what the kernel believes of the path, rumours included."""
    try:
        return int.from_bytes(channel.socket_option(*MTU_OPTION[channel.peer[0]]), sys.byteorder)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return 0  # between two routes
