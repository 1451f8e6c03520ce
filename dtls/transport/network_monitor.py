"""News of the machine: its addresses and routes change, or time jumps because it slept.

rtnetlink (RFC 3549): any change of links, addresses or routes makes a descriptor readable; what changed is then asked
of the kernel, since only the outcome counts: which address would a packet to the server leave from?
"""

from __future__ import annotations

import contextlib
import socket
import time

from qosctl.dtls.transport.addressing import Endpoint
from qosctl.dtls.transport.outer_sockets import way_to

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_DRAINED_MAX = 256
_SLEPT_S = 1.5
"""A jump of the clock that counts as sleep; a busy machine is late by less."""


class NetworkMonitor:
    """A descriptor that becomes readable when links, addresses or routes change."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Take the news, of which it matters only that there is some."""
        with contextlib.suppress(OSError):  # EAGAIN at the end; ENOBUFS when there was more than fits, which is news too
            for _ in range(_DRAINED_MAX):  # where it comes faster than it is read, the rest is news again
                self._socket.recv(1 << 16)

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()


def source_towards(remote: str, local: str | None = None) -> str | None:
    """Return the address that packets to `remote` leave from, None where there is no way.

    With `local`: return that one if it still is ours and has a way, else None.
    """
    try:
        if local is not None:
            family = socket.AF_INET6 if ":" in local else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((local, 0))  # of a route the kernel says, not of each address whether it is ours
        way = way_to(remote, local)
    except OSError:
        return None
    return None if way is None else way.source


def sources(local: Endpoint, remote: Endpoint) -> tuple[bool, str | None]:
    """Return whether the near end of a socket still works, and the address that a new one would get."""
    return source_towards(remote[0], local[0]) is not None, source_towards(remote[0])


class SleepWatch:
    """Tells when the machine slept or this process was stopped, from one look to the next."""

    def __init__(self) -> None:
        self._offset = _boot_offset()
        self._expected = time.monotonic()

    def slept(self, now: float, wake: float) -> bool:
        """Say whether time has jumped since the last look; `wake` is when the next look is due at the latest."""
        offset, before = _boot_offset(), self._offset
        late = now - self._expected
        self._offset, self._expected = offset, wake
        return offset - before > _SLEPT_S or late > _SLEPT_S


def _boot_offset() -> float:
    """Return the time the machine has slept since it was booted: the monotonic clock stands still meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
