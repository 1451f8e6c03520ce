"""What is really on a wire: packets from a packet socket, taken apart as far as the probes need."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from qosctl.bpf.dscp import TrafficClass

_PATIENCE = 0.5  # seconds without a packet until the rest counts as lost
_PACKET_BYTES = 2048
_BUFFER_BYTES = 4 << 20
_ETH_P_ALL, _ETH_P_IPV4, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
FIRST_PORT = 20000  # of the far end; the byte that was asked for is added


@dataclass(frozen=True)
class Arrival:
    """A packet at the far end: the wire, the byte that the IP header carried, and the packet from the IP header on."""

    wire: str
    traffic_class: TrafficClass
    packet: bytes


class Sniffer:
    """Hears the packets that arrive in the namespace it was made in, on one device or on all."""

    def __init__(self, device: str = "") -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        if device:
            self._socket.bind((device, _ETH_P_ALL))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        except PermissionError:  # an ordinary user in a user namespace: batches are small enough
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)

    def hear(
        self, wanted: Iterable[int], number_of: Callable[[Arrival], int | None], patience: float = _PATIENCE
    ) -> Mapping[int, Arrival]:
        """Collect what arrives by number, until all `wanted` are there or nothing has come for `patience` seconds."""
        missing = set(wanted)
        found: dict[int, Arrival] = {}
        deadline = time.monotonic() + patience
        while missing and select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            packet, address = self._socket.recvfrom(_PACKET_BYTES)
            arrival = _arrival(packet, int(address[1]), str(address[0])) if address[2] != socket.PACKET_OUTGOING else None
            number = number_of(arrival) if arrival is not None else None
            if arrival is not None and number in missing:
                missing.discard(number)
                found[number] = arrival
                deadline = time.monotonic() + patience
        return found

    def forget(self) -> None:
        """Throw away what has arrived and not been looked at."""
        while select.select([self._socket], [], [], 0)[0]:
            self._socket.recv(_PACKET_BYTES)

    def close(self) -> None:
        """Stop hearing."""
        self._socket.close()


def transport_of(packet: bytes) -> tuple[int, bytes]:
    """Return the protocol and what follows the IP header of a packet without extension headers."""
    if packet[0] >> 4 == 4:
        return packet[9], packet[(packet[0] & 0x0F) * 4 :]
    return packet[6], packet[40:]


def byte_by_port(arrival: Arrival) -> int | None:
    """Return the byte that a UDP or TCP packet was sent with, as its destination port says."""
    protocol, rest = transport_of(arrival.packet)
    if protocol not in (socket.IPPROTO_UDP, socket.IPPROTO_TCP) or len(rest) < 4:
        return None
    number = int.from_bytes(rest[2:4]) - FIRST_PORT
    return number if 0 <= number < 256 else None


def _arrival(packet: bytes, ethertype: int, wire: str) -> Arrival | None:
    if ethertype == _ETH_P_IPV4 and len(packet) >= 20:
        return Arrival(wire, TrafficClass.from_byte(packet[1]), packet)
    if ethertype == _ETH_P_IPV6 and len(packet) >= 40:
        return Arrival(wire, TrafficClass.from_byte(int.from_bytes(packet[:2]) >> 4 & 0xFF), packet)
    return None
