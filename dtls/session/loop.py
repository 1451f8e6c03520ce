"""The loop of one session: a handful of descriptors, one thread, every packet.

    TUN  --> Batcher --> UDP          UDP --> RecordOpener --> ECN --> TUN, or `dtls_channel`
      '----> frames --> TLS          TLS --> frames ----------------> TUN, or `tls_control`; its end is the session's end
    stop --> goodbye                 netlink, clock --> are the channels still alive?

Nothing waits for a batch to fill. What the UDP socket has no room for waits in `send_queue`. When TLS carries and is full,
the TUN is left alone, and the kernel drops as it would for any other link.

Everything but the packets' own way is a chore (`_tend`) and waits for a pause: the answer to what has just been sent may
be on its way, and it would wait for the chores.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Sequence

from qosctl.bpf.dscp import Ecn
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.packets.ecn import combine
from qosctl.dtls.packets.inner_header import IPV4_HEADER_BYTES, IPV4_WITHOUT_OPTIONS, dscp_of, traffic_class_of
from qosctl.dtls.packets.read_budget import ReadBudget
from qosctl.dtls.record.protection import APPLICATION_DATA
from qosctl.dtls.session.dtls_channel import DtlsChannel, DtlsLostError
from qosctl.dtls.session.failover import Failover
from qosctl.dtls.session.monitor import SessionMonitor
from qosctl.dtls.session.send_queue import SendQueue
from qosctl.dtls.session.session_stats import SessionCounters
from qosctl.dtls.session.setup import Opened
from qosctl.dtls.session.tls_control import TlsControl
from qosctl.dtls.transport.network_monitor import NetworkMonitor, SleepWatch
from qosctl.dtls.transport.stop import Stop
from qosctl.dtls.transport.tun import READ_LIMIT, Tun
from qosctl.dtls.transport.udp import RECEIVE_READS, Arrival
from qosctl.dtls.vpn.frames import FrameKind, StreamDecoder

REPORT_S = 1.0
PAUSE_S = 0.001
"""Chores are done when no packet has come for so long."""
TEND_S = 0.01
"""How often they are done because of packets, at the most."""
TEND_AT_LEAST_S = 0.03
"""How often they are done when packets leave no pause."""
RETRY_S = 0.002
"""How soon to try a full socket again: the kernel says that it has room when half of it is free, and that may be late."""
LOOK_S = 2.0
"""How often to look at the clocks when nothing else happens."""
MOST_EVENTS = 8
"""More than there are descriptors; unless told, Python makes room for 1,023 each time."""
_NOT_ECT = Ecn.NOT_ECT  # every packet asks for it


class Loop:
    """Moves packets until the stop is requested or the session ends. It owns nothing it is given."""

    def __init__(  # noqa: PLR0913  (each is one part of the picture above)
        self,
        *,
        stop: Stop,
        opened: Opened,
        tun: Tun,
        failover: Failover,
        control: TlsControl,
        watch: SessionMonitor,
        net: NetworkMonitor,
        poll: select.epoll,
        counters: SessionCounters,
        report: Callable[[], None] | None,
        decoder: StreamDecoder,
    ) -> None:
        """`report` is called about once a second while things move."""
        self._stop = stop
        self._channel = opened.channel
        self._early = opened.early
        self._data_byte = opened.protocol.data_byte
        self._tun = tun
        self._failover = failover
        self._control = control
        self._watch = watch
        self._net = net
        self._poll = poll
        self._counters = counters
        self._report = report
        self._next_report = math.inf
        self._tended = self._due = -math.inf
        self._pause_at = math.inf
        self._take_over_at = math.inf
        self._undecided = True
        self._unsettled = True
        self._sleep = SleepWatch()
        self._tun_burst, self._udp_burst = ReadBudget(READ_LIMIT), ReadBudget(RECEIVE_READS)
        self._decoder = decoder
        self._sender = SendQueue(counters, time.monotonic)
        self._tun_descriptor = tun.fileno()
        self._others = frozenset({each.fileno() for each in (opened.channel, stop, net)})  # neither TUN nor UDP
        self._channel_events = self._udp_events = select.EPOLLIN
        self._tun_events = 0

    def run(self, take_over_at: float) -> None:
        """Run until the stop. Packets wait for DTLS until `take_over_at`, then TLS carries them.

        SessionEndedError, SilentError, ConnectionLostError, FrameError, and SessionMonitor's errors say how the session
        ended; NotAttachedError when the device is gone.
        """
        self._poll.register(self._tun.fileno(), 0)
        for each in (self._channel, self._stop, self._net):
            self._poll.register(each.fileno(), select.EPOLLIN)
        now = time.monotonic()
        self._take_stream(self._early, now)
        self._read_channel(now)  # what TLS holds already, no socket will announce
        self._take_over_at = take_over_at
        clock, poll, serve = time.monotonic, self._poll.poll, self._serve
        now = clock()
        self._tend(now)
        while not self._stop.requested:
            if self._sender.stuck or self._channel.unsent or self._unsettled:
                self._want()
            ready = poll(max(0.0, min(self._due, self._pause_at) - now), MOST_EVENTS)
            now = clock()
            if ready:
                serve(ready, now)
                self._pause_at = max(now + PAUSE_S, self._tended + TEND_S)
            if not ready or now >= self._due or now >= self._tended + TEND_AT_LEAST_S:
                self._tend(now)

    def _tend(self, now: float) -> None:
        """Let every part do what is due, and note when something is next."""
        self._tended = now
        if self._pause_at < math.inf and self._next_report == math.inf and self._report is not None:
            self._next_report = now + REPORT_S  # something has moved
        self._pause_at = math.inf
        due = min(self._watch.tend(now), self._failover.tend(now), self._control.tend(now), now + LOOK_S)
        if self._undecided:
            self._decide(now)
            due = min(due, self._take_over_at) if self._undecided else due
        dtls = self._failover.dtls
        if dtls is not None:
            self._tun.fit(dtls.path.size)
            if self._failover.early:
                early, self._failover.early = self._failover.early, []
                self._take_datagrams(dtls, [([memoryview(each) for each in early], _NOT_ECT)], now)
                due = now  # whatever they said
            if self._sender.stuck and self._failover.dtls is dtls:
                self._sender.catch_up(dtls, now)
                due = min(due, now + RETRY_S) if self._sender.stuck else due
        elif packets := self._sender.give_back():
            self._send_over_tls(packets, beside_dtls=True)
        if now >= self._next_report and self._report is not None:
            self._report()
            self._next_report = math.inf
        self._due = min(due, self._next_report)
        if self._sleep.slept(now, self._due):
            self._watch.woke(now)
            self._due = now

    def _decide(self, now: float) -> None:
        """Let packets wait for DTLS no longer, once it is there or has taken too long."""
        if self._failover.dtls is not None:
            self._undecided = False
        elif now >= self._take_over_at:
            self._undecided = False
            self._failover.take_over()

    def _want(self) -> None:
        """Watch each descriptor for what can be done with it now."""
        dtls = self._failover.dtls
        full = dtls is None and self._control.congested
        tun = 0 if full or self._undecided else select.EPOLLIN
        channel = select.EPOLLIN | (select.EPOLLOUT if self._channel.unsent else 0)
        udp = select.EPOLLIN | (select.EPOLLOUT if self._sender.stuck else 0)
        if tun != self._tun_events:
            self._tun_events = tun
            self._poll.modify(self._tun.fileno(), tun)
        if channel != self._channel_events:
            self._channel_events = channel
            self._poll.modify(self._channel.fileno(), channel)
        if udp != self._udp_events:
            self._udp_events = udp
            if dtls is not None:
                self._poll.modify(dtls.udp.fileno(), udp)
        self._unsettled = not tun or channel != select.EPOLLIN or udp != select.EPOLLIN

    def _serve(self, ready: list[tuple[int, int]], now: float) -> None:
        packets = False
        if len(ready) > 1:  # numbers depend on all the echoes that have come, and an echo left unread passes for a late one
            self._udp_burst.limit = RECEIVE_READS
        for descriptor, events in ready:
            if descriptor == self._tun_descriptor:
                packets = True
            elif descriptor not in self._others:
                self._serve_udp(descriptor, events, now, len(ready))
            elif descriptor == self._channel.fileno():
                self._read_channel(now)
            elif descriptor == self._net.fileno():
                self._net.drain()
                self._watch.news(now)
                self._due = now
        if packets:  # last: the echoes that have come tell which numbers they need
            self._read_tun(now, len(ready))

    def _serve_udp(self, descriptor: int, events: int, now: float, ready: int) -> None:
        dtls, retired = self._failover.dtls, self._failover.retired
        if retired is not None and descriptor == retired.udp.fileno():
            self._take_datagrams(retired, retired.udp.arrivals(), now)
            return
        if dtls is None or descriptor != dtls.descriptor:
            self._failover.go_on(now)
            self._due = now
            return
        if events & ~select.EPOLLOUT:
            arrivals = dtls.udp.arrivals(self._udp_burst.limit)
            self._udp_burst.came(len(arrivals), now, ready)
            self._take_datagrams(dtls, arrivals, now)
            if self._failover.dtls is not dtls:
                return
        if events & select.EPOLLOUT:
            self._sender.catch_up(dtls, now)

    def _read_tun(self, now: float, ready: int) -> None:
        burst = self._tun_burst
        packets = self._tun.read_dry(burst.limit)
        burst.came(len(packets), now, ready)
        if not packets:
            return
        dtls = self._failover.dtls
        if dtls is None:
            self._send_over_tls([*self._sender.give_back(), *packets])
            return
        most = dtls.path.size
        if max(map(len, packets)) > most:
            self._send_over_tls([packet for packet in packets if len(packet) > most], beside_dtls=True)
            packets = [packet for packet in packets if len(packet) <= most]
        prober = dtls.prober
        if prober is not None and not prober.waits(now):
            dtls.probe(prober, now, frozenset(map(dscp_of, packets)))  # in front of packets that may need what it tells
        if len(packets) == 1:
            self._sender.send_one(dtls, packets[0], now)
        else:
            self._sender.send(dtls, packets, now)
        if self._sender.stuck:
            self._due = min(self._due, now + RETRY_S)

    def _send_over_tls(self, packets: Sequence[bytes], *, beside_dtls: bool = False) -> None:
        if beside_dtls and self._control.congested:  # the device is not left alone for TLS while DTLS has room
            self._counters.drop(DropReason.TLS_FULL, len(packets))
            return
        self._counters.packets_over_tls += len(packets)
        for packet in packets:
            self._counters.sent.count(packet)
            self._control.send_packet(packet)

    def _take_datagrams(self, dtls: DtlsChannel, arrivals: Sequence[Arrival], now: float) -> None:
        counters, open_records, write, life = self._counters, dtls.opener.open, self._tun.write, dtls.life
        packets, octets = counters.received.packets, counters.received.octets
        data_byte = self._data_byte
        try:
            for datagrams, ecn in arrivals:
                for datagram in datagrams:
                    for _, content_type, plaintext in open_records(datagram):
                        life.heard = now
                        if content_type == APPLICATION_DATA and plaintext and plaintext[0] == data_byte:
                            packet = plaintext[1:] if ecn is _NOT_ECT else combine(plaintext[1:], ecn)
                            if packet is None:
                                counters.drop(DropReason.ECN)
                            elif write(packet):
                                size = len(packet)
                                plain = size >= IPV4_HEADER_BYTES and packet[0] == IPV4_WITHOUT_OPTIONS
                                traffic_class = packet[1] if plain else traffic_class_of(packet).byte
                                packets[traffic_class] += 1
                                octets[traffic_class] += size
                        else:
                            frame = dtls.take(content_type, plaintext, now)
                            if frame is not None:
                                self._control.judge(frame)
        except DtlsLostError as error:
            self._failover.lost(dtls, str(error), now)
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
            if frame.kind is not FrameKind.DATA:
                self._control.take(frame, now)
            elif self._tun.write(frame.payload):
                self._counters.packets_over_tls += 1
                self._counters.received.count(frame.payload)
