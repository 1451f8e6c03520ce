"""Servers, and others that answer in their place, which would have a client call without end, or fill its memory.

What is counted is counted over seconds of a client that runs; a slow machine can only make it less.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from OpenSSL import SSL
from qosctl.dtls.anyconnect.frames import encode_cstp
from qosctl.dtls.anyconnect.protocol import app_id_key
from qosctl.dtls.drop_reason import DropReason
from qosctl.dtls.events import Severity
from qosctl.dtls.options import ConnectOptions
from qosctl.dtls.record.handshake import Handshake
from qosctl.dtls.record.protection import ALERT
from qosctl.dtls.session.factories import PLAIN, Factories
from qosctl.dtls.session.session_stats import State
from qosctl.dtls.session.tls_control import TlsControl
from qosctl.dtls.transport.certificate_check import Pin
from qosctl.dtls.vpn.credentials import PasswordLogin
from qosctl.dtls.vpn.frames import Frame, FrameKind

from tests.dtls.transport.test_hostile_tls import BYTE_BY_BYTE
from tests.dtls.tunnel import Tunnel
from tests.lab import Namespace, Ocserv, Topology, end
from tests.lab.memory import resident_kb
from tests.lab.psk_server import PskServer
from tests.lab.scripted_server import ScriptedServer
from tests.lab.waiting import until

Said = list[tuple[Severity, str]]
COUNTED_S = 10.0
FATAL_ALERT = struct.pack("!BHHHIHBB", ALERT, 0xFEFD, 0, 0, 0, 2, 2, 40)
"""DTLS 1.2, epoch 0, number 0: fatal, handshake_failure. Anybody can write it."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


@pytest.fixture(scope="module")
def identity(lab: Topology) -> Iterator[Ocserv]:
    """A certificate and its key; the ocserv that comes with it has nothing to do."""
    with Ocserv(lab.server, [lab.server4]) as server:
        yield server


def options(lab: Topology, port: int, identity: Ocserv, **more: object) -> ConnectOptions:
    login = PasswordLogin("alice", lambda: identity.users["alice"])
    plain = ConnectOptions(f"https://{lab.server4}:{port}", login, Pin.parse(identity.pin), tunnel_name="vpn0")
    return dataclasses.replace(plain, **more)  # type: ignore[arg-type]  # the test names fields that exist


def overheard(lab: Topology, port: int, identity: Ocserv, said: Said, factories: Factories = PLAIN) -> Tunnel:
    """A tunnel whose lines go into `said`."""
    wanted = options(lab, port, identity)
    return Tunnel(lab.client, wanted, on_event=lambda severity, line: said.append((severity, line)), factories=factories)


class Alerting(ScriptedServer):
    """Answers each ClientHello by an alert in clear, and counts them and the ports they come from."""

    hellos = 0
    ports: set[int]

    def _serve(self) -> None:
        self.ports = set()
        with contextlib.suppress(OSError):
            self._log_in()
            self._ready.set()
            for _, peer in self._datagrams():
                self.hellos += 1
                self.ports.add(peer[1])
                self._udp.sendto(FATAL_ALERT, peer)


@pytest.mark.audit
def test_alerts_in_clear_bring_no_storm(lab: Topology, identity: Ocserv) -> None:
    """Finding 7: 16,133 ClientHellos in 13 s."""
    with (
        Alerting(lab.server, lab.server4, identity.ca, identity.folder / "key.pem") as server,
        Tunnel(lab.client, options(lab, server.port, identity)) as tunnel,
    ):
        assert tunnel.info.dtls == ""
        time.sleep(COUNTED_S)
        assert 3 <= server.hellos <= 12
        assert len(server.ports) <= 4


def test_alerts_in_clear_do_not_end_a_handshake() -> None:
    """Finding 7: alone, in front of the server's answer in the same datagram, and behind it."""
    psk = bytes(32)
    client, server = Handshake(app_id_key(psk, bytes(32))), PskServer(psk)
    for _ in range(10):
        for datagram in client.datagrams_to_send():
            for answer in server.feed(datagram):
                client.feed(FATAL_ALERT)
                client.feed(FATAL_ALERT + answer + FATAL_ALERT)
                client.feed(FATAL_ALERT[:20])
    assert client.finished is not None


class ClosingDtls(ScriptedServer):
    """Closes each DTLS channel in the same breath that completes its handshake, and counts them."""

    closed = 0

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            self._log_in()
            self._ready.set()
            psk, dtls, peer = self._psk(), None, None
            for datagram, sender in self._datagrams():
                if dtls is None or sender != peer:
                    dtls, peer = PskServer(psk), sender
                for answer in dtls.feed(datagram):
                    self._udp.sendto(answer, peer)
                if dtls.done:
                    self._udp.sendto(dtls.goodbye(), peer)
                    self.closed += 1
                    dtls = None


