"""The TLS channel to the server: one TCP socket and OpenSSL with memory BIOs between it and us, never blocking.

What goes into one `send` leaves as exactly one TLS record, which is what a CSTP frame must be.
"""

from __future__ import annotations

import socket

from OpenSSL import SSL
from OpenSSL.crypto import X509
from qosctl.bpf.errors import NotAttachedError
from qosctl.dtls.record import openssl

RECORD_BYTES_MAX = 16384
_READ_BYTES = 65536
UNSENT_BYTES_MAX = 4 << 20
"""More than we send before we look whether there is room. What grows beyond it, OpenSSL has been made to answer."""
_NO_HANDSHAKE = "alert handshake failure"  # RFC 5246 section 7.2.2, in OpenSSL's words
_MAY_BE_A_BAN = "again in some minutes: so does a server that has banned this address, after wrong passwords for example"


class ConnectionLostError(NotAttachedError):
    """The TLS channel broke, or the server closed it."""


class TlsChannel:
    """TLS over one socket, which it owns. Make one with tls.open_channel; all methods return at once."""

    def __init__(self, sock: socket.socket, tls: SSL.Connection, name: str) -> None:
        self._socket = sock
        self._tls = tls
        self._name = name
        self._unsent = bytearray()
        self._sent = self._received = 0
        try:  # now, because the kernel knows no far end any more once that has reset the connection
            self._local, self._remote = sock.getsockname(), sock.getpeername()
        except OSError as error:
            raise self._lost(str(error.strerror).lower()) from None

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether records wait for room in the socket: call `flush` when it is writable."""
        return bool(self._unsent)

    @property
    def unsent_bytes(self) -> int:
        """How much waits for room in the socket."""
        return len(self._unsent)

    @property
    def records(self) -> int:
        """How many records of data its keys have served for, in the direction with more of them."""
        return max(self._sent, self._received)

    @property
    def local(self) -> tuple[str, int]:
        """Address and port of the near end."""
        return str(self._local[0]), int(self._local[1])

    @property
    def remote(self) -> tuple[str, int]:
        """Address and port of the far end."""
        return str(self._remote[0]), int(self._remote[1])

    @property
    def peer(self) -> tuple[socket.AddressFamily, str]:
        """The server's address family and IP address."""
        return socket.AddressFamily(self._socket.family), str(self._remote[0])

    @property
    def description(self) -> str:
        """Protocol and cipher, as in "TLSv1.3 TLS_AES_256_GCM_SHA384"."""
        return f"{self._tls.get_protocol_version_name()} {self.suite}"

    @property
    def suite(self) -> str:
        """The cipher suite by OpenSSL's name."""
        return self._tls.get_cipher_name() or ""

    def export(self, label: bytes, length: int) -> bytes:
        """Return keying material of this session (RFC 5705, RFC 8446 section 7.5), without a context."""
        return self._tls.export_keying_material(label, length)

    def socket_option(self, level: int, option: int, length: int = 4) -> bytes:
        """Read an option of the socket underneath."""
        return self._socket.getsockopt(level, option, length)

    def send(self, data: bytes) -> None:
        """Send 1 to RECORD_BYTES_MAX bytes as one record; what the socket has no room for waits in `unsent`."""
        if not 0 < len(data) <= RECORD_BYTES_MAX:
            raise ValueError(f"{len(data)} bytes do not make one TLS record")
        try:
            self._tls.send(data)
        except SSL.Error as error:
            raise self._lost(openssl.reason(error)) from None
        self._sent += 1
        self.flush()

    def flush(self) -> None:
        """Give the socket what it takes."""
        self._drain()
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                break
            except OSError as error:
                raise self._lost(str(error.strerror).lower()) from None
            del self._unsent[:sent]
        if len(self._unsent) > UNSENT_BYTES_MAX:
            self._unsent.clear()
            raise self._lost("the server asks and does not read the answers")

    def receive(self) -> bytes:
        """Return what has arrived, b"" when nothing has; ConnectionLostError when nothing will any more."""
        plaintext = self._decrypted()
        if plaintext:
            return plaintext
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise self._lost(str(error.strerror).lower()) from None
        if not data:
            raise self._lost("the server closed the connection")
        self._tls.bio_write(data)
        plaintext = self._decrypted()
        self.flush()
        return plaintext

    def handshake_step(self) -> bool:
        """Go on with the handshake by one read; True once it is done. SSL.Error when it cannot be.

        One read and no more, however many bytes come: the sender has proven nothing yet, and the caller decides how long
        to wait.
        """
        if self._handshake_done():
            return True
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._lost(str(error.strerror).lower()) from None
        if not data:
            raise self._lost("the server closed the connection during the TLS handshake", _MAY_BE_A_BAN)
        self._tls.bio_write(data)
        return self._handshake_done()

    def _handshake_done(self) -> bool:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self.flush()
            return False
        except SSL.Error:
            self.flush()  # the alert says to the server what was wrong
            raise
        self.flush()
        return True

    def peer_certificate(self) -> X509 | None:
        """Return the certificate the server showed; what is in it is not yet parsed."""
        return self._tls.get_peer_certificate()

    def close(self) -> None:
        """Send close_notify where the socket has room for it, and close."""
        try:
            self._tls.shutdown()
            self.flush()
        except (SSL.Error, ConnectionLostError):  # then the server knows already
            pass
        self._socket.close()

    def _decrypted(self) -> bytes:
        pieces = []
        try:
            while True:
                pieces.append(self._tls.recv(_READ_BYTES))  # of one record at a time
                self._received += 1
        except SSL.WantReadError:
            return b"".join(pieces)
        except SSL.Error as error:
            if pieces:  # hand over what came before the end; the end is found again next time
                return b"".join(pieces)
            if isinstance(error, SSL.ZeroReturnError):
                raise self._lost("the server closed the connection") from None
            raise self._lost(_why(error)) from None

    def _drain(self) -> None:
        try:
            while True:
                self._unsent += self._tls.bio_read(_READ_BYTES)
        except SSL.WantReadError:
            pass

    def _lost(self, why: str, hint: str = "") -> ConnectionLostError:
        return ConnectionLostError(f"{self._name}: {why}", hint)


def _why(error: SSL.Error) -> str:
    """Return why a session cannot go on. Within one, that alert has the reason that no other handshake is done."""
    reason = openssl.reason(error)
    return f"the server wants to negotiate TLS anew ({reason})" if reason.endswith(_NO_HANDSHAKE) else reason
