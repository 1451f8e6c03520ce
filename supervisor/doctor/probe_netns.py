"""A laboratory inside a throw-away child, to see what the kernel does to real packets.

    +--------+ in           in +--------+ plain     plain +-----+
    | before |-----------------| sender |=================| far |     far listens on every wire
    +--------+                 +--------+ chosen   chosen +-----+

Packets for the far end leave `sender` by `plain`. A rule or route under test sends what it matches to `chosen`, so the wire
that a packet arrives on says whether it matched. `before` sends through `sender`, for what happens in forwarding. Both
ends of a wire share one link address and never ask for it: no packet waits for a neighbour.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
import time
from pathlib import Path

from qosctl.supervisor.doctor import netlink
from qosctl.supervisor.doctor.netlink import Netlink, Reply, attribute, nested
from qosctl.supervisor.doctor.scratch_netns import Net
from qosctl.supervisor.doctor.sniffer import FIRST_PORT, Sniffer, byte_by_port

PLAIN, CHOSEN, INWARD = "plain", "chosen", "in"
TABLE = 100  # whose default route is `chosen`
FAR = {4: "10.93.9.9", 6: "fd93:9::9"}
_WIRES = {INWARD: 0, PLAIN: 1, CHOSEN: 2}

_UP, _NO_ARP = 0x1, 0x80
_NO_DAD = 0x02
_WIRES_PATIENCE, _WIRES_POLL = 10.0, 0.02  # seconds

_LINK, _ADDRESS = struct.Struct("=BxHiII"), struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_IFNAME, _LINK_ADDRESS, _LINK_INFO, _NET_FD = 3, 1, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_RTA_DST, _RTA_OIF, _RTA_TABLE = 1, 4, 15
_MAIN, _STATIC, _UNIVERSE, _ON_LINK, _UNICAST = 254, 4, 0, 253, 1
_TO_TABLE = 1
_FRA_PRIORITY, _FRA_TABLE = 6, 15
_RULE_PRIORITY = 50
_DOMAIN = {4: socket.AF_INET, 6: socket.AF_INET6}
_WIDTH = {4: 32, 6: 128}


class ProbeNetns:
    """The three namespaces, wired, addressed and routed for both families. The calling process lives in `sender`."""

    def __init__(self) -> None:
        self.before, self.far = Net(), Net()
        self._write("net/ipv4/ip_forward", "1")
        self._write("net/ipv6/conf/all/forwarding", "1")
        for setting in ("all", "default"):
            self._write(f"net/ipv4/conf/{setting}/rp_filter", "0")
        with Netlink() as here:
            _up(here, "lo")
            for wire, peer in ((INWARD, self.before), (PLAIN, self.far), (CHOSEN, self.far)):
                self._lay(here, wire, peer)
            for family in (4, 6):
                _add_route(here, family, PLAIN)
                _add_route(here, family, CHOSEN, table=TABLE)
        with self.before.entered(), Netlink() as there:
            for family in (4, 6):
                _add_route(there, family, INWARD)
        with self.far.entered():
            self.sniffer = Sniffer()
            with Netlink() as there:
                _up(there, "lo")
                _assign(there, "lo", 4, FAR[4], _WIDTH[4])
                _assign(there, "lo", 6, FAR[6], _WIDTH[6])
        self._await_wires()

    def _await_wires(self) -> None:
        """The kernel brings a fresh link up when it finds the time, and drops what is sent before."""
        wanted = {
            number: (family, far_address(wire, family) if wire != INWARD else FAR[family], wire)
            for number, (family, wire) in enumerate((f, w) for f in (4, 6) for w in _WIRES)
        }
        deadline = time.monotonic() + _WIRES_PATIENCE
        while wanted:
            for number, (family, address, wire) in wanted.items():
                with contextlib.ExitStack() as stack:
                    if wire == INWARD:
                        stack.enter_context(self.before.entered())
                    sender = stack.enter_context(socket.socket(_DOMAIN[family], socket.SOCK_DGRAM))
                    with contextlib.suppress(OSError):
                        sender.sendto(b"", (address, FIRST_PORT + number))
            heard = self.sniffer.hear(wanted, byte_by_port, patience=_WIRES_POLL)
            wanted = {number: what for number, what in wanted.items() if number not in heard}
            if wanted and time.monotonic() > deadline:
                raise OSError(errno.ENETDOWN, "the wires of the laboratory did not come up")
        self.sniffer.forget()

    @staticmethod
    def _write(name: str, value: str) -> None:
        (Path("/proc/sys") / name).write_text(value, encoding="ascii")

    def _lay(self, here: Netlink, wire: str, peer: Net) -> None:
        number = _WIRES[wire]
        address = bytes([2, 0, 0, 0, 0, number])
        there = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFNAME, wire) + attribute(_LINK_ADDRESS, address)
        there += attribute(_NET_FD, peer.fd)
        kind = nested(_LINK_INFO, attribute(_INFO_KIND, "veth"), nested(_INFO_DATA, attribute(_VETH_PEER, there)))
        body = _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFNAME, wire) + attribute(_LINK_ADDRESS, address) + kind
        here.must(netlink.NEW_LINK, body)
        _address(here, wire, number, 1)
        _up(here, wire)
        with peer.entered(), Netlink() as far:
            _address(far, wire, number, 2)
            _up(far, wire)


def near_address(wire: str, family: int) -> str:
    """Return the sender's address on a wire."""
    return _numbered(_WIRES[wire], 1, family)