@pytest.mark.audit
def test_a_server_that_closes_dtls_at_once_is_not_begun_with_at_once(lab: Topology, identity: Ocserv) -> None:
    """Finding 7."""
    said: list[str] = []
    with (
        ClosingDtls(lab.server, lab.server4, identity.ca, identity.folder / "key.pem") as server,
        Tunnel(lab.client, options(lab, server.port, identity), on_event=lambda _, line: said.append(line)) as tunnel,
    ):
        time.sleep(COUNTED_S)
        assert 2 <= server.closed <= 4
        assert tunnel.info.statistics().standing.state is State.TLS
    assert len(said) < 12


class Closing(ScriptedServer):
    """Gives everybody a session and closes it at once."""

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            self._log_in()
            self._dtls = PskServer(self._psk())
            for datagram, peer in self._datagrams():  # the client has to be up before a loss is one
                for answer in self._dtls.feed(datagram):
                    self._udp.sendto(answer, peer)
                if self._dtls.done:
                    break
            self._ready.set()
            while True:
                self._socket.close()
                with contextlib.suppress(SSL.Error):
                    self._log_in()


@pytest.mark.audit
def test_sessions_that_end_at_once_are_not_begun_at_once(lab: Topology, identity: Ocserv) -> None:
    """Finding 8: 230 TLS logins a second, and as many lines."""
    said: Said = []
    with (
        Closing(lab.server, lab.server4, identity.ca, identity.folder / "key.pem") as server,
        overheard(lab, server.port, identity, said),
    ):
        server.wait_until_ready()
        time.sleep(COUNTED_S)
        assert 3 <= server.sessions <= 12
        assert server.logins == 1
    assert len([line for severity, line in said if severity <= Severity.NOTICE]) <= 12


class Silent(Closing):
    """Has forgotten the cookie when the client comes again, asks for the password, and hangs up when it has it."""

    passwords = 0
    form = b'<form action="/auth"><input type="password" name="password"></form>'

    def _log_in(self) -> None:
        if not self.sessions:
            super()._log_in()
            return
        self._socket, _ = self._listener.accept()
        self._tls = SSL.Connection(self._context, self._socket)
        self._tls.set_accept_state()
        self._tls.do_handshake()
        if self._read_request().startswith(b"CONNECT"):
            self._answer("401 Unauthorized", "Content-Length: 0\r\n")
            return
        self._answer("200 OK", f"Content-Length: {len(self.form)}\r\n")
        self._tls.send(self.form)
        self._read_request()
        self.passwords += 1


@pytest.mark.audit
def test_a_password_that_is_not_answered_is_not_sent_again_soon(lab: Topology, identity: Ocserv) -> None:
    """Finding 8: it may count as a wrong one, where the server waits for somebody who counts."""
    said: list[str] = []
    with (
        Silent(lab.server, lab.server4, identity.ca, identity.folder / "key.pem") as server,
        Tunnel(lab.client, options(lab, server.port, identity), on_event=lambda _, line: said.append(line)),
    ):
        server.wait_until_ready()
        time.sleep(COUNTED_S)
        assert server.passwords == 1
    assert any("whether the password is right" in line for line in said)


class Asking(ScriptedServer):
    """Sends requests over TLS and reads no answer."""

    asked = 0

    def ask(self, seconds: float) -> None:
        frame = encode_cstp(FrameKind.DPD_OUT, bytes(16000))
        self._socket.setblocking(True)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._tls.send(frame)
            self.asked += 1


@pytest.mark.audit
def test_a_server_that_asks_and_does_not_read_fills_no_memory(lab: Topology, identity: Ocserv) -> None:
    """Finding 9: 846 MB in 6 s."""
    with (
        Asking(lab.server, lab.server4, identity.ca, identity.folder / "key.pem") as server,
        Tunnel(lab.client, options(lab, server.port, identity)) as tunnel,
    ):
        server.wait_until_ready()
        before = resident_kb(os.getpid())
        server.ask(4.0)
        assert server.asked > 500
        assert resident_kb(os.getpid()) - before < 30_000
        counts = tunnel.info.statistics()
        assert counts.control["tls dpd_out received"] > 500
        assert counts.dropped[DropReason.DPD_UNANSWERED] > 100


@pytest.mark.audit
def test_the_newest_request_is_answered_when_there_is_room_again(lab: Topology, identity: Ocserv) -> None:
    with (
        Asking(lab.server, lab.server4, identity.ca, identity.folder / "key.pem") as server,
        Tunnel(lab.client, options(lab, server.port, identity)) as tunnel,
    ):
        server.wait_until_ready()
        while not tunnel.info.statistics().dropped.get(DropReason.DPD_UNANSWERED):
            server.ask(0.1)
        server.send_tls(encode_cstp(FrameKind.DPD_OUT, b"last"))
        server._socket.setblocking(False)
        while server.receive_tls() != encode_cstp(FrameKind.DPD_RESP, b"last"):
            pass


