"""An AnyConnect server that a test plays by hand: it says what no well-behaved server would.

TLS and DTLS are OpenSSL's; login and CONNECT are answered from a script; after that the test sends and receives single
TLS records and DTLS plaintexts.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from OpenSSL import SSL
from qosctl.dtls.anyconnect.frames import encode_cstp
from qosctl.dtls.anyconnect.protocol import PSK_BYTES, PSK_EXPORTER_LABEL
from qosctl.dtls.transport.udp import SOL_UDP, UDP_SEGMENT
from qosctl.dtls.vpn.frames import FrameKind

from tests.lab import Namespace
from tests.lab.psk_server import PskServer

APP_ID = bytes(range(32))
PATIENCE_S = 20
DPD_S = 3600


class ScriptedServer:
    """One client's server on one port, TCP and UDP. `certificate` and `key` are PEM files.

    Set `closes_dtls`, and it closes the DTLS channel in the same breath that completes the handshake.
    """

    def __init__(
        self, namespace: Namespace, address: str, certificate: Path, key: Path, newest: int = SSL.TLS1_3_VERSION
    ) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(newest)
        context.use_certificate_file(str(certificate))
        context.use_privatekey_file(str(key))
        with namespace.entered():
            self._listener = socket.create_server((address, 0))
            self.port = self._listener.getsockname()[1]
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._udp.bind((address, self.port))
        self._udp.settimeout(PATIENCE_S)
        self._context = context
        self.closes_dtls = False
        self.logins = self.sessions = 0
        self._ready, self._ended = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes whoever waits there
        self._listener.close()
        self._udp.close()
        if self._ready.is_set():
            self._socket.close()
        self._thread.join(PATIENCE_S)

    def wait_until_ready(self) -> None:
        """Wait until both channels are up."""
        assert self._ready.wait(PATIENCE_S), self._failure

    def send_tls(self, record: bytes) -> None:
        """Send one TLS record; a frame is the test's to build, or to break."""
        self._tls.send(record)

    def renegotiate(self) -> None:
        """Ask for another handshake, which TLS 1.3 has none of (RFC 5246 section 7.4.1.1)."""
        assert self._tls.renegotiate()
        self._tls.do_handshake()

    def receive_tls(self) -> bytes:
        """Return the next TLS record's plaintext; b"" when the client has closed."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._tls.recv(20000)
            except SSL.WantReadError:
                assert time.monotonic() < deadline, "the client said nothing"
                select.select([self._socket], [], [], 0.5)
            except (SSL.ZeroReturnError, SSL.SysCallError):
                return b""

    def send_dtls(self, plaintext: bytes) -> None:
        """Send one record of application data."""
        self._udp.sendto(self._dtls.seal(plaintext), self._peer)

    def receive_dtls(self) -> bytes:
        """Return the plaintext of the next record; b"" for an alert."""
        datagram = self._udp.recv(20000)
        with contextlib.suppress(SSL.ZeroReturnError):
            return self._dtls.open(datagram)
        return b""

    def _datagrams(self) -> Iterator[tuple[bytes, tuple[str, int]]]:
        """Yield what comes over UDP, and from whom, until the test ends; requests over TLS are answered meanwhile."""
        self._udp.settimeout(0.1)
        self._socket.setblocking(False)
        request, response = (encode_cstp(kind) for kind in (FrameKind.DPD_OUT, FrameKind.DPD_RESP))
        while not self._ended.is_set():
            with contextlib.suppress(SSL.Error):
                if self._tls.recv(20000) == request:
                    self._tls.send(response)
            with contextlib.suppress(TimeoutError):
                yield self._udp.recvfrom(20000)

    def _serve(self) -> None:
        try:
            self._log_in()
            self._dtls = PskServer(self._psk())
            while not self._dtls.done:
                datagram, self._peer = self._udp.recvfrom(20000)
                for answer in self._dtls.feed(datagram):
                    if self._dtls.done and self.closes_dtls:
                        both = [answer, self._dtls.goodbye()]  # as one batch, which arrives in one read
                        size = (SOL_UDP, UDP_SEGMENT, struct.pack("=H", len(answer)))
                        self._udp.sendmsg(both, [size], 0, self._peer)
                    else:
                        self._udp.sendto(answer, self._peer)
            assert self._dtls.app_id == bytes([len(APP_ID)]) + APP_ID
            self._socket.setblocking(False)
            self._ready.set()
        except (OSError, SSL.Error, AssertionError) as error:
            self._failure = error

    def _psk(self) -> bytes:
        return self._tls.export_keying_material(PSK_EXPORTER_LABEL, PSK_BYTES)

    def _log_in(self) -> None:
        """Take a connection, let whoever asks log in, or come with a cookie, and give a session."""
        self._socket, _ = self._listener.accept()
        self._tls = SSL.Connection(self._context, self._socket)
        self._tls.set_accept_state()
        self._tls.do_handshake()
        if not self._read_request().startswith(b"CONNECT"):
            self.logins += 1
            self._answer("200 OK", "Set-Cookie: webvpn=c29tZQ==; Secure\r\nContent-Length: 0\r\n")
            self._read_request()
        self._answer(
            "200 CONNECTED",
            "X-CSTP-Address: 192.168.78.2\r\nX-CSTP-Netmask: 255.255.255.0\r\n"
            f"X-CSTP-DPD: {DPD_S}\r\nX-DTLS-DPD: {DPD_S}\r\nX-CSTP-MTU: 1400\r\nX-DTLS-Port: {self.port}\r\n"
            f"X-DTLS-App-ID: {APP_ID.hex()}\r\nX-DTLS-CipherSuite: PSK-NEGOTIATE\r\n",
        )
        self.sessions += 1

    def _read_request(self) -> bytes:
        """Read one request, header and body, however the client cut it into records; return the header."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._tls.recv(20000)
        head, _, body = received.partition(b"\r\n\r\n")
        lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        while len(body) < sum(lengths):
            body += self._tls.recv(20000)
        return head

    def _answer(self, status: str, fields: str) -> None:
        self._tls.send(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode())
