"""What a client shows of itself in its flow's page: what it counted, in the words of qosctl.bpf.flow_page.statistics."""

from __future__ import annotations

from dataclasses import fields

from qosctl.bpf.dscp import Dscp
from qosctl.bpf.flow_page.by_dscp import ClassUse, Queued, backlog_word, write_classes
from qosctl.bpf.flow_page.page import statistics_in, write_suite
from qosctl.bpf.flow_page.statistics import Statistic
from qosctl.bpf.flow_page.tunnel_state import TunnelState
from qosctl.dtls.drop_reason import DropKind
from qosctl.dtls.numbering.snapshot import Backlog, Snapshot
from qosctl.dtls.packets.counters_by_dscp import InnerTraffic
from qosctl.dtls.session.reconnect import Reason
from qosctl.dtls.session.session_stats import Counts, State, Statistics

_MICROSECONDS = 1_000_000
_NOTHING = InnerTraffic(0, 0)
_DROPS = {kind: Statistic[f"DROPPED_{kind.name}"] for kind in DropKind}
_COUNTS = {each.name: Statistic[each.name.upper()] for each in fields(Counts)}
_RECONNECTS = {reason: Statistic[f"RECONNECTS_{reason.name}"] for reason in Reason}


def store(now: Statistics, page: memoryview) -> None:
    """Store what the client counted into its flow's page, a view of 64-bit words: a few of them, and no system call."""
    statistics = statistics_in(page)
    for statistic, value in _words(now).items():
        statistics[statistic] = value
    write_suite(page, now.standing.cipher)
    write_classes(page, _classes(now))


def _words(now: Statistics) -> dict[Statistic, int]:
    """Say it in the statistics of the flow's page."""
    dropped = dict.fromkeys(_DROPS.values(), 0)
    for reason, count in now.dropped.items():
        dropped[_DROPS[reason.kind]] += count
    return {
        Statistic.PACKETS_SENT: now.sent.packets,
        Statistic.BYTES_SENT: now.sent.bytes,
        Statistic.PACKETS_RECEIVED: now.received.packets,
        Statistic.BYTES_RECEIVED: now.received.bytes,
        Statistic.DPD_ROUND_TRIP_US: round((now.dpd_round_trip_s or 0) * _MICROSECONDS),
        Statistic.STATE: TunnelState[now.standing.state.name],
        Statistic.STATE_SINCE_S: int(now.standing.since_s),
        **{word: now.standing.reconnects.get(reason, 0) for reason, word in _RECONNECTS.items()},
        **{word: getattr(now.counts, name) for name, word in _COUNTS.items()},
        Statistic.INNER_MTU: now.standing.mtu,
        Statistic.CIPHER_KEY_BYTES: _key_bytes(now.standing.suite),
        Statistic.CIPHER_CHACHA20: int("CHACHA20" in now.standing.suite),
        **dropped,
        **({} if now.numbering is None else _numbering_words(now.numbering)),
    }


def _numbering_words(now: Snapshot) -> dict[Statistic, int]:
    """The backlog is that of the class that the others overtake."""
    overtaken = None if now.overtaken is None or now.backlog is None else now.backlog.get(now.overtaken)
    return {
        Statistic.NUMBERING_REPLAY_SAFE: int(now.mode == "replay-safe"),
        Statistic.PROBES_SENT: now.probes_sent,
        Statistic.PROBES_ECHOED: now.probes_echoed,
        Statistic.PROBES_LOST: now.probes_lost,
        Statistic.BACKLOG_RECORDS: 0 if overtaken is None else overtaken.records,
        Statistic.BACKLOG_MS: 0 if overtaken is None else round(overtaken.milliseconds),
        Statistic.GAPS_USED: now.gaps_used,
        Statistic.REPLAY_LOSSES_SUSPECTED: now.suspected_replay_losses,
    }


def _classes(now: Statistics) -> dict[Dscp, ClassUse]:
    """Say what each class has carried. Over TLS, and while nothing is measured, nobody knows what is queued."""
    sent, received = now.sent_by_class, now.received_by_class
    known = now.numbering.backlog if now.numbering is not None and now.standing.state is State.DTLS else None
    return {
        dscp: ClassUse(
            *(sent.get(dscp, _NOTHING).packets, sent.get(dscp, _NOTHING).bytes),
            *(received.get(dscp, _NOTHING).packets, received.get(dscp, _NOTHING).bytes),
            backlog_word(None if known is None else _queued(known.get(dscp))),
        )
        for dscp in sorted({*sent, *received})
    }


def _queued(backlog: Backlog | None) -> Queued:
    """Return what is queued in a class; nothing in one that has not sent for a while."""
    return Queued(0, 0) if backlog is None else Queued(backlog.records, round(backlog.milliseconds * 1000))


def _key_bytes(suite: str) -> int:
    if not suite:
        return 0
    return 16 if "AES128" in suite else 32
