"""The real Marker of the DTLS client: a ring of its own, in the pinned flows map of this network namespace."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

from qosctl.bpf import bpffs
from qosctl.bpf.control import SwitchReader
from qosctl.bpf.dscp import Dscp
from qosctl.bpf.errors import QosctlError, kernel_errors
from qosctl.bpf.flow_classes import ClassUse, Queued, backlog_word, write_classes
from qosctl.bpf.flow_info import Statistic, TunnelState, statistics_in, write_suite
from qosctl.bpf.flow_pins import Owner
from qosctl.bpf.flows import FlowKey, Ring
from qosctl.bpf.state import create_state, open_state, open_switch, release_state
from qosctl.dtls.marker import FlowMemory
from qosctl.dtls.numbering.snapshot import Snapshot
from qosctl.dtls.reconnect import Reason
from qosctl.dtls.tally import State, Statistics
from qosctl.dtls.traffic import Traffic

_MICROSECONDS = 1_000_000
_DROPS = {
    "forged": Statistic.DROPPED_FORGED,
    "replayed": Statistic.DROPPED_REPLAYED,
    "udp_lost": Statistic.DROPPED_SOCKET_FULL,
    "tls_full": Statistic.DROPPED_SOCKET_FULL,
    "udp_full": Statistic.DROPPED_SOCKET_FULL,
    "tun_refused": Statistic.DROPPED_TUNNEL_FULL,
    "ecn": Statistic.DROPPED_ECN,
}
_NOTHING = Traffic(0, 0)
_RECONNECTS = {reason: Statistic[f"RECONNECTS_{reason.name}"] for reason in Reason}


class FlowMarker:
    """Registers one flow for this process; satisfies qosctl.dtls.marker.Marker.

    Where BPF is not to be had, `warn` gets one line and the tunnel works unmarked: fail open.
    """

    def __init__(self, server: str, warn: Callable[[str], None]) -> None:
        self._server = server
        self._warn = warn
        self.pid = os.getpid()
        """The owner's, whoever registers on its behalf."""
        self._ring: Ring | None = None
        self.switch: SwitchReader | None = None
        self._key: FlowKey | None = None

    def flow_opened(self, outer: int, tunnel: str) -> None:
        """Make the maps if nobody has, clear flows of dead owners, and enter this one.

        An entry from before goes first, in the same breath, so that the maps stay.
        """
        try:
            with kernel_errors("marking"):
                key = key_of(outer)
                ring, switch = self._register(key, tunnel)
        except QosctlError as error:
            self._warn(f"nothing will be marked: {error}")
            self.flow_closed()
            return
        self._let_go()
        self._ring, self.switch, self._key = ring, switch, key

    def memory(self) -> FlowMemory | None:
        """Return where to mark."""
        return None if self._ring is None else FlowMemory(self._ring.marks, self._ring.inquiry)

    @property
    def waiting(self) -> bool:
        """Nothing is waited for: `flow_opened` does it all."""
        return False

    def flow_closed(self) -> None:
        """Take the flow out, and the maps with it if this was their last use."""
        if self._key is None or self._ring is None:
            return
        try:
            with kernel_errors("marking"), bpffs.locked():
                with open_state() as state:
                    state.flows.remove(self._key)
                    state.flows.forget(self._ring)
                release_state()
        except QosctlError as error:
            self._warn(f"the flow entry stays until the next attach or connect: {error}")
        self._let_go()
        self._key = None

    def passtos(self) -> bool:
        """Whether marks leave at present."""
        return passtos_of(self.switch)

    def publish(self, now: Statistics) -> None:
        """Show what the client counted to `qosctl flows` and the metrics."""
        if self._ring is not None:
            store(now, self._ring.page)

    @property
    def descriptors(self) -> list[int]:
        """The ring's and the switch's, for another process that is to store marks in one and look at the other.

        None without a ring.
        """
        return [] if self._ring is None or self.switch is None else [self._ring.fd, self.switch.fd]

    def _let_go(self) -> None:
        if self._ring is not None:
            self._ring.close()
        if self.switch is not None:
            self.switch.close()
        self._ring = self.switch = None

    def _register(self, key: FlowKey, tunnel: str) -> tuple[Ring, SwitchReader]:
        owner = Owner(self.pid, time.time_ns(), tunnel, self._server)
        bpffs.ensure_mounted()
        with bpffs.locked():
            create_state()
            try:
                with open_state() as state:
                    state.flows.reap()
                    if self._key is not None and self._ring is not None:
                        state.flows.remove(self._key)
                        state.flows.forget(self._ring)
                    ring = Ring(owner)
                    try:
                        state.flows.add(key, ring)
                        return ring, open_switch()
                    except BaseException:
                        ring.close()
                        raise
            except BaseException:
                release_state()
                raise


