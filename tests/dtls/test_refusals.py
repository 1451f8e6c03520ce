"""How a connection fails: each time with one line that says why, and nothing left behind."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from qosctl.bpf.errors import NotAttachedError, QosctlError, RefusedError, UsageError
from qosctl.dtls.client import connect
from qosctl.dtls.options import ConnectOptions
from qosctl.dtls.session.session_stats import State
from qosctl.dtls.transport.certificate_check import Authorities, Pin, SystemTrust, Trust, UntrustedError
from qosctl.dtls.transport.dial import UnreachableError
from qosctl.dtls.transport.stop import Stop
from qosctl.dtls.vpn.credentials import CookieLogin, PasswordLogin
from qosctl.dtls.vpn.errors import LoginError

from tests.dtls.tunnel import Tunnel
from tests.lab import Namespace, Ocserv, Topology, end


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


NAME = "vpn.test"


@pytest.fixture(autouse=True, scope="module")
def hosts(lab: Topology, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the server a name with an address of each family. Mounts of the sandbox are not the machine's."""
    table = tmp_path_factory.mktemp("hosts") / "hosts"
    table.write_text(f"{lab.server6} {NAME}\n{lab.server4} {NAME}\n")
    subprocess.run(["mount", "--bind", str(table), "/etc/hosts"], check=True)
    yield
    subprocess.run(["umount", "/etc/hosts"], check=True)


@pytest.fixture(scope="module")
def server(lab: Topology) -> Iterator[Ocserv]:
    with Ocserv(lab.server, [lab.server4, NAME]) as server:
        yield server


def never() -> str:
    raise AssertionError("the password was asked for too early")


def options(url: str, server: Ocserv, *, trust: Trust | None = None, timeout_s: float = 10) -> ConnectOptions:
    login = PasswordLogin("alice", lambda: server.users["alice"])
    return ConnectOptions(url, login, trust or Authorities.read(str(server.ca)), tunnel_name="vpn0", timeout_s=timeout_s)


def refused(namespace: Namespace, wanted: ConnectOptions) -> QosctlError:
    """Connect, and return the error; the device must be gone with it."""
    with pytest.raises(QosctlError) as caught, Tunnel(namespace, wanted):
        pytest.fail("it connected")
    assert "vpn0" not in namespace.run(["ip", "-br", "link"]).stdout
    assert "\n" not in str(caught.value)
    return caught.value


def url_of(lab: Topology, server: Ocserv) -> str:
    return f"https://{lab.server4}:{server.port}"


def test_a_wrong_password_is_tried_once(lab: Topology, server: Ocserv) -> None:
    asked = []
    login = PasswordLogin("alice", lambda: asked.append(1) or "guess")  # type: ignore[func-returns-value]
    error = refused(lab.client, ConnectOptions(url_of(lab, server), login, Authorities.read(str(server.ca))))
    assert isinstance(error, LoginError)
    assert str(error) == "alice: wrong password"
    assert asked == [1]


def test_an_unknown_user_is_a_wrong_password_too(lab: Topology, server: Ocserv) -> None:
    login = PasswordLogin("mallory", lambda: "x")
    error = refused(lab.client, ConnectOptions(url_of(lab, server), login, Authorities.read(str(server.ca))))
    assert str(error) == "mallory: wrong password"


def test_a_wrong_cookie(lab: Topology, server: Ocserv) -> None:
    wanted = ConnectOptions(url_of(lab, server), CookieLogin("A" * 43 + "="), Authorities.read(str(server.ca)))
    assert "does not know the cookie any more" in str(refused(lab.client, wanted))


def test_an_unknown_certificate_is_refused_and_the_pin_shown(lab: Topology, server: Ocserv) -> None:
    wanted = ConnectOptions(url_of(lab, server), PasswordLogin("alice", never), SystemTrust())
    error = refused(lab.client, wanted)
    assert isinstance(error, UntrustedError)
    assert error.message == f"{lab.server4}:{server.port}: certificate not trusted: self-signed certificate"
    assert server.pin in error.hint


