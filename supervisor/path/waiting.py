"""Waiting for packets on a socket that strangers can flood."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

LATE_MAX = 64
"""Packets that are looked at when the time is up: they may have come before."""


def arrivals(sock: socket.socket, until: float) -> Iterator[None]:
    """Yield each time that there is something to read, which is to be read then, until the clock has passed `until`."""
    late = 0
    while select.select([sock], [], [], max(0.0, until - time.monotonic()))[0] and late < LATE_MAX:
        late += time.monotonic() > until
        yield
