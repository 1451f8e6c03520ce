"""A steady flow through the tunnel that tells how long nothing passed, and what was lost.

Every 10 ms a datagram with its number goes to the server's end of the tunnel and comes back; beside it stands a TCP
connection that was made before the fault and has to work after it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import struct
import threading
import time
from dataclasses import asdict, dataclass
from typing import Self

from tests.faults import DECLARED, MEASURED
from tests.lab import Namespace, Ocserv

PORT, TCP_PORT = 4100, 4101
INTERVAL_S = 0.01
EF_BYTE = 46 << 2


class Flowing:
    """The flow, for as long as the block lasts."""

    def __init__(self, client: Namespace, server: Namespace, *, tcp: bool = True) -> None:
        self._stack = contextlib.ExitStack()
        self._client, self._server = client, server
        self._with_tcp = tcp
        self._sent: list[float] = []
        self._back: dict[int, float] = {}
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            with self._server.entered():
                self._far = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                self._far.bind(("", PORT))
                listener = stack.enter_context(socket.create_server(("", TCP_PORT)))
            with self._client.entered():
                self._near = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                self._near.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EF_BYTE)
                if self._with_tcp:
                    self._tcp = stack.enter_context(socket.create_connection((Ocserv.inner4, TCP_PORT), timeout=10))
                    self._tcp_far = stack.enter_context(listener.accept()[0])
            for each in (self._far, self._near):
                each.settimeout(0.2)
            threads = [threading.Thread(target=run, daemon=True) for run in (self._echo, self._send, self._receive)]
            for thread in threads:
                thread.start()
            stack.callback(self._end, threads)
            self._stack = stack.pop_all()
        self.wait(time.monotonic())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait(self, since: float, timeout: float = 40) -> float:
        """Wait until a datagram sent after `since` is back; return how long after `since` it came."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            # By number: the other thread adds to what is back meanwhile, and a dict that grows cannot be walked through.
            numbers = (number for number, sent in enumerate(self._sent) if sent >= since)
            came = [back for number in numbers if (back := self._back.get(number)) is not None]
            if came:
                return min(came) - since
            time.sleep(0.01)
        raise AssertionError(f"nothing came back within {timeout} s")

    def lost(self) -> int:
        """Wait for stragglers; return how many datagrams never came back."""
        end = len(self._sent)
        time.sleep(0.3)
        return sum(number not in self._back for number in range(end))

    def tcp_works(self, timeout: float = 30) -> bool:
        """Whether the connection from before the fault still carries bytes both ways."""
        for sender, receiver in ((self._tcp, self._tcp_far), (self._tcp_far, self._tcp)):
            sender.settimeout(timeout)
            receiver.settimeout(timeout)
            sender.sendall(b"still here")
            if receiver.recv(64) != b"still here":
                return False
        return True

    def _end(self, threads: list[threading.Thread]) -> None:
        self._stop.set()
        for thread in threads:
            thread.join()

    def _send(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._sent.append(time.monotonic())
            with contextlib.suppress(OSError):  # no route or no room for a moment: it counts as lost
                self._near.sendto(struct.pack("!I", len(self._sent) - 1), (Ocserv.inner4, PORT))

    def _receive(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                (number,) = struct.unpack("!I", self._near.recv(64))
                self._back.setdefault(number, time.monotonic())

    def _echo(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                payload, sender = self._far.recvfrom(64)
                self._far.sendto(payload, sender)


@dataclass(frozen=True)
class Row:
    """One line of the table of faults: what happens, what the user sees, when packets flow again, and what is lost."""

    fault: str
    seen: str
    since: str
    """What the seconds are counted from."""
    seconds: float | None
    lost: int | None
    """Datagrams of 100 a second that never came back."""
    kept: bool | None
    """Whether a TCP connection inside survived."""


def note(row: Row) -> None:
    """Put a row into build/faults.json, in place of the last one of the same fault; several tests may do so at a time."""
    assert row.fault in DECLARED, "a row that tests/faults.py does not name"
    MEASURED.parent.mkdir(exist_ok=True)
    with MEASURED.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        rows = [each for each in json.loads(text or "[]") if each["fault"] != row.fault] + [asdict(row)]
        file.seek(0)
        file.truncate()
        file.write(json.dumps(rows, indent=2) + "\n")
