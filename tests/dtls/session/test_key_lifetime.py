"""Keys that we renew ourselves, on a real ocserv: a new port and new keys, and every packet arrives.

The bounds are small here; what they are in earnest says key_lifetime.
"""

from __future__ import annotations

import dataclasses
import errno
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from qosctl.dtls.events import Severity
from qosctl.dtls.numbering.replay_safe import ReplaySafeNumbering
from qosctl.dtls.options import ConnectOptions
from qosctl.dtls.session.key_lifetime import KeyLife
from qosctl.dtls.session.session_stats import State
from qosctl.dtls.transport.certificate_check import Pin
from qosctl.dtls.vpn.credentials import PasswordLogin

from tests.dtls.tunnel import Tunnel
from tests.lab import Capture, Frame, Ocserv, Topology

PORT = 4100
RENEWED = "dtls keys renewed"
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h; the socket module does not name it


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


@pytest.fixture(scope="module")
def server(lab: Topology) -> Iterator[Ocserv]:
    with Ocserv(lab.server, [lab.server4], more="dpd = 5\n") as server:
        yield server


def options(lab: Topology, server: Ocserv, life: KeyLife) -> ConnectOptions:
    return ConnectOptions(
        f"https://{lab.server4}:{server.port}",
        PasswordLogin("alice", lambda: server.users["alice"]),
        Pin.parse(server.pin),
        tunnel_name="vpn0",
        numbering=ReplaySafeNumbering,
        key_life=life,
    )


class Echo:
    """Numbered datagrams through the tunnel and back, one after each `gap_s`; every one of them has to come."""

    def __init__(self, lab: Topology, server: Ocserv, gap_s: float) -> None:
        with lab.server.entered():
            self._far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._far.bind((server.inner4, PORT))
        with lab.client.entered():
            self._near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._near.connect((server.inner4, PORT))
        for each in (self._far, self._near):
            each.settimeout(0.2)
            # What has waited for another session comes at once, and these threads are slow beside other load.
            each.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        self._gap_s = gap_s
        self.sent = 0
        self.back: list[int] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._echo, self._send, self._receive)]

    def __enter__(self) -> Echo:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait for what is on its way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._near.close()
        self._far.close()

    def _send(self) -> None:
        while not self._stop.wait(self._gap_s):
            self._near.send(self.sent.to_bytes(4) + bytes(196))
            self.sent += 1

    def _echo(self) -> None:
        self._each(lambda: self._far.sendto(*self._far.recvfrom(2000)))

    def _receive(self) -> None:
        self._each(lambda: self.back.append(int.from_bytes(self._near.recv(2000)[:4])))

    def _each(self, do: object) -> None:
        quiet_since = time.monotonic()
        while not self._stop.is_set() or time.monotonic() < quiet_since + 1:
            try:
                do()  # type: ignore[operator]
                quiet_since = time.monotonic()
            except TimeoutError:
                pass
            except OSError as error:  # the server has no device between two sessions: this one is lost, and counts as that
                if error.errno != errno.ENETUNREACH:
                    raise


@pytest.mark.audit
@pytest.mark.parametrize("life", [KeyLife(records=3000), KeyLife(seconds=5.0)], ids=["records", "time"])
def test_new_keys_cost_no_packet(lab: Topology, server: Ocserv, life: KeyLife) -> None:
    said: list[tuple[Severity, str]] = []
    with (
        Tunnel(
            lab.client, options(lab, server, life), on_event=lambda severity, line: said.append((severity, line))
        ) as tunnel,
        Capture(lab.client, lab.client_if, lambda frame: frame.destination_port == server.port) as wire,
    ):
        with Echo(lab, server, 0.001) as echo:
            tunnel.wait_for(lambda now: now.control.get(RENEWED, 0) >= 3)
            time.sleep(1)
            echo.stop()
        counts = tunnel.info.statistics()
        assert counts.standing.state is State.DTLS
        assert counts.counts.dtls_lost == 0
        assert not counts.standing.reconnects
        assert sorted(echo.back) == list(range(echo.sent))
        ports = [frame.source_port for frame in wire.frames() if _is_record(frame)]
        changes = [port for before, port in zip([0, *ports], ports, strict=False) if port != before]
        assert len(changes) == len(set(changes)) == counts.control[RENEWED] + 1  # and none goes back to an old port
    assert [line for severity, line in said if severity <= Severity.NOTICE] == []
    assert sum(line == "new keys for DTLS" for _, line in said) >= 3


def _is_record(frame: Frame) -> bool:
    """An application data record with an inner packet of the test's length or more."""
    return frame.protocol == socket.IPPROTO_UDP and frame.payload[:1] == b"\x17" and len(frame.payload) > 200


@pytest.mark.audit
def test_a_server_that_hears_no_new_handshake_keeps_the_old_keys(lab: Topology, server: Ocserv) -> None:
    """The way for new flows is shut, as by a firewall whose table is full; the old one works on."""
    with Tunnel(lab.client, options(lab, server, KeyLife(records=1000))) as tunnel:
        port = tunnel.info.local[1]
        shut = f"udp dport {server.port} udp sport != {port} drop"
        with lab.dropping(shut), Echo(lab, server, 0.002) as echo:
            while echo.sent < 5000:
                time.sleep(0.1)
            echo.stop()
        counts = tunnel.info.statistics()
        assert RENEWED not in counts.control
        assert counts.standing.state is State.DTLS
        assert counts.counts.dtls_lost == 0
        assert sorted(echo.back) == list(range(echo.sent))


@pytest.mark.audit
def test_the_path_is_known_to_the_new_keys(lab: Topology, server: Ocserv) -> None:
    """What the last channel had found out about the path's size is not asked for again by losing packets."""
    with Tunnel(lab.client, options(lab, server, KeyLife(records=1000))) as tunnel:
        mtu = tunnel.info.mtu
        with Echo(lab, server, 0.001):
            tunnel.wait_for(lambda now: now.control.get(RENEWED, 0) >= 1)
        assert tunnel.info.statistics().standing.mtu == mtu


@pytest.mark.audit
def test_tls_that_carries_for_long_gets_new_keys_by_a_new_session(lab: Topology, server: Ocserv) -> None:
    rules = f"udp dport {server.port} drop"
    with lab.dropping(rules), Tunnel(lab.client, options(lab, server, KeyLife(records=3000))) as tunnel:
        with Echo(lab, server, 0.001) as echo:
            tunnel.wait_for(lambda now: sum(now.standing.reconnects.values()) >= 2)
            tunnel.wait_for(lambda now: now.standing.state is State.TLS)
            echo.stop()
        reasons = {reason.value for reason in tunnel.info.statistics().standing.reconnects}
        assert reasons == {"rekey"}
        lost = echo.sent - len(set(echo.back))
        assert lost < echo.sent / 100  # what was on its way over the connection that ended


def test_the_bounds_are_within_what_the_standards_advise() -> None:
    life = ConnectOptions("https://192.0.2.1", PasswordLogin("alice", str)).key_life
    assert life.records * 1.05 < 2**24.5  # probes are up to 5 % more than what is counted
    assert 0 < life.seconds <= 86400
    assert dataclasses.replace(life, records=1) != life
