"""The relay's own process: `relay_program.py ADDRESS PORT TARGET TARGET_PORT SEED`, told what to do on standard input.

Each line of input is a JSON object with some of the fields of Weather; "ok" answers it when it holds. TCP is passed on
byte by byte, UDP datagram by datagram with what the weather does to it. Chance comes from one generator a direction.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import random
import select
import socket
import sys
import time
from dataclasses import dataclass, field

_DATAGRAM_BYTES = 65535


@dataclass
class Weather:
    """What happens to UDP datagrams: shares are 0 to 1, times in ms. `tcp` is pass, stall or reset."""

    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    reorder_by: int = 0
    """A datagram that is held back leaves behind this many others."""
    delay: float = 0.0
    jitter: float = 0.0
    largest: int = _DATAGRAM_BYTES
    """Longer payloads vanish without a word."""
    udp: bool = True
    tcp: str = "pass"
    rebind: int = 0
    """Each new number is a new source port towards the server, as after a NAT that forgot."""


@dataclass
class Way:
    """One direction: its chance, and what it holds back."""

    chance: random.Random
    held: list[tuple[int, bytes]] = field(default_factory=list)
    """Datagrams, and how many others are still to pass before each."""


class Relay:
    def __init__(self, near: tuple[str, int], far: tuple[str, int], seed: int) -> None:
        family = socket.AF_INET6 if ":" in near[0] else socket.AF_INET
        self.weather = Weather()
        self._family, self._far = family, far
        self._ways = {up: Way(random.Random(f"{seed} {up}")) for up in (True, False)}
        self._listener = socket.create_server(near, family=family)
        self._near = socket.socket(family, socket.SOCK_DGRAM)
        self._near.bind(near)
        self._up: dict[tuple[str, int], socket.socket] = {}  # by client
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._late: list[tuple[float, int, bool, tuple[str, int], bytes]] = []
        self._serial = itertools.count()
        self._rebound = 0
        self._input = b""

    def run(self) -> None:
        print("ok", flush=True)
        while True:
            streams = [] if self.weather.tcp == "stall" else list(self._pairs)
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            watched: list[int | socket.socket] = [
                sys.stdin.fileno(),
                self._listener,
                self._near,
                *self._up.values(),
                *streams,
            ]
            for ready in select.select(watched, [], [], wait)[0]:
                if isinstance(ready, int):
                    if not self._obey():
                        return
                elif ready is self._listener:
                    self._accept()
                elif ready is self._near:
                    self._from_client()
                elif ready in self._up.values():
                    self._from_server(ready)
                else:
                    self._pass_on(ready)
            while self._late and self._late[0][0] <= time.monotonic():
                _, _, up, client, datagram = heapq.heappop(self._late)
                self._deliver(up, client, datagram)

    def _obey(self) -> bool:
        line = sys.stdin.readline()
        if not line:
            return False
        for name, value in json.loads(line).items():
            setattr(self.weather, name, value)
        if self.weather.rebind != self._rebound:
            self._rebound = self.weather.rebind
            for old in self._up.values():
                old.close()
            self._up.clear()
        if self.weather.tcp == "reset":
            self.weather.tcp = "pass"
            for each in list(self._pairs):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by RST
                each.close()
            self._pairs.clear()
        print("ok", flush=True)
        return True

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(self._far, timeout=5)
        except OSError:
            near.close()
            return
        for each, other in ((near, far), (far, near)):
            each.settimeout(5)
            self._pairs[each] = other

    def _pass_on(self, stream: socket.socket) -> None:
        other = self._pairs.get(stream)
        if other is None:
            return
        data = b""
        with contextlib.suppress(OSError):
            data = stream.recv(65536)
            if data:
                other.sendall(data)
                return
        for each in (stream, other):
            self._pairs.pop(each, None)
            each.close()

    def _from_client(self) -> None:
        datagram, client = self._near.recvfrom(_DATAGRAM_BYTES)
        self._weather(True, client, datagram)

    def _from_server(self, ready: socket.socket) -> None:
        client = next(client for client, each in self._up.items() if each is ready)
        with contextlib.suppress(ConnectionRefusedError):
            self._weather(False, client, ready.recv(_DATAGRAM_BYTES))

    def _weather(self, up: bool, client: tuple[str, int], datagram: bytes) -> None:
        weather, way = self.weather, self._ways[up]
        chance = way.chance.random
        if not weather.udp or len(datagram) > weather.largest or chance() < weather.loss:
            return
        if chance() < weather.corrupt:
            damaged = bytearray(datagram)
            damaged[int(chance() * len(damaged))] ^= 1 << int(chance() * 8)
            datagram = bytes(damaged)
        if weather.reorder_by and chance() < weather.reorder:
            way.held.append((weather.reorder_by, datagram))
        else:
            self._send(up, client, datagram)
        if chance() < weather.duplicate:
            self._send(up, client, datagram)
        still = []
        for left, held in way.held:
            if left:
                still.append((left - 1, held))
            else:
                self._send(up, client, held)
        way.held[:] = still

    def _send(self, up: bool, client: tuple[str, int], datagram: bytes) -> None:
        weather = self.weather
        wait = (weather.delay + weather.jitter * self._ways[up].chance.random()) / 1000
        if wait:
            heapq.heappush(self._late, (time.monotonic() + wait, next(self._serial), up, client, datagram))
        else:
            self._deliver(up, client, datagram)

    def _deliver(self, up: bool, client: tuple[str, int], datagram: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody there, or a route that is gone: the datagram is lost
            if not up:
                self._near.sendto(datagram, client)
                return
            if client not in self._up:
                self._up[client] = socket.socket(self._family, socket.SOCK_DGRAM)
                self._up[client].connect(self._far)
            self._up[client].send(datagram)


if __name__ == "__main__":
    here, port, there, target_port, seed = sys.argv[1:]
    Relay((here, int(port)), (there, int(target_port)), int(seed)).run()