def test_the_wrong_pin_is_refused_before_any_credentials_go_out(lab: Topology, server: Ocserv) -> None:
    wanted = ConnectOptions(url_of(lab, server), PasswordLogin("alice", never), Pin(bytes(32)))
    error = refused(lab.client, wanted)
    assert isinstance(error, UntrustedError)
    assert server.pin in error.hint


def test_a_certificate_for_another_address_is_refused(lab: Topology, server: Ocserv) -> None:
    wanted = options(f"https://[{lab.server6}]:{server.port}", server)
    assert "ip address mismatch" in str(refused(lab.client, wanted))


def test_a_certificate_for_another_name_is_refused(lab: Topology) -> None:
    with Ocserv(lab.server, ["vpn.example", lab.server4], port=4445) as other:
        assert "hostname mismatch" in str(refused(lab.client, options(f"https://{NAME}:{other.port}", other)))


@pytest.mark.parametrize("host", [NAME, "10.91.2.2"])
def test_a_certificate_with_a_cn_alone_is_refused_in_words_that_say_what_it_lacks(lab: Topology, host: str) -> None:
    assert lab.server4 == "10.91.2.2"
    with Ocserv(lab.server, [host], port=4445, alternatives=False) as other:
        error = refused(lab.client, options(f"https://{host}:{other.port}", other))
        assert other.pin in error.hint
    assert isinstance(error, UntrustedError)
    assert error.message == (
        f"{host}:{other.port}: certificate not trusted: it names itself in the CN only, which does not count: "
        "it needs a subjectAltName"
    )


WEAK = {
    "RSA key exchange": "AES128-GCM-SHA256",
    "CBC with SHA-1": "ECDHE-RSA-AES128-SHA",
    "finite fields": "DHE-RSA-AES128-GCM-SHA256",
}


@pytest.mark.audit
@pytest.mark.parametrize("suite", WEAK.values(), ids=WEAK)
def test_a_server_with_weak_suites_alone_is_refused_with_a_hint(lab: Topology, tmp_path: Path, suite: str) -> None:
    """Finding 20: the DTLS key is exported from this session. The server is OpenSSL's own, and takes what it is told."""
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-days", "2"]
    key, ca = tmp_path / "key.pem", tmp_path / "ca.pem"
    names = ["-addext", f"subjectAltName=IP:{lab.server4}"]
    subprocess.run([*make, *names, "-keyout", key, "-out", ca], check=True, capture_output=True)
    serve = ["openssl", "s_server", "-accept", "4446", "-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0"]
    process = lab.server.popen([*serve, "-key", str(key), "-cert", str(ca)], stdin=subprocess.PIPE)
    try:
        assert lab.server.wait_for_listener(4446, process)
        login = PasswordLogin("alice", never)
        wanted = ConnectOptions(f"https://{lab.server4}:4446", login, Authorities.read(str(ca)), timeout_s=3)
        error = refused(lab.client, wanted)
    finally:
        end(process)
    assert "TLS handshake failed: " in error.message
    assert error.hint == "TLS 1.3 on the server, or ECDHE with AES-GCM"


def test_tls_1_2_with_a_good_suite_is_enough(lab: Topology) -> None:
    more = 'tls-priorities = "NORMAL:-VERS-ALL:+VERS-TLS1.2:%SERVER_PRECEDENCE"\n'
    with (
        Ocserv(lab.server, [lab.server4], port=4445, more=more) as server,
        Tunnel(lab.client, options(f"https://{lab.server4}:4445", server)) as tunnel,
    ):
        assert tunnel.info.dtls


def test_the_right_name_is_believed(lab: Topology, server: Ocserv) -> None:
    with Tunnel(lab.client, options(f"https://{NAME}:{server.port}", server)) as tunnel:
        assert tunnel.info.remote[1] == server.port