class Faulty(TlsControl):
    """Control with a fault of ours, which shows at a request."""

    def take(self, frame: Frame, now: float) -> None:
        if frame.payload == b"fault":
            raise ZeroDivisionError("by accident")
        super().take(frame, now)


class Twice(ScriptedServer):
    """A server for two sessions, one after the other."""

    def again(self) -> None:
        """Serve the second one."""
        self._ready.clear()
        self._serve()


@pytest.mark.audit
def test_a_fault_of_ours_costs_a_session_and_no_more(lab: Topology, identity: Ocserv) -> None:
    """Finding 4: one exception that nobody expected was the end of the client, and of its unit."""
    said: Said = []
    with (
        Twice(lab.server, lab.server4, identity.ca, identity.folder / "key.pem") as server,
        overheard(lab, server.port, identity, said, Factories(control=Faulty)) as tunnel,
    ):
        server.wait_until_ready()
        server.send_tls(encode_cstp(FrameKind.DPD_OUT, b"fault"))
        server.again()
        server.wait_until_ready()
        server.send_tls(encode_cstp(FrameKind.DPD_OUT, b"fine"))
        while server.receive_tls() != encode_cstp(FrameKind.DPD_RESP, b"fine"):
            pass
    assert tunnel.error is None
    warnings = [line for severity, line in said if severity == Severity.WARNING]
    assert warnings[0] == ("internal error: ZeroDivisionError: by accident (try: --debug, and report it): connecting again")
    assert any("ZeroDivisionError" in line for severity, line in said if severity == Severity.DEBUG)


@contextlib.contextmanager
def stranger(namespace: Namespace, program: str, *words: str) -> Iterator[int]:
    process = namespace.popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        end(process)


@contextlib.contextmanager
def redirected(lab: Topology, port: int, to: int) -> Iterator[None]:
    """Let whoever connects to `port` of the server reach `to`: somebody on the way answers in its place."""
    rule = f"type nat hook prerouting priority -100; tcp dport {port} redirect to :{to}"
    lab.server.run(["nft", f"add table inet s; add chain inet s c {{ {rule}; }}"])
    try:
        yield
    finally:
        lab.server.run(["nft", "delete", "table", "inet", "s"])


def cut(lab: Topology, port: int) -> None:
    """End the client's TLS connection."""
    lab.client.run(["ss", "-K", "dport", "=", f":{port}"], check=False)


@pytest.mark.audit
def test_a_stranger_that_sends_single_bytes_at_a_reconnect_is_waited_out(lab: Topology, identity: Ocserv) -> None:
    """Finding 4: exit 1 after 0.4 s, with a tunnel that was up."""
    with Tunnel(lab.client, options(lab, identity.port, identity, reconnect_s=120)) as tunnel:
        with (
            stranger(lab.server, BYTE_BY_BYTE, lab.server4, "1") as port,
            redirected(lab, identity.port, port),
        ):
            cut(lab, identity.port)
            until(lambda: tunnel.info.statistics().standing.state is State.RECONNECTING, 40)
            time.sleep(3)
        until(lambda: tunnel.info.statistics().standing.state is State.DTLS, 40)
        lab.client.run(["ping", "-c", "1", "-W", "5", identity.inner4])
    assert tunnel.error is None


@pytest.mark.audit
def test_a_strangers_certificate_at_a_reconnect_is_said_once_an_outage(lab: Topology, identity: Ocserv) -> None:
    """Finding 15: refused every few seconds, and nobody was told."""
    said: Said = []
    with (
        Ocserv(lab.server, [lab.server4], port=4445) as other,
        overheard(lab, identity.port, identity, said) as tunnel,
    ):
        with redirected(lab, identity.port, other.port):
            cut(lab, identity.port)
            until(lambda: sum("not the pinned one" in line for _, line in said) >= 4, 40)
        until(lambda: tunnel.info.statistics().standing.state is State.DTLS, 40)
        warned = [line for severity, line in said if severity == Severity.WARNING and "not the pinned one" in line]
        assert len(warned) == 1
        assert other.pin in warned[0]
        assert "trying again" in warned[0]


@pytest.mark.audit
def test_links_of_others_that_come_and_go_cost_a_request_a_second(lab: Topology, identity: Ocserv) -> None:
    """QC-14: nine requests a second on each channel, for as long as somebody makes links."""
    with Tunnel(lab.client, options(lab, identity.port, identity)) as tunnel:
        before = dict(tunnel.info.statistics().control)
        began = time.monotonic()
        while time.monotonic() < began + COUNTED_S:
            lab.client.run(["ip", "link", "add", "churn0", "type", "veth", "peer", "name", "churn1"])
            lab.client.run(["ip", "link", "del", "churn0"])
        counts = tunnel.info.statistics()
        asked = counts.control.get("tls dpd_out sent", 0) - before.get("tls dpd_out sent", 0)
        assert 1 <= asked <= (time.monotonic() - began) / 1.0 + 2
        assert counts.standing.state is State.DTLS
        assert not counts.standing.reconnects
