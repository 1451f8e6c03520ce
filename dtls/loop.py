"""The loop of a tunnel that is up: four descriptors, one thread, every packet.

    TUN  --> Uplink --> UDP          UDP --> RecordOpener --> TUN, or the answer to a control frame
    TLS  --> frames --> TUN, or the answer; its end is the session's end
    stop --> return

Nothing waits for a batch to fill. When the UDP socket is full the TUN is left alone until it has room again: the queue
then builds in the device, where the kernel drops as it would for any other link.
"""

from __future__ import annotations

import math
import select
import time
from collections import deque
from collections.abc import Sequence

from qosctl.bpf.dscp import DF
from qosctl.bpf.errors import NotAttachedError, RefusedError
from qosctl.dtls.anyconnect import printable
from qosctl.dtls.channel import Channel
from qosctl.dtls.frames import CstpDecoder, Frame, FrameKind, decode_dtls, encode_cstp, encode_dtls
from qosctl.dtls.liveness import Due, Liveness
from qosctl.dtls.record import ALERT, APPLICATION_DATA, RecordOpener
from qosctl.dtls.session import Session
from qosctl.dtls.stop import Stop
from qosctl.dtls.tally import Tally
from qosctl.dtls.tun import Tun
from qosctl.dtls.udp import UdpSocket
from qosctl.dtls.uplink import Batch, Uplink

CLOSE_NOTIFY = b"\x01\x00"
"""Warning, close_notify (RFC 5246 section 7.2.1)."""
_DISCONNECT_REASON = b"\xb0user disconnect"
_GOODBYE_S = 1.0
_DPD_ID_BYTES = 8


class SessionEndedError(NotAttachedError):
    """The server ended the session, or is not there any more."""


