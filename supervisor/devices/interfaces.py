"""Network interfaces as the kernel names them, by ioctl: instant, and true to the caller's namespace (/sys is not)."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from qosctl.bpf.errors import RefusedError

NAME_BYTES_MAX = 15
"""How long a device's name can be: IFNAMSIZ less the final zero."""
_SIOCGIFHWADDR = 0x8927
_IFREQ = struct.Struct("=16sH22x")

# Link types, linux/if_arp.h. On these, packets at tc egress begin with an Ethernet header ...
_ETHERNET_LIKE = {1: "ethernet", 772: "loopback"}
# ... and on these with the IP header.
_RAW_IP = {
    512: "ppp",
    519: "raw-ip",
    768: "ipip tunnel",
    769: "ip6 tunnel",
    776: "sit tunnel",
    778: "gre tunnel",
    823: "ip6gre tunnel",
    65534: "none (tun, wireguard)",
}


@dataclass(frozen=True)
class Interface:
    """A network interface: its name and index, and whether its packets begin with an Ethernet header."""

    name: str
    index: int
    ethernet: bool


def find(name: str) -> Interface:
    """Look an interface up; RefusedError where there is none, or where its link type is unknown to us."""
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        raise RefusedError(f"{name}: no such device", "ip link") from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = _IFREQ.pack(os.fsencode(name), 0)
        try:
            _, link_type = _IFREQ.unpack(fcntl.ioctl(probe, _SIOCGIFHWADDR, request))
        except OSError as error:
            raise RefusedError(f"{name}: {error.strerror}", "ip link") from error
    if link_type not in _ETHERNET_LIKE and link_type not in _RAW_IP:
        raise RefusedError(f"{name}: packets of link type {link_type} are not understood", "ip -details link")
    return Interface(name, index, link_type in _ETHERNET_LIKE)


def name_of(index: int) -> str | None:
    """Return the present name of an interface index, or None where it is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return None


def exists(name: str) -> bool:
    """Whether an interface of that name is there now."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True