@pytest.mark.parametrize("family", [4, 6])
def test_a_name_with_two_families_falls_back_to_the_one_that_answers(lab: Topology, family: int) -> None:
    here = lab.server_address(family)
    with (
        Ocserv(lab.server, [NAME], port=4445, more=f"listen-host = {here}\n") as server,
        Tunnel(lab.client, options(f"https://{NAME}:4445", server)) as tunnel,
    ):
        assert tunnel.info.remote == (here, 4445)


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for path in (empty, tmp_path / "missing.pem", tmp_path):
        with pytest.raises(UsageError, match=re.escape(str(path))):
            Authorities.read(str(path))


def test_another_authority_is_not_enough(lab: Topology, server: Ocserv) -> None:
    with Ocserv(lab.server, [lab.server4], port=4445) as other:
        error = refused(lab.client, options(url_of(lab, server), server, trust=Authorities.read(str(other.ca))))
    assert isinstance(error, UntrustedError)


def test_no_server(lab: Topology, server: Ocserv) -> None:
    error = refused(lab.client, options(f"https://{lab.server4}:1", server))
    assert isinstance(error, UnreachableError)
    assert str(error).startswith(f"{lab.server4}:1: connection refused (try: ")


def test_no_route(lab: Topology, server: Ocserv) -> None:
    lab.client.run(["ip", "route", "add", "unreachable", "192.0.2.0/24"])
    assert "192.0.2.1:443: no route to host (try: " in str(refused(lab.client, options("https://192.0.2.1", server)))


def test_no_such_name(lab: Topology, server: Ocserv) -> None:
    error = refused(lab.client, options("https://vpn.invalid", server, timeout_s=2))
    assert isinstance(error, UnreachableError)
    assert str(error).startswith("vpn.invalid: ")


def test_a_taken_device_name(lab: Topology, server: Ocserv) -> None:
    lab.client.run(["ip", "link", "add", "vpn0", "type", "veth", "peer", "name", "vpn0peer"])
    try:
        with pytest.raises(RefusedError, match=r"^vpn0: name is taken \(try: "):
            Tunnel(lab.client, options(url_of(lab, server), server)).__enter__()
        assert "vpn0@vpn0peer" in lab.client.run(["ip", "-br", "link"]).stdout
    finally:
        lab.client.run(["ip", "link", "del", "vpn0"])


def test_a_server_without_dtls(lab: Topology) -> None:
    """QC-16: as openconnect, and as where UDP is dropped on the way: TLS carries it, unmarked."""
    with (
        Ocserv(lab.server, [lab.server4], port=4445, dtls=False) as server,
        Tunnel(lab.client, options(url_of(lab, server), server)) as tunnel,
    ):
        assert tunnel.info.dtls == ""
        assert not tunnel.info.marked
        lab.client.run(["ping", "-c", "2", "-i", "0.05", "-W", "5", server.inner4])
        assert tunnel.wait_for(lambda now: now.counts.packets_over_tls >= 4).standing.state is State.TLS
    assert tunnel.error is None


def test_a_path_without_udp_is_a_tunnel_over_tls(lab: Topology, server: Ocserv) -> None:
    lab.router.run(["nft", "add table inet t; add chain inet t c { type filter hook forward priority 0; }"])
    lab.router.run(["nft", f"add rule inet t c udp dport {server.port} drop"])
    try:
        with Tunnel(lab.client, options(url_of(lab, server), server)) as tunnel:
            assert tunnel.info.dtls == ""
            assert not tunnel.info.marked
            lab.client.run(["ping", "-c", "2", "-i", "0.05", "-W", "5", server.inner4])
            assert tunnel.wait_for(lambda now: now.counts.packets_over_tls >= 4).standing.state is State.TLS
    finally:
        lab.router.run(["nft", "delete table inet t"])