class Loop:
    """Moves packets until the stop is requested or the session ends. It owns nothing it is given."""

    def __init__(  # noqa: PLR0913  (each is one part of the picture above)
        self,
        *,
        name: str,
        stop: Stop,
        channel: Channel,
        udp: UdpSocket,
        tun: Tun,
        uplink: Uplink,
        opener: RecordOpener,
        session: Session,
        tally: Tally,
    ) -> None:
        """`name` is what to call the server in an error."""
        now = time.monotonic()
        self._name = name
        self._stop = stop
        self._channel = channel
        self._udp = udp
        self._tun = tun
        self._uplink = uplink
        self._opener = opener
        self._tally = tally
        self._decoder = CstpDecoder()
        self._tls_life = Liveness(session.tls, now)
        self._dtls_life = Liveness(session.dtls, now)
        self._waiting: deque[Batch] = deque()
        self._dpd_id = 0
        self._dpd_asked = now
        self._poll: select.epoll | None = None
        self._channel_wants_out = False

    def run(self, early_stream: bytes, early_datagrams: Sequence[bytes]) -> None:
        """Run until the stop, then say goodbye and return.

        `early_*` is what arrived before this began. SessionEndedError when the server ends the session or stops
        answering, ConnectionLostError and FrameError from the TLS channel, NotAttachedError when the device is gone.
        """
        tun, udp, channel = self._tun.fileno(), self._udp.fileno(), self._channel.fileno()
        with select.epoll() as poll:
            self._poll = poll
            for descriptor in (tun, udp, channel, self._stop.fileno()):
                poll.register(descriptor, select.EPOLLIN)
            self._take_datagrams(early_datagrams, time.monotonic())
            if early_stream:
                self._take_stream(early_stream, time.monotonic())
            # What TLS decrypted along with the answer to CONNECT no socket will announce.
            self._read_channel(time.monotonic())
            next_timer = 0.0
            while not self._stop.requested:
                now = time.monotonic()
                if now >= next_timer:
                    self._keep_alive(now)
                    next_timer = min(self._tls_life.next_time(), self._dtls_life.next_time())
                ready = poll.poll(None if next_timer == math.inf else max(0.0, next_timer - now))
                now = time.monotonic()
                for descriptor, events in ready:
                    if descriptor == tun:
                        self._read_tun(now)
                    elif descriptor == udp:
                        if events & ~select.EPOLLOUT:
                            self._take_datagrams(self._udp.receive(), now)
                        if events & select.EPOLLOUT:
                            self._send_waiting()
                    elif descriptor == channel:
                        self._read_channel(now)
            self._say_goodbye()

    def _read_tun(self, now: float) -> None:
        packets = self._tun.read_dry()
        if not packets:
            return
        batches = self._uplink.seal(packets, now)
        send = self._udp.send
        for index, batch in enumerate(batches):
            if not send(batch):
                self._waiting.extend(batches[index:])
                self._leave_tun(alone=True)
                break
        tally = self._tally
        tally.packets_out += len(packets)
        tally.bytes_out += sum(map(len, packets))
        self._dtls_life.said = now

    def _send_waiting(self) -> None:
        waiting = self._waiting
        while waiting:
            if not self._udp.send(waiting[0]):
                return
            waiting.popleft()
        self._leave_tun(alone=False)

    def _leave_tun(self, *, alone: bool) -> None:
        """Watch the UDP socket for room in place of the TUN for packets, or the other way round."""
        assert self._poll is not None
        self._poll.modify(self._tun.fileno(), 0 if alone else select.EPOLLIN)
        self._poll.modify(self._udp.fileno(), select.EPOLLIN | (select.EPOLLOUT if alone else 0))

    def _take_datagrams(self, datagrams: Sequence[bytes | memoryview], now: float) -> None:
        open_records, tally, write, life = self._opener.open, self._tally, self._tun.write, self._dtls_life
        for datagram in datagrams:
            for _, content_type, plaintext in open_records(datagram):
                life.heard = now
                if content_type == APPLICATION_DATA and plaintext and plaintext[0] == FrameKind.DATA:
                    if write(plaintext[1:]):
                        tally.packets_in += 1
                        tally.bytes_in += len(plaintext) - 1
                elif content_type == APPLICATION_DATA:
                    self._take_dtls_control(plaintext, now)
                elif content_type == ALERT:
                    self._take_alert(plaintext)
                else:
                    # The server may send its Finished again; a renegotiation we would not answer either.
                    tally.drop("handshake_after_finished")

    def _take_dtls_control(self, plaintext: bytes, now: float) -> None:
        frame = decode_dtls(plaintext)
        if frame is None:
            self._tally.drop("unknown_frame")
            return
        self._tally.count_control(f"dtls {frame.kind.name.lower()} received")
        if frame.kind == FrameKind.DPD_OUT:
            self._send_dtls(FrameKind.DPD_RESP, frame.payload, now)
        elif frame.kind == FrameKind.DPD_RESP:
            if frame.payload == self._dpd_id.to_bytes(_DPD_ID_BYTES):
                self._tally.dpd_round_trip_s = now - self._dpd_asked
        else:
            self._take_other(frame)

    def _take_alert(self, plaintext: bytes) -> None:
        if plaintext == CLOSE_NOTIFY or (len(plaintext) == 2 and plaintext[0] == 2):
            raise SessionEndedError(f"{self._name}: the server closed the DTLS channel")
        self._tally.drop("alert")

    def _read_channel(self, now: float) -> None:
        if self._channel.unsent:
            self._channel.flush()
        data = self._channel.receive()
        if data:
            self._take_stream(data, now)
        self._watch_channel()

    def _watch_channel(self) -> None:
        """Watch the TLS socket for room as long as something waits for it."""
        wants_out = self._channel.unsent
        if wants_out != self._channel_wants_out and self._poll is not None:
            self._channel_wants_out = wants_out
            self._poll.modify(self._channel.fileno(), select.EPOLLIN | (select.EPOLLOUT if wants_out else 0))

    def _take_stream(self, data: bytes, now: float) -> None:
        self._tls_life.heard = now
        for frame in self._decoder.feed(data):
            if frame.kind == FrameKind.DATA:
                if self._tun.write(frame.payload):
                    self._tally.packets_in += 1
                    self._tally.bytes_in += len(frame.payload)
                continue
            self._tally.count_control(f"tls {frame.kind.name.lower()} received")
            if frame.kind == FrameKind.DPD_OUT:
                self._send_tls(FrameKind.DPD_RESP, frame.payload, now)
            elif frame.kind != FrameKind.DPD_RESP:
                self._take_other(frame)

    def _take_other(self, frame: Frame) -> None:
        if frame.kind in {FrameKind.DISCONN, FrameKind.TERM_SERVER}:
            # The first byte is a code, the rest words for the user; either may be missing.
            words = printable(frame.payload[1:].decode("utf-8", "replace"))
            raise SessionEndedError(f"{self._name}: the server ended the session{': ' if words else ''}{words}")
        if frame.kind == FrameKind.COMPRESSED:
            self._tally.drop("compressed")

    def _keep_alive(self, now: float) -> None:
        match self._tls_life.due(now):
            case Due.DEAD:
                raise SessionEndedError(f"{self._name}: the server has stopped answering over TLS")
            case Due.DPD:
                self._send_tls(FrameKind.DPD_OUT, b"", now)
            case Due.KEEPALIVE:
                self._send_tls(FrameKind.KEEPALIVE, b"", now)
        match self._dtls_life.due(now):
            case Due.DEAD:
                raise SessionEndedError(
                    f"{self._name}: the server has stopped answering over DTLS", "connect again, or another network"
                )
            case Due.DPD:
                self._dpd_id += 1
                self._dpd_asked = now
                self._send_dtls(FrameKind.DPD_OUT, self._dpd_id.to_bytes(_DPD_ID_BYTES), now)
            case Due.KEEPALIVE:
                self._send_dtls(FrameKind.KEEPALIVE, b"", now)

    def _send_dtls(self, kind: FrameKind, payload: bytes, now: float) -> None:
        self._tally.count_control(f"dtls {kind.name.lower()} sent")
        if not self._udp.send(self._uplink.seal_control(encode_dtls(kind, payload), DF, now)):
            self._tally.drop("control_without_room")  # DPD asks again, and so does the server
        self._dtls_life.said = now

    def _send_tls(self, kind: FrameKind, payload: bytes, now: float) -> None:
        self._tally.count_control(f"tls {kind.name.lower()} sent")
        # One frame is one record, and the server's longest request fits: it came in one.
        self._channel.send(encode_cstp(kind, payload))
        self._tls_life.said = now
        self._watch_channel()

    def _say_goodbye(self) -> None:
        """Tell the server on both channels; it forgets the cookie. Best effort, and for one second at most."""
        now = time.monotonic()
        try:
            self._udp.send(self._uplink.seal_alert(CLOSE_NOTIFY, now))
            self._channel.send(encode_cstp(FrameKind.DISCONN, _DISCONNECT_REASON))
            poll = select.poll()
            poll.register(self._channel.fileno(), select.POLLOUT)
            while self._channel.unsent and poll.poll(max(0.0, now + _GOODBYE_S - time.monotonic()) * 1000):
                self._channel.flush()
        except (RefusedError, NotAttachedError):
            pass  # the server is gone, or no number is left: then there is nobody to tell, or no way
