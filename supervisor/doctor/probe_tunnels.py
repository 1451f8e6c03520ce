"""Tunnels with `tos inherit`: what of the inner byte the outer header carries, and what of the outer one comes back in.

    sender, device `tunnel`  --- plain --->  far        outwards: the far end sees the outer header as it is
    sender, device `tunnel`  <-- plain ----  far        inwards: packets forged at the far end, all ECN pairs (RFC 6040)

Only the sender has a tunnel device, so what is seen outwards is the wire, and what is seen inwards is what the kernel took
out of the forged packet.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from qosctl.bpf.dscp import DF, EF, Ecn, TrafficClass
from qosctl.supervisor.doctor import probe_netns
from qosctl.supervisor.doctor.matrix_row import NOT_HERE, MatrixRow, carried_text
from qosctl.supervisor.doctor.netlink import attribute
from qosctl.supervisor.doctor.packets import with_checksum
from qosctl.supervisor.doctor.probe_netns import PLAIN, ProbeNetns
from qosctl.supervisor.doctor.sniffer import FIRST_PORT, Arrival, Sniffer, byte_by_port, transport_of
from qosctl.supervisor.doctor.tos_senders import MEANS, Means, classes, in_batches, settled

_TOPIC = "Tunnels with tos inherit"
_DEVICE = "tunnel"
_MODULES = Path("/sys/module")
_ID = 42
_INHERIT = b"\x01"
_VXLAN_PORT, _GENEVE_PORT = 4789, 6081
_INNER = {4: ("10.94.0.1", "10.94.0.2", 24), 6: ("fd94::1", "fd94::2", 64)}
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}
_DOMAIN = {4: socket.AF_INET, 6: socket.AF_INET6}

# What an ECN-capable exit makes of (inner, outer), RFC 6040 section 4.2; the pair left out is dropped.
_RFC6040 = {
    (inner, outer): inner
    if inner in (Ecn.NOT_ECT, Ecn.CE) or outer in (Ecn.NOT_ECT, inner)
    else {Ecn.CE: Ecn.CE, Ecn.ECT_1: Ecn.ECT_1}.get(outer, inner)
    for inner in Ecn
    for outer in Ecn
    if (inner, outer) != (Ecn.NOT_ECT, Ecn.CE)
}


@dataclass(frozen=True)
class Tunnel:
    """A kind of device: how it is made for an outer family, where its port is, and what its header is, inner family in."""

    kind: str
    data: Callable[[int], bytes]
    port: int  # of UDP; 0 where the header follows IP directly
    header: Callable[[int], bytes]
    module: str

    @property
    def loaded(self) -> bool:
        """Whether the kernel has it already. Asking for it would load it, and GRE then puts devices everywhere."""
        return (_MODULES / self.module).exists()

    def inner(self, packet: bytes) -> bytes | None:
        """Return the inner IP packet of an outer one, or None for another's."""
        protocol, rest = transport_of(packet)
        if self.port:
            if protocol != socket.IPPROTO_UDP or int.from_bytes(rest[2:4]) != self.port:
                return None
            rest = rest[8:]
        elif protocol != socket.IPPROTO_GRE:
            return None
        inner = rest[len(self.header(4)) :]
        return inner if len(inner) >= 40 and inner[0] >> 4 in (4, 6) else None


def _ends(local4: int, remote4: int, local6: int, remote6: int) -> Callable[[int], bytes]:
    def attributes(family: int) -> bytes:
        near, far = (
            ipaddress.ip_address(end(PLAIN, family)).packed for end in (probe_netns.near_address, probe_netns.far_address)
        )
        local, remote = (local4, remote4) if family == 4 else (local6, remote6)
        return (attribute(local, near) if local else b"") + attribute(remote, far)

    return attributes


def _ethernet(inner_family: int) -> bytes:
    return bytes.fromhex("020000000001020000000002") + struct.pack("!H", _ETHERTYPE[inner_family])


_vxlan_ends, _geneve_ends, _gre_ends = _ends(4, 2, 17, 16), _ends(0, 2, 0, 7), _ends(6, 7, 6, 7)

# Attribute numbers: IFLA_VXLAN_*, IFLA_GENEVE_*, IFLA_GRE_* in linux/if_link.h and linux/if_tunnel.h.
TUNNELS = (
    Tunnel(
        "vxlan",
        lambda f: _vxlan_ends(f) + attribute(1, _ID) + attribute(6, _INHERIT) + attribute(15, _VXLAN_PORT.to_bytes(2)),
        _VXLAN_PORT,
        lambda f: struct.pack("!II", 0x08000000, _ID << 8) + _ethernet(f),
        "vxlan",
    ),
    Tunnel(
        "geneve",
        lambda f: _geneve_ends(f) + attribute(1, _ID) + attribute(4, _INHERIT) + attribute(5, _GENEVE_PORT.to_bytes(2)),
        _GENEVE_PORT,
        lambda f: struct.pack("!HHI", 0, 0x6558, _ID << 8) + _ethernet(f),
        "geneve",
    ),
    Tunnel(
        "gre",
        lambda f: _gre_ends(f) + attribute(8, b"\x40") + attribute(9, _INHERIT),
        0,
        lambda f: struct.pack("!HH", 0, _ETHERTYPE[f]),
        "ip_gre",
    ),
)


def probe(laboratory: ProbeNetns) -> Iterator[MatrixRow]:
    """Yield two rows for each kind of tunnel and outer family; GRE over IPv4 alone."""
    for tunnel in TUNNELS:
        for family in (4, 6) if tunnel.port else (4,):
            yield from _probe(laboratory, tunnel, family)


