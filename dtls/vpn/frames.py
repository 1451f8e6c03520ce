"""What travels in a tunnel, whichever protocol carries it: a packet, or a frame of the conversation beside the packets.

How the frames look is the protocol's (`protocol.VpnProtocol`).
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from qosctl.bpf.errors import RefusedError


class FrameKind(enum.Enum):
    """What a frame is for. The names are in counters and in the packet log."""

    DATA = enum.auto()
    """An inner packet."""
    DPD_OUT = enum.auto()
    """Are you there? The peer sends the payload back."""
    DPD_RESP = enum.auto()
    """The answer, with the payload of the request."""
    KEEPALIVE = enum.auto()
    DISCONN = enum.auto()
    """The session is over, for good."""
    TERM_SERVER = enum.auto()
    """The same, because the server ends."""
    COMPRESSED = enum.auto()
    """An inner packet that has been made smaller, for which we never ask."""


class Frame(NamedTuple):
    """One frame, from either channel. Of an end the payload is the server's words, as they came."""

    kind: FrameKind
    payload: bytes


class FrameError(RefusedError):
    """The server sent something on the TLS channel that is none of the protocol's; the session cannot go on."""


class StreamDecoder(Protocol):
    """Cuts the byte stream of the TLS channel into frames."""

    def feed(self, data: bytes) -> list[Frame]:
        """Take `data`, in pieces of any size, and return the frames it completes, in order.

        FrameError when the stream is not the protocol's, and at every call after it.
        """
        ...