def test_a_lost_client_hello_is_sent_again_from_the_same_port(lab: Topology, server: Ocserv) -> None:
    """The first datagram is lost; the server would ignore a second port for longer than the handshake may take."""
    rules = f"""
        table inet t {{
            chain c {{
                type filter hook forward priority 0;
                udp dport {server.port} limit rate over 1/hour burst 1 packets accept
                udp dport {server.port} drop
            }}
        }}
    """
    lab.router.run(["nft", "-f", "-"], stdin=rules)
    try:
        with Tunnel(lab.client, options(url_of(lab, server), server)) as tunnel:
            assert tunnel.info.dtls
            assert "drop" in lab.router.run(["nft", "list", "table", "inet", "t"]).stdout
    finally:
        lab.router.run(["nft", "delete", "table", "inet", "t"])


def test_a_tunnel_network_that_holds_the_server_is_refused(lab: Topology) -> None:
    more = "ipv4-network = 10.91.2.0\nipv4-netmask = 255.255.255.0\n"
    with Ocserv(lab.server, [lab.server4], port=4445, more=more) as server:
        error = refused(lab.client, options(url_of(lab, server), server))
    assert "the tunnel's network 10.91.2.0/24 holds the server itself" in str(error)


class Listener:
    """A TCP server that says `greeting` to whoever connects, and nothing more."""

    def __init__(self, namespace: Namespace, address: str, greeting: bytes = b"", *, closes: bool = False) -> None:
        with namespace.entered():
            self._socket = socket.create_server((address, 0))
        self.port = self._socket.getsockname()[1]
        self.accepted = threading.Event()
        self._greeting = greeting
        self._closes = closes
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._taken: list[socket.socket] = []
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            taken, _ = self._socket.accept()
            taken.sendall(self._greeting)
            self._taken.append(taken)
            self.accepted.set()
            if self._closes:
                taken.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._socket, *self._taken):
            each.close()


def test_a_server_that_speaks_no_tls(lab: Topology, server: Ocserv) -> None:
    with Listener(lab.server, lab.server4, b"SSH-2.0-OpenSSH_9.2\r\n") as listener:
        error = refused(lab.client, options(f"https://{lab.server4}:{listener.port}", server))
    assert isinstance(error, RefusedError)
    assert "TLS handshake failed: " in str(error)


def test_a_server_that_hangs_up(lab: Topology, server: Ocserv) -> None:
    with Listener(lab.server, lab.server4, closes=True) as listener:
        error = refused(lab.client, options(f"https://{lab.server4}:{listener.port}", server))
    assert isinstance(error, NotAttachedError)


def test_a_server_that_is_silent(lab: Topology, server: Ocserv) -> None:
    with Listener(lab.server, lab.server4) as listener:
        error = refused(lab.client, options(f"https://{lab.server4}:{listener.port}", server, timeout_s=0.3))
    assert isinstance(error, NotAttachedError)
    assert "no answer to the TLS handshake" in str(error)


def test_a_stop_ends_a_connection_that_is_only_being_made(lab: Topology, server: Ocserv) -> None:
    """The timeout is long: only the stop can end it."""
    stop = Stop()
    results: list[object] = []
    with Listener(lab.server, lab.server4) as listener:
        wanted = options(f"https://{lab.server4}:{listener.port}", server, timeout_s=3600)

        def run() -> None:
            with lab.client.entered():
                results.append(connect(wanted, stop))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert listener.accepted.wait(10)
        stop.request()
        thread.join(10)
        assert not thread.is_alive()
    assert len(results) == 1
    stop.close()


def test_no_secret_is_in_any_error(lab: Topology, server: Ocserv) -> None:
    secret = "hunter2-very-secret"
    for wanted in (
        ConnectOptions(url_of(lab, server), PasswordLogin("alice", lambda: secret), Authorities.read(str(server.ca))),
        ConnectOptions(url_of(lab, server), CookieLogin(secret), Authorities.read(str(server.ca))),
    ):
        error = refused(lab.client, wanted)
        assert secret not in repr(error) + str(error) + repr(wanted)
        assert error.__context__ is None or secret not in repr(error.__context__)
