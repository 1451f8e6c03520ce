"""Traffic that belongs in the tunnel, and a tap on the wire that must never see any of it.

The addresses it goes to are reachable both ways: through the tunnel, and by the machine's own default routes. So what is
let out really leaves, and is answered.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from tests.lab import Capture, Frame, Ocserv
from tests.lab.testbed import Line

OUTSIDE = {4: "203.0.113.9", 6: "2001:db8::9"}
_PORT = 4300
_INTERVAL_S = 0.005
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_TUNNEL = [ipaddress.ip_network(net, strict=False) for net in ("192.168.77.0/24", Ocserv.network6)]


class Leaks:
    """Sends to OUTSIDE, both IP versions, for as long as the block lasts. `seen` is what left outside of the tunnel."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._stack = contextlib.ExitStack()
        self._stop = threading.Event()
        self._sent = dict.fromkeys(OUTSIDE, 0)
        self._refused = dict.fromkeys(OUTSIDE, 0)
        self._answered = dict.fromkeys(OUTSIDE, 0.0)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._reachable(stack)
            self._capture = stack.enter_context(Capture(self._line.client, self._line.device, self._belongs_inside))
            with self._line.server_namespace.entered():
                echo = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
                echo.bind(("::", _PORT))
            with self._line.client.entered():
                near = {
                    version: stack.enter_context(socket.socket(_FAMILY[version], socket.SOCK_DGRAM)) for version in OUTSIDE
                }
            for each in (echo, *near.values()):
                each.settimeout(0.1)
            threads = [threading.Thread(target=self._echo, args=(echo,), daemon=True)]
            for version, sock in near.items():
                threads.append(threading.Thread(target=self._send, args=(version, sock), daemon=True))
                threads.append(threading.Thread(target=self._receive, args=(version, sock), daemon=True))
            for thread in threads:
                thread.start()
            stack.callback(self._end, threads)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def seen(self) -> list[Frame]:
        """Return what left outside of the tunnel and belonged inside."""
        return self._capture.frames()

    def forget(self) -> None:
        """Begin to look only now: what came before was not to be inside."""
        self._capture.clear()

    def flows(self, timeout: float = 20) -> bool:
        """Wait until datagrams of both IP versions that are sent from now on are answered."""
        return all(self.answered(version, timeout) for version in OUTSIDE)

    def answered(self, version: int, timeout: float = 20) -> bool:
        """Wait until datagrams of an IP version that are sent from now on are answered."""
        return self._until(lambda: self._answered[version], time.monotonic(), timeout)

    def tried(self, count: int = 20, timeout: float = 20) -> bool:
        """Wait until `count` more datagrams of each IP version were tried to be sent."""
        enough = {version: self._tried(version) + count for version in OUTSIDE}
        return all(self._until(functools.partial(self._tried, each), enough[each], timeout) for each in OUTSIDE)

    def _tried(self, version: int) -> int:
        return self._sent[version] + self._refused[version]

    def _until(self, value: Callable[[], float], least: float, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while value() < least:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _belongs_inside(self, frame: Frame) -> bool:
        ends = [ipaddress.ip_address(each) for each in (frame.source, frame.destination)]
        return frame.outgoing and (
            frame.destination in OUTSIDE.values() or any(end in net for net in _TUNNEL for end in ends)
        )

    def _reachable(self, stack: contextlib.ExitStack) -> None:
        topology = self._line.topology
        for version, gateway in ((4, topology.server4), (6, topology.server6)):
            address, length = OUTSIDE[version], {4: 32, 6: 128}[version]
            words = ["ip", f"-{version}", "addr", "add", f"{address}/{length}", "dev", "lo"]
            self._line.server_namespace.run(words)
            stack.callback(self._line.server_namespace.run, [*words[:3], "del", *words[4:]])
            self._line.router.run(["ip", f"-{version}", "route", "replace", address, "via", gateway])
            stack.callback(self._line.router.run, ["ip", f"-{version}", "route", "del", address], check=False)

    def _send(self, version: int, sock: socket.socket) -> None:
        while not self._stop.wait(_INTERVAL_S):
            try:
                sock.sendto(b"inside", (OUTSIDE[version], _PORT))
                self._sent[version] += 1
            except OSError:
                self._refused[version] += 1

    def _receive(self, version: int, sock: socket.socket) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                sock.recv(64)
                self._answered[version] = time.monotonic()

    def _echo(self, sock: socket.socket) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                payload, sender = sock.recvfrom(64)
                sock.sendto(payload, sender)

    def _end(self, threads: list[threading.Thread]) -> None:
        self._stop.set()
        for thread in threads:
            thread.join()
