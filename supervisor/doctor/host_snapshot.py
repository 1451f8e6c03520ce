"""What this network namespace has: devices, routes and queues, asked of the kernel over netlink. Changes nothing."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from qosctl.dtls.transport.outer_sockets import MARK
from qosctl.supervisor.doctor import netlink
from qosctl.supervisor.doctor.netlink import Netlink, attributes

_LINK, _ROUTE, _TRAFFIC = struct.Struct("=BxHiII"), struct.Struct("=BBBBBBBBI"), struct.Struct("=B3xiIII")
_IFNAME, _STATISTICS = 3, 23
_DST, _OIF, _PRIORITY, _TABLE, _MARK = 1, 4, 6, 15, 16
_FRA_PRIORITY, _FRA_TABLE, _FRA_DSCP = 6, 15, 25
_KIND, _OPTIONS = 1, 2
_ROOT = 0xFFFFFFFF
_EGRESS = 0xFFFFFFF3
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_CLONED = 0x200  # a cached route, not one that somebody made


@dataclass(frozen=True)
class Selector:
    """A rule or a route that looks at the byte: by `tos` (a byte, 0 for none) or `dscp` (None for none)."""

    family: int
    route: bool
    tos: int
    dscp: int | None
    priority: int
    table: int
    words: str

    def __str__(self) -> str:
        return f"ip -{self.family} {'route' if self.route else 'rule'} {self.words}"


@dataclass(frozen=True)
class Qdisc:
    """A queueing discipline: its kind, whether it is the root, and its raw options."""

    kind: str
    root: bool
    options: dict[int, bytes]


def packets_sent() -> dict[str, int]:
    """Return how many packets each device has sent."""
    with Netlink() as here:
        links = here.dump(netlink.GET_LINK, _LINK.pack(0, 0, 0, 0, 0)).messages
    found = {}
    for _kind, body in links:
        known = attributes(body[_LINK.size :])
        if _IFNAME in known and len(known.get(_STATISTICS, b"")) >= 16:
            found[_text(known[_IFNAME])] = struct.unpack_from("=QQ", known[_STATISTICS])[1]
    return found


def way_out(address: str) -> str | None:
    """Return the device that a tunnel's own packets to `address` leave by, or None where there is no route."""
    ip = ipaddress.ip_address(address)
    body = _ROUTE.pack(_FAMILIES[ip.version], 8 * len(ip.packed), 0, 0, 0, 0, 0, 0, 0)
    mark = netlink.attribute(_MARK, struct.pack("=I", MARK))
    with Netlink() as here:
        reply = here.get(netlink.GET_ROUTE, body + netlink.attribute(_DST, ip.packed) + mark)
    for _kind, message in reply.messages:
        out = attributes(message[_ROUTE.size :]).get(_OIF, b"")
        if len(out) == 4:
            return socket.if_indextoname(struct.unpack("=I", out)[0])
    return None


def default_device() -> str | None:
    """Return the device of the default route, IPv4 before IPv6: the likely way to a VPN server."""
    return way_out("192.0.2.1") or way_out("2001:db8::1")  # documentation addresses: nobody has a route of their own


def selectors() -> Iterator[Selector]:
    """Yield all rules and routes that look at the byte."""
    with Netlink() as here:
        for family, number in _FAMILIES.items():
            head = _ROUTE.pack(number, 0, 0, 0, 0, 0, 0, 0, 0)
            for _kind, body in here.dump(netlink.GET_RULE, head).messages:
                yield from _selector(family, body, route=False)
            for _kind, body in here.dump(netlink.GET_ROUTE, head).messages:
                yield from _selector(family, body, route=True)


def qdiscs(device: str) -> list[Qdisc]:
    """Return the device's queueing disciplines, the root first."""
    index = socket.if_nametoindex(device)
    found = []
    with Netlink() as here:
        for _kind, body in here.dump(netlink.GET_QDISC, _TRAFFIC.pack(0, index, 0, 0, 0)).messages:
            _family, owner, _handle, parent, _info = _TRAFFIC.unpack_from(body)
            known = attributes(body[_TRAFFIC.size :])
            if owner == index:
                options = attributes(known.get(_OPTIONS, b""))
                found.append(Qdisc(_text(known.get(_KIND, b"")), parent == _ROOT, options))
    return sorted(found, key=lambda qdisc: not qdisc.root)


def egress_filters(device: str) -> list[tuple[int, int, str, bytes]]:
    """Return the filters in clsact's egress: priority, handle, kind and raw options."""
    index = socket.if_nametoindex(device)
    with Netlink() as here:
        reply = here.dump(netlink.GET_FILTER, _TRAFFIC.pack(0, index, 0, _EGRESS, 0))
    found = []
    for _kind, body in reply.messages:
        _family, _owner, handle, _parent, info = _TRAFFIC.unpack_from(body)
        known = attributes(body[_TRAFFIC.size :])
        if handle:
            found.append((info >> 16, handle, _text(known.get(_KIND, b"")), known.get(_OPTIONS, b"")))
    return found


def _selector(family: int, body: bytes, *, route: bool) -> Iterator[Selector]:
    _family, width, _source, tos, table, *_rest, flags = _ROUTE.unpack_from(body)
    known = attributes(body[_ROUTE.size :])
    dscp = known[_FRA_DSCP][0] if not route and known.get(_FRA_DSCP) else None
    if (not tos and dscp is None) or flags & _CLONED:
        return
    table = _number(known.get(_TABLE if route else _FRA_TABLE), table)
    priority = _number(known.get(_PRIORITY if route else _FRA_PRIORITY), 0)
    what = f"dscp {dscp}" if dscp is not None else f"tos {tos:#04x}"
    target = f"{ipaddress.ip_address(known[_DST])}/{width} " if route and _DST in known else "default " if route else ""
    words = f"{target}{what} table {table}" + ("" if route else f" priority {priority}")
    yield Selector(family, route, tos, dscp, priority, table, words)


def _number(raw: bytes | None, otherwise: int) -> int:
    return int(struct.unpack("=I", raw)[0]) if raw is not None and len(raw) == 4 else otherwise


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
