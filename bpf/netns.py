"""Which network namespace this process is in.

Interface numbers and five-tuples repeat across namespaces, so all state is kept per namespace, under its cookie: unlike
the inode number, the kernel never gives a cookie twice.
"""

from __future__ import annotations

import socket
import struct

_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, Linux 5.14


def cookie() -> int:
    """Return the 64-bit cookie of the calling thread's network namespace; 1 for the machine's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        (value,) = struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))
    return int(value)
