"""The loop of one session: a handful of descriptors, one thread, every packet.

    TUN  --> Uplink --> UDP          UDP --> RecordOpener --> ECN --> TUN, or `link`
      '----> frames --> TLS          TLS --> frames ----------------> TUN, or `control`; its end is the session's end
    stop --> goodbye                 netlink, clock --> are the channels still alive?

Nothing waits for a batch to fill. When the UDP socket is full, the packets that come are held by class, unsealed: the most
urgent leave first when there is room, and the least urgent are lost when it lasts. When TLS carries and is full, the TUN is
left alone, and the kernel drops as it would for any other link.
"""

from __future__ import annotations

import math
import select
import time
from collections import deque
from collections.abc import Callable, Sequence

from qosctl.bpf.dscp import Ecn
from qosctl.dtls.burst import Burst
from qosctl.dtls.carrier import Carrier
from qosctl.dtls.classes import Held, by_class
from qosctl.dtls.control import Control
from qosctl.dtls.decapsulate import combine
from qosctl.dtls.establish import Opened
from qosctl.dtls.frames import CstpDecoder, FrameKind
from qosctl.dtls.inner import IPV4_HEADER_BYTES, IPV4_WITHOUT_OPTIONS, traffic_class_of
from qosctl.dtls.link import Link, LinkLostError
from qosctl.dtls.netwatch import NetWatch, SleepWatch
from qosctl.dtls.record import APPLICATION_DATA
from qosctl.dtls.stop import Stop
from qosctl.dtls.tally import Tally
from qosctl.dtls.tun import READ_LIMIT, Tun
from qosctl.dtls.udp import RECEIVE_READS, Arrival
from qosctl.dtls.uplink import Batch
from qosctl.dtls.watch import Watch

REPORT_S = 1.0
TEND_S = 0.01
"""How often, at the most, the parts are asked what is due while packets come thick and fast."""
RETRY_S = 0.002
"""How soon to try a full socket again: the kernel says that it has room when half of it is free, and that may be late."""
CATCH_UP_PACKETS = 16
"""Sealed at once while the socket is full: few enough that what is urgent has not long to wait for them."""
LOOK_S = 2.0
"""How often to look at the clocks when nothing else happens."""


