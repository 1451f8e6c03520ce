"""Packets on their way out over DTLS: sealed by class, sent, and held where the socket is full.

While it is full, the packets that come are held by class, unsealed: a sealed record has a number, and one that waits behind
others comes too late for it. The most urgent leave first when there is room, and the least urgent are lost when it lasts.

A number behind the newest is good for a moment only (numbering/replay_safe.py). Whoever was stopped between its choice and
the sending seals anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.packets.batch import MAX_BATCH_RECORDS, Batch
from qosctl.dtls.packets.priority import PriorityQueue, by_class
from qosctl.dtls.session.dtls_channel import DtlsChannel
from qosctl.dtls.session.session_stats import SessionCounters
from qosctl.dtls.transport.udp import UdpSocket

CATCH_UP_PACKETS = 16
"""Sealed at once while the socket is full: few enough that what is urgent has not long to wait for them."""
PROBED_RECORDS = MAX_BATCH_RECORDS
"""After so many records of a class we ask for probes again: in a burst the receiver's way is long."""


@dataclass(slots=True)
class Waiting:
    """What is sealed and waits for room, with the socket whose keys sealed it."""

    udp: UdpSocket
    batch: Batch
    packets: Sequence[bytes]
    """What the batch was made of at first; the last ones are what is left of it."""
    good_until: float


class SendQueue:
    """Sends over one DTLS channel after another. `stuck` says whether something sealed waits for room."""

    def __init__(self, counters: SessionCounters, clock: Callable[[], float]) -> None:
        """`clock` tells monotonic time in seconds."""
        self._counters = counters
        self._clock = clock
        self._sealed: deque[Waiting] = deque()  # one class's
        self._held = PriorityQueue()

    @property
    def stuck(self) -> bool:
        """Whether the socket was full: call `catch_up` when there may be room."""
        return bool(self._sealed)

    def send(self, dtls: DtlsChannel, packets: Sequence[bytes], now: float) -> None:
        """Seal and send, the most urgent class first; what there is no room for waits, or is lost and counted."""
        self._send(dtls, by_class(packets), now)
        if self._held:
            self.catch_up(dtls, now)

    def send_one(self, dtls: DtlsChannel, packet: bytes, now: float) -> None:
        """`send` for a packet that came alone."""
        if self._sealed:
            self.send(dtls, (packet,), now)
            return
        batch = dtls.uplink.seal_one(packet, now)
        if dtls.uplink.good_until < inf:
            self._out(dtls, batch.dscp, [batch], (packet,))
        elif not dtls.udp.send(batch):
            self._sealed.append(Waiting(dtls.udp, batch, (packet,), inf))
        dtls.life.last_tx = now

    def catch_up(self, dtls: DtlsChannel, now: float) -> None:
        """Send what waits, as far as the socket has room."""
        while True:
            if not self._send_sealed(dtls):
                return
            classes = self._held.take(CATCH_UP_PACKETS)
            if not classes:
                return
            self._send(dtls, classes, now)

    def give_back(self) -> list[bytes]:
        """Return the packets that wait unsealed, for another channel; what was sealed for the one before is lost."""
        if lost := sum(each.batch.count for each in self._sealed):
            self._counters.drop(DropReason.CHANNEL_LOST, lost)
        self._sealed.clear()
        return [packet for _, packets in self._held.take(len(self._held)) for packet in packets]

    def _send(self, dtls: DtlsChannel, classes: Sequence[tuple[Dscp, list[bytes]]], now: float) -> None:
        lost = 0
        for dscp, packets in classes:
            for part in _parts(packets):
                if self._sealed:
                    lost += self._held.add(dscp, part)
                    continue
                if part is not packets and dtls.prober is not None and not dtls.prober.waits(now):
                    dtls.probe(dtls.prober, now, (dscp,))
                self._out(dtls, dscp, dtls.uplink.seal(dscp, part, now), part)
        if lost:
            self._counters.drop(DropReason.UDP_FULL, lost)
        dtls.life.last_tx = now

    def _out(self, dtls: DtlsChannel, dscp: Dscp, batches: list[Batch], packets: Sequence[bytes]) -> None:
        """Send batches of one class, or let them wait; with other numbers if it took too long to come here."""
        udp, good_until = dtls.udp, dtls.uplink.good_until
        if good_until < inf and (now := self._clock()) > good_until:
            batches = dtls.uplink.seal_again(dscp, packets, now)
            good_until = dtls.uplink.good_until
        begin = 0
        for batch in batches:
            end = begin + batch.count
            if self._sealed or not udp.send(batch):
                self._sealed.append(Waiting(udp, batch, packets[begin:end], good_until))
            begin = end

    def _send_sealed(self, dtls: DtlsChannel) -> bool:
        """Send what is sealed; tells whether nothing is left. What waited for too long is sealed again first."""
        sealed = self._sealed
        if sealed and sealed[0].good_until < inf and sealed[0].udp is dtls.udp and self._clock() > sealed[0].good_until:
            left = [packet for each in sealed for packet in each.packets[-each.batch.count :]]
            dscp = sealed[0].batch.dscp
            sealed.clear()
            self._out(dtls, dscp, dtls.uplink.seal_again(dscp, left, self._clock()), left)
            return not sealed
        while sealed:
            udp, batch = sealed[0].udp, sealed[0].batch
            if udp.fileno() < 0:
                self._counters.drop(DropReason.CHANNEL_LOST, batch.count)
            elif not udp.send(batch):
                return False
            sealed.popleft()
        return True


def _parts(packets: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the packets of one class in parts that probes may go between."""
    if len(packets) <= PROBED_RECORDS:
        yield packets
        return
    for begin in range(0, len(packets), PROBED_RECORDS):
        yield packets[begin : begin + PROBED_RECORDS]
