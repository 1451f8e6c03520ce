"""A queue right behind the client that is longer than its socket's buffer: what waits, and what is lost, goes by class."""

from __future__ import annotations

import contextlib
import socket
import time

from qosctl.bpf.dscp import EF
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.options import ConnectOptions
from qosctl.dtls.transport.certificate_check import Authorities
from qosctl.dtls.vpn.credentials import PasswordLogin

from tests.dtls.tunnel import Tunnel
from tests.lab import Ocserv, Topology

CALL, BULK_EACH = 150, 150
PORT, NOBODY = 5004, 9
SHAPER = ("root", "tbf", "rate", "30mbit", "burst", "20k", "limit", "100mb")


def test_a_full_socket_costs_bulk_its_packets_and_a_call_none() -> None:
    """Twice what the link takes, for long enough to fill the socket and what is held."""
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Topology())
        server = stack.enter_context(Ocserv(lab.server, [lab.server4]))
        login = PasswordLogin("alice", lambda: server.users["alice"])
        options = ConnectOptions(f"https://{lab.server4}:{server.port}", login, Authorities.read(str(server.ca)))
        tunnel = stack.enter_context(Tunnel(lab.client, options))
        with lab.server.entered():
            far = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        far.bind((server.inner4, PORT))
        far.settimeout(20)
        with lab.client.entered():
            call, bulk = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        call.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EF.value << 2)
        call.connect((server.inner4, PORT))
        bulk.connect((server.inner4, NOBODY))
        lab.client.run(["tc", "qdisc", "add", "dev", lab.client_if, *SHAPER])
        for number in range(CALL):
            call.send(number.to_bytes(2))
            for _ in range(BULK_EACH):
                with contextlib.suppress(ConnectionRefusedError):  # nobody listens there, and says so
                    bulk.send(bytes(1200))
            time.sleep(0.02)
        assert [int.from_bytes(far.recv(64)) for _ in range(CALL)] == list(range(CALL))
        assert tunnel.info.statistics().dropped[DropReason.UDP_FULL] > 0
        assert tunnel.error is None
