"""What a client says of itself, in the page behind its ring's marks: who owns the flow, and its own statistics.

The kernel never reads this page. A header of owner fields, then one 64-bit word a statistic; words only grow, or are set
as a whole, so a reader needs no lock. The page's last words are for questions to the client (inquiry.py).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from pathlib import Path

from .layout import FLOW_INFO_WORDS, WORD

_OWNER = struct.Struct("=QQQ16s64s")  # process id, its start time, created (Unix ns), tunnel device, server
_STATISTICS_AT = 16  # words
_START_TIME_FIELD = 19  # of /proc/PID/stat, counted from behind the command name


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
    NUMBERING_SAFE = 10
    PROBES_SENT = 11
    PROBES_ECHOED = 12
    PROBES_LOST = 13
    BACKLOG_RECORDS = 14
    BACKLOG_MS = 15
    GAPS_USED = 16
    REPLAY_LOSSES_SUSPECTED = 17
    STATE = 18
    """0 no session: connecting again; 1 packets go over TLS, unmarked; 2 they go over DTLS."""
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

    @property
    def label(self) -> str:
        """The name that metrics and `--json` use."""
        return self.name.lower()


_STATISTICS = tuple(Statistic)  # an enum is slow to iterate, and a scrape does it for each flow
_STATISTICS_WORDS = struct.Struct(f"={len(_STATISTICS)}Q")
INFO_WORDS_USED = _STATISTICS_AT + len(_STATISTICS)
"""Words of a flow's page that mean something; the rest is zero."""


@dataclass(frozen=True)
class Owner:
    """The process that made a flow, its tunnel device and its server; `created` in Unix nanoseconds."""

    pid: int
    start_time: int
    created: int
    tunnel: str
    server: str

    @property
    def alive(self) -> bool:
        """Whether that very process still runs: process ids are reused, the start time tells."""
        return process_start_time(self.pid) == self.start_time


def process_start_time(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot, or None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[_START_TIME_FIELD])


def write_owner(info: memoryview, owner: Owner) -> None:
    """Store `owner` into a flow's page (a byte view)."""
    tunnel, server = owner.tunnel.encode()[:15], owner.server.encode()[:63]
    _OWNER.pack_into(info, 0, owner.pid, owner.start_time, owner.created, tunnel, server)


def read_owner(info: bytes | memoryview) -> Owner:
    """Read back what write_owner stored; total over any content."""
    pid, start_time, created, tunnel, server = _OWNER.unpack_from(info)
    return Owner(pid, start_time, created, _text(tunnel), _text(server))


def statistics_of(info: bytes | memoryview) -> dict[Statistic, int]:
    """Read all statistics of a flow."""
    return dict(zip(_STATISTICS, _STATISTICS_WORDS.unpack_from(info, _STATISTICS_AT * WORD.size), strict=True))


def statistics_words(info: memoryview) -> memoryview:
    """Return the words that the owner stores its statistics in: view[Statistic.X] = value."""
    return info.cast("Q")[_STATISTICS_AT:FLOW_INFO_WORDS]


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
