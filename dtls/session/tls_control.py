"""The conversation on the TLS channel, and what frames of either channel mean for the session. Nothing here waits,
except to disconnect, and time comes in.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence

from qosctl.bpf.errors import NotAttachedError, RefusedError
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.session.dpd import DeadPeerDetection, Due
from qosctl.dtls.session.session_stats import SessionCounters
from qosctl.dtls.session.tls_wakeup import TlsWakeup
from qosctl.dtls.transport.tls_channel import RECORD_BYTES_MAX, TlsChannel
from qosctl.dtls.vpn.frames import Frame, FrameKind
from qosctl.dtls.vpn.protocol import VpnProtocol
from qosctl.dtls.vpn.session import Interface, Session

_DISCONNECT_S = 1.0
BACKLOG_BYTES = 64 << 10
"""What may wait for room in the TCP socket before the device is left alone."""


class SessionEndedError(NotAttachedError):
    """The server ended the session."""


class SilentError(NotAttachedError):
    """The server does not answer over TLS any more."""


class TlsControl:
    """The TLS channel's side of the session. Store the time in `life.last_rx` as bytes come."""

    def __init__(  # noqa: PLR0913  (what it speaks of)
        self,
        *,
        name: str,
        channel: TlsChannel,
        protocol: VpnProtocol,
        session: Session,
        addresses: Sequence[Interface],
        counters: SessionCounters,
        now: float,
    ) -> None:
        """`name` is what to call the server in an error; `addresses` are those that the tunnel device has."""
        self._name = name
        self._channel = channel
        self._protocol = protocol
        self._counters = counters
        self._owed: bytes | None = None
        self.life = DeadPeerDetection(session.tls, now)
        self.wakeup = TlsWakeup(addresses)

    @property
    def congested(self) -> bool:
        """Whether so much waits for room that packets had better wait too."""
        return self._channel.unsent_bytes > BACKLOG_BYTES

    def tend(self, now: float) -> float:
        """Do what is due; return when to be called again, possibly never (infinity). SilentError when TLS is dead."""
        if self._owed is not None and not self._channel.unsent:
            owed, self._owed = self._owed, None
            self._send(FrameKind.DPD_RESP, owed, now)
        match self.life.due(now):
            case Due.DEAD:
                raise SilentError(f"{self._name}: the server has stopped answering over TLS")
            case Due.DPD:
                self._send(FrameKind.DPD_OUT, b"", now)
            case Due.KEEPALIVE:
                self._send(FrameKind.KEEPALIVE, b"", now)
        packet = self.wakeup.due(now)
        if packet is not None:
            self._counters.count_control("tls wakeup sent")
            self.send_packet(packet)
        return min(self.life.next_time(), self.wakeup.next_time())

    def take(self, frame: Frame, now: float) -> None:
        """Take a frame of TLS that is no packet. SessionEndedError when the server disconnects."""
        self._counters.count_control(f"tls {frame.kind.name.lower()} received")
        if frame.kind == FrameKind.DPD_OUT:
            self._answer(frame.payload, now)
        elif frame.kind != FrameKind.DPD_RESP:
            self.judge(frame)

    def judge(self, frame: Frame) -> None:
        """Take a frame of either channel that is neither packet nor request. SessionEndedError when it is the end."""
        if frame.kind in {FrameKind.DISCONN, FrameKind.TERM_SERVER}:
            message = self._protocol.end_message(frame)
            raise SessionEndedError(f"{self._name}: the server ended the session{': ' if message else ''}{message}")
        if frame.kind == FrameKind.COMPRESSED:
            self._counters.drop(DropReason.COMPRESSED)  # we never asked for it

    def send_packet(self, packet: bytes) -> None:
        """Send an inner packet over TLS. ConnectionLostError when there is no TLS any more."""
        frame = self._protocol.packet_to_stream(packet)
        if len(frame) > RECORD_BYTES_MAX:
            self._counters.drop(DropReason.TOO_LONG)
            return
        self._channel.send(frame)

    def send_disconnect(self) -> None:
        """Tell the server, which makes it forget the cookie. Best effort, and for a second at most."""
        until = time.monotonic() + _DISCONNECT_S
        try:
            self._channel.send(self._protocol.disconnect)
            poll = select.poll()
            poll.register(self._channel.fileno(), select.POLLOUT)
            while self._channel.unsent and poll.poll(max(0.0, until - time.monotonic()) * 1000):
                self._channel.flush()
        except (RefusedError, NotAttachedError):
            pass  # the server is gone: then there is nobody to tell

    def _answer(self, payload: bytes, now: float) -> None:
        """Answer a request at once, or the newest one when the socket has room again: a server that asks and does not
        read would otherwise fill our memory with its own words.
        """
        if not self._channel.unsent:
            self._send(FrameKind.DPD_RESP, payload, now)
            return
        if self._owed is not None:
            self._counters.drop(DropReason.DPD_UNANSWERED)
        self._owed = payload

    def _send(self, kind: FrameKind, payload: bytes, now: float) -> None:
        if self.congested:  # whoever does not read hears no request either
            self._counters.drop(DropReason.CONTROL_WITHOUT_ROOM)
            self.life.last_tx = now
            return
        self._counters.count_control(f"tls {kind.name.lower()} sent")
        frame = self._protocol.encode_stream(kind, payload)
        if len(frame) > RECORD_BYTES_MAX:
            self._counters.drop(DropReason.CONTROL_TOO_LONG)  # one frame must be one record, and that none of ours could be
            return
        self._channel.send(frame)
        self.life.last_tx = now
