"""Building the few packets that sockets cannot send."""

from __future__ import annotations

import struct


def with_checksum(header: bytes) -> bytes:
    """Return an IPv4 header without options with its checksum filled in (RFC 1071)."""
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + header[12:]
