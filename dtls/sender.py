"""Packets on their way out over DTLS: sealed by class, sent, and held where the socket is full.

While it is full, the packets that come are held by class, unsealed: a sealed record has a number, and one that waits behind
others comes too late for it. The most urgent leave first when there is room, and the least urgent are lost when it lasts.
No clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from qosctl.bpf.dscp import Dscp
from qosctl.dtls.classes import Held, by_class
from qosctl.dtls.link import Link
from qosctl.dtls.tally import Tally
from qosctl.dtls.udp import UdpSocket
from qosctl.dtls.uplink import Batch

CATCH_UP_PACKETS = 16
"""Sealed at once while the socket is full: few enough that what is urgent has not long to wait for them."""


class Sender:
    """Sends over one link after another. `stuck` says whether something sealed waits for room."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._sealed: deque[tuple[UdpSocket, Batch]] = deque()  # one class's, each with the socket whose keys sealed it
        self._held = Held()

    @property
    def stuck(self) -> bool:
        """Whether the socket was full: call `catch_up` when there may be room."""
        return bool(self._sealed)

    def send(self, link: Link, packets: Sequence[bytes], now: float) -> None:
        """Seal and send, the most urgent class first; what there is no room for waits, or is lost and counted."""
        self._send(link, by_class(packets), now)
        if self._held:
            self.catch_up(link, now)

    def send_one(self, link: Link, packet: bytes, now: float) -> None:
        """`send` for a packet that came alone."""
        if self._sealed:
            self.send(link, (packet,), now)
            return
        batch = link.uplink.seal_one(packet, now)
        if not link.udp.send(batch):
            self._sealed.append((link.udp, batch))
        link.life.said = now

    def catch_up(self, link: Link, now: float) -> None:
        """Send what waits, as far as the socket has room."""
        while True:
            while self._sealed:
                udp, batch = self._sealed[0]
                if udp.fileno() >= 0 and not udp.send(batch):
                    return
                self._sealed.popleft()
            classes = self._held.take(CATCH_UP_PACKETS)
            if not classes:
                return
            self._send(link, classes, now)

    def give_back(self) -> list[bytes]:
        """Return the packets that wait unsealed, for another channel; what was sealed for the one before is gone."""
        self._sealed.clear()
        return [packet for _, packets in self._held.take(len(self._held)) for packet in packets]

    def _send(self, link: Link, classes: Sequence[tuple[Dscp, list[bytes]]], now: float) -> None:
        send, lost = link.udp.send, 0
        for dscp, packets in classes:
            if self._sealed:
                lost += self._held.add(dscp, packets)
                continue
            batches = link.uplink.seal(dscp, packets, now)
            for index, batch in enumerate(batches):
                if not send(batch):
                    self._sealed.extend((link.udp, left) for left in batches[index:])
                    break
        if lost:
            self._tally.drop("udp_full", lost)
        link.life.said = now
