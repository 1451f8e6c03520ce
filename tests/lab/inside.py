"""Both ends inside the tunnel: datagrams with any traffic class, from the client to the server and back."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from typing import Self

from tests.lab import Ocserv
from tests.lab.testbed import Line

PORT = 4000
_ADDRESSES = {4: Ocserv.inner4, 6: Ocserv.inner6}
_TRAFFIC_CLASS = {4: (socket.IPPROTO_IP, socket.IP_TOS), 6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class Inside:
    """A UDP socket per IP version in the client's namespace, and one for both at the server."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            with self._line.client.entered():
                self._near = {
                    version: stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                    for version, family in _FAMILY.items()
                }
            with self._line.server_namespace.entered():
                self._far = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            self._far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self._far.bind(("::", PORT))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, payload: bytes, traffic_class: int = 0, version: int = 4) -> None:
        """Send one datagram to the server over inner IP `version`; `traffic_class` is the whole byte."""
        control = [(*_TRAFFIC_CLASS[version], struct.pack("=i", traffic_class))]
        self._near[version].sendmsg([payload], control, 0, (_ADDRESSES[version], PORT))

    def arrived(self, count: int, timeout: float = 5) -> list[bytes]:
        """Return the payloads that reach the server, as soon as there are `count`, or what came in `timeout` s."""
        return [payload for payload, _ in _receive(self._far, count, timeout)]

    def answer(self, payload: bytes, traffic_class: int = 0) -> None:
        """Send `payload` back to whoever's datagram reaches the server next."""
        ((_, sender),) = _receive(self._far, 1, 5)
        byte = struct.pack("=i", traffic_class)  # each version takes the one that is for it
        control = [(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, byte), (socket.IPPROTO_IP, socket.IP_TOS, byte)]
        self._far.sendmsg([payload], control, 0, sender)

    def answered(self, count: int, version: int = 4, timeout: float = 5) -> list[bytes]:
        """Return the payloads that reach the client."""
        return [payload for payload, _ in _receive(self._near[version], count, timeout)]

    def works_both_ways(self, word: bytes) -> bool:
        """Whether `word` gets to the server and back, over inner IPv4."""
        self.send(word)
        self.answer(word + b" back")
        return self.answered(1) == [word + b" back"]


def _receive(sock: socket.socket, count: int, timeout: float) -> list[tuple[bytes, tuple[str, int]]]:
    deadline = time.monotonic() + timeout
    received: list[tuple[bytes, tuple[str, int]]] = []
    while len(received) < count and select.select([sock], [], [], max(0.0, deadline - time.monotonic()))[0]:
        received.append(sock.recvfrom(2048))
    return received