def key_of(outer: int) -> FlowKey:
    """Return the five-tuple of a connected UDP or TCP socket, as the kernel says; OSError where it is none."""
    with socket.socket(fileno=os.dup(outer)) as asked:
        local, remote = asked.getsockname(), asked.getpeername()
    return FlowKey(local[:2], remote[:2])


def passtos_of(switch: SwitchReader | None) -> bool:
    """Whether the switch is on. One that cannot be read is taken for off: nothing is told then, and nothing is lost."""
    try:
        return switch is not None and switch.passtos
    except OSError:
        return False


def store(now: Statistics, page: memoryview) -> None:
    """Store what the client counted into its flow's page, a view of 64-bit words: a few of them, and no system call."""
    statistics = statistics_in(page)
    for statistic, value in _words(now).items():
        statistics[statistic] = value
    write_suite(page, now.standing.cipher)
    write_classes(page, _classes(now))


def _words(now: Statistics) -> dict[Statistic, int]:
    """Say it in the statistics of the flow's page; what has no word of its own there counts as malformed."""
    dropped = dict.fromkeys(_DROPS.values(), 0) | {Statistic.DROPPED_MALFORMED: 0}
    for reason, count in now.dropped.items():
        dropped[_DROPS.get(reason, Statistic.DROPPED_MALFORMED)] += count
    return {
        Statistic.PACKETS_SENT: now.sent.packets,
        Statistic.BYTES_SENT: now.sent.bytes,
        Statistic.PACKETS_RECEIVED: now.received.packets,
        Statistic.BYTES_RECEIVED: now.received.bytes,
        Statistic.DPD_ROUND_TRIP_US: round((now.dpd_round_trip_s or 0) * _MICROSECONDS),
        Statistic.STATE: TunnelState[now.standing.state.name],
        Statistic.STATE_SINCE_S: int(now.standing.since_s),
        **{word: now.standing.reconnects.get(reason, 0) for reason, word in _RECONNECTS.items()},
        Statistic.DTLS_LOST: now.standing.dtls_lost,
        Statistic.BLACK_HOLES: now.standing.black_holes,
        Statistic.RECORDS_LOST: now.lost,
        Statistic.PACKETS_OVER_TLS: now.over_tls,
        Statistic.INNER_MTU: now.standing.mtu,
        Statistic.CIPHER_KEY_BYTES: _key_bytes(now.standing.suite),
        Statistic.CIPHER_CHACHA20: int("CHACHA20" in now.standing.suite),
        **dropped,
        **({} if now.numbering is None else _numbering_words(now.numbering)),
    }


def _numbering_words(now: Snapshot) -> dict[Statistic, int]:
    """The backlog is that of the class that the others overtake."""
    slow = None if now.slow is None else now.backlog.get(now.slow)
    return {
        Statistic.NUMBERING_SAFE: int(now.mode == "safe"),
        Statistic.PROBES_SENT: now.probes_sent,
        Statistic.PROBES_ECHOED: now.probes_echoed,
        Statistic.PROBES_LOST: now.probes_lost,
        Statistic.BACKLOG_RECORDS: 0 if slow is None else slow.records,
        Statistic.BACKLOG_MS: 0 if slow is None else round(slow.milliseconds),
        Statistic.GAPS_USED: now.gaps_used,
        Statistic.REPLAY_LOSSES_SUSPECTED: now.suspected_replay_losses,
    }


def _classes(now: Statistics) -> dict[Dscp, ClassUse]:
    """Say what each class has carried. Over TLS, and where numbers are plain, nobody knows what is queued."""
    sent, received = now.sent_by_class, now.received_by_class
    known = now.numbering is not None and now.standing.state is State.DTLS
    return {
        dscp: ClassUse(
            *(sent.get(dscp, _NOTHING).packets, sent.get(dscp, _NOTHING).bytes),
            *(received.get(dscp, _NOTHING).packets, received.get(dscp, _NOTHING).bytes),
            backlog_word(_queued(now.numbering, dscp) if known else None),
        )
        for dscp in sorted({*sent, *received})
    }


def _queued(numbering: Snapshot | None, dscp: Dscp) -> Queued:
    """Return what is queued in a class; nothing in one that has not sent for a while."""
    backlog = None if numbering is None else numbering.backlog.get(dscp)
    return Queued(0, 0) if backlog is None else Queued(backlog.records, round(backlog.milliseconds * 1000))


def _key_bytes(suite: str) -> int:
    if not suite:
        return 0
    return 16 if "AES128" in suite else 32