def far_address(wire: str, family: int) -> str:
    """Return the other end's address on a wire."""
    return _numbered(_WIRES[wire], 2, family)


def add_rule(family: int, byte: int, *more: bytes) -> Reply:
    """Ask for a rule that sends what has this TOS byte, or matches these attributes, to the table behind `chosen`."""
    return _rule(netlink.NEW_RULE, family, byte, *more)


def delete_rule(family: int, byte: int, *more: bytes) -> Reply:
    """Take back what add_rule made."""
    return _rule(netlink.DELETE_RULE, family, byte, *more)


def add_route(family: int, byte: int) -> Reply:
    """Ask for a route to the far end with this TOS byte, by `chosen`."""
    with Netlink() as here:
        return here.change(netlink.NEW_ROUTE, _route_body(family, CHOSEN, byte=byte))


def delete_route(family: int, byte: int) -> Reply:
    """Take back what add_route made."""
    with Netlink() as here:
        return here.delete(netlink.DELETE_ROUTE, _route_body(family, CHOSEN, byte=byte))


def add_link(kind: str, name: str, data: bytes) -> Reply:
    """Ask for a device in the namespace that we are in, and bring it up."""
    info = nested(_LINK_INFO, attribute(_INFO_KIND, kind), nested(_INFO_DATA, data))
    with Netlink() as here:
        reply = here.change(netlink.NEW_LINK, _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFNAME, name) + info)
        if not reply.error:
            _up(here, name)
        return reply


def delete_link(name: str) -> None:
    """Remove a device from the namespace that we are in."""
    with Netlink() as here:
        here.delete(netlink.DELETE_LINK, _LINK.pack(0, 0, socket.if_nametoindex(name), 0, 0))


def assign(name: str, family: int, address: str, width: int) -> None:
    """Give a device an address."""
    with Netlink() as here:
        _assign(here, name, family, address, width)


def _numbered(wire: int, end: int, family: int) -> str:
    return f"10.93.{wire}.{end}" if family == 4 else f"fd93:{wire}::{end}"


def _rule(kind: int, family: int, byte: int, *more: bytes) -> Reply:
    body = _ROUTE.pack(_DOMAIN[family], 0, 0, byte, 0, 0, 0, _TO_TABLE, 0)
    body += attribute(_FRA_TABLE, TABLE) + attribute(_FRA_PRIORITY, _RULE_PRIORITY) + b"".join(more)
    with Netlink() as here:
        return (here.change if kind == netlink.NEW_RULE else here.delete)(kind, body)


def _route_body(family: int, wire: str, *, table: int = _MAIN, byte: int = 0) -> bytes:
    target = ipaddress.ip_address(FAR[family]).packed
    head = _ROUTE.pack(
        _DOMAIN[family], _WIDTH[family], 0, byte, table, _STATIC, _ON_LINK if family == 4 else _UNIVERSE, _UNICAST, 0
    )
    return head + attribute(_RTA_DST, target) + attribute(_RTA_OIF, socket.if_nametoindex(wire))


def _add_route(where: Netlink, family: int, wire: str, *, table: int = _MAIN) -> None:
    where.must(netlink.NEW_ROUTE, _route_body(family, wire, table=table))


def _address(where: Netlink, name: str, wire: int, end: int) -> None:
    _assign(where, name, 4, _numbered(wire, end, 4), 24)
    _assign(where, name, 6, _numbered(wire, end, 6), 64)


def _assign(where: Netlink, name: str, family: int, address: str, width: int) -> None:
    packed = ipaddress.ip_address(address).packed
    head = _ADDRESS.pack(_DOMAIN[family], width, _NO_DAD if family == 6 else 0, 0, socket.if_nametoindex(name))
    where.must(netlink.NEW_ADDRESS, head + attribute(1, packed) + attribute(2, packed))


def _up(where: Netlink, name: str) -> None:
    flags = _UP | _NO_ARP
    body = _LINK.pack(0, 0, socket.if_nametoindex(name), flags, flags)
    reply = where.delete(netlink.NEW_LINK, body)  # a change of what exists: neither "create" nor "exclusive"
    if reply.error:
        raise OSError(reply.error, os.strerror(reply.error))
