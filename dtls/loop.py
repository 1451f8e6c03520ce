"""The loop of a tunnel that is up: four descriptors, one thread, every packet.

    TUN  --> Uplink --> UDP          UDP --> RecordOpener --> TUN, or `control`
    TLS  --> frames --> TUN, or `control`; its end is the session's end
    stop --> goodbye

Nothing waits for a batch to fill. When the UDP socket is full the TUN is left alone until it has room again: the queue
then builds in the device, where the kernel drops as it would for any other link.
"""

from __future__ import annotations

import math
import select
import time
from collections import deque
from collections.abc import Callable, Sequence

from qosctl.dtls.channel import Channel
from qosctl.dtls.control import Control
from qosctl.dtls.frames import CstpDecoder, FrameKind
from qosctl.dtls.record import APPLICATION_DATA, RecordOpener
from qosctl.dtls.stop import Stop
from qosctl.dtls.tally import Tally
from qosctl.dtls.tun import Tun
from qosctl.dtls.udp import UdpSocket
from qosctl.dtls.uplink import Batch, Uplink

_REPORT_S = 1.0


class Loop:
    """Moves packets until the stop is requested or the session ends. It owns nothing it is given."""

    def __init__(  # noqa: PLR0913  (each is one part of the picture above)
        self,
        *,
        stop: Stop,
        channel: Channel,
        udp: UdpSocket,
        tun: Tun,
        uplink: Uplink,
        opener: RecordOpener,
        control: Control,
        tally: Tally,
        report: Callable[[], None] | None,
    ) -> None:
        """`report` is called about once a second while things move."""
        self._stop = stop
        self._channel = channel
        self._udp = udp
        self._tun = tun
        self._uplink = uplink
        self._opener = opener
        self._control = control
        self._tally = tally
        self._report = report
        self._next_report = math.inf
        self._decoder = CstpDecoder()
        self._waiting: deque[Batch] = deque()
        self._channel_wants_out = False

    def run(self, early_stream: bytes, early_datagrams: Sequence[bytes]) -> None:
        """Run until the stop, then say goodbye and return.

        `early_*` is what arrived before this began. SessionEndedError when the server ends the session or stops
        answering, ConnectionLostError and FrameError from the TLS channel, NotAttachedError when the device is gone.
        """
        with select.epoll() as poll:
            for each in (self._tun, self._udp, self._channel, self._stop):
                poll.register(each.fileno(), select.EPOLLIN)
            now = time.monotonic()
            self._take_datagrams(early_datagrams, now)
            self._take_stream(early_stream, now)
            self._read_channel(now)  # what TLS holds already, no socket will announce
            while not self._stop.requested:
                now = time.monotonic()
                wake = min(self._control.tend(now), self._report_when_due(now))
                if self._channel.unsent != self._channel_wants_out:
                    self._channel_wants_out = self._channel.unsent
                    wanted = select.EPOLLIN | (select.EPOLLOUT if self._channel_wants_out else 0)
                    poll.modify(self._channel.fileno(), wanted)
                ready = poll.poll(None if wake == math.inf else max(0.0, wake - now))
                self._serve(poll, ready, time.monotonic())
            self._control.say_goodbye()

    def _serve(self, poll: select.epoll, ready: list[tuple[int, int]], now: float) -> None:
        tun, udp, channel = self._tun.fileno(), self._udp.fileno(), self._channel.fileno()
        for descriptor, events in ready:
            if descriptor == tun:
                self._read_tun(poll, now)
            elif descriptor == udp:
                if events & ~select.EPOLLOUT:
                    self._take_datagrams(self._udp.receive(), now)
                if events & select.EPOLLOUT:
                    self._send_waiting(poll)
            elif descriptor == channel:
                self._read_channel(now)
        if self._next_report == math.inf and self._report is not None:
            self._next_report = now + _REPORT_S

    def _report_when_due(self, now: float) -> float:
        """Report what was counted since the last time; return when the next report is due, if anything comes."""
        if now >= self._next_report and self._report is not None:
            self._report()
            self._next_report = math.inf
        return self._next_report

    def _read_tun(self, poll: select.epoll, now: float) -> None:
        packets = self._tun.read_dry()
        if not packets:
            return
        control = self._control
        if control.prober is not None:
            control.probe(control.prober, now)  # in front of the packets that may need what it tells
        batches = self._uplink.seal(packets, now)
        send = self._udp.send
        for index, batch in enumerate(batches):
            if not send(batch):
                self._waiting.extend(batches[index:])
                self._watch(poll, packets=False)
                break
        tally = self._tally
        tally.packets_out += len(packets)
        tally.bytes_out += sum(map(len, packets))
        control.dtls_life.said = now

    def _send_waiting(self, poll: select.epoll) -> None:
        while self._waiting:
            if not self._udp.send(self._waiting[0]):
                return
            self._waiting.popleft()
        self._watch(poll, packets=True)

    def _watch(self, poll: select.epoll, *, packets: bool) -> None:
        """Watch the TUN for packets, or in its place the UDP socket for room."""
        poll.modify(self._tun.fileno(), select.EPOLLIN if packets else 0)
        poll.modify(self._udp.fileno(), select.EPOLLIN | (0 if packets else select.EPOLLOUT))

    def _take_datagrams(self, datagrams: Sequence[bytes | memoryview], now: float) -> None:
        control, tally = self._control, self._tally
        open_records, write = self._opener.open, self._tun.write
        for datagram in datagrams:
            for _, content_type, plaintext in open_records(datagram):
                control.dtls_life.heard = now
                if content_type == APPLICATION_DATA and plaintext and plaintext[0] == FrameKind.DATA:
                    if write(plaintext[1:]):
                        tally.packets_in += 1
                        tally.bytes_in += len(plaintext) - 1
                else:
                    control.take_dtls(content_type, plaintext, now)

    def _read_channel(self, now: float) -> None:
        if self._channel.unsent:
            self._channel.flush()
        self._take_stream(self._channel.receive(), now)

    def _take_stream(self, data: bytes, now: float) -> None:
        if not data:
            return
        self._control.tls_life.heard = now
        for frame in self._decoder.feed(data):
            if frame.kind != FrameKind.DATA:
                self._control.take_tls(frame, now)
            elif self._tun.write(frame.payload):
                self._tally.packets_in += 1
                self._tally.bytes_in += len(frame.payload)
