"""Telling the service manager how we are: one datagram to NOTIFY_SOCKET (sd_notify(3)), nothing where there is none."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

from qosctl.bpf.printable import one_line

_MICROSECONDS = 1_000_000


class Notifier:
    """The manager's socket and its watchdog, as the environment names them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog_s(environment)
        """Seconds in which the manager wants a sign of life, None where it has no watchdog for this process."""

    def ready(self, status: str) -> None:
        """Say that what was configured is done; also the end of a reload."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def reloading(self) -> None:
        """Say that a reload has begun (Type=notify-reload wants the time as well)."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that we are leaving."""
        self._send("STOPPING=1")

    def alive(self, status: str) -> None:
        """Feed the watchdog; call it from the loop that does the work, and from nowhere else."""
        self._send(f"WATCHDOG=1\nSTATUS={_line(status)}")

    def _send(self, message: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        # A manager that does not listen must not stop the work; its watchdog says the rest.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sock:
            sock.sendto(message.encode(), address)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    pid, period = environment.get("WATCHDOG_PID", str(os.getpid())), environment.get("WATCHDOG_USEC", "")
    if pid != str(os.getpid()) or not (period.isascii() and period.isdigit()) or int(period) == 0:
        return None
    return int(period) / _MICROSECONDS


def _line(text: str) -> str:
    return one_line(text.replace("\n", " "))
