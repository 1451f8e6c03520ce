"""All frames that are no packets, on both channels: requests answered, quiet channels asked, probes sent, goodbye.

The packets' own path is in `loop`. Here nothing waits, except for the goodbye, and time comes in.
"""

from __future__ import annotations

import math
import select
import time

from qosctl.bpf.dscp import DF, Dscp
from qosctl.bpf.errors import NotAttachedError, RefusedError
from qosctl.dtls.anyconnect import printable
from qosctl.dtls.channel import RECORD_BYTES_MAX, Channel
from qosctl.dtls.frames import Frame, FrameKind, decode_dtls, encode_cstp, encode_dtls
from qosctl.dtls.liveness import Due, Liveness
from qosctl.dtls.numbering import Numbering
from qosctl.dtls.probing import ProbingNumbering, probe_of, probe_payload
from qosctl.dtls.record import ALERT, APPLICATION_DATA
from qosctl.dtls.session import Session
from qosctl.dtls.tally import Tally
from qosctl.dtls.udp import UdpSocket
from qosctl.dtls.uplink import Uplink

CLOSE_NOTIFY = b"\x01\x00"
"""Warning, close_notify (RFC 5246 section 7.2.1)."""
_FATAL = 2
_DISCONNECT_REASON = b"\xb0user disconnect"
_GOODBYE_S = 1.0
_DPD_ID_BYTES = 4  # unlike a probe's, which is echoed in the same kind of frame


class SessionEndedError(NotAttachedError):
    """The server ended the session, or is not there any more."""


class Control:
    """The conversation beside the packets. Store the time in `dtls_life.said` and `.heard` as packets pass."""

    def __init__(  # noqa: PLR0913  (two channels, what they share, and what is known of them)
        self,
        *,
        name: str,
        channel: Channel,
        udp: UdpSocket,
        uplink: Uplink,
        numbering: Numbering,
        session: Session,
        tally: Tally,
        now: float,
    ) -> None:
        """`name` is what to call the server in an error."""
        self._name = name
        self._channel = channel
        self._udp = udp
        self._uplink = uplink
        self._tally = tally
        self.prober = numbering if isinstance(numbering, ProbingNumbering) else None
        self.tls_life = Liveness(session.tls, now)
        self.dtls_life = Liveness(session.dtls, now)
        self._next_life = now
        self._dpd_id = 0
        self._dpd_asked = now

    def tend(self, now: float) -> float:
        """Do what is due; return when to be called again, possibly never (infinity).

        SessionEndedError when a channel has been dead for too long.
        """
        if now >= self._next_life:  # what is heard and said only puts it off, so it is looked at when it comes
            self._keep_alive(now)
            self._next_life = min(self.tls_life.next_time(), self.dtls_life.next_time())
        return self._next_life if self.prober is None else min(self._next_life, self.probe(self.prober, now))

    def probe(self, prober: ProbingNumbering, now: float) -> float:
        """Send the probes that are due; return when to look again."""
        while (dscp := prober.probe_due(now)) is not None:
            payload = probe_payload(prober.probe_sent(dscp, now))
            self._send_dtls(FrameKind.DPD_OUT, payload, now, dscp)
        due = prober.next_probe_at(now)
        return math.inf if due is None else due

    def take_dtls(self, content_type: int, plaintext: bytes, now: float) -> None:
        """Take an authentic record that holds no packet. SessionEndedError when it is the server's goodbye."""
        if content_type == ALERT:
            self._take_alert(plaintext)
            return
        if content_type != APPLICATION_DATA:
            # The server may send its Finished again; a renegotiation we would not answer either.
            self._tally.drop("handshake_after_finished")
            return
        frame = decode_dtls(plaintext)
        if frame is None:
            self._tally.drop("unknown_frame")
            return
        self._tally.count_control(f"dtls {frame.kind.name.lower()} received")
        if frame.kind == FrameKind.DPD_OUT:
            self._send_dtls(FrameKind.DPD_RESP, frame.payload, now)
        elif frame.kind == FrameKind.DPD_RESP:
            probe = probe_of(frame.payload)
            if probe is not None and self.prober is not None:
                self.prober.probe_echoed(probe, now)
            elif frame.payload == self._dpd_id.to_bytes(_DPD_ID_BYTES):
                self._tally.dpd_round_trip_s = now - self._dpd_asked
        else:
            self._take_other(frame)

    def take_tls(self, frame: Frame, now: float) -> None:
        """Take a frame that is no packet. SessionEndedError when it is the server's goodbye."""
        self._tally.count_control(f"tls {frame.kind.name.lower()} received")
        if frame.kind == FrameKind.DPD_OUT:
            self._send_tls(FrameKind.DPD_RESP, frame.payload, now)
        elif frame.kind != FrameKind.DPD_RESP:
            self._take_other(frame)

    def say_goodbye(self) -> None:
        """Tell the server on both channels, which makes it forget the cookie. Best effort, and for a second at most."""
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

    def _take_alert(self, plaintext: bytes) -> None:
        if plaintext == CLOSE_NOTIFY or (len(plaintext) == 2 and plaintext[0] == _FATAL):
            raise SessionEndedError(f"{self._name}: the server closed the DTLS channel")
        self._tally.drop("alert")

    def _take_other(self, frame: Frame) -> None:
        if frame.kind in {FrameKind.DISCONN, FrameKind.TERM_SERVER}:
            # The first byte is a code, the rest words for the user; either may be missing.
            words = printable(frame.payload[1:].decode("utf-8", "replace"))
            raise SessionEndedError(f"{self._name}: the server ended the session{': ' if words else ''}{words}")
        if frame.kind == FrameKind.COMPRESSED:
            self._tally.drop("compressed")  # we never asked for it

    def _keep_alive(self, now: float) -> None:
        match self.tls_life.due(now):
            case Due.DEAD:
                raise SessionEndedError(f"{self._name}: the server has stopped answering over TLS")
            case Due.DPD:
                self._send_tls(FrameKind.DPD_OUT, b"", now)
            case Due.KEEPALIVE:
                self._send_tls(FrameKind.KEEPALIVE, b"", now)
        match self.dtls_life.due(now):
            case Due.DEAD:
                raise SessionEndedError(
                    f"{self._name}: the server has stopped answering over DTLS", "connect again, or another network"
                )
            case Due.DPD:
                self._dpd_id = (self._dpd_id + 1) & 0xFFFF_FFFF
                self._dpd_asked = now
                self._send_dtls(FrameKind.DPD_OUT, self._dpd_id.to_bytes(_DPD_ID_BYTES), now)
            case Due.KEEPALIVE:
                self._send_dtls(FrameKind.KEEPALIVE, b"", now)

    def _send_dtls(self, kind: FrameKind, payload: bytes, now: float, dscp: Dscp = DF) -> None:
        self._tally.count_control(f"dtls {kind.name.lower()} sent")
        if not self._udp.send(self._uplink.seal_control(encode_dtls(kind, payload), dscp, now)):
            self._tally.drop("control_without_room")  # whoever asked will ask again
        self.dtls_life.said = now

    def _send_tls(self, kind: FrameKind, payload: bytes, now: float) -> None:
        self._tally.count_control(f"tls {kind.name.lower()} sent")
        frame = encode_cstp(kind, payload)
        if len(frame) > RECORD_BYTES_MAX:
            self._tally.drop("control_too_long")  # one frame must be one record, and that none of ours could be
            return
        self._channel.send(frame)
        self.tls_life.said = now
