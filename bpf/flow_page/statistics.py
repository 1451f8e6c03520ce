"""What a client says of itself, in the page behind its ring's marks: its own statistics.

The kernel never reads this page. One 64-bit word a statistic; words only grow, or are set as a whole, so a reader needs no
lock. Behind them the name of the cipher suite, what each class has carried (by_dscp.py), and the page's last words,
for requests to the client (rtt_request.py). New words go where there is room: 0 must mean that there is nothing to say,
since older clients leave it there.

A client that was taken over can store anything here. It is shown, and nothing is decided by it: whose a flow is, and
whether its owner lives, is kept where only the privileged write (flow_pins.py).
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Sequence

from qosctl.bpf.abi import WORD
from qosctl.bpf.printable import one_line

_STATISTICS_AT = 16  # words; those before are unused
_SUITE_AT, _SUITE_BYTES = 119, 64  # words, and up to by_dscp.CLASSES_WORD


class Statistic(enum.IntEnum):
    """The words behind the owner, in their order. New ones are added at the end."""

    PACKETS_SENT = 0
    BYTES_SENT = 1
    PACKETS_RECEIVED = 2
    BYTES_RECEIVED = 3
    DROPPED_FORGED = 4
    DROPPED_REPLAYED = 5
    DROPPED_MALFORMED = 6
    DROPPED_SOCKET_FULL = 7
    DROPPED_TUNNEL_FULL = 8
    DPD_ROUND_TRIP_US = 9
    NUMBERING_REPLAY_SAFE = 10
    PROBES_SENT = 11
    PROBES_ECHOED = 12
    PROBES_LOST = 13
    BACKLOG_RECORDS = 14
    BACKLOG_MS = 15
    GAPS_USED = 16
    REPLAY_LOSSES_SUSPECTED = 17
    STATE = 18
    """A TunnelState."""
    STATE_SINCE_S = 19
    """Unix time."""
    RECONNECTS_SERVER_CLOSED = 20
    RECONNECTS_SERVER_SILENT = 21
    RECONNECTS_SERVER_GOODBYE = 22
    RECONNECTS_SESSION_TIMEOUT = 23
    RECONNECTS_ADDRESS_CHANGED = 24
    RECONNECTS_REKEY = 25
    RECONNECTS_BROKEN = 26
    DTLS_LOST = 27
    """How often TLS had to take over."""
    BLACK_HOLES = 28
    RECORDS_LOST = 29
    """Of the server's."""
    PACKETS_OVER_TLS = 30
    DROPPED_ECN = 31
    """Packets marked on the way whose inner header cannot carry the mark (RFC 6040)."""
    INNER_MTU = 32
    CIPHER_KEY_BYTES = 33
    """Of the DTLS records: 16 or 32; 0 without DTLS."""
    CIPHER_CHACHA20 = 34
    """1 for ChaCha20-Poly1305, 0 for AES-GCM."""
    RECONNECTS_PATH_MTU = 35
    DROPPED_UNEXPECTED = 36
    DROPPED_TOO_LONG = 37
    DROPPED_CHANNEL_LOST = 38

    @property
    def label(self) -> str:
        """The name that metrics and `--json` use."""
        return self.name.lower()


class TunnelState(enum.IntEnum):
    """What carries the packets."""

    RECONNECTING = 0
    """Nothing: there is no session."""
    TLS = 1
    """Unmarked, that is."""
    DTLS = 2

    @property
    def label(self) -> str:
        """The name that metrics and `--json` use."""
        return self.name.lower()


_STATISTICS_WORDS = struct.Struct(f"={len(Statistic)}Q")


def statistics_of(info: bytes | memoryview) -> Sequence[int]:
    """Read all statistics of a flow: by Statistic, which is an index."""
    return _STATISTICS_WORDS.unpack_from(info, _STATISTICS_AT * WORD.size)


def statistics_in(page: memoryview) -> memoryview:
    """Return the words that the owner stores its statistics in: view[Statistic.X] = value. `page` is given as words."""
    return page[_STATISTICS_AT:]


def page_words(info: memoryview) -> memoryview:
    """Return all words of a flow's page (a byte view): statistics_in, write_suite and write_classes take them."""
    return info.cast("Q")


def write_suite(page: memoryview, suite: str) -> None:
    """Store the name of the cipher suite, up to 64 bytes of it."""
    raw = suite.encode()[:_SUITE_BYTES].ljust(_SUITE_BYTES, b"\0")
    for at, (word,) in enumerate(WORD.iter_unpack(raw), _SUITE_AT):
        page[at] = word


def suite_in(info: bytes | memoryview) -> str:
    """Read back what write_suite stored, fit to be shown. Never raises, whatever is there."""
    start = _SUITE_AT * WORD.size
    return _suite(bytes(info[start : start + _SUITE_BYTES]))


@functools.lru_cache(maxsize=64)
def _suite(raw: bytes) -> str:
    """Take the bytes apart: there are few suites, and many flows that have one."""
    return _text(raw)


def state_name(value: int) -> str:
    """Return what Statistic.STATE means; "unknown" for what no client of ours stores."""
    try:
        return TunnelState(value).label
    except ValueError:
        return "unknown"


def _text(raw: bytes) -> str:
    """Read a client's words. Any bytes may be in them."""
    return one_line(raw.split(b"\0", 1)[0].decode("utf-8", "replace"))