class Loop:
    """Moves packets until the stop is requested or the session ends. It owns nothing it is given."""

    def __init__(  # noqa: PLR0913  (each is one part of the picture above)
        self,
        *,
        stop: Stop,
        opened: Opened,
        tun: Tun,
        carrier: Carrier,
        control: Control,
        watch: Watch,
        net: NetWatch,
        poll: select.epoll,
        tally: Tally,
        report: Callable[[], None] | None,
        decoder: CstpDecoder,
    ) -> None:
        """`report` is called about once a second while things move."""
        self._stop = stop
        self._channel = opened.channel
        self._early = opened.early
        self._tun = tun
        self._carrier = carrier
        self._control = control
        self._watch = watch
        self._net = net
        self._poll = poll
        self._tally = tally
        self._report = report
        self._next_report = math.inf
        self._tended = self._due = -math.inf
        self._hold_until = math.inf
        self._holding = True
        self._unsettled = True
        self._sleep = SleepWatch()
        self._tun_burst, self._udp_burst = Burst(READ_LIMIT), Burst(RECEIVE_READS)
        self._decoder = decoder
        self._waiting: deque[Batch] = deque()  # sealed; one class's
        self._held = Held()  # not sealed yet
        self._channel_events = self._udp_events = select.EPOLLIN
        self._tun_events = 0

    def run(self, hold_until: float) -> None:
        """Run until the stop. Packets wait for DTLS until `hold_until`, then TLS carries them.

        SessionEndedError, SilentError, ConnectionLostError, FrameError, and Watch's errors say how the session ended;
        NotAttachedError when the device is gone.
        """
        self._poll.register(self._tun.fileno(), 0)
        for each in (self._channel, self._stop, self._net):
            self._poll.register(each.fileno(), select.EPOLLIN)
        now = time.monotonic()
        self._take_stream(self._early, now)
        self._read_channel(now)  # what TLS holds already, no socket will announce
        self._hold_until = hold_until
        clock, poll, serve = time.monotonic, self._poll.poll, self._serve
        now = clock()
        while not self._stop.requested:
            # Everything but the packets' own way is done between packets, and not between all of them.
            if now >= self._due or now >= self._tended + TEND_S:
                self._tend(now)
            if self._waiting or self._channel.unsent or self._unsettled:
                self._want()
            ready = poll(max(0.0, self._due - now))
            now = clock()
            serve(ready, now)

    def _tend(self, now: float) -> None:
        """Let every part do what is due, and note when something is next."""
        self._tended = now
        due = min(self._watch.tend(now), self._carrier.tend(now), self._control.tend(now), now + LOOK_S)
        if self._holding:
            self._hold(now)
            due = min(due, self._hold_until) if self._holding else due
        link = self._carrier.link
        if link is not None:
            self._tun.fit(link.path.size)
            if self._carrier.early:
                early, self._carrier.early = self._carrier.early, []
                self._take_datagrams(link, [Arrival([memoryview(each) for each in early], Ecn.NOT_ECT)], now)
                due = now  # whatever they said
            if self._waiting and self._carrier.link is link:
                self._catch_up(link, now)
                due = min(due, now + RETRY_S) if self._waiting else due
        else:
            self._waiting.clear()  # they were sealed for a channel that is no more
            if self._held:
                self._send_over_tls(self._held.take(len(self._held)), beside_dtls=True)
        if now >= self._next_report and self._report is not None:
            self._report()
            self._next_report = math.inf
        self._due = min(due, self._next_report)
        if self._sleep.slept(now, self._due):
            self._watch.woke(now)
            self._due = now

    def _hold(self, now: float) -> None:
        """Let packets wait for DTLS no longer, once it is there or has taken too long."""
        if self._carrier.link is not None:
            self._holding = False
        elif now >= self._hold_until:
            self._holding = False
            self._carrier.take_over()

    def _want(self) -> None:
        """Watch each descriptor for what can be done with it now."""
        waiting, link = bool(self._waiting), self._carrier.link
        full = link is None and self._control.congested
        tun = 0 if full or self._holding else select.EPOLLIN
        channel = select.EPOLLIN | (select.EPOLLOUT if self._channel.unsent else 0)
        udp = select.EPOLLIN | (select.EPOLLOUT if waiting else 0)
        if tun != self._tun_events:
            self._tun_events = tun
            self._poll.modify(self._tun.fileno(), tun)
        if channel != self._channel_events:
            self._channel_events = channel
            self._poll.modify(self._channel.fileno(), channel)
        if udp != self._udp_events:
            self._udp_events = udp
            if link is not None:
                self._poll.modify(link.udp.fileno(), udp)
        self._unsettled = not tun or channel != select.EPOLLIN or udp != select.EPOLLIN

    def _serve(self, ready: list[tuple[int, int]], now: float) -> None:
        tun, channel, udp = self._tun.fileno(), self._channel.fileno(), self._carrier.descriptor()
        packets = False
        if len(ready) > 1:  # numbers depend on all the echoes that have come, and an echo left unread passes for a late one
            self._udp_burst.limit = RECEIVE_READS
        for descriptor, events in ready:
            if descriptor == tun:
                packets = True
            elif descriptor == udp:
                self._serve_udp(events, now, len(ready))
            elif descriptor == channel:
                self._read_channel(now)
            elif descriptor == self._net.fileno():
                self._net.drain()
                self._watch.news(now)
                self._due = now
        if packets:  # last: the echoes that have come tell which numbers they need
            self._read_tun(now, len(ready))
        if self._next_report == math.inf and self._report is not None:
            self._next_report = now + REPORT_S
            self._due = min(self._due, self._next_report)

    def _serve_udp(self, events: int, now: float, ready: int) -> None:
        link = self._carrier.link
        if link is None:
            self._carrier.go_on(now)
            self._due = now
            return
        if events & ~select.EPOLLOUT:
            arrivals = link.udp.arrivals(self._udp_burst.limit)
            self._udp_burst.came(len(arrivals), now, ready)
            self._take_datagrams(link, arrivals, now)
            if self._carrier.link is not link:
                return
        if events & select.EPOLLOUT:
            self._catch_up(link, now)

    def _read_tun(self, now: float, ready: int) -> None:
        burst = self._tun_burst
        packets = self._tun.read_dry(burst.limit)
        burst.came(len(packets), now, ready)
        if not packets:
            return
        link = self._carrier.link
        if link is None:
            self._send_over_tls([*self._held.take(len(self._held)), *packets])
            return
        most = link.path.size
        if max(map(len, packets)) > most:
            self._send_over_tls([packet for packet in packets if len(packet) > most], beside_dtls=True)
            packets = [packet for packet in packets if len(packet) <= most]
        if link.prober is not None:
            link.probe(link.prober, now)  # in front of the packets that may need what it tells
        self._send(link, packets, now)
        if self._held:
            self._catch_up(link, now)

    def _send(self, link: Link, packets: Sequence[bytes], now: float) -> None:
        """Seal and send, the most urgent class first. What the socket has no room for waits, unsealed if possible.

        A sealed record has a number, and one that waits behind others comes too late for its number.
        """
        send, lost = link.udp.send, 0
        for dscp, members in by_class(packets):
            if self._waiting:
                lost += self._held.add(dscp, members)
                continue
            batches = link.uplink.seal(dscp, members, now)
            for index, batch in enumerate(batches):
                if not send(batch):
                    self._waiting.extend(batches[index:])
                    self._due = min(self._due, now + RETRY_S)
                    break
        if lost:
            self._tally.drop("udp_full", lost)
        link.life.said = now

    def _catch_up(self, link: Link, now: float) -> None:
        """Send what waits, as far as the socket has room."""
        while True:
            while self._waiting:
                if not link.udp.send(self._waiting[0]):
                    return
                self._waiting.popleft()
            packets = self._held.take(CATCH_UP_PACKETS)
            if not packets:
                return
            self._send(link, packets, now)

    def _send_over_tls(self, packets: Sequence[bytes], *, beside_dtls: bool = False) -> None:
        if beside_dtls and self._control.congested:  # the device is not left alone for TLS while DTLS has room
            self._tally.drop("tls_full", len(packets))
            return
        self._tally.over_tls += len(packets)
        for packet in packets:
            self._tally.sent.count(packet)
            self._control.send_packet(packet)

    def _take_datagrams(self, link: Link, arrivals: Sequence[Arrival], now: float) -> None:
        tally, open_records, write = self._tally, link.opener.open, self._tun.write
        packets, octets = tally.received.packets, tally.received.octets
        try:
            for datagrams, ecn in arrivals:
                for datagram in datagrams:
                    for _, content_type, plaintext in open_records(datagram):
                        link.life.heard = now
                        if content_type == APPLICATION_DATA and plaintext and plaintext[0] == FrameKind.DATA:
                            packet = plaintext[1:] if ecn is Ecn.NOT_ECT else combine(plaintext[1:], ecn)
                            if packet is None:
                                tally.drop("ecn")
                            elif write(packet):
                                size = len(packet)
                                plain = size >= IPV4_HEADER_BYTES and packet[0] == IPV4_WITHOUT_OPTIONS
                                traffic_class = packet[1] if plain else traffic_class_of(packet).byte
                                packets[traffic_class] += 1
                                octets[traffic_class] += size
                        else:
                            frame = link.take(content_type, plaintext, now)
                            if frame is not None:
                                self._control.judge(frame)
        except LinkLostError as error:
            self._carrier.lose(str(error), now)
            self._due = now

    def _read_channel(self, now: float) -> None:
        if self._channel.unsent:
            self._channel.flush()
        self._take_stream(self._channel.receive(), now)

    def _take_stream(self, data: bytes, now: float) -> None:
        if not data:
            return
        self._control.life.heard = now
        for frame in self._decoder.feed(data):
            if frame.kind != FrameKind.DATA:
                self._control.take(frame, now)
            elif self._tun.write(frame.payload):
                self._tally.over_tls += 1
                self._tally.received.count(frame.payload)