def _probe(laboratory: ProbeNetns, tunnel: Tunnel, outer: int) -> Iterator[MatrixRow]:
    keys = [f"{tunnel.kind}-over-ipv{outer}-{way}" for way in ("outwards", "inwards")]
    whats = [f"{tunnel.kind} over IPv{outer}, outwards (inner IPv4; inner IPv6)", f"{tunnel.kind} over IPv{outer}, inwards"]
    if not tunnel.loaded or probe_netns.add_link(tunnel.kind, _DEVICE, tunnel.data(outer)).error:
        yield from (MatrixRow(key, _TOPIC, what, NOT_HERE, NOT_HERE) for key, what in zip(keys, whats, strict=True))
        return
    try:
        for family, (near, _far, width) in _INNER.items():
            probe_netns.assign(_DEVICE, family, near, width)
        outwards = {family: carried_text(_outwards(laboratory, tunnel, family)) for family in (4, 6)}
        differ = outwards[4] != outwards[6] or "not carried" in outwards[4] or "for" in outwards[4]
        breaks = "the outer packet is not of the inner one's class" if differ else ""
        ecn = "copied outwards" if any("ECN copied" in text for text in outwards.values()) else ""
        yield MatrixRow(keys[0], _TOPIC, whats[0], outwards[4], outwards[6], ecn, breaks)
        inwards = {family: _inwards_text(_inwards(laboratory, tunnel, outer, family)) for family in (4, 6)}
        odd = any("RFC 6040" not in text or "but" in text or "copied" in text for text in inwards.values())
        breaks = "a mark or a congestion signal changes on the way out of the tunnel" if odd else ""
        yield MatrixRow(keys[1], _TOPIC, whats[1], inwards[4], inwards[6], "outer CE reaches the inner packet", breaks)
    finally:
        probe_netns.delete_link(_DEVICE)


def _outwards(laboratory: ProbeNetns, tunnel: Tunnel, family: int) -> Mapping[int, TrafficClass]:
    """Send each byte through the device; return what the outer header had."""
    means = MEANS[family]
    laboratory.sniffer.forget()

    def number(arrival: Arrival) -> int | None:
        inner = tunnel.inner(arrival.packet)
        return byte_by_port(Arrival(arrival.wire, arrival.traffic_class, inner)) if inner is not None else None

    with socket.socket(_DOMAIN[family], socket.SOCK_DGRAM) as sender:

        def send(byte: int) -> None:
            sender.setsockopt(means.level, means.option, byte)
            sender.sendto(b"?" * 32, (_INNER[family][1], FIRST_PORT + byte))

        return classes(settled(lambda: in_batches(laboratory.sniffer, send, number)))


def _inwards(
    laboratory: ProbeNetns, tunnel: Tunnel, outer: int, family: int
) -> Mapping[tuple[TrafficClass, TrafficClass], TrafficClass]:
    """Forge all ECN pairs at the far end; return (inner, outer) to what the device handed up."""
    pairs = {
        number: (TrafficClass.of(DF, inner), TrafficClass.of(EF, outside))
        for number, (inner, outside) in enumerate((i, o) for i in Ecn for o in Ecn)
    }
    sniffer = Sniffer(_DEVICE)
    try:
        with laboratory.far.entered():
            kind, protocol = (socket.SOCK_DGRAM, 0) if tunnel.port else (socket.SOCK_RAW, socket.IPPROTO_GRE)
            sender = socket.socket(_DOMAIN[outer], kind, protocol)
        with sender:
            sender.bind((probe_netns.far_address(PLAIN, outer), 0))
            for number, (inner, outside) in pairs.items():
                _set(sender, MEANS[outer], outside)
                packet = _packet(family, inner, FIRST_PORT + number)
                sender.sendto(tunnel.header(family) + packet, (probe_netns.near_address(PLAIN, outer), tunnel.port))
        wanted = [number for number, (inner, outside) in pairs.items() if (inner.ecn, outside.ecn) in _RFC6040]
        heard = sniffer.hear(wanted, lambda arrival: byte_by_port(arrival) if arrival.wire == _DEVICE else None)
    finally:
        sniffer.close()
    return {pairs[number]: arrival.traffic_class for number, arrival in heard.items()}


def _set(sender: socket.socket, means: Means, traffic_class: TrafficClass) -> None:
    sender.setsockopt(means.level, means.option, traffic_class.byte)


def _packet(family: int, traffic_class: TrafficClass, port: int) -> bytes:
    near, far, _width = _INNER[family]
    source, destination = ipaddress.ip_address(far).packed, ipaddress.ip_address(near).packed
    udp = struct.pack("!HHHH", 1, port, 8 + 32, 0) + b"?" * 32
    if family == 6:
        return struct.pack("!IHBB", 6 << 28 | traffic_class.byte << 20, len(udp), 17, 64) + source + destination + udp
    header = struct.pack("!BBHHHBBH", 0x45, traffic_class.byte, 20 + len(udp), 0, 0, 64, 17, 0) + source + destination
    return with_checksum(header) + udp


def _inwards_text(taken: Mapping[tuple[TrafficClass, TrafficClass], TrafficClass]) -> str:
    if not taken:
        return "nothing comes out"
    dscp = (
        "the inner DSCP stays"
        if all(out.dscp is inner.dscp for (inner, _), out in taken.items())
        else "the outer DSCP is copied"
    )
    found = {(inner.ecn, outer.ecn): out.ecn for (inner, outer), out in taken.items()}
    odd = [
        f"{i.name} in {o.name} comes out as {found[i, o].name}" if (i, o) in found else f"{i.name} in {o.name} is dropped"
        for (i, o), expected in _RFC6040.items()
        if found.get((i, o)) is not expected
    ]
    return f"{dscp}, ECN by RFC 6040" + (f" but {', '.join(odd)}" if odd else "")
