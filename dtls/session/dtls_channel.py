"""The DTLS channel while it carries packets: keys, numbers, socket, and the conversation that keeps it honest.

The packets' own path is in `loop`. Here nothing waits, and time comes in.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address

from qosctl.bpf.dscp import DF, Dscp
from qosctl.bpf.errors import NotAttachedError, RefusedError
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.numbering.plain import Numbering
from qosctl.dtls.numbering.probe import PROBES_AT_ONCE, ProbingNumbering
from qosctl.dtls.numbering.switched import SwitchedNumbering
from qosctl.dtls.record.handshake import Finished
from qosctl.dtls.record.protection import ALERT, APPLICATION_DATA, RecordSealer
from qosctl.dtls.session.dpd import DeadPeerDetection, Due
from qosctl.dtls.session.dpd_payload import DpdPayload
from qosctl.dtls.session.factories import Factories
from qosctl.dtls.session.flow_entry import FlowEntry
from qosctl.dtls.session.key_lifetime import KeyLife
from qosctl.dtls.session.path_mtu import PathMtu
from qosctl.dtls.session.rtt_responder import RttResponder
from qosctl.dtls.session.session_stats import SessionCounters
from qosctl.dtls.transport.udp import UdpSocket
from qosctl.dtls.vpn.frames import Frame, FrameKind
from qosctl.dtls.vpn.protocol import VpnProtocol
from qosctl.dtls.vpn.session import Session, outer_headers

CLOSE_NOTIFY = b"\x01\x00"
"""Warning, close_notify (RFC 5246 section 7.2.1)."""
QUIET_S = 2.0
"""How long we speak without hearing anything before we ask; after UNANSWERED_LIMIT requests TLS takes over."""
UNANSWERED_LIMIT = 8
_FATAL = 2


class DtlsLostError(NotAttachedError):
    """The DTLS channel is dead or closed; the session may live."""


class DtlsChannel:
    """One DTLS epoch. Store the time in `life.last_tx` and `life.last_rx` as packets pass."""

    def __init__(  # noqa: PLR0913  (what it is made of)
        self,
        *,
        udp: UdpSocket,
        finished: Finished,
        numbering: Numbering,
        entry: FlowEntry,
        protocol: VpnProtocol,
        session: Session,
        outer: IPv4Address | IPv6Address,
        counters: SessionCounters,
        factories: Factories,
        now: float,
        path: PathMtu | None = None,
    ) -> None:
        """`entry` is this flow's by now, though its ring may come later; `outer` is the server's address.

        `path` is what an earlier channel of the session has found out about it.
        """
        keys = finished.keys
        sealer = RecordSealer(keys.cipher, keys.client_key, keys.client_iv)
        self.udp = udp
        self.descriptor = udp.fileno()
        self.suite = finished.suite
        self.opener = factories.opener(keys.cipher, keys.server_key, keys.server_iv)
        self.uplink = factories.uplink(sealer, numbering, None, data_byte=protocol.data_byte, sent=counters.sent)
        self.prober = numbering if isinstance(numbering, ProbingNumbering) else None
        self._switched = numbering if isinstance(numbering, SwitchedNumbering) else None
        self._entry = entry
        self._rtt_responder: RttResponder | None = None
        self._adopt_memory()
        self.follow_switch(now)
        self.life = DeadPeerDetection(session.dtls, now, quiet=QUIET_S, unanswered_limit=UNANSWERED_LIMIT)
        self.path = path or PathMtu(session.tunnel_mtu(outer, sealer.overhead), now)
        self._overhead = sealer.overhead + 1
        self._encode, self._decode = protocol.encode_record, protocol.decode_record
        self._headers = outer_headers(outer, sealer.overhead)
        self._counters = counters
        self._retired = False
        self._sent_before = sum(counters.sent.packets)
        self._dpd_id = 0
        self._dpd_asked = self._began = now

    @property
    def outer_mtu(self) -> int:
        """The IP packets that the path takes, as far as is known, in bytes."""
        return self.path.size + self._headers

    def worn(self, life: KeyLife, now: float) -> bool:
        """Whether the keys have been used for long enough."""
        sealed = sum(self._counters.sent.packets) - self._sent_before
        return max(sealed, self.opener.counts.opened) >= life.records or now >= self._began + life.seconds

    def tend(self, now: float) -> float:
        """Do what is due; return when to be called again. DtlsLostError when the channel is dead."""
        self._keep_alive(now)
        if self._rtt_responder is None:
            self._adopt_memory()
        self.follow_switch(now)
        if self.udp.too_big:
            self.udp.too_big = False
            self.path.hinted(self.udp.payload_mtu() - self._overhead, now)
        probe = self.path.due(now, last_tx=self.life.last_tx)
        if probe is not None:
            # Not by `send`: a lost probe says nothing about the channel, so it is not a word of ours.
            for send, payload in (
                (self.udp.send_whole, DpdPayload.PATH_MTU.encode(probe.id, probe.size)),
                (self.udp.send, DpdPayload.SMALL.encode(probe.id)),
            ):
                send(self.uplink.seal_control(self._encode(FrameKind.DPD_OUT, payload), DF, now))
            self._counters.count_control("dtls mtu probe sent")
        if self.prober is not None and not self.prober.waits(now):
            self.probe(self.prober, now, ())
        return min(self.life.next_time(), self.path.next_time(), self._answer(now))

    def probe(self, prober: ProbingNumbering, now: float, present: Collection[Dscp]) -> None:
        """Send the probes that are due in front of packets of the classes `present`."""
        for _ in range(PROBES_AT_ONCE):
            dscp = prober.probe_due(now, present)
            if dscp is None:
                return
            self._request(DpdPayload.RECEIVER_POSITION, prober.probe_sent(dscp, now), now, dscp)

    def _adopt_memory(self) -> None:
        """Mark from now on, if the flow's ring has come."""
        memory = self._entry.memory
        if memory is not None:
            self.uplink.mark_in(memory.marks)
            self._rtt_responder = RttResponder(memory.rtt_requests)

    def follow_switch(self, now: float) -> None:
        """While no mark leaves, numbers and probes tell nothing of classes either."""
        if self._switched is not None:
            self._switched.set_marking(self._entry.passtos(), now)

    def _answer(self, now: float) -> float:
        """Send the probe that somebody has asked for; return when to look again."""
        if self._rtt_responder is None:
            return math.inf
        asked = self._rtt_responder.due(now)
        if asked is not None:
            dscp, probe = asked
            self._request(DpdPayload.ROUND_TRIP, probe, now, dscp)
        return self._rtt_responder.next_time()

    def take(self, content_type: int, plaintext: bytes, now: float) -> Frame | None:
        """Take an authentic record that holds no packet; returns the frame if it is for the session to judge.

        DtlsLostError when the server closes the channel.
        """
        if content_type == ALERT:
            if plaintext == CLOSE_NOTIFY or (len(plaintext) == 2 and plaintext[0] == _FATAL):
                raise DtlsLostError("the server closed the DTLS channel")
            self._counters.drop(DropReason.ALERT)
            return None
        if content_type != APPLICATION_DATA:
            # The server may send its Finished again; a renegotiation we would not answer either.
            self._counters.drop(DropReason.HANDSHAKE_AFTER_FINISHED)
            return None
        frame = self._decode(plaintext)
        if frame is None:
            self._counters.drop(DropReason.UNKNOWN_FRAME)
            return None
        self._counters.count_control(f"dtls {frame.kind.name.lower()} received")
        if frame.kind == FrameKind.DPD_OUT:
            self.send(FrameKind.DPD_RESP, frame.payload, now)
        elif frame.kind == FrameKind.DPD_RESP:
            self.life.answered(now)
            self._take_echo(frame.payload, now)
        else:
            return frame
        return None

    def send(self, kind: FrameKind, payload: bytes, now: float, dscp: Dscp = DF) -> None:
        """Send a frame that is no packet."""
        self._counters.count_control(f"dtls {kind.name.lower()} sent")
        if not self.udp.send(self.uplink.seal_control(self._encode(kind, payload), dscp, now)):
            self._counters.drop(DropReason.CONTROL_WITHOUT_ROOM)  # whoever asked will ask again
        self.life.last_tx = now

    def close(self, now: float, *, tell_server: bool) -> None:
        """Close the socket, send close_notify before if asked to, and hand over what was counted."""
        if tell_server:
            with contextlib.suppress(RefusedError):  # no number is left to say it with
                self.udp.send(self.uplink.seal_alert(CLOSE_NOTIFY, now))
        if not self._retired:
            self._hand_over_counts(now)
            self._counters.black_holes += self.path.black_holes
        self.udp.close()

    def retire(self, now: float) -> None:
        """Another channel of the session has taken over, and knows the path; what is on its way here is still received."""
        self._hand_over_counts(now)
        self._retired = True

    def _hand_over_counts(self, now: float) -> None:
        self._counters.absorb(self.opener, self.udp, None if self.prober is None else self.prober.snapshot(now))

    def _request(self, kind: DpdPayload, number: int, now: float, dscp: Dscp = DF) -> None:
        self.send(FrameKind.DPD_OUT, kind.encode(number), now, dscp)

    def _take_echo(self, payload: bytes, now: float) -> None:
        match DpdPayload.decode(payload):
            case DpdPayload.RECEIVER_POSITION, probe:
                if self.prober is not None:
                    self.prober.probe_echoed(probe, now)
            case DpdPayload.PATH_MTU, probe:
                self.path.echoed(probe, len(payload), now)
            case DpdPayload.SMALL, probe:
                self.path.small_echoed(probe, now)
            case DpdPayload.ROUND_TRIP, probe:
                if self._rtt_responder is not None:
                    self._rtt_responder.echoed(probe, now)
            case DpdPayload.LIVENESS, self._dpd_id:
                self._counters.dpd_round_trip_s = now - self._dpd_asked

    def _keep_alive(self, now: float) -> None:
        match self.life.due(now):
            case Due.DEAD:
                raise DtlsLostError("no answer over UDP any more")
            case Due.DPD:
                self._dpd_id = (self._dpd_id + 1) & 0xFFFF_FFFF
                self._dpd_asked = now
                self._request(DpdPayload.LIVENESS, self._dpd_id, now)
            case Due.KEEPALIVE:
                self.send(FrameKind.KEEPALIVE, b"", now)
