"""The loop of one session: a handful of descriptors, one thread, every packet.

    TUN  --> Batcher --> UDP          UDP --> RecordOpener --> ECN --> TUN, or `dtls_channel`
      '----> frames --> TLS          TLS --> frames ----------------> TUN, or `tls_control`; its end is the session's end
    stop --> disconnect              netlink, clock --> are the channels still alive?

Nothing waits for a batch to fill. What the UDP socket has no room for waits in `send_queue`. When TLS carries and is full,
the TUN is left alone, and the kernel drops as it would for any other link.

Everything but the packets' own way is a chore (`_do_chores`) and waits for a pause: the answer to what has just been sent
may be on its way, and it would wait for the chores.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Sequence
from typing import NamedTuple

from qosctl.bpf.dscp import Ecn
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.ip_sizes import IPV4_HEADER_BYTES
from qosctl.dtls.packets.ecn import combine
from qosctl.dtls.packets.inner_header import IPV4_WITHOUT_OPTIONS, dscp_of, traffic_class_of
from qosctl.dtls.packets.read_budget import ReadBudget
from qosctl.dtls.record.protection import APPLICATION_DATA
from qosctl.dtls.session.dtls_channel import DtlsChannel, DtlsLostError
from qosctl.dtls.session.send_queue import SendQueue
from qosctl.dtls.session.session_parts import SessionParts
from qosctl.dtls.transport.network_monitor import SleepWatch
from qosctl.dtls.transport.tun import READ_LIMIT
from qosctl.dtls.transport.udp import RECEIVE_READS, Arrival
from qosctl.dtls.vpn.frames import FrameKind

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


class _Watched(NamedTuple):
    """What is waited for at each descriptor: epoll's events."""

    tun: int
    channel: int
    udp: int


_READING = _Watched(select.EPOLLIN, select.EPOLLIN, select.EPOLLIN)
"""Mostly so: nothing that we send waits, and nothing that we are sent."""


