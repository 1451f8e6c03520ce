"""What our DPD requests carry. A server sends a payload back as it came, so its length says what the request was for.

All kinds stand here, so that no two have one length (a test holds that). No I/O.
"""

from __future__ import annotations

import enum


class DpdPayload(enum.Enum):
    """What a request is for; the value is the length of its payload in bytes, of a PATH_MTU the least one."""

    LIVENESS = 4
    """Does the peer live? With the number of the request."""
    RECEIVER_POSITION = 8
    """Where is the receiver? With the id of a numbering's probe (numbering.probe)."""
    ROUND_TRIP = 12
    """How long does one DSCP take? With the id of whoever has asked, and the number of the probe (rtt_responder)."""
    SMALL = 16
    """Does anything pass? Goes beside each PATH_MTU, with the same id."""
    PATH_MTU = 64
    """Does a packet of this length pass? With an id in the first bytes, and zeros behind it (path_mtu)."""

    def encode(self, number: int, size: int | None = None) -> bytes:
        """Return the payload with `number`, of which as many low bits are kept as there is room for.

        `size` is the length of a PATH_MTU, at least its value.
        """
        room = _PATH_MTU_ID_BYTES if self is DpdPayload.PATH_MTU else self.value
        return (number % (1 << 8 * room)).to_bytes(room).ljust(self.value if size is None else size, b"\0")

    @classmethod
    def decode(cls, payload: bytes) -> tuple[DpdPayload, int] | None:
        """Return kind and number of what came back, None for what no request of ours has. Never raises."""
        if len(payload) >= cls.PATH_MTU.value:
            return cls.PATH_MTU, int.from_bytes(payload[:_PATH_MTU_ID_BYTES])
        kind = _BY_LENGTH.get(len(payload))
        return None if kind is None else (kind, int.from_bytes(payload))


_PATH_MTU_ID_BYTES = 8
_BY_LENGTH = {kind.value: kind for kind in DpdPayload}
