"""Which network namespace this process is in, and whether another one is still there.

Interface numbers and five-tuples repeat across namespaces, so all state is kept per namespace, under its cookie: unlike
the inode number, the kernel never gives a cookie twice.

No call tells whether a cookie's namespace still exists. So the state of a namespace has a witness in it: a map of devices
that holds the loopback device, which exists as long as its namespace and which nothing else can delete. When a device
goes, the kernel removes it from all such maps, pinned ones too (dev_map_notification() in kernel/bpf/devmap.c). No packet
meets the map.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import replace

from qosctl.bpf.kernel import syscall
from qosctl.bpf.kernel.descriptors import opened

_LOOPBACK = struct.pack("=I", 1)  # LOOPBACK_IFINDEX, in every namespace
_ONLY_ENTRY = bytes(4)
_WITNESS_SHAPE = syscall.MapShape(syscall.MAP_TYPE_DEVMAP, 4, len(_LOOPBACK), 1)
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, Linux 5.14


def cookie() -> int:
    """Return the 64-bit cookie of the calling thread's network namespace; 1 for the machine's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return cookie_of(probe)


def cookie_of(made: socket.socket) -> int:
    """Return the cookie of the network namespace that a socket was made in, which it never leaves."""
    (value,) = struct.unpack("=Q", made.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))
    return int(value)


def pin_witness(path: str) -> None:
    """Pin a witness of the calling thread's network namespace."""
    with opened(syscall.map_create(_WITNESS_SHAPE, "namespace")) as fd:
        syscall.map_update(fd, _ONLY_ENTRY, _LOOPBACK)
        syscall.obj_pin(fd, path)


def is_gone(witness: str) -> bool:
    """Whether the namespace of a pinned witness is gone; False where that cannot be proven."""
    try:
        fd = syscall.obj_get(witness)
    except OSError:
        return False
    with opened(fd):
        shape = syscall.map_info(fd).shape
        ours = replace(shape, flags=0) == _WITNESS_SHAPE  # the kernel adds flags of its own
        return ours and syscall.map_lookup(fd, _ONLY_ENTRY, len(_LOOPBACK)) is None
