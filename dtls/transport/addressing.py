"""What a UDP socket needs before it is connected: a numeric address understood, and room."""

from __future__ import annotations

import socket
from contextlib import suppress

from qosctl.bpf.errors import UsageError

Endpoint = tuple[str, int]
"""An IP address in text form and a port."""
SOCKET_BUFFER_BYTES = 4 << 20
"""Wanted for each direction. The send buffer bounds what all classes together have in the local qdisc: as small as
the usual default, a bulk queue there would block the urgent packets behind it in this process."""


def resolve(address: tuple[str, int]) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    """Return family and socket address of a numeric address; UsageError when it is none."""
    host, port = address
    wrong = UsageError(f"{host!r} port {port} is not an address and a port")
    if not 0 <= port <= 0xFFFF:  # getaddrinfo would cut it to 16 bits
        raise wrong
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    try:
        (family, _, _, _, target), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)
    except (OSError, ValueError):
        raise wrong from None
    return family, target  # type: ignore[return-value]  # a pair or, for IPv6, four


def widen(opened: socket.socket) -> None:
    """Ask for large buffers: beyond the system's limit where we may, up to it where we may not."""
    forced = {socket.SO_SNDBUF: 32, socket.SO_RCVBUF: 33}  # SO_SNDBUFFORCE, SO_RCVBUFFORCE: not in the module
    for option, force in forced.items():
        opened.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        with suppress(PermissionError):
            opened.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
