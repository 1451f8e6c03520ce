"""Why a packet, frame or record went nowhere: each reason that the client counts, and the kind that it is shown as.

A reason is for who reads the code, a kind for who reads a metric: bpf/flow_page/statistics.py has a statistic for each kind
(tests/unit/supervisor/tunnel/test_flow_page_writer.py holds that).
"""

from __future__ import annotations

import enum


class DropKind(enum.Enum):
    """What an operator can do something about, or has to know."""

    FORGED = enum.auto()
    REPLAYED = enum.auto()
    MALFORMED = enum.auto()
    """Bytes that are no record or frame: somebody sends rubbish."""
    UNEXPECTED = enum.auto()
    """A record or frame as it should be, at a time when it means nothing to us."""
    SOCKET_FULL = enum.auto()
    """The kernel took no more to send."""
    TUNNEL_FULL = enum.auto()
    """The tunnel device took no more."""
    TOO_LONG = enum.auto()
    """Ours, and larger than a record can be."""
    CHANNEL_LOST = enum.auto()
    """Ours, and sealed with keys of a channel that is gone."""
    ECN = enum.auto()


@enum.unique
class DropReason(enum.Enum):
    """Each place where something is dropped. The value says what is so, and what kind it is of."""

    def __init__(self, what: str, kind: DropKind) -> None:
        self.what = what
        self.kind = kind

    # Records that came; counted by record.protection.OpenCounts, whose fields have these names.
    TRUNCATED = "shorter than any record, or than its header says", DropKind.MALFORMED
    MALFORMED = "not DTLS 1.2, or of no content type", DropKind.MALFORMED
    BAD_LENGTH = "no room for nonce and tag, or longer than a record may be", DropKind.MALFORMED
    WRONG_EPOCH = "of the handshake, or of keys that we do not have", DropKind.UNEXPECTED
    REPLAYED = "seen before, or too old to know", DropKind.REPLAYED
    FORGED = "not sealed by the peer", DropKind.FORGED
    # Frames that came.
    ALERT = "a warning that closes nothing", DropKind.UNEXPECTED
    HANDSHAKE_AFTER_FINISHED = "a handshake's message, again or anew", DropKind.UNEXPECTED
    UNKNOWN_FRAME = "a frame of no known type", DropKind.MALFORMED
    COMPRESSED = "a compressed frame, for which we never asked", DropKind.UNEXPECTED
    # Packets that came.
    ECN = "marked on the way, and unable to carry the mark inside", DropKind.ECN
    TUN_REFUSED = "not taken by the tunnel device", DropKind.TUNNEL_FULL
    # Packets on their way out.
    UDP_FULL = "the least urgent of what waited for room in the UDP socket", DropKind.SOCKET_FULL
    UDP_LOST = "refused by the kernel for good", DropKind.SOCKET_FULL
    CHANNEL_LOST = "sealed, and waiting for room when its channel was lost", DropKind.CHANNEL_LOST
    TLS_FULL = "beside DTLS, and no room in the TCP socket", DropKind.SOCKET_FULL
    TOO_LONG = "a packet that fits no TLS record", DropKind.TOO_LONG
    # Frames of ours that are no packets.
    CONTROL_WITHOUT_ROOM = "no room in the socket of either channel", DropKind.SOCKET_FULL
    DPD_UNANSWERED = "a request that another overtook while the TCP socket was full", DropKind.SOCKET_FULL
    CONTROL_TOO_LONG = "an answer that fits no TLS record", DropKind.TOO_LONG
