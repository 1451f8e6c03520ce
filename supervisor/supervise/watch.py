"""News from the kernel: links that come, go, move or are renamed, and qdiscs and filters that change.

rtnetlink (RFC 3549) wakes us; what is so is then asked of the kernel, all of it. So a message need not be understood, and
one that was lost (ENOBUFS) costs nothing but another look. TCX has no such news: the regular look finds what happens there.
"""

from __future__ import annotations

import errno
import socket
from typing import Self

_GROUPS = 1 << 0 | 1 << 3  # RTNLGRP_LINK and RTNLGRP_TC, linux/rtnetlink.h, as bits
_RECEIVE_BYTES = 1 << 16
_DRAIN_MAX = 256  # messages in one go: the loop has other work too


class KernelNews:
    """A descriptor that is readable when something has changed. Close it, or use it in a `with`."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take the news in; say whether the kernel had more than fitted and threw some away."""
        overrun = False
        for _ in range(_DRAIN_MAX):
            try:
                self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                overrun = True
        return overrun

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
