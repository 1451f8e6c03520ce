"""One end of a tunnel of others: who sends inside it, and what came out of that on the outer wire."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from qosctl.bpf.dscp import Dscp

from tests.lab.capture import Frame
from tests.lab.namespace import Namespace
from tests.lab.wiretap import Inner

PORT = 4000
ROUND = 64
"""Packets: well below what a TUN queues."""
LEAST_BYTES = 40
MIXED = [Dscp.parse(name) for name in ("EF", "AF41", "CS1", "DF")]
EVERY_BYTE = [(version, byte) for version in (4, 6) for byte in range(256)]
"""Each inner version and traffic class once."""
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_TRAFFIC_CLASS = {4: (socket.IPPROTO_IP, socket.IP_TOS), 6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)}


class Carrier(Protocol):
    """What a wiretap makes of an outer packet: the frame, and the packet inside, if any."""

    @property
    def frame(self) -> Frame:
        """The outer packet."""

    @property
    def inner(self) -> Inner | None:
        """The inner one."""


@dataclass(frozen=True)
class End:
    """One end inside the tunnel: who sends there, to which addresses, and what the wiretap has of it."""

    namespace: Namespace
    far: dict[int, str]
    records: Callable[[], Sequence[Carrier]]

    def send(self, cells: list[tuple[int, int]], size: int | None = None) -> None:
        """Send a datagram for each (inner version, traffic class); of different lengths, or all of `size` bytes."""
        with self.namespace.entered(), ExitStack() as stack:
            sockets = {v: stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for v, family in _FAMILY.items()}
            for n, (version, byte) in enumerate(cells):
                payload = bytes((version, byte)).ljust(size or LEAST_BYTES + n % ROUND, b"x")
                control = [(*_TRAFFIC_CLASS[version], struct.pack("=i", byte))]
                sockets[version].sendmsg([payload], control, 0, (self.far[version], PORT))

    def flood(self, count: int, size: int) -> None:
        """Send so many of one size, classes mixed packet by packet, as fast as a process of its own can."""
        child = os.fork()
        if child == 0:
            self.send([(4, MIXED[n * 7 // 3 % 4].value << 2) for n in range(count)], size)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def carried(self) -> list[tuple[int, int, Carrier]]:
        """Return (inner version, inner traffic class, record) of each such datagram; ICMP answers to them are none."""
        inner = ((record.inner, record) for record in self.records())
        return [
            (packet.version, packet.traffic_class, record)
            for packet, record in inner
            if packet is not None and packet.payload.startswith(bytes((packet.version, packet.traffic_class)) + b"x")
        ]

    def framed(self) -> list[tuple[int, Frame]]:
        """Return (inner traffic class, outer packet) of each byte of EVERY_BYTE, which have come in their order."""
        carried = self.carried()
        assert [(version, byte) for version, byte, _ in carried] == EVERY_BYTE
        return [(byte, record.frame) for _, byte, record in carried]

    def wait_for(self, count: int, after: int = 0) -> list[tuple[int, int, Carrier]]:
        """Wait for `count` of them behind the first `after`."""
        deadline = time.monotonic() + 5
        while len(found := self.carried()[after:]) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return found
