"""Whoever answers the TCP connection has proven nothing yet: what it sends can be passed over, never the client's end."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from OpenSSL import SSL
from qosctl.bpf.errors import QosctlError
from qosctl.dtls.options import ConnectOptions
from qosctl.dtls.transport.certificate_check import SystemTrust
from qosctl.dtls.transport.tls_channel import ConnectionLostError, TlsChannel
from qosctl.dtls.vpn.credentials import PasswordLogin

from tests.dtls.tunnel import Tunnel
from tests.lab import Topology, end

TIMEOUT_S = 3.0
READS = 3000
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h; the socket module does not name it


@pytest.fixture(scope="module")
def lab() -> Iterator[Topology]:
    with Topology() as topology:
        yield topology


BYTE_BY_BYTE = """
import contextlib, socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
while True:
    taken, _ = listener.accept()
    taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with taken, contextlib.suppress(OSError):
        for _ in range(int(sys.argv[2])):
            taken.send(b"\\x16\\x03\\x03\\x40\\x00")
            for _ in range(1 << 14):
                taken.send(b"\\0")
"""
"""The longest TLS record, full of HelloRequests, which a client passes over (RFC 5246 section 7.4.1.1), a segment a byte.

A process of its own: it must be as quick as the client.
"""


@contextlib.contextmanager
def a_server(lab: Topology, program: str, *words: str) -> Iterator[int]:
    """Run it; yields its port."""
    process = lab.server.popen([sys.executable, "-c", program, lab.server4, *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        end(process)


def refused(lab: Topology, port: int) -> QosctlError:
    def never() -> str:
        raise AssertionError("the password was asked for")

    url = f"https://{lab.server4}:{port}"
    options = ConnectOptions(url, PasswordLogin("alice", never), SystemTrust(), timeout_s=TIMEOUT_S)
    with pytest.raises(QosctlError) as caught, Tunnel(lab.client, options):
        pytest.fail("it connected")
    return caught.value


@pytest.mark.audit
def test_a_handshake_in_single_bytes_is_read_a_byte_a_step() -> None:
    """Finding 4: 1,000 reads within one step were 1,000 calls within one another, and the end of the client.

    On a socket that keeps what was sent apart: with TCP, how many reads there are depends on how the bytes arrive.
    """
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        near.setblocking(False)
        far.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 1 << 24)
        for each in (b"\x16\x03\x03\x40\x00" + bytes(READS))[:READS]:
            far.send(bytes([each]))
        tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        tls.set_connect_state()
        channel = TlsChannel(near, tls, "a server")
        for _ in range(READS):
            assert not channel.handshake_step()
        with pytest.raises(BlockingIOError):
            near.recv(1)


@pytest.mark.audit
def test_a_record_in_single_bytes_is_a_handshake_that_failed(lab: Topology) -> None:
    with a_server(lab, BYTE_BY_BYTE, "1") as port:
        for _ in range(3):
            refused(lab, port)


@pytest.mark.audit
def test_bytes_that_come_on_and_on_hold_nobody_for_longer_than_silence(lab: Topology) -> None:
    with a_server(lab, BYTE_BY_BYTE, "10000") as port:
        error = refused(lab, port)
    assert isinstance(error, ConnectionLostError)
    assert "no answer to the TLS handshake" in str(error)
