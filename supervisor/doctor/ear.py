"""Hearing what really is on a wire: frames from a packet socket, taken apart as far as the probes need."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from qosctl.bpf.dscp import TrafficClass

_PATIENCE = 0.5  # seconds without a packet until the rest counts as lost
_FRAME_BYTES = 2048
_BUFFER_BYTES = 4 << 20
_ETH_P_ALL = 0x0003
FIRST_PORT = 20000  # of the far end; the byte that was asked for is added


@dataclass(frozen=True)
class Arrival:
    """A packet at the far end: the wire, the byte that the IP header carried, and the packet from the IP header on."""

    wire: str
    traffic_class: TrafficClass
    packet: bytes


class Ear:
    """Hears the packets that arrive in the namespace it was made in, on one device or on all."""

    def __init__(self, device: str = "") -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        if device:
            self._socket.bind((device, _ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)

    def hear(self, wanted: Iterable[int], number_of: Callable[[Arrival], int | None]) -> Mapping[int, Arrival]:
        """Collect what arrives by number, until all `wanted` are there or nothing comes any more."""
        missing = set(wanted)
        found: dict[int, Arrival] = {}
        deadline = time.monotonic() + _PATIENCE
        while missing and select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            frame, address = self._socket.recvfrom(_FRAME_BYTES)
            arrival = _arrival(frame, str(address[0])) if address[2] != socket.PACKET_OUTGOING else None
            number = number_of(arrival) if arrival is not None else None
            if arrival is not None and number in missing:
                missing.discard(number)
                found[number] = arrival
                deadline = time.monotonic() + _PATIENCE
        return found

    def forget(self) -> None:
        """Throw away what has arrived and not been looked at."""
        while select.select([self._socket], [], [], 0)[0]:
            self._socket.recv(_FRAME_BYTES)

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


def _arrival(frame: bytes, wire: str) -> Arrival | None:
    packet = frame[14:] if len(frame) > 14 else b""
    if frame[12:14] == b"\x08\x00" and len(packet) >= 20:
        return Arrival(wire, TrafficClass.from_byte(packet[1]), packet)
    if frame[12:14] == b"\x86\xdd" and len(packet) >= 40:
        return Arrival(wire, TrafficClass.from_byte(int.from_bytes(packet[:2]) >> 4 & 0xFF), packet)
    return None
