"""The ways in which a program can ask for a byte: a socket option or a control message, of IPv4 or of IPv6."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qosctl.bpf.dscp import TRAFFIC_CLASS_COUNT, TrafficClass
from qosctl.supervisor.doctor.matrix_row import each_byte
from qosctl.supervisor.doctor.probe_netns import FAR
from qosctl.supervisor.doctor.scratch_netns import ThrowawayError
from qosctl.supervisor.doctor.sniffer import FIRST_PORT, Arrival, Sniffer, byte_by_port, transport_of

_TCP_HEADER_MIN = 20
_TRIES = 4
_BATCH = 64


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
NumberOf = Callable[[Arrival], int | None]


def settled(send: Callable[[], Arrivals]) -> Arrivals:
    """Send until all 256 arrive, a few times: a busy machine may lose some. ThrowawayError when they never do."""
    for _ in range(_TRIES):
        arrivals = send()
        if len(arrivals) == TRAFFIC_CLASS_COUNT:
            return arrivals
    raise ThrowawayError("packets get lost within this machine")


def classes(arrivals: Arrivals) -> dict[int, TrafficClass]:
    """Return what each byte became."""
    return {byte: arrival.traffic_class for byte, arrival in arrivals.items()}


def on_wire(arrivals: Arrivals, wire: str) -> frozenset[int]:
    """Return the bytes whose packets took `wire`."""
    return frozenset(byte for byte, arrival in arrivals.items() if arrival.wire == wire)


def in_batches(sniffer: Sniffer, send: Callable[[int], None], number_of: NumberOf = byte_by_port) -> Arrivals:
    """Send each byte and hear what arrives, so few at a time that nobody's buffer runs over."""
    found: dict[int, Arrival] = {}
    for first in range(0, TRAFFIC_CLASS_COUNT, _BATCH):
        batch = range(first, first + _BATCH)
        for byte in batch:
            with contextlib.suppress(OSError):  # what cannot be set or sent does not arrive
                send(byte)
        found.update(sniffer.hear(batch, number_of))
    return found


def udp_by_option(sniffer: Sniffer, peer: Peer, means: Means) -> Arrivals:
    """Send a datagram with each byte set as a socket option."""
    with peer.socket(socket.SOCK_DGRAM) as sender:

        def send(byte: int) -> None:
            sender.setsockopt(means.level, means.option, byte)
            sender.sendto(b"?", peer.address(FIRST_PORT + byte))

        return in_batches(sniffer, send)


def udp_by_message(sniffer: Sniffer, peer: Peer, means: Means) -> Arrivals:
    """Send a datagram with each byte as a control message."""
    with peer.socket(socket.SOCK_DGRAM) as sender:

        def send(byte: int) -> None:
            sender.sendmsg([b"?"], [_message(means, byte)], 0, peer.address(FIRST_PORT + byte))

        return in_batches(sniffer, send)


def udp_connected(sniffer: Sniffer, peer: Peer, means: Means) -> Arrivals:
    """Set each byte as an option of a socket that is connected and has sent before."""

    def send(byte: int) -> None:
        with peer.socket(socket.SOCK_DGRAM) as sender:
            sender.connect(peer.address(FIRST_PORT + byte))
            sender.send(b"before")
            sender.setsockopt(means.level, means.option, byte)
            sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # the first may have been refused
            sender.send(b"?")

    return in_batches(sniffer, send, lambda arrival: byte_by_port(arrival) if arrival.packet.endswith(b"?") else None)


def tcp_first_packet(sniffer: Sniffer, peer: Peer, means: Means) -> Arrivals:
    """Set each byte as an option of a new TCP socket and see its SYN."""

    def send(byte: int) -> None:
        with peer.socket(socket.SOCK_STREAM) as sender:
            sender.setblocking(False)
            sender.setsockopt(means.level, means.option, byte)
            sender.connect(peer.address(FIRST_PORT + byte))

    return in_batches(sniffer, send)


def tcp_data(sniffer: Sniffer, listener: socket.socket, peer: Peer, means: Means, *, message: bool) -> Arrivals:
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
                found.update(sniffer.hear([byte], lambda arrival: _tcp_byte(arrival, port)))
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
