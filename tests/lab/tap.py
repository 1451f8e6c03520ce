"""The DTLS records that reach a device, noted by the kernel and read afterwards.

`Capture` wakes up for each frame, which takes a core from what is measured at some thousand frames a second. Here the
kernel copies the head of each datagram into a ring (packet(7), PACKET_RX_RING), and nobody looks at it before the end.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from tests.lab.namespace import LabError, Namespace

# linux/if_packet.h and asm-generic/socket.h.
_SOL_PACKET, _PACKET_RX_RING, _PACKET_VERSION, _TPACKET_V2, _PACKET_STATISTICS = 263, 5, 10, 1, 6
_SO_ATTACH_FILTER = 26
_ETH_P_IP = 0x0800
_TP_STATUS_USER = 1
_FRAME_BYTES, _BLOCK_BYTES = 256, 1 << 16
_SNAP_BYTES = 14 + 20 + 8 + 13
"""Headers of Ethernet, IPv4 and UDP, and of the record."""
_UDP_LENGTH_AT, _RECORD_AT = 14 + 20 + 4, 14 + 20 + 8
_APPLICATION_DATA = 23


@dataclass(frozen=True, slots=True)
class TappedRecord:
    """One datagram with a record of application data: its number (epoch and sequence), bytes of UDP payload, DSCP."""

    number: int
    size: int
    dscp: int


class Tap:
    """Notes the first `most` datagrams of IPv4 to UDP `port` that come in at `interface`."""

    def __init__(self, namespace: Namespace, interface: str, port: int, *, most: int = 200_000) -> None:
        self._namespace, self._interface, self._port = namespace, interface, port
        self._blocks = -(-most * _FRAME_BYTES // _BLOCK_BYTES)

    def __enter__(self) -> Self:
        with self._namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        frames = self._blocks * _BLOCK_BYTES // _FRAME_BYTES
        request = struct.pack("IIII", _BLOCK_BYTES, self._blocks, _FRAME_BYTES, frames)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        self._ring = mmap.mmap(self._socket.fileno(), self._blocks * _BLOCK_BYTES)
        self._attach_filter()
        self._socket.bind((self._interface, _ETH_P_IP))
        return self

    def __exit__(self, *_: object) -> None:
        self._ring.close()
        self._socket.close()

    def records(self) -> list[TappedRecord]:
        """Return what came so far, in order. LabError if the ring was too small."""
        lost: int = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
        if lost:
            raise LabError(f"the tap at {self._interface} had no room for {lost} datagrams")
        return list(self._read())

    def _read(self) -> Iterator[TappedRecord]:
        ring = self._ring
        for at in range(0, len(ring), _FRAME_BYTES):
            status, _, snapped, mac = struct.unpack_from("IIIH", ring, at)
            if not status & _TP_STATUS_USER:
                return
            frame = at + mac
            if snapped >= _SNAP_BYTES and ring[frame + _RECORD_AT] == _APPLICATION_DATA:
                size = struct.unpack_from("!H", ring, frame + _UDP_LENGTH_AT)[0] - 8
                number = struct.unpack_from("!Q", ring, frame + _RECORD_AT + 3)[0]
                yield TappedRecord(number, size, ring[frame + 15] >> 2)

    def _attach_filter(self) -> None:
        """Keep UDP to the port, without IP options, and of that the heads (classic BPF, linux/filter.h)."""
        program = [
            (0x30, 0, 0, 14),  # the byte with the header's length
            (0x15, 0, 5, 0x45),
            (0x30, 0, 0, 14 + 9),
            (0x15, 0, 3, socket.IPPROTO_UDP),
            (0x28, 0, 0, 14 + 20 + 2),
            (0x15, 0, 1, self._port),
            (0x06, 0, 0, _SNAP_BYTES),
            (0x06, 0, 0, 0),
        ]
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code))
        )
