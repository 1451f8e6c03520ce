"""What a client counts and says of itself: each statistic's word in the flow's page, its metric, unit, help and use.

The one place that says so. The page (page.py), the metrics, `flows`, `top`, `--json` with its schemas and the tables of
docs/operations.md take names and words from here; after a change, `make figures` draws the files that repeat them. What a
client counts comes here by supervisor/tunnel/flow_page_writer.py.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qosctl.bpf.flow_page.family import Family, Kind, Line, Section, Unit

_COUNTER, _GAUGE = Kind.COUNTER, Kind.GAUGE
DROPPED = Family(
    "qosctl_tunnel_dropped_packets", _COUNTER, Unit.PACKETS,
    "Packets the client dropped, by reason; forged and malformed should stay near 0 on an honest path.",
    "by `reason`", label="reason",
)  # fmt: skip
RECONNECTS = Family(
    "qosctl_tunnel_reconnects", _COUNTER, Unit.TIMES, "Sessions that ended and were begun anew, by reason.",
    "by `reason`", label="reason",
)  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """What is to be known of one statistic.

    `number` is its word in the page. `case` is the value of its family's label, `was` what that means, and `watch` what it
    tells an operator. `line` and `word` are where and how `qosctl flows` shows it.
    """

    number: int
    family: Family
    case: str = ""
    was: str = ""
    watch: str = ""
    line: Line = Line.OWN_WORDS
    word: str = ""


class Statistic(enum.IntEnum):
    """The words of a flow's page, by their numbers. A number is never reused; a new statistic takes the next one."""

    _value_: int
    family: Family
    case: str
    was: str
    watch: str
    line: Line
    word: str

    def __new__(cls, row: _Row) -> Statistic:
        """Make the number the value."""
        member = int.__new__(cls, row.number)
        member._value_ = row.number
        member.family, member.case, member.was, member.watch = row.family, row.case, row.was, row.watch
        member.line, member.word = row.line, row.word
        return member

    PACKETS_SENT = _Row(0, Family(
        "qosctl_tunnel_sent_packets", _COUNTER, Unit.PACKETS,
        "Packets that left through the tunnel, as counted by its client.",
        "inner packets up",
    ))  # fmt: skip
    BYTES_SENT = _Row(1, Family(
        "qosctl_tunnel_sent_bytes", _COUNTER, Unit.BYTES,
        "Bytes of the inner packets that left through the tunnel, as counted by its client.",
        "inner bytes up",
    ))  # fmt: skip
    PACKETS_RECEIVED = _Row(2, Family(
        "qosctl_tunnel_received_packets", _COUNTER, Unit.PACKETS,
        "Packets that arrived through the tunnel, as counted by its client.",
        "inner packets down",
    ))  # fmt: skip
    BYTES_RECEIVED = _Row(3, Family(
        "qosctl_tunnel_received_bytes", _COUNTER, Unit.BYTES,
        "Bytes of the inner packets that arrived through the tunnel, as counted by its client.",
        "inner bytes down",
    ))  # fmt: skip
    DROPPED_FORGED = _Row(
        4, DROPPED, "forged", "failed authentication", "somebody sends rubbish", Line.ITS_RECORDS, "forged"
    )
    DROPPED_REPLAYED = _Row(
        5, DROPPED, "replayed", "seen before or too old", "records overtake each other on the way down", Line.ITS_RECORDS,
        "replayed",
    )  # fmt: skip
    DROPPED_MALFORMED = _Row(6, DROPPED, "malformed", "not a record or frame it knows", "somebody sends rubbish")
    DROPPED_SOCKET_FULL = _Row(
        7, DROPPED, "socket_full", "the kernel took no more to send",
        "the queue of the device is longer than the socket's buffer, and what was lost is of the least urgent class",
    )  # fmt: skip
    DROPPED_TUNNEL_FULL = _Row(
        8, DROPPED, "tunnel_full", "the tunnel device took no more", "this machine is too busy"
    )  # fmt: skip
    DPD_ROUND_TRIP_US = _Row(9, Family(
        "qosctl_tunnel_dpd_round_trip_seconds", _GAUGE, Unit.MICROSECONDS,
        "Round trip of the last dead peer detection probe that the server answered; 0 until the first answer.",
        "round trip in the bulk class: the queue shows in it", combine=max,
    ))  # fmt: skip
    NUMBERING_REPLAY_SAFE = _Row(10, Family(
        "qosctl_tunnel_numbering_replay_safe", _GAUGE, Unit.FLAG,
        "1 while record numbers are chosen so that the server's replay window lets overtaken records pass; at 0, bulk may "
        "be dropped by the server whenever a priority class overtakes it.",
        "1 while overtaken records can pass the server's replay window", Section.BULK, min,
    ))  # fmt: skip
    PROBES_SENT = _Row(11, Family(
        "qosctl_tunnel_probes_sent", _COUNTER, Unit.TIMES,
        "Probes sent to learn which record number has reached the server.",
        "probes for the receiver's position; none while passtos is off or nothing is sent, ten a second while one class is "
        "busy (fifty behind a queue), one for each 10 records or so while one overtakes another", Section.BULK,
    ), line=Line.PROBES, word="sent")  # fmt: skip
    PROBES_ECHOED = _Row(12, Family(
        "qosctl_tunnel_probes_echoed", _COUNTER, Unit.TIMES,
        "Probes that the server echoed: each tells where the receiver was, and when.",
        "those answered", Section.BULK,
    ), line=Line.PROBES, word="echoed")  # fmt: skip
    PROBES_LOST = _Row(13, Family(
        "qosctl_tunnel_probes_lost", _COUNTER, Unit.TIMES,
        "Probes given up on. Where there are many against qosctl_tunnel_probes_sent_total, numbers are plain mostly.",
        "those given up. If there are many, records mostly have plain numbers", Section.BULK,
    ), line=Line.PROBES, word="lost")  # fmt: skip
    BACKLOG_RECORDS = _Row(14, Family(
        "qosctl_tunnel_backlog_records", _GAUGE, Unit.RECORDS,
        "Records estimated to be queued between this machine and the server.",
        "the same in records; beyond 64 marked records overtake more than the window", Section.BULK,
    ), line=Line.JSON_ONLY)  # fmt: skip
    BACKLOG_MS = _Row(15, Family(
        "qosctl_tunnel_backlog_seconds", _GAUGE, Unit.MILLISECONDS,
        "Time that the estimated backlog takes to drain: the delay that bulk sees, and that priority classes are spared.",
        "how long bulk waits on the path: the delay that priority avoids", Section.BULK, max,
    ), line=Line.JSON_ONLY)  # fmt: skip
    GAPS_USED = _Row(16, Family(
        "qosctl_tunnel_gaps_used", _COUNTER, Unit.TIMES,
        "Record numbers left free by bulk that a record of a priority class took, to stay inside the replay window.",
        "numbers taken from the gaps: how often the numbering was needed", Section.BULK,
    ), line=Line.NUMBERING, word="gaps used")  # fmt: skip
    REPLAY_LOSSES_SUSPECTED = _Row(17, Family(
        "qosctl_tunnel_replay_losses_suspected", _COUNTER, Unit.TIMES,
        "Records that the server has probably dropped as replays, because others overtook them by too much.",
        "records that the server probably threw away. Should stand still while passtos is on; without marks, what a full "
        "queue drops can look like it", Section.BULK,
    ), line=Line.NUMBERING, word="replay losses suspected")  # fmt: skip
    STATE = _Row(18, Family(
        "qosctl_tunnel_state", _GAUGE, Unit.STATE,
        "What carries the packets: 2 DTLS, 1 TLS (unmarked: nothing comes back over UDP), 0 nothing, it is reconnecting.",
        "2 DTLS, 1 TLS (nothing is marked), 0 reconnecting. Alert on 0 and on long 1", combine=max,
    ))  # fmt: skip
    STATE_SINCE_S = _Row(19, Family(
        "qosctl_tunnel_state_since_timestamp_seconds", _GAUGE, Unit.UNIX_SECONDS,
        "Unix time since when qosctl_tunnel_state is what it is.",
        "since when", combine=max,
    ))  # fmt: skip
    RECONNECTS_SERVER_CLOSED = _Row(20, RECONNECTS, "server_closed", "the TLS channel broke or was closed")
    RECONNECTS_SERVER_SILENT = _Row(21, RECONNECTS, "server_silent", "nothing came over TLS any more", "the access network")
    RECONNECTS_SERVER_GOODBYE = _Row(22, RECONNECTS, "server_goodbye", "the server said that the session is over")
    RECONNECTS_SESSION_TIMEOUT = _Row(23, RECONNECTS, "session_timeout", "the time that the server gave it was up")
    RECONNECTS_ADDRESS_CHANGED = _Row(
        24,
        RECONNECTS,
        "address_changed",
        "the address it sent from leads to the server no more",
        "the access network",
    )
    RECONNECTS_REKEY = _Row(25, RECONNECTS, "rekey", "the server wished for new keys", "normal")
    RECONNECTS_BROKEN = _Row(26, RECONNECTS, "broken", "what came made no sense")
    DTLS_LOST = _Row(27, Family(
        "qosctl_tunnel_dtls_losses", _COUNTER, Unit.TIMES,
        "How often DTLS died while the session lived, so that TLS had to carry the packets.",
        "how often UDP stopped working while TCP went on: NAT or firewall state that expired",
    ), line=Line.DTLS, word="times lost")  # fmt: skip
    BLACK_HOLES = _Row(28, Family(
        "qosctl_tunnel_black_holes", _COUNTER, Unit.TIMES,
        "How often records of full size stopped to arrive although the path had not said that they are too big.",
        "how often full-size packets vanished: a path with a smaller MTU that sends no ICMP error",
    ), line=Line.DTLS, word="black holes")  # fmt: skip
    RECORDS_LOST = _Row(29, Family(
        "qosctl_tunnel_lost_records", _COUNTER, Unit.RECORDS,
        "Records of the server that never arrived, by the gaps in their numbers.",
        "records from the server that never came: loss on the way down",
    ), line=Line.ITS_RECORDS, word="lost")  # fmt: skip
    PACKETS_OVER_TLS = _Row(30, Family(
        "qosctl_tunnel_packets_over_tls", _COUNTER, Unit.PACKETS,
        "Packets of both directions that went over TLS: while DTLS was not to be had, or too large for its path.",
        "packets that went over TLS, unmarked",
    ))  # fmt: skip
    DROPPED_ECN = _Row(
        31, DROPPED, "ecn", "marked on the way, and unable to carry the mark inside (RFC 6040)",
        "a full queue on the way down marks packets of applications that know no ECN",
    )  # fmt: skip
    INNER_MTU = _Row(32, Family(
        "qosctl_tunnel_mtu_bytes", _GAUGE, Unit.BYTES,
        "The largest packet that the tunnel device takes.",
        "what fits into the tunnel now; falls after a black hole", combine=min,
    ))  # fmt: skip
    CIPHER_KEY_BYTES = _Row(33, Family(
        "qosctl_tunnel_cipher_key_bytes", _GAUGE, Unit.BYTES,
        "Key length of the records' cipher; 0 while TLS carries the packets.",
        "key length of the records' cipher: 0 over TLS", combine=min,
    ), line=Line.JSON_ONLY)  # fmt: skip
    CIPHER_CHACHA20 = _Row(34, Family(
        "qosctl_tunnel_cipher_chacha20", _GAUGE, Unit.FLAG,
        "1 where the records' cipher is ChaCha20-Poly1305, 0 where it is AES-GCM.",
        "1 with ChaCha20-Poly1305, 0 with AES-GCM", combine=max,
    ), line=Line.JSON_ONLY)  # fmt: skip
    RECONNECTS_PATH_MTU = _Row(35, RECONNECTS, "path_mtu", "the path takes less than the session was made for")
    DROPPED_UNEXPECTED = _Row(36, DROPPED, "unexpected", "one that means nothing then", "a few around a handshake")
    DROPPED_TOO_LONG = _Row(37, DROPPED, "too_long", "larger than a record can be")
    DROPPED_CHANNEL_LOST = _Row(
        38, DROPPED, "channel_lost", "sealed, and waiting for room when its channel was lost",
        "a few when UDP dies under load",
    )  # fmt: skip

    @property
    def label(self) -> str:
        """The name that `--json` uses."""
        return self.name.lower()


def by_family() -> Mapping[Family, Sequence[Statistic]]:
    """Return the statistics that make each metric, in the order of their words."""
    found: dict[Family, list[Statistic]] = {}
    for statistic in Statistic:
        found.setdefault(statistic.family, []).append(statistic)
    return found


def cases_of(family: Family) -> Mapping[str, Statistic]:
    """Return the statistics of a family by the value of its label."""
    return {statistic.case: statistic for statistic in Statistic if statistic.family == family}


def shown_in(line: Line) -> Sequence[Statistic]:
    """Return what a line of `qosctl flows` lists."""
    return [statistic for statistic in Statistic if statistic.line is line]
