"""Sizes and socket options of IP that more than one room needs; bytes."""

from __future__ import annotations

import socket

IPV4_HEADER_BYTES = 20
"""Without options (RFC 791 section 3.1)."""
IPV6_HEADER_BYTES = 40
"""Without extension headers (RFC 8200 section 3)."""
UDP_HEADER_BYTES = 8
TCP_HEADER_BYTES = 20
"""Without options (RFC 9293 section 3.1)."""
IPV6_MTU_MIN = 1280
"""Below it a link carries no IPv6 (RFC 8200 section 5); the kernel takes it off such a device."""

MTU_OPTION = {socket.AF_INET: (socket.IPPROTO_IP, 14), socket.AF_INET6: (socket.IPPROTO_IPV6, 24)}
"""Level and name of the option by which a connected socket tells its path's MTU: IP_MTU, IPV6_MTU (linux/in.h, in6.h)."""