class Loop:
    """Moves packets until the stop is requested or the session ends. It owns nothing it is given."""

    def __init__(self, parts: SessionParts) -> None:
        self._stop = parts.stop
        self._channel = parts.opened.channel
        self._early = parts.opened.early
        self._data_byte = parts.opened.protocol.data_byte
        self._tun = parts.tun
        self._failover = parts.failover
        self._control = parts.control
        self._monitor = parts.monitor
        self._net = parts.net
        self._poll = parts.poll
        self._counters = parts.counters
        self._report = parts.report
        self._decoder = parts.decoder
        self._chores_at = self._chores_done_at = -math.inf
        self._pause_at = math.inf  # when chores may be done, because nothing more has come; infinity if nothing has at all
        self._report_at = math.inf
        self._tls_takes_over_at: float | None = None  # until then packets wait for DTLS; None once it is decided
        self._sleep = SleepWatch()
        self._tun_burst, self._udp_burst = ReadBudget(READ_LIMIT), ReadBudget(RECEIVE_READS)
        self._sender = SendQueue(parts.counters, time.monotonic)
        self._tun_descriptor = parts.tun.fileno()
        self._not_udp = frozenset({each.fileno() for each in (parts.tun, parts.opened.channel, parts.stop, parts.net)})
        self._watched = _READING._replace(tun=0)

    def run(self, tls_takes_over_at: float) -> None:
        """Run until the stop. Packets wait for DTLS until `tls_takes_over_at`, then TLS carries them.

        SessionEndedError, SilentError, ConnectionLostError, FrameError, and SessionMonitor's errors say how the session
        ended; NotAttachedError when the device is gone.
        """
        self._poll.register(self._tun.fileno(), 0)
        for each in (self._channel, self._stop, self._net):
            self._poll.register(each.fileno(), select.EPOLLIN)
        now = time.monotonic()
        self._take_stream(self._early, now)
        self._read_channel(now)  # what TLS holds already, no socket will announce
        self._tls_takes_over_at = tls_takes_over_at
        clock, poll, serve = time.monotonic, self._poll.poll, self._serve
        now = clock()
        self._do_chores(now)
        while not self._stop.requested:
            if self._sender.stuck or self._channel.unsent or self._watched is not _READING:
                self._watch()
            ready = poll(max(0.0, min(self._chores_at, self._pause_at) - now), MOST_EVENTS)
            now = clock()
            if ready:
                serve(ready, now)
                self._pause_at = max(now + PAUSE_S, self._chores_done_at + TEND_S)
            if not ready or now >= self._chores_at or now >= self._chores_done_at + TEND_AT_LEAST_S:
                self._do_chores(now)

    def _do_chores(self, now: float) -> None:
        """Let every part do what is due, and note when something is next."""
        self._chores_done_at = now
        if self._something_has_come and self._report_at == math.inf and self._report is not None:
            self._report_at = now + REPORT_S
        self._pause_at = math.inf
        due = min(self._monitor.tend(now), self._failover.tend(now), self._control.tend(now), now + LOOK_S)
        if self._tls_takes_over_at is not None:
            due = min(due, self._decide(now, self._tls_takes_over_at))
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
        if now >= self._report_at and self._report is not None:
            self._report()
            self._report_at = math.inf
        self._chores_at = min(due, self._report_at)
        if self._sleep.slept(now, self._chores_at):
            self._monitor.woke(now)
            self._chores_at = now

    @property
    def _something_has_come(self) -> bool:
        """Whether any descriptor was ready since the last chores."""
        return self._pause_at < math.inf

    def _decide(self, now: float, takes_over_at: float) -> float:
        """Let packets wait no longer once DTLS is there or has taken too long; return when to look again."""
        if self._failover.dtls is None:
            if now < takes_over_at:
                return takes_over_at
            self._failover.take_over()
        self._tls_takes_over_at = None
        return math.inf

    def _watch(self) -> None:
        """Watch each descriptor for what can be done with it now."""
        dtls, watched = self._failover.dtls, self._watched
        waits = self._tls_takes_over_at is not None or (dtls is None and self._control.congested)
        wanted = _Watched(
            tun=0 if waits else select.EPOLLIN,
            channel=select.EPOLLIN | (select.EPOLLOUT if self._channel.unsent else 0),
            udp=select.EPOLLIN | (select.EPOLLOUT if self._sender.stuck else 0),
        )
        if wanted.tun != watched.tun:
            self._poll.modify(self._tun.fileno(), wanted.tun)
        if wanted.channel != watched.channel:
            self._poll.modify(self._channel.fileno(), wanted.channel)
        if wanted.udp != watched.udp and dtls is not None:
            self._poll.modify(dtls.udp.fileno(), wanted.udp)
        self._watched = _READING if wanted == _READING else wanted

    def _serve(self, ready: list[tuple[int, int]], now: float) -> None:
        packets = False
        if len(ready) > 1:  # numbers depend on all the echoes that have come, and an echo left unread passes for a late one
            self._udp_burst.limit = RECEIVE_READS
        for descriptor, events in ready:
            if descriptor == self._tun_descriptor:
                packets = True
            elif descriptor not in self._not_udp:  # of a channel, or of a handshake under way
                self._serve_udp(descriptor, events, now, len(ready))
            elif descriptor == self._channel.fileno():
                self._read_channel(now)
            elif descriptor == self._net.fileno():
                self._net.drain()
                self._monitor.news(now)
                self._chores_at = now
        if packets:  # last: the echoes that have come tell which numbers they need
            self._read_tun(now, len(ready))

    def _serve_udp(self, descriptor: int, events: int, now: float, ready: int) -> None:
        dtls, retired = self._failover.dtls, self._failover.retired
        if retired is not None and descriptor == retired.udp.fileno():
            self._take_datagrams(retired, retired.udp.arrivals(), now)
            return
        if dtls is None or descriptor != dtls.descriptor:
            self._failover.go_on(now)
            self._chores_at = now
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
        packets = self._tun.read(burst.limit)
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
        if now >= self._chores_done_at + TEND_AT_LEAST_S:  # after a pause, in which it may have been turned
            dtls.follow_switch(now)
        prober = dtls.prober
        if prober is not None and not prober.waits(now):
            dtls.probe(prober, now, frozenset(map(dscp_of, packets)))  # in front of packets that may need what it tells
        if len(packets) == 1:
            self._sender.send_one(dtls, packets[0], now)
        else:
            self._sender.send(dtls, packets, now)
        if self._sender.stuck:
            self._chores_at = min(self._chores_at, now + RETRY_S)

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
                        life.last_rx = now
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
            self._chores_at = now

    def _read_channel(self, now: float) -> None:
        if self._channel.unsent:
            self._channel.flush()
        self._take_stream(self._channel.receive(), now)

    def _take_stream(self, data: bytes, now: float) -> None:
        if not data:
            return
        self._control.life.last_rx = now
        for frame in self._decoder.feed(data):
            if frame.kind is not FrameKind.DATA:
                self._control.take(frame, now)
            elif self._tun.write(frame.payload):
                self._counters.packets_over_tls += 1
                self._counters.received.count(frame.payload)
