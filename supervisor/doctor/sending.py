"""The ways in which a program can ask for a byte: a socket option or a control message, of IPv4 or of IPv6."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from qosctl.bpf.dscp import TrafficClass

from .behaviour import each_byte
from .ear import FIRST_PORT, Arrival, Ear, byte_by_port, transport_of
from .lab import FAR

_TCP_HEADER_MIN = 20


@dataclass(frozen=True)
class Means:
    """A socket option, which is also the type of the control message."""

    level: int
    option: int


IP_TOS = Means(socket.IPPROTO_IP, socket.IP_TOS)
IPV6_TCLASS = Means(socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
MEANS = {4: IP_TOS, 6: IPV6_TCLASS}


class Peer(enum.Enum):
    """Who is sent to, from what kind of socket: (socket family, address)."""

    IPV4 = (socket.AF_INET, FAR[4])
    IPV6 = (socket.AF_INET6, FAR[6])
    MAPPED = (socket.AF_INET6, f"::ffff:{FAR[4]}")

    def socket(self, kind: socket.SocketKind) -> socket.socket:
        """Open a socket for this peer."""
        return socket.socket(self.value[0], kind)

    def address(self, port: int) -> tuple[str, int]:
        """The peer's socket address."""
        return self.value[1], port


PEERS = {4: Peer.IPV4, 6: Peer.IPV6}

Arrivals = Mapping[int, Arrival]


def classes(arrivals: Arrivals) -> dict[int, TrafficClass]:
    """Return what each byte became."""
    return {byte: arrival.traffic_class for byte, arrival in arrivals.items()}


def on_wire(arrivals: Arrivals, wire: str) -> frozenset[int]:
    """Return the bytes whose packets took `wire`."""
    return frozenset(byte for byte, arrival in arrivals.items() if arrival.wire == wire)


def udp_by_option(ear: Ear, peer: Peer, means: Means) -> Arrivals:
    """Send a datagram with each byte set as a socket option."""
    with peer.socket(socket.SOCK_DGRAM) as sender:
        for byte in each_byte():
            with contextlib.suppress(OSError):  # what cannot be set or sent does not arrive
                sender.setsockopt(means.level, means.option, byte)
                sender.sendto(b"?", peer.address(FIRST_PORT + byte))
        return ear.hear(each_byte(), byte_by_port)


def udp_by_message(ear: Ear, peer: Peer, means: Means) -> Arrivals:
    """Send a datagram with each byte as a control message."""
    with peer.socket(socket.SOCK_DGRAM) as sender:
        for byte in each_byte():
            with contextlib.suppress(OSError):
                sender.sendmsg([b"?"], [_message(means, byte)], 0, peer.address(FIRST_PORT + byte))
        return ear.hear(each_byte(), byte_by_port)


def udp_connected(ear: Ear, peer: Peer, means: Means) -> Arrivals:
    """Set each byte as an option of a socket that is connected and has sent before."""
    with contextlib.ExitStack() as stack:
        for byte in each_byte():
            sender = stack.enter_context(peer.socket(socket.SOCK_DGRAM))
            sender.connect(peer.address(FIRST_PORT + byte))
            sender.send(b"before")
            sender.setsockopt(means.level, means.option, byte)
            with contextlib.suppress(OSError):  # the answer to the first may be an error
                sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                sender.send(b"?")
        return ear.hear(each_byte(), lambda arrival: byte_by_port(arrival) if arrival.packet.endswith(b"?") else None)


def tcp_first_packet(ear: Ear, peer: Peer, means: Means) -> Arrivals:
    """Set each byte as an option of a new TCP socket and see its SYN."""
    for byte in each_byte():
        with peer.socket(socket.SOCK_STREAM) as sender, contextlib.suppress(OSError):
            sender.setblocking(False)
            sender.setsockopt(means.level, means.option, byte)
            sender.connect(peer.address(FIRST_PORT + byte))
    return ear.hear(each_byte(), byte_by_port)


def tcp_data(ear: Ear, listener: socket.socket, peer: Peer, means: Means, *, message: bool) -> Arrivals:
    """Send each byte's own value as data over one connection, with that byte as an option or a control message."""
    port = listener.getsockname()[1]
    found: dict[int, Arrival] = {}
    with peer.socket(socket.SOCK_STREAM) as sender:
        sender.settimeout(1)
        sender.connect(peer.address(port))
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with listener.accept()[0] as receiver:
            for byte in each_byte():
                with contextlib.suppress(OSError):
                    if not message:
                        sender.setsockopt(means.level, means.option, byte)
                    sender.sendmsg([bytes([byte])], [_message(means, byte)] if message else [])
                found.update(ear.hear([byte], lambda arrival: _tcp_byte(arrival, port)))
                receiver.recv(1)
    return found


def priorities(peer: Peer, means: Means) -> dict[int, int]:
    """Return what SO_PRIORITY becomes when each byte is set on a fresh socket."""
    found = {}
    for byte in each_byte():
        with peer.socket(socket.SOCK_DGRAM) as sender:
            sender.setsockopt(means.level, means.option, byte)
            found[byte] = sender.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
    return found


def _message(means: Means, byte: int) -> tuple[int, int, bytes]:
    return means.level, means.option, struct.pack("=i", byte)


def _tcp_byte(arrival: Arrival, port: int) -> int | None:
    """Return the one byte of data of a segment to our listener."""
    protocol, segment = transport_of(arrival.packet)
    if protocol != socket.IPPROTO_TCP or len(segment) < _TCP_HEADER_MIN or int.from_bytes(segment[2:4]) != port:
        return None
    data = segment[(segment[12] >> 4) * 4 :]
    return data[0] if len(data) == 1 else None
