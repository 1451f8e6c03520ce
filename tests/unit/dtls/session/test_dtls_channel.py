"""What a DTLS channel sends of its own, over a real socket."""

from __future__ import annotations

import socket
from collections.abc import Collection
from ipaddress import ip_address, ip_interface

from qosctl.bpf.dscp import EF, Dscp
from qosctl.dtls.anyconnect.protocol import ANYCONNECT
from qosctl.dtls.numbering.plain import PlainNumbering
from qosctl.dtls.numbering.probe import PROBES_AT_ONCE, ProbingNumbering
from qosctl.dtls.numbering.snapshot import Snapshot
from qosctl.dtls.record.handshake import Finished
from qosctl.dtls.record.keys import Cipher, RecordKeys
from qosctl.dtls.session.dtls_channel import DtlsChannel
from qosctl.dtls.session.factories import PLAIN
from qosctl.dtls.session.flow_entry import FlowEntry
from qosctl.dtls.session.session_stats import SessionCounters
from qosctl.dtls.transport.udp import UdpSocket
from qosctl.dtls.vpn.session import Session, Timers

NEVER = Timers(0, 0)
SESSION = Session((ip_interface("192.168.77.5/24"),), 1434, 1500, NEVER, NEVER, 4443, bytes(32), "a test")
KEYS = RecordKeys(Cipher.AES_128_GCM, bytes(16), bytes(4), bytes(16), bytes(4))


class Insatiable(PlainNumbering):
    """Asks for one probe more than is bearable, each time."""

    sent = 0

    def waits(self, now: float) -> bool:  # noqa: ARG002  (the face)
        return False

    def probe_due(self, now: float, present: Collection[Dscp]) -> Dscp | None:  # noqa: ARG002
        assert self.sent < 1000, "nothing ends it"
        return EF

    def probe_sent(self, dscp: Dscp, now: float) -> int:  # noqa: ARG002
        self.sent += 1
        return self.sent

    def probe_echoed(self, probe: int, now: float) -> None:
        """Nothing is learnt."""

    def snapshot(self, now: float) -> Snapshot:  # noqa: ARG002
        return Snapshot("plain", None, {}, 0, 0, 0, 0, 0, 0)


def test_probes_never_keep_packets_waiting_for_long_whatever_the_numbering_asks_for() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        numbering = Insatiable(1 << 48 | 2)
        assert isinstance(numbering, ProbingNumbering)
        channel = DtlsChannel(
            udp=UdpSocket.connect(server.getsockname()),
            finished=Finished("PSK-AES128-GCM-SHA256", KEYS, 1 << 48 | 2),
            numbering=numbering,
            entry=FlowEntry(None, ""),
            protocol=ANYCONNECT,
            session=SESSION,
            outer=ip_address("127.0.0.1"),
            counters=SessionCounters(),
            factories=PLAIN,
            now=0.0,
        )
        channel.probe(numbering, 0.0, (EF,))
        server.setblocking(False)
        assert len([server.recv(2048) for _ in range(PROBES_AT_ONCE)]) == PROBES_AT_ONCE
        assert numbering.sent == PROBES_AT_ONCE
        channel.close(0.0, tell_server=False)
