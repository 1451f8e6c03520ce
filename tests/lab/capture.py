"""What really was on the wire: frames of one interface, read from a packet socket and taken apart here.

The parser is the lab's own and shares nothing with the project's: one cannot hide a mistake of the other.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from tests.lab.namespace import LabError, Namespace

UDP = 17
_ETH_P_ALL, _ETH_P_IPV4, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_PACKET_OUTGOING = 4
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
_BUFFER_BYTES = 64 << 20
_FRAME_BYTES = 4096
_POLL_SECONDS = 0.02

_Arrival = tuple[int, bool, bytes]  # time in ns, outgoing, bytes from the Ethernet header on


@dataclass(frozen=True)
class Frame:
    """An IP packet on the wire. `header` is the IP header without options or extension headers, as it was."""

    time_ns: int  # CLOCK_REALTIME, taken by the kernel
    outgoing: bool
    family: int  # 4 or 6
    dscp: int
    ecn: int
    protocol: int
    source: str
    destination: str
    source_port: int  # 0 unless UDP or TCP
    destination_port: int
    payload: bytes  # of UDP; for other protocols all that follows the IP header
    header: bytes

    @property
    def header_checksum_right(self) -> bool:
        """Whether the IPv4 header sums up (RFC 1071); IPv6 has no checksum."""
        if self.family == 6:
            return True
        total: int = sum(struct.unpack("!10H", self.header))
        total = (total & 0xFFFF) + (total >> 16)
        return (total & 0xFFFF) + (total >> 16) == 0xFFFF


class Capture:
    """Collect the frames of `interface` from entering the block until leaving it.

    `keep` sees each parsed frame in `frames`; collecting itself only stores bytes, to stay out of the way.
    """

    def __init__(self, namespace: Namespace, interface: str, keep: Callable[[Frame], bool] | None = None) -> None:
        self._namespace = namespace
        self._interface = interface
        self._keep = keep
        self._arrivals: list[_Arrival] = []
        self._lost = 0
        self._end_ns = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._collect, name=f"capture {interface}", daemon=True)

    def __enter__(self) -> Self:
        with self._namespace.entered():
            # Protocol 0 until bound, or frames of every interface would slip in first.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.settimeout(_POLL_SECONDS)
        self._socket.bind((self._interface, _ETH_P_ALL))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take in what has arrived and stop. Leaving the block does the same."""
        self._end_ns = time.time_ns()
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def frames(self) -> list[Frame]:
        """Return the IP packets so far, in order. LabError if the kernel had to drop some: no silent gaps."""
        if not self._stop.is_set():
            self._read_losses()
        if self._lost:
            raise LabError(f"the capture on {self._interface} missed {self._lost} frames")
        parsed = (_parse(*arrival) for arrival in tuple(self._arrivals))
        return [frame for frame in parsed if frame is not None and (self._keep is None or self._keep(frame))]

    def clear(self) -> None:
        """Forget the frames so far."""
        self._arrivals.clear()

    def wait_for(self, enough: Callable[[list[Frame]], bool], timeout: float = 5) -> list[Frame]:
        """Return the frames as soon as `enough` says so, or what there is after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            frames = self.frames()
            if enough(frames) or time.monotonic() > deadline:
                return frames
            time.sleep(_POLL_SECONDS)

    def _collect(self) -> None:
        while True:
            try:
                data, ancillary, _, address = self._socket.recvmsg(_FRAME_BYTES, 64)
            except TimeoutError:
                if self._stop.is_set():
                    self._read_losses()
                    return
                continue
            except OSError:  # the interface or its namespace went away: nothing more can come
                if self._stop.wait(_POLL_SECONDS):
                    return
                continue
            at = _time_ns(ancillary)
            self._arrivals.append((at, address[2] == _PACKET_OUTGOING, data))
            if self._stop.is_set() and at > self._end_ns:  # a wire that is never silent
                self._read_losses()
                return

    def _read_losses(self) -> None:
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        self._lost += struct.unpack("II", statistics)[1]  # the kernel resets the count at each reading


def _time_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("ll", data)
            return int(seconds * 1_000_000_000 + nanoseconds)
    raise LabError("a frame without a timestamp")


def _parse(time_ns: int, outgoing: bool, data: bytes) -> Frame | None:
    ethertype = int.from_bytes(data[12:14])
    packet = data[14:]
    if ethertype == _ETH_P_IPV4 and len(packet) >= 20:
        family, header, protocol = 4, packet[:20], packet[9]
        body = packet[(packet[0] & 0x0F) * 4 : int.from_bytes(packet[2:4])]
        traffic_class, addresses = packet[1], (packet[12:16], packet[16:20])
    elif ethertype == _ETH_P_IPV6 and len(packet) >= 40:
        family, header, protocol = 6, packet[:40], packet[6]
        body = packet[40 : 40 + int.from_bytes(packet[4:6])]
        traffic_class, addresses = (int.from_bytes(packet[:2]) >> 4) & 0xFF, (packet[8:24], packet[24:40])
    else:
        return None
    source_port = destination_port = 0
    if protocol in (UDP, socket.IPPROTO_TCP) and len(body) >= 8:
        source_port, destination_port = struct.unpack("!HH", body[:4])
    return Frame(
        time_ns=time_ns,
        outgoing=outgoing,
        family=family,
        dscp=traffic_class >> 2,
        ecn=traffic_class & 0b11,
        protocol=protocol,
        source=str(ipaddress.ip_address(addresses[0])),
        destination=str(ipaddress.ip_address(addresses[1])),
        source_port=source_port,
        destination_port=destination_port,
        payload=body[8:] if protocol == UDP else body,
        header=header,
    )
